/// \file
/// Your own GLSL compute shader as a convolution kernel.
///
/// Contract. std430 buffers: binding 0 src, 1 weights (KCRS), 2 dst, 4 bias (K floats; zeros if none). std140 uniform
/// block at binding 3:
///
///     int n, c, h, w, k, r, s, p, q, stride_h, stride_w, pad_top, pad_left, pad_bottom, pad_right,
///         dilation_h, dilation_w, groups, layout, activation;  float alpha, beta;
///
/// layout and activation are the values of convrt::Layout and convrt::ActivationKind. The activation is the shader's
/// job. Custom shaders run in a context of their own: a bad one never harms the library's work.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "convrt/device.hpp"
#include "convrt/export.h"
#include "convrt/plan.hpp"

namespace convrt {

namespace core {
class CustomProgram;
}

struct ShaderSource {
  std::string glsl;                                          ///< a whole compute shader, "#version" line included
  std::string label;                                         ///< stands in log and error messages
  std::vector<std::pair<std::string, std::string>> defines;  ///< put behind the "#version" line
  std::array<std::uint32_t, 3> groups = {};  ///< work groups; {0,0,0}: one invocation per dst element, in x, then y
};

/// A compiled custom shader. A cheap value; thread-safe.
class CONVRT_API CustomShader {
 public:
  const std::string& log() const;  ///< the driver's log: warnings of a successful compile

 private:
  friend class core::Access;
  explicit CustomShader(std::shared_ptr<core::CustomProgram> impl) noexcept;
  std::shared_ptr<core::CustomProgram> impl_;
};

/// Throws Error: compile_failed (carries the driver's log unchanged), unsupported (the device is no GL device).
CONVRT_API CustomShader gpu_compile_custom_shader(const Device& device, const ShaderSource& source);

/// Runs `shader` once over host memory; blocks. Spans as for Conv2dPlan.
CONVRT_API RunStats gpu_execute_conv2d_custom(const CustomShader& shader, const Conv2dDesc& desc,
                                              std::span<const float> src, std::span<const float> weights,
                                              std::span<float> dst, std::span<const float> bias = {});

/// Names of the built-in shader texts, and one of them, complete and self-contained, to start a custom shader from.
CONVRT_API std::vector<std::string> builtin_shader_names();
CONVRT_API std::string builtin_shader(std::string_view name);

}  // namespace convrt
