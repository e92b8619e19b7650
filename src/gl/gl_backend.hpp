/// \file
/// One GL device behind the backend contract.
#pragma once

#include <memory>
#include <mutex>
#include <optional>

#include "core/backend.hpp"
#include "gl/gl_device.hpp"
#include "gl/stream_form.hpp"

namespace convrt::gl {

class GlBackend final : public core::Backend {
 public:
  /// `device` has a session; its GlInfo is this device's for good.
  GlBackend(EglDevice egl, std::shared_ptr<GlDevice> device, std::string id);

  const DeviceInfo& info() const override { return info_; }
  std::vector<std::string> kernels(const Conv2dDesc& desc, int threads) const override;
  std::shared_ptr<const core::PreparedConv> prepare(const core::PrepareRequest& request) override;
  std::shared_ptr<core::BackendBuffer> allocate(std::size_t floats) override;
  void synchronize() override { device_->synchronize(); }
  double device_ms(int runs, const std::function<void(int run)>& enqueue) override;
  bool host_memory() const override { return false; }
  std::unique_ptr<core::Stream> open_stream(std::vector<std::shared_ptr<const core::PreparedConv>> chain,
                                            const core::StreamOptions& options) override;
  std::string shipped_tuning() const override;
  std::vector<std::pair<std::string, std::string>> details() const override;
  std::shared_ptr<core::CustomProgram> compile_custom(const ShaderSource& source) override;

  /// For the end of the process: no thread of ours stays in the driver.
  void leave(std::chrono::steady_clock::time_point deadline) noexcept;

  const GlInfo& gl_info() const { return gl_info_; }
  GlDevice& device() { return *device_; }
  /// How executors that are opened now overlap copies with convolutions: CONVRT_GL_STREAM, else as measured on this
  /// device, by the first call. A software device's copies share the processor with the convolutions: it keeps to
  /// epochs unless CONVRT_GL_STREAM=measure.
  StreamForm stream_form();

 private:
  const EglDevice egl_;
  const std::shared_ptr<GlDevice> device_;
  const GlInfo gl_info_;
  DeviceInfo info_;
  std::mutex mutex_;
  std::mutex form_mutex_;
  std::optional<StreamForm> form_;    // once measured or remembered
  std::shared_ptr<GlDevice> custom_;  // custom shaders' own, opened by the first of them
};

}  // namespace convrt::gl
