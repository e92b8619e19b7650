// A stream in three contexts: each stage of a job in the one of its kind.
#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <utility>

#include "gl/stream_pipeline.hpp"

namespace convrt::gl {

// Jobs take their sets in turn and are done in order, so the next set is free once as many jobs are done.
void StreamPipeline::start_jobs() {
  {
    const std::scoped_lock in_order(in_order_);
    for (;;) {
      std::shared_ptr<StreamJob> job;
      {
        const std::scoped_lock lock(mutex_);
        if (broken_ || waiting_.empty() || started_ - done_ >= sets_.size()) break;
        job = std::move(waiting_.front());
        waiting_.pop_front();
        ++started_;
        if (order_ == StreamOrder::ordered) {
          ready_[0].push_back(std::move(job));
          continue;
        }
      }
      start_stage(std::move(job), 0);
    }
  }
  if (order_ == StreamOrder::ordered) start_ready();
}

// Starts what may start, where the host orders the stages. An NVIDIA GPU takes up copies of another context only when
// the convolutions' context has nothing queued, then does them beside whatever that context gets next (traces in
// bench/NOTES.md). So copies are told at once, and convolutions in rows: all that are ready when the row before has
// ended. Within a row there is no gap, and copies have its whole time. A row of one waits until the copy that follows
// from the row before is told, which else would wait for it.
void StreamPipeline::start_ready() {
  const std::scoped_lock in_order(in_order_);
  for (;;) {
    std::shared_ptr<StreamJob> job;
    std::size_t stage = 0;
    {
      const std::scoped_lock lock(mutex_);
      if (broken_) return;
      stage = !ready_[2].empty() ? 2 : !ready_[0].empty() ? 0 : 1;
      if (stage == 1 && row_ == 0 && computing_ == 0 && (telling_ == 0 || ready_[1].size() > 1))
        row_ = ready_[1].size();
      if (stage == 1 && row_ == 0) return;
      job = std::move(ready_[stage].front());
      ready_[stage].pop_front();
      if (stage == 1) {
        --row_;
        ++computing_;
      } else {
        ++telling_;
      }
    }
    start_stage(std::move(job), stage);
  }
}

void StreamPipeline::start_stage(std::shared_ptr<StreamJob> job, std::size_t number) {
  const auto stage = std::shared_ptr<Stage>(new Stage{shared_from_this(), std::move(job), number});
  (void)contexts_[number]->submit([stage](GlState& state) { stage->pipeline->encode(*stage, state); },
                                  [stage](GlState& state) { stage->pipeline->retire(*stage, state); });
}

// Where the GPU orders the stages, the one before has put its fence into its own context's commands; this context's
// wait for it on the GPU, and the next stage follows at once. Else the host has seen the stage before end.
void StreamPipeline::encode(Stage& stage, GlState& state) {
  const GladGLContext& gl = state.gl;
  StreamJob& job = *stage.job;
  const Set& set = sets_[job.set];
  const bool hand_on = order_ == StreamOrder::contexts && stage.number < 2;
  job.told[stage.number] = std::chrono::steady_clock::now();
  try {
    if (job.fence != nullptr) {
      gl.WaitSync(job.fence, 0, GL_TIMEOUT_IGNORED);
      gl.DeleteSync(std::exchange(job.fence, nullptr));
    }
    job.stamps[stage.number][0] = stamp(state, stage.number);
    if (stage.number == 0) {
      DeviceCopy::encode_by_driver(state, job.staging->up->name(), set.src->name(), job.staging->up->bytes());
      if (accumulate_)
        DeviceCopy::encode_by_driver(state, job.staging->down->name(), set.dst->name(), job.staging->down->bytes());
    } else if (stage.number == 2) {
      DeviceCopy::encode_by_driver(state, set.dst->name(), job.staging->down->name(), job.staging->down->bytes());
    } else if (!options_.copies_only) {
      for (const auto& convolution : set.convolutions) convolution(state);
    }
    job.stamps[stage.number][1] = stamp(state, stage.number);
    if (stage.number == 1) {
      gl.MemoryBarrier(GL_BUFFER_UPDATE_BARRIER_BIT);
      job.times.dispatch = {job.told[1], std::chrono::steady_clock::now()};
    }
    if (hand_on) job.fence = gl.FenceSync(GL_SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.Flush();
    state.check("a job of an executor");
    if (hand_on) start_stage(stage.job, stage.number + 1);
    if (order_ == StreamOrder::ordered && stage.number != 1) {
      {
        const std::scoped_lock lock(mutex_);
        --telling_;
      }
      start_ready();
    }
  } catch (...) {
    break_down(std::current_exception());
    job.fail(std::current_exception());
    throw;  // the context must know if it is lost
  }
}

// On the thread of the stage's context. Where the host orders the stages, the next one comes first of all: the GPU may
// be waiting for it. A job's stages may be dealt with in any order.
void StreamPipeline::retire(Stage& stage, GlState& state) {
  stage.retired = true;
  StreamJob& job = *stage.job;
  const std::size_t number = stage.number;
  if (order_ == StreamOrder::ordered) {
    const auto now = std::chrono::steady_clock::now();
    {
      const std::scoped_lock lock(mutex_);
      if (number == 1) --computing_;
      if (number < 2 && !broken_) ready_[number + 1].push_back(stage.job);
    }
    try {
      start_ready();
    } catch (...) {
      break_down(std::current_exception());
      job.fail(std::current_exception());
    }
    // From when the host told the GPU, or from the end of the copy before it, to when the host saw the end.
    if (options_.timed && number != 1)
      (number == 0 ? job.times.upload : job.times.download) = {std::max(job.told[number], seen_[number]), now};
    seen_[number] = now;
  }
  if (const core::StreamTimes::Span span = read(state, number, job.stamps[number]); span.end != StreamJob::Time())
    (number == 0 ? job.times.upload : number == 1 ? job.times.compute : job.times.download) = span;
  if (--job.stages > 0) return;
  // The set is free before anyone can know of the result: a submission that follows on it starts, whatever comes next.
  {
    const std::scoped_lock lock(mutex_);
    ++done_;
  }
  job.times.seen = std::chrono::steady_clock::now();
  job.succeed();
  try {
    start_jobs();
  } catch (...) {
    break_down(std::current_exception());
  }
}

StreamPipeline::Stage::~Stage() {
  if (retired) return;
  const auto error = stream_lost();
  pipeline->break_down(error);
  job->fail(error);
}

}  // namespace convrt::gl
