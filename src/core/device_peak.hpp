/// \file
/// What a GPU can do at most, measured through the same interface as its convolutions: the denominators of "% of peak"
/// and "% of copy".
#pragma once

#include "convrt/device.hpp"

namespace convrt::core {

struct DevicePeak {
  double tflops = 0;         ///< fp32 multiply-adds, two operations each
  double copy_tbytes_s = 0;  ///< read plus written, over 256 MiB (a software device: 8 MiB)
};

/// Takes about a second, for an idle device lowers its clock. Throws Error{unsupported} where `device` runs no custom
/// shaders, {internal} if the copy is wrong.
DevicePeak measure_device_peak(const Device& device);

}  // namespace convrt::core
