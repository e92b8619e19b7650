/// \file
/// Prepare once, run many times: a plan holds the chosen kernel and the packed weights.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "convrt/conv2d.hpp"
#include "convrt/device.hpp"
#include "convrt/export.h"

namespace convrt {

enum class Accuracy {
  strict,  ///< only algorithms that round no worse than direct summation (no Winograd)
  normal   ///< Winograd allowed where it is faster; README.md ("Accuracy") states the bound
};

enum class Tune {
  off,     ///< the built-in heuristic alone
  cached,  ///< results of earlier tuning where there are any, else the heuristic
  measure  ///< tune this problem now unless the cache knows it
};

struct PlanOptions {
  /// Empty: chosen for you. Otherwise a full kernel name ("cpu.gemm.avx512.14x2") or a prefix of whole components
  /// ("cpu.gemm", "gl.lds_64"): the best under it. A name that Device::kernels does not list is an error. Where empty,
  /// the environment variable CONVRT_KERNEL applies to devices of the backend it names ("cpu...", "gl...").
  std::string kernel = {};
  Tune tune = Tune::cached;
  Accuracy accuracy = Accuracy::normal;
  int threads = 0;  ///< CPU: most threads one run may use; 0 = all cores. The result does not depend on it.
  /// With one kernel, an image's result has the same bits whatever the batch it is in, also in a reshaped() plan. Costs
  /// speed on GPUs where n is small: their work groups then may not share the depth of a sum.
  bool batch_invariant = false;
};

struct RunStats {
  double total_ms = 0;   ///< wall time of the call, copies included
  double device_ms = 0;  ///< the kernel alone: the GPU's own timer; on the CPU its wall time
};

/// An immutable convolution on one device with its weights. A cheap value: copies share everything. Thread-safe:
/// `run` and `enqueue` may be called from many threads at once.
///
/// Two environment variables watch every plan made while they are set: CONVRT_VALIDATE=1 checks a sample of the outputs
/// of every run against a double-precision sum, so a wrong result is an Error{internal} that names kernel, problem and
/// element; CONVRT_HISTORY=1 keeps how often and how fast each kernel ran each problem, beside the tune cache.
class CONVRT_API Conv2dPlan {
 public:
  /// `weights`: desc.weights_size() floats, KCRS. `bias`: desc.k floats, or empty for none. Both are copied.
  /// Throws Error: invalid_argument (descriptor, span lengths, kernel name), unsupported (the named kernel cannot do
  /// this problem), out_of_memory, compile_failed, device_lost.
  Conv2dPlan(const Device& device, const Conv2dDesc& desc, std::span<const float> weights,
             std::span<const float> bias = {}, const PlanOptions& options = {});

  /// Convolves host memory; blocks. `src`: desc().src_size() floats, `dst`: desc().dst_size(); they must not overlap.
  RunStats run(std::span<const float> src, std::span<float> dst) const;

  /// Puts one convolution into the device's queue and returns; no host copies. Work on one device runs in the order of
  /// enqueueing, so plans chain by passing one's dst as the next one's src. Errors of the work itself come out of
  /// Device::synchronize or Buffer::download. Throws Error{invalid_argument} where a buffer lives on another device,
  /// has the wrong size, or src and dst are the same.
  void enqueue(const Buffer& src, Buffer& dst) const;

  /// The same weights, kernel and options at another source size; shares the packed weights.
  Conv2dPlan reshaped(int n, int h, int w) const;

  const Conv2dDesc& desc() const;
  const Device& device() const;
  std::string kernel() const;           ///< full name of the kernel that runs, e.g. "cpu.gemm.avx512.14x2"
  std::size_t workspace_bytes() const;  ///< scratch that one run in flight uses, beyond src, dst and packed weights

 private:
  friend class core::Access;
  struct Impl;
  explicit Conv2dPlan(std::shared_ptr<const Impl> impl) noexcept;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace convrt
