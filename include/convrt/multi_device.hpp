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

/// Splits N over the devices; where N is too small, K or output rows. The result equals the single-device result; a
/// device that fails drops out and the others do its part, with a log line. Thread-safe; runs are taken one at a time.
class CONVRT_API MultiDevicePlan {
 public:
  /// Arguments as for Conv2dPlan; at least one device, none twice.
  MultiDevicePlan(std::vector<Device> devices, const Conv2dDesc& desc, std::span<const float> weights,
                  std::span<const float> bias = {}, const PlanOptions& options = {});
  MultiDevicePlan(MultiDevicePlan&&) noexcept;
  MultiDevicePlan& operator=(MultiDevicePlan&&) noexcept;
  ~MultiDevicePlan();  ///< cancels what has not started, waits for the rest

  RunStats run(std::span<const float> src, std::span<float> dst);
  Ticket submit(std::span<const float> src, std::span<float> dst);
  std::vector<Share> shares() const;

 private:
  std::unique_ptr<core::MultiDeviceState> state_;
};

}  // namespace convrt
