// A stream in epochs: copies and convolutions of three jobs in one context, with no barrier among them.
#include <chrono>
#include <deque>
#include <exception>
#include <mutex>
#include <utility>

#include "gl/stream_pipeline.hpp"

namespace convrt::gl {
namespace {

// Epochs told to the GPU and not known to be done: one that runs and one behind it, so that the GPU never waits for
// the host. More would fix the order of work before it is known what arrives.
constexpr int kEpochs = 2;

}  // namespace

// Queues the next epoch if there is room. One without an upload waits for the GPU to have nothing else: until then an
// upload may still arrive, and must stand before the convolutions, for the GPU starts dispatches in order.
void StreamPipeline::advance() {
  const std::scoped_lock in_order(in_order_);
  auto epoch = std::make_shared<Epoch>();
  {
    const std::scoped_lock lock(mutex_);
    if (broken_ || epochs_ >= kEpochs) return;
    if (waiting_.empty() && (epochs_ > 0 || (uploaded_.empty() && computed_.empty()))) return;
    const auto take = [](std::deque<std::shared_ptr<StreamJob>>& from) -> std::shared_ptr<StreamJob> {
      if (from.empty()) return nullptr;
      std::shared_ptr<StreamJob> job = std::move(from.front());
      from.pop_front();
      return job;
    };
    // Moved on before the next epoch is put together, which may be before this one has run.
    epoch->down = take(computed_);
    epoch->compute = take(uploaded_);
    epoch->up = take(waiting_);
    if (epoch->compute) computed_.push_back(epoch->compute);
    if (epoch->up) uploaded_.push_back(epoch->up);
    ++epochs_;
  }
  epoch->pipeline = shared_from_this();
  (void)context().submit([epoch](GlState& state) { epoch->pipeline->encode(*epoch, state); },
                         [epoch](GlState& state) { epoch->pipeline->retire(*epoch, state); });
}

// Nothing stands between the three: a barrier, a time stamp or a copy by the driver would make what follows wait for
// what is before. So an epoch is timed as a whole, and what the host may read is made visible at its end.
void StreamPipeline::encode(Epoch& epoch, GlState& state) {
  const DeviceCopy& copy = session_->transfer.device_copy();
  const auto begin = std::chrono::steady_clock::now();
  try {
    const bool timed = epoch.compute || options_.timed;
    if (timed) epoch.stamps[0] = stamp(state, 1);
    if (epoch.down) {
      const StreamJob& job = *epoch.down;
      copy.encode_beside(state, sets_[job.set].dst->name(), job.staging->down->name(), job.staging->down->bytes());
    }
    if (epoch.up) {
      const StreamJob& job = *epoch.up;
      copy.encode_beside(state, job.staging->up->name(), sets_[job.set].src->name(), job.staging->up->bytes());
      if (accumulate_)
        copy.encode_beside(state, job.staging->down->name(), sets_[job.set].dst->name(), job.staging->down->bytes());
    }
    if (epoch.compute && !options_.copies_only)
      for (const auto& convolution : sets_[epoch.compute->set].convolutions) convolution(state);
    if (epoch.down) state.gl.MemoryBarrier(GL_CLIENT_MAPPED_BUFFER_BARRIER_BIT);
    if (timed) epoch.stamps[1] = stamp(state, 1);
    if (epoch.compute) epoch.compute->times.dispatch = {begin, std::chrono::steady_clock::now()};
    state.gl.Flush();
    state.check("a job of an executor");
  } catch (...) {
    break_down(std::current_exception());
    throw;  // the context must know if it is lost
  }
}

void StreamPipeline::retire(Epoch& epoch, GlState& state) {
  epoch.retired = true;
  const core::StreamTimes::Span span = read(state, 1, epoch.stamps);
  if (epoch.compute) epoch.compute->times.compute = span;
  if (epoch.up && options_.timed) epoch.up->times.upload = span;
  if (epoch.down) {
    if (options_.timed) epoch.down->times.download = span;
    epoch.down->times.seen = std::chrono::steady_clock::now();
    epoch.down->succeed();
  }
  {
    const std::scoped_lock lock(mutex_);
    --epochs_;
  }
  try {
    advance();
  } catch (...) {
    break_down(std::current_exception());
  }
}

StreamPipeline::Epoch::~Epoch() {
  if (pipeline == nullptr || retired) return;
  const auto error = stream_lost();
  pipeline->break_down(error);
  for (const auto& job : {up, compute, down})
    if (job) job->fail(error);
}

}  // namespace convrt::gl
