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

void StreamPipeline::encode(Epoch& epoch, GlState& state) {
  const DeviceCopy& copy = session_->transfer.device_copy();
  const auto begin = std::chrono::steady_clock::now();
  try {
    if (epoch.down) {
      StreamJob& job = *epoch.down;
      stamp(state, job, 4);
      copy.encode(state, sets_[job.set].dst->name(), 0, job.staging->down->name(), 0, job.staging->down->bytes());
      state.gl.MemoryBarrier(GL_CLIENT_MAPPED_BUFFER_BARRIER_BIT);
      stamp(state, job, 5);
    }
    if (epoch.up) {
      StreamJob& job = *epoch.up;
      stamp(state, job, 0);
      copy.encode(state, job.staging->up->name(), 0, sets_[job.set].src->name(), 0, job.staging->up->bytes());
      if (accumulate_)
        copy.encode(state, job.staging->down->name(), 0, sets_[job.set].dst->name(), 0, job.staging->down->bytes());
      stamp(state, job, 1);
    }
    if (epoch.compute) {
      StreamJob& job = *epoch.compute;
      stamp(state, job, 2);
      if (!options_.copies_only)
        for (const auto& convolution : sets_[job.set].convolutions) convolution(state);
      stamp(state, job, 3);
      job.times.dispatch = {begin, std::chrono::steady_clock::now()};
    }
    state.gl.Flush();
    state.check("a job of an executor");
  } catch (...) {
    break_down(std::current_exception());
    throw;  // the context must know if it is lost
  }
}

void StreamPipeline::retire(Epoch& epoch, GlState& state) {
  epoch.retired = true;
  if (epoch.down) {
    for (std::size_t stage = 0; stage < 3; ++stage) read_stamps(state, *epoch.down, stage);
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
