/// \file
/// Users' own compute shaders (the contract stands in convrt/shader.hpp).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "core/backend.hpp"
#include "gl/gl_device.hpp"

namespace convrt::gl {

class GlCustom final : public core::CustomProgram {
 public:
  /// `device` is for custom shaders alone. Throws Error{compile_failed} with the driver's log and the lines it names.
  GlCustom(std::shared_ptr<GlDevice> device, const ShaderSource& source);

  const std::string& log() const override { return log_; }
  RunStats run(const Conv2dDesc& desc, std::span<const float> src, std::span<const float> weights, std::span<float> dst,
               std::span<const float> bias) override;

 private:
  struct Ready {
    std::shared_ptr<GlSession> session;
    std::shared_ptr<Program> program;
    std::array<std::uint32_t, 3> local_size = {};
  };
  Ready ready();
  std::array<std::uint32_t, 3> groups(const Conv2dDesc& desc, const Ready& now) const;

  const std::shared_ptr<GlDevice> device_;
  const std::string label_, source_, text_;  // as given; with its defines
  const std::array<std::uint32_t, 3> groups_;
  std::string log_;
  std::mutex mutex_;
  Ready ready_;
};

}  // namespace convrt::gl
