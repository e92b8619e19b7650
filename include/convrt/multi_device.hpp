/// \file
/// One convolution spread over several devices.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "convrt/executor.hpp"
#include "convrt/export.h"
#include "convrt/plan.hpp"

namespace convrt {

namespace core {
class MultiDeviceState;
}

struct Share {
  std::string device;   ///< DeviceInfo::id
  double fraction = 0;  ///< of the work, in the latest run
  double gflops = 0;    ///< measured, of this device's part
};

/// A batch of tensors spread over the devices of a MultiDevicePlan: every image lies on one of them. Move-only. Not
/// thread-safe beside work that the caller enqueues on it at the same time.
class CONVRT_API MultiBuffer {
 public:
  MultiBuffer() noexcept = default;  ///< empty: size() == 0

  /// Copies size() floats in, to all devices at once, after all work enqueued before. Throws Error{invalid_argument} on
  /// another length.
  void upload(std::span<const float> from);
  /// Waits for all work enqueued before, then copies size() floats out. Throws as upload does, or that work's first
  /// error.
  void download(std::span<float> to) const;
  std::size_t size() const noexcept;                   ///< floats
  std::vector<int> images() const { return images_; }  ///< per device, in the order of the plan's

 private:
  friend class core::MultiDeviceState;
  std::vector<int> images_;
  std::vector<Buffer> parts_;
  std::size_t image_floats_ = 0;
};

/// Splits N over the devices; where N is too small, K or output rows. The result equals the single-device result: bit
/// for bit where the same kernel runs and PlanOptions::batch_invariant holds, else within the documented bound. A
/// device that fails drops out and the others do its part, with a log line. Large batches from host memory go through
/// an executor on each device that has memory of its own. What takes part is tried in the first ten runs from host
/// memory and now and then later: the CPU stays beside other devices only where all gain by it, and where the host
/// cannot copy for several devices at once the fastest works alone. Thread-safe; runs are taken one at a time.
class CONVRT_API MultiDevicePlan {
 public:
  /// Arguments as for Conv2dPlan; at least one device, none twice. Measures each device for 0.2 s, a GPU for 0.7 s
  /// and until its clocks have risen.
  MultiDevicePlan(std::vector<Device> devices, const Conv2dDesc& desc, std::span<const float> weights,
                  std::span<const float> bias = {}, const PlanOptions& options = {});
  MultiDevicePlan(MultiDevicePlan&&) noexcept;
  MultiDevicePlan& operator=(MultiDevicePlan&&) noexcept;
  ~MultiDevicePlan();  ///< cancels what has not started, waits for the rest

  RunStats run(std::span<const float> src, std::span<float> dst);
  Ticket submit(std::span<const float> src, std::span<float> dst);
  std::vector<Share> shares() const;

  /// Convolution of tensors that stay on the devices, for chains of layers: the images of `src` are dealt out by the
  /// devices' measured rates (equal where devices of one name differ by little), those of `dst` as those of `src` are.
  /// N alone is split. Unlike run(), nothing moves where a device fails: its part of every buffer is lost.
  MultiBuffer allocate_src();
  MultiBuffer allocate_dst(const MultiBuffer& src);
  /// Starts the convolution on every device; returns at once. `src` may be another plan's `dst` on the same devices.
  /// Throws Error{invalid_argument} where sizes or the dealing out of images differ; errors of the work itself appear
  /// in synchronize() or download(). After any other error `dst` is undefined: some devices may have started.
  void enqueue(const MultiBuffer& src, MultiBuffer& dst);
  /// Waits for everything enqueued on the plan's devices; throws the first error.
  void synchronize();

 private:
  std::unique_ptr<core::MultiDeviceState> state_;
};

}  // namespace convrt
