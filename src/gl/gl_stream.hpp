/// \file
/// The stream of a GL device: one job's upload, another's convolutions and a third's download at once.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "core/backend.hpp"
#include "gl/gl_conv.hpp"
#include "gl/gl_device.hpp"

namespace convrt::gl {

/// Two forms. On a GPU the copies have contexts of their own, for each direction one, where the driver's copies run on
/// the hardware's copy engines and leave the convolutions their speed; fences pass a job from context to context.
/// (A bare probe on an NVIDIA H200: 45 and 42 GB/s at once beside a kernel 1 % slower; bench/NOTES.md: less here.) On a
/// software device everything runs in the device's one context, in epochs. An epoch dispatches the upload of a job, the
/// download of an earlier one and the convolutions of the one between, with no barrier among the three, so that the GPU
/// may run them at once; the next epoch waits for it. The host copies nothing on the context's thread: jobs come and go
/// in staging memory that stays mapped, and no convolution reads that. CONVRT_GL_STREAM=epochs|contexts chooses the
/// form.
class GlStream final : public core::Stream {
 public:
  GlStream(std::shared_ptr<GlDevice> device, std::vector<std::shared_ptr<const GlConv>> chain,
           const core::StreamOptions& options);
  ~GlStream() override;
  core::StreamMemory allocate() override;
  bool usable(const core::StreamMemory& memory) const override;
  std::function<core::StreamTimes()> submit(const core::StreamMemory& memory) override;

 private:
  struct Staging;
  struct Job;
  class Pipeline;
  std::shared_ptr<Pipeline> pipeline();

  const std::shared_ptr<GlDevice> device_;
  const std::vector<std::shared_ptr<const GlConv>> chain_;
  const core::StreamOptions options_;
  std::mutex mutex_;
  std::shared_ptr<Pipeline> pipeline_;  ///< of the current context; a new one after a failure
};

}  // namespace convrt::gl
