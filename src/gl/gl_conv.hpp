/// \file
/// A prepared GL convolution, and the buffers it works on.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "core/backend.hpp"
#include "gl/gl_device.hpp"
#include "gl/variants.hpp"

namespace convrt::gl {

/// A buffer of a GL device. A lost context takes the content along: reading it then is device_lost, writing it anew is
/// not.
class GlBuffer final : public core::BackendBuffer {
 public:
  GlBuffer(const core::Backend* backend, std::shared_ptr<GlDevice> device, std::size_t floats);
  const core::Backend* device() const override { return backend_; }
  std::size_t size() const override { return floats_; }
  void upload(std::span<const float> from) override;
  void download(std::span<float> to) override;

  /// The memory in `session`; with `keep_content`, throws Error{device_lost} where another context held it.
  std::shared_ptr<GlStorage> storage(GlSession& session, bool keep_content);

 private:
  const core::Backend* const backend_;
  const std::shared_ptr<GlDevice> device_;
  const std::size_t floats_;
  std::mutex mutex_;
  std::shared_ptr<GlStorage> storage_;
};

/// Packed weights and bias: on the host for the next context, on the device for this one. Shared by reshaped plans.
class GlWeights {
 public:
  GlWeights(std::vector<float> packed, std::vector<float> bias) : packed_(std::move(packed)), bias_(std::move(bias)) {}
  struct OnDevice {
    std::shared_ptr<GlStorage> weights, bias;
  };
  OnDevice in(GlSession& session);
  std::size_t packed_floats() const { return packed_.size(); }

 private:
  const std::vector<float> packed_, bias_;
  std::mutex mutex_;
  OnDevice on_device_;
};

class GlConv final : public core::PreparedConv {
 public:
  /// Compiles and uploads. Throws Error{compile_failed} with the driver's log.
  GlConv(std::shared_ptr<GlDevice> device, GlInfo info, Config config, const Conv2dDesc& desc,
         std::shared_ptr<GlWeights> weights);

  RunStats run(std::span<const float> src, std::span<float> dst) const override;
  void enqueue(const std::shared_ptr<core::BackendBuffer>& src,
               const std::shared_ptr<core::BackendBuffer>& dst) const override;
  std::shared_ptr<const core::PreparedConv> reshaped(const Conv2dDesc& desc) const override;
  std::size_t workspace_bytes() const override;
  std::size_t packed_bytes() const override;

  const Conv2dDesc& desc() const { return desc_; }
  /// What runs this convolution from `src` to `dst`, any number of times, on the thread of the session's context.
  /// Throws Error{device_lost} if the device has another session by now.
  std::function<void(GlState&)> dispatches(const GlSession& session, std::shared_ptr<GlStorage> src,
                                           std::shared_ptr<GlStorage> dst) const;

 private:
  /// The plan in one context.
  struct Ready {
    std::shared_ptr<GlSession> session;
    std::vector<std::shared_ptr<Program>> programs;
    GlWeights::OnDevice weights;
    std::shared_ptr<GlStorage> params, workspace;
  };
  struct Launch;

  std::shared_ptr<const Ready> ready() const;
  void plan_launches();
  std::function<void(GlState&)> job(std::shared_ptr<const Ready> ready, std::shared_ptr<GlStorage> src,
                                    std::shared_ptr<GlStorage> dst) const;

  const std::shared_ptr<GlDevice> device_;
  const GlInfo info_;
  const Config config_;
  const Conv2dDesc desc_;
  const std::shared_ptr<GlWeights> weights_;
  Recipe recipe_;
  std::vector<ProgramStore::Source> sources_;
  std::vector<std::uint32_t> params_;  // of all steps, each at its alignment
  std::shared_ptr<const std::vector<Launch>> launches_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Ready> ready_;
};

}  // namespace convrt::gl
