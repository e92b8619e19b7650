#include "gl/gl_stream.hpp"

#include <future>
#include <utility>

#include "core/fail.hpp"

namespace convrt::gl {

GlStream::GlStream(std::shared_ptr<GlDevice> device, std::vector<std::shared_ptr<const GlConv>> chain,
                   const core::StreamOptions& options, StreamForm form)
    : device_(std::move(device)), chain_(std::move(chain)), options_(options), form_(form) {
  (void)pipeline();
}

GlStream::~GlStream() = default;

std::shared_ptr<StreamPipeline> GlStream::pipeline() {
  const std::scoped_lock lock(mutex_);
  if (pipeline_ == nullptr || !pipeline_->alive()) {
    pipeline_ = nullptr;
    pipeline_ = std::make_shared<StreamPipeline>(device_->session(), *device_, chain_, options_, form_);
  }
  return pipeline_;
}

core::StreamMemory GlStream::allocate() {
  const std::shared_ptr<GlContext> context = pipeline()->shared_context();
  const std::size_t src = chain_.front()->desc().src_size(), dst = chain_.back()->desc().dst_size();
  auto staging = std::make_shared<StreamStaging>();
  staging->up = GlStorage::staging(context, src * sizeof(float), true);
  staging->down = chain_.back()->desc().accumulate ? GlStorage::staging_both_ways(context, dst * sizeof(float))
                                                   : GlStorage::staging(context, dst * sizeof(float), false);
  return {
      {static_cast<float*>(staging->up->mapped()), src}, {static_cast<float*>(staging->down->mapped()), dst}, staging};
}

bool GlStream::usable(const core::StreamMemory& memory) const {
  return static_cast<const StreamStaging*>(memory.owner.get())->up->context()->alive();
}

std::function<core::StreamTimes()> GlStream::submit(const core::StreamMemory& memory) {
  const std::shared_ptr<StreamPipeline> through = pipeline();
  const auto job = std::make_shared<StreamJob>();
  job->staging = std::static_pointer_cast<StreamStaging>(memory.owner);
  if (job->staging->up->context() != through->shared_context())
    core::fail(ErrorCode::device_lost, "this job's memory was lost with the OpenGL context; acquire a new slot");
  auto landed = std::make_shared<std::future<void>>(job->landed.get_future());
  through->submit(job);
  return [job, landed, through] {
    try {
      through->context().wait(*landed);
    } catch (const Error& e) {
      if (e.code() == ErrorCode::timeout) through->give_up();
      throw;
    }
    return job->times;
  };
}

void GlStream::cancel() {
  std::shared_ptr<StreamPipeline> current;
  {
    const std::scoped_lock lock(mutex_);
    current = pipeline_;
  }
  if (current != nullptr) current->cancel();
}

}  // namespace convrt::gl
