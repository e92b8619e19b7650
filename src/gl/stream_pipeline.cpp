#include "gl/stream_pipeline.hpp"

#include <algorithm>
#include <utility>

#include "core/fail.hpp"
#include "core/log.hpp"

namespace convrt::gl {
namespace {

using Clock = std::chrono::steady_clock;

// Sets of device memory that jobs take in turn. In epochs one is computed on while the other is filled or emptied; with
// contexts each stage of a job has one, and several convolutions run in a row while as many jobs are copied.
constexpr std::size_t kEpochSets = 2, kContextSets = 8;

}  // namespace

std::exception_ptr stream_lost() {
  return std::make_exception_ptr(Error(
      ErrorCode::device_lost, "the OpenGL context failed before this job was done; the device re-opens on next use"));
}

StreamPipeline::StreamPipeline(std::shared_ptr<GlSession> session, GlDevice& device,
                               const std::vector<std::shared_ptr<const GlConv>>& chain,
                               const core::StreamOptions& options, StreamForm form)
    : session_(std::move(session)),
      options_(options),
      accumulate_(chain.back()->desc().accumulate),
      order_(form.order) {
  contexts_[1] = session_->context;
  if (order_ != StreamOrder::epochs) {
    try {
      auto beside = device.beside(*session_);
      contexts_[0] = std::move(beside[0]);
      contexts_[2] = std::move(beside[1]);
    } catch (const Error& e) {
      core::log(LogLevel::info, session_->context->info().renderer, ": no contexts for copies alone: ", e.what());
      order_ = StreamOrder::epochs;
    }
  }
  for (const auto& context : contexts_)
    if (context) context->set_polling(form.polling);
  sets_.resize(apart() ? std::min(kContextSets, static_cast<std::size_t>(std::max(options.depth, 1))) : kEpochSets);
  const auto memory = [&](std::size_t floats) {
    return GlStorage::device_local(session_->context, floats * sizeof(float));
  };
  std::vector<std::shared_ptr<GlStorage>> between;  // one is enough: convolutions run one after another
  for (std::size_t i = 0; i + 1 < chain.size(); ++i) between.push_back(memory(chain[i]->desc().dst_size()));
  for (Set& set : sets_) {
    set.src = memory(chain.front()->desc().src_size());
    set.dst = memory(chain.back()->desc().dst_size());
    for (std::size_t i = 0; i < chain.size(); ++i)
      set.convolutions.push_back(chain[i]->dispatches(*session_, i == 0 ? set.src : between[i - 1],
                                                      i + 1 == chain.size() ? set.dst : between[i]));
  }
  context().call([this](GlState& state) {
    GLint64 gpu_ns = 0;
    state.gl.GetInteger64v(GL_TIMESTAMP, &gpu_ns);
    clock_offset_ = Clock::now().time_since_epoch() - std::chrono::nanoseconds(gpu_ns);
  });
}

StreamPipeline::~StreamPipeline() {
  for (std::size_t i = 0; i < contexts_.size(); ++i)
    if (contexts_[i])
      contexts_[i]->discard([names = std::move(queries_[i])](GlState& state) {
        state.gl.DeleteQueries(static_cast<GLsizei>(names.size()), names.data());
      });
}

bool StreamPipeline::alive() const {
  return !broken_ && context().alive() && (!apart() || (contexts_[0]->alive() && contexts_[2]->alive()));
}

void StreamPipeline::give_up() const {
  for (const auto& context : contexts_)
    if (context) context->give_up();
}

void StreamPipeline::submit(std::shared_ptr<StreamJob> job) {
  {
    const std::scoped_lock lock(mutex_);
    if (broken_)
      core::fail(ErrorCode::device_lost, "an earlier job of this executor failed on the device; submit again");
    job->set = count_++ % sets_.size();
    waiting_.push_back(std::move(job));
  }
  if (apart())
    start_jobs();
  else
    advance();
}

void StreamPipeline::cancel() {
  std::deque<std::shared_ptr<StreamJob>> jobs;
  {
    const std::scoped_lock lock(mutex_);
    jobs.swap(waiting_);
    count_ -= jobs.size();  // their sets are the next jobs' again
  }
  const auto error =
      std::make_exception_ptr(Error(ErrorCode::cancelled, "the executor was destroyed before this submission started"));
  for (const auto& job : jobs) job->fail(error);
}

void StreamPipeline::break_down(const std::exception_ptr& error) {
  std::deque<std::shared_ptr<StreamJob>> jobs;
  {
    const std::scoped_lock lock(mutex_);
    broken_ = true;
    for (auto* list : {&waiting_, &uploaded_, &computed_, &ready_[0], &ready_[1], &ready_[2]}) {
      jobs.insert(jobs.end(), list->begin(), list->end());
      list->clear();
    }
  }
  for (const auto& job : jobs) job->fail(error);
}

// The convolutions are always timed, for the busy share; copies only for a trace. Where the host sees each stage end,
// its own clock does for copies: on an NVIDIA driver a time stamp beside a copy costs up to 0.9 ms (bench/NOTES.md).
GLuint StreamPipeline::stamp(GlState& state, std::size_t stage) {
  if (stage != 1 && (!options_.timed || order_ == StreamOrder::ordered)) return 0;
  std::vector<GLuint>& free = queries_[stage];
  if (free.empty()) {
    free.resize(12);
    state.gl.GenQueries(static_cast<GLsizei>(free.size()), free.data());
  }
  const GLuint query = free.back();
  free.pop_back();
  state.gl.QueryCounter(query, GL_TIMESTAMP);
  return query;
}

core::StreamTimes::Span StreamPipeline::read(GlState& state, std::size_t stage, std::array<GLuint, 2>& stamps) {
  std::array<Clock::time_point, 2> at = {};
  for (std::size_t i = 0; i < 2; ++i) {
    if (stamps[i] == 0) return {};
    GLuint64 ns = 0;
    state.gl.GetQueryObjectui64v(stamps[i], GL_QUERY_RESULT, &ns);
    at[i] = Clock::time_point(std::chrono::nanoseconds(ns) + clock_offset_);
    queries_[stage].push_back(std::exchange(stamps[i], 0));
  }
  return {at[0], at[1]};
}

}  // namespace convrt::gl
