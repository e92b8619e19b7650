/// \file
/// Who is measured on a problem: convrt's kernels and its peers, behind one struct, so that all are timed and checked
/// by the same code.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "convrt/device.hpp"
#include "convrt/plan.hpp"
#include "core/verify.hpp"
#include "cpu/aligned.hpp"
#include "workloads.hpp"

namespace convrt::bench {

/// One layer's tensors, seeded and the same for every contender; made on first use. Storage as good as a careful
/// user's: aligned to cache lines, huge pages where large.
class Problem {
 public:
  explicit Problem(Workload workload);
  const Workload& workload() const { return workload_; }
  Conv2dDesc desc(Layout layout) const;
  std::span<const float> weights() const { return {weights_.data(), weights_.size()}; }
  std::span<const float> src(Layout layout);
  std::span<float> dst(Layout layout);

 private:
  Workload workload_;
  cpu::AlignedFloats weights_;
  std::map<Layout, cpu::AlignedFloats> src_, dst_;
};

struct Contender {
  std::string name;    ///< the column: "convrt", "cpu.gemm", "onednn nchw"
  std::string kernel;  ///< what runs: "cpu.gemm.avx512.14x2", "jit:avx512_core"
  std::string device = "cpu";
  Layout layout = Layout::nchw;  ///< of the Problem's tensors it reads and `fetch` writes
  int threads = 1;
  bool peer = false;  ///< not ours
  bool hardware_gpu = false;
  int sets = 1;       ///< of tensors on the device that runs take in turn
  std::string table;  ///< heading of the table its column stands in
  std::function<void()> run;
  std::function<void()> poison;  ///< fills private destinations with NaN; may be empty
  std::function<void()> fetch;   ///< brings the result into Problem::dst(layout); may be empty where run does
  std::shared_ptr<std::vector<double>> device_ms;  ///< GPU: `run` appends the device's own time of one convolution
  bool device_clock = false;                       ///< device_ms is the time that counts, not the wall time of `run`
};

/// How a GPU's contender works: on tensors that lie on the device, a queue of runs at a time, so that what is timed is
/// the kernel, by the GPU's timer; or from and to host memory, copies included, by the wall clock.
enum class Transfers { none, host_to_host };

struct ConvrtOptions {
  std::string kernel = {};  ///< empty for its own choice, or a name or prefix
  bool tuned = false;  ///< its own choice: also by the tune cache and the shipped results, not the cost model alone
  Accuracy accuracy = Accuracy::normal;
  Transfers transfers = Transfers::none;
};

/// convrt itself. Nothing where the device has no such kernel for this problem; other failures throw.
std::optional<Contender> make_convrt(const std::shared_ptr<Problem>& problem, const Device& device, Layout layout,
                                     int threads, const ConvrtOptions& options = {});

/// Runs once into a destination full of NaN and compares with the double-precision oracle: everything below 0.1 GFLOP,
/// else at least 4,096 outputs (corners, tile boundaries, seeded random).
core::VerifyResult check(Problem& problem, const Contender& contender);

}  // namespace convrt::bench
