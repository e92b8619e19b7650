/// \file
/// The stream of a GL device: one job's upload, another's convolutions and a third's download at once.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "core/backend.hpp"
#include "gl/gl_conv.hpp"
#include "gl/gl_device.hpp"
#include "gl/stream_pipeline.hpp"

namespace convrt::gl {

/// Where the copies have contexts of their own, one for each direction, the driver's copies run on the GPU's copy
/// engines and leave the convolutions their speed. (A bare probe on an NVIDIA H200: 45 and 42 GB/s at once beside a
/// kernel 1 % slower; bench/NOTES.md: less here.) In epochs everything runs in the device's one context: an epoch
/// dispatches the upload of a job, the download of an earlier one and the convolutions of the one between, with no
/// barrier among the three, so that the GPU may run them at once; the next epoch waits for it. The host copies nothing
/// on a context's thread: jobs come and go in staging memory that stays mapped, and no convolution reads that.
/// stream_form.hpp names the forms and says which of them a device gets.
class GlStream final : public core::Stream {
 public:
  GlStream(std::shared_ptr<GlDevice> device, std::vector<std::shared_ptr<const GlConv>> chain,
           const core::StreamOptions& options, StreamForm form);
  ~GlStream() override;
  core::StreamMemory allocate() override;
  bool usable(const core::StreamMemory& memory) const override;
  std::function<core::StreamTimes()> submit(const core::StreamMemory& memory) override;
  void cancel() override;

 private:
  std::shared_ptr<StreamPipeline> pipeline();

  const std::shared_ptr<GlDevice> device_;
  const std::vector<std::shared_ptr<const GlConv>> chain_;
  const core::StreamOptions options_;
  const StreamForm form_;
  std::mutex mutex_;
  std::shared_ptr<StreamPipeline> pipeline_;  ///< of the current context; a new one after a failure
};

}  // namespace convrt::gl
