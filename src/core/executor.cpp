// An executor: at most `depth` submissions in flight, in order. Where the backend has a Stream, submitters
// copy their data into memory the device reads and the worker copies results out; else the worker runs the plans.
#include "convrt/executor.hpp"

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/access.hpp"
#include "core/chain.hpp"
#include "core/copy_pool.hpp"
#include "core/fail.hpp"
#include "core/overlap.hpp"
#include "core/ring.hpp"
#include "core/ticket.hpp"
#include "core/trace.hpp"
#include "core/worker.hpp"

namespace convrt {
namespace core {
namespace {

StreamMemory host_memory(std::size_t src_size, std::size_t dst_size) {
  auto owner = std::make_shared<std::pair<std::vector<float>, std::vector<float>>>();
  owner->first.resize(src_size);
  owner->second.resize(dst_size);
  return {owner->first, owner->second, owner};
}

void check_depth(int depth) {
  if (depth < 1 || depth > 64) fail(ErrorCode::invalid_argument, "Executor: depth must be 1 to 64, found ", depth);
}

}  // namespace

class ExecutorState {
 public:
  ExecutorState(std::vector<Conv2dPlan> chain, int depth);
  ~ExecutorState();

  Ticket submit(std::span<const float> src, std::span<float> dst);
  Slot acquire();
  Ticket submit(Slot slot);
  void drain();
  ExecutorStats stats() const;

 private:
  using Interval = ChainRunner::Interval;
  /// A submission on its way through the ring.
  struct Job {
    std::shared_ptr<TicketState> ticket;
    std::span<const float> src;
    std::span<float> dst;
    bool slot;                                         ///< holds one of the ring's slots
    std::size_t number = 0;                            ///< in order of submission
    std::shared_ptr<StreamMemory> memory = {};         ///< of a stream's job
    std::function<StreamTimes()> wait = {};            ///< likewise
    Clock::time_point copy_begin = {}, copy_end = {};  ///< src into memory
  };
  Ticket post(std::span<const float> src, std::span<float> dst, std::shared_ptr<SlotState> slot);
  void stage(Job& job);
  void execute(Job& job) noexcept;
  void collect(Job& job) noexcept;
  void settle(Job& job, const Interval& interval, const RunStats& stats, const std::optional<Error>& error,
              bool cancelled) noexcept;
  void trace(const Job& job, const StreamTimes& times, Clock::time_point done) const;
  std::shared_ptr<StreamMemory> take_memory();
  std::size_t src_size() const { return chain_.front().desc().src_size(); }
  std::size_t dst_size() const { return chain_.back().desc().dst_size(); }

  const std::vector<Conv2dPlan> chain_;
  const bool host_memory_;
  std::shared_ptr<Ring> ring_;
  const std::shared_ptr<Trace> trace_ = Trace::open();
  int trace_group_ = 0;
  CopyPool copies_;
  std::unique_ptr<Stream> stream_;
  std::optional<ChainRunner> runner_;  ///< where there is no stream
  Worker worker_;                      ///< last: its thread ends before what it uses goes
};

ExecutorState::ExecutorState(std::vector<Conv2dPlan> chain, int depth)
    : chain_((check_depth(depth), check_chain(chain), std::move(chain))),
      host_memory_(Access::backend(chain_[0].device())->host_memory()),
      ring_(std::make_shared<Ring>(depth)) {
  ring_->spare.reserve(ring_->depth);
  const std::string& device = chain_[0].device().info().id;
  if (trace_) trace_group_ = trace_->add_group(device + " executor, " + chain_[0].desc().str());
  if (dst_size() > 0 && std::none_of(chain_.begin(), chain_.end(), Access::validated)) {
    std::vector<std::shared_ptr<const PreparedConv>> convs;
    for (const Conv2dPlan& plan : chain_) convs.push_back(Access::prepared(plan));
    stream_ = Access::backend(chain_[0].device())
                  ->open_stream(std::move(convs), {.timed = trace_ != nullptr, .depth = depth});
  }
  if (!stream_) runner_.emplace(chain_);
}

ExecutorState::~ExecutorState() {
  {
    const std::scoped_lock lock(ring_->mutex);
    ring_->stopping = true;  // what the worker has not started yet, it cancels
  }
  if (stream_) stream_->cancel();
}

Ticket ExecutorState::submit(std::span<const float> src, std::span<float> dst) {
  if (src.size() != src_size() || dst.size() != dst_size())
    fail(ErrorCode::invalid_argument, "Executor::submit: ", chain_.front().desc().str(), " expects ", src_size(),
         " floats in src and ", dst_size(), " in dst, found ", src.size(), " and ", dst.size());
  if (overlap(src, dst)) fail(ErrorCode::invalid_argument, "Executor::submit: src and dst must not overlap");
  return post(src, dst, nullptr);
}

Slot ExecutorState::acquire() {
  if (chain_.back().desc().accumulate)
    fail(ErrorCode::invalid_argument, "Executor::acquire: ", chain_.back().desc().str(),
         " adds to what dst holds, which a slot cannot give; submit spans instead");
  {
    std::unique_lock lock(ring_->mutex);
    ring_->wait(lock, [&] { return ring_->slots_taken < ring_->depth; });
    ++ring_->slots_taken;
  }
  std::shared_ptr<SlotState> state;
  try {
    state = std::make_shared<SlotState>();
    state->submitted = true;  // until it is whole, the place is given back below
    state->memory = take_memory();
  } catch (...) {
    const std::scoped_lock lock(ring_->mutex);
    --ring_->slots_taken;
    ring_->changed.notify_all();
    throw;
  }
  state->ring = ring_;
  state->submitted = false;
  return Access::slot(std::move(state));
}

// Spare memory, or new; what a lost device left behind goes.
std::shared_ptr<StreamMemory> ExecutorState::take_memory() {
  for (;;) {
    StreamMemory memory;
    {
      const std::scoped_lock lock(ring_->mutex);
      if (ring_->spare.empty()) break;
      memory = std::move(ring_->spare.back());
      ring_->spare.pop_back();
    }
    if (!stream_ || stream_->usable(memory)) return lend(ring_, std::move(memory));
  }
  return lend(ring_, stream_ ? stream_->allocate() : host_memory(src_size(), dst_size()));
}

Ticket ExecutorState::submit(Slot slot) {
  std::shared_ptr<SlotState> state = std::move(Access::slot_state(slot));
  if (!state || state->ring != ring_)
    fail(ErrorCode::invalid_argument, "Executor::submit: expected a slot that acquire() of this executor gave, found ",
         state ? "another executor's" : "one already submitted or moved from");
  return post(state->memory->src, state->memory->dst, state);
}

Ticket ExecutorState::post(std::span<const float> src, std::span<float> dst, std::shared_ptr<SlotState> slot) {
  std::unique_lock lock(ring_->mutex);
  ring_->wait(lock, [&] { return ring_->stats.in_flight < ring_->depth; });
  // Made after the wait: total_ms is the time in the ring, not the time before it.
  Job job{std::make_shared<TicketState>(dst, slot ? slot->memory : nullptr), src, dst, slot != nullptr};
  job.number = ring_->next_turn;
  if (slot && stream_) job.memory = slot->memory;
  Ticket ticket = Access::ticket(job.ticket);
  if (!stream_) {
    worker_.post([this, job]() mutable { execute(job); });
    ++ring_->turn;
  }
  ++ring_->next_turn;
  if (slot) slot->submitted = true;  // its place is now given back by settle
  ++ring_->stats.submitted;
  ++ring_->stats.in_flight;
  lock.unlock();
  if (stream_) stage(job);
  return ticket;
}

// On the submitter's thread: copies src to where the device reads it, then hands over in turn. Failures belong to the
// ticket from here on.
void ExecutorState::stage(Job& job) {
  std::optional<Error> error;
  try {
    if (!job.slot) {
      job.memory = take_memory();
      job.copy_begin = Clock::now();
      copies_.copy(job.src, job.memory->src.data());
      if (chain_.back().desc().accumulate) copies_.copy(job.dst, job.memory->dst.data());
      job.copy_end = Clock::now();
    }
  } catch (...) {
    error.emplace(as_error(std::current_exception()));
  }
  std::unique_lock lock(ring_->mutex);
  ring_->changed.wait(lock, [&] { return ring_->turn == job.number; });
  try {
    if (!error) job.wait = stream_->submit(*job.memory);
  } catch (...) {
    error.emplace(as_error(std::current_exception()));
  }
  if (error) job.wait = [error]() -> StreamTimes { throw Error(*error); };
  ++ring_->turn;
  ring_->changed.notify_all();
  try {
    worker_.post([this, job]() mutable { collect(job); });
  } catch (...) {  // no thread to be had: this one waits
    lock.unlock();
    collect(job);
  }
}

void ExecutorState::execute(Job& job) noexcept {
  bool cancel;
  {
    const std::scoped_lock lock(ring_->mutex);
    cancel = ring_->stopping;
  }
  Interval interval;
  RunStats stats;
  std::optional<Error> error;
  if (cancel) {
    error.emplace(ErrorCode::cancelled, "the executor was destroyed before this submission started");
  } else {
    try {
      interval = runner_->compute(job.src, job.dst, stats);
      if (trace_) trace(job, {{}, {}, {interval.start, interval.end}, {}, {}}, Clock::now());
    } catch (...) {
      error.emplace(as_error(std::current_exception()));
    }
  }
  settle(job, interval, stats, error, cancel);
}

// Waits for a stream's job and copies its result out.
void ExecutorState::collect(Job& job) noexcept {
  Interval interval;
  RunStats stats;
  std::optional<Error> error;
  try {
    const StreamTimes times = job.wait();
    interval = {times.compute.begin, times.compute.end};
    stats.device_ms = milliseconds(interval.end - interval.start);
    if (!job.slot) copies_.copy(job.memory->dst, job.dst.data());
    if (chain_.size() == 1) Access::count(chain_[0], stats.device_ms);
    if (trace_) trace(job, times, Clock::now());
  } catch (...) {
    error.emplace(as_error(std::current_exception()));
  }
  job.memory.reset();  // before the place is free, or its next user would allocate
  settle(job, interval, stats, error, error && error->code() == ErrorCode::cancelled);
}

void ExecutorState::trace(const Job& job, const StreamTimes& times, Clock::time_point done) const {
  const std::string track = "slot " + std::to_string(job.number % ring_->depth), n = ' ' + std::to_string(job.number);
  const auto span = [&](const char* stage, const StreamTimes::Span& at) {
    trace_->span(trace_group_, track, stage + n, at.begin, at.end);
  };
  span("copy in", {job.copy_begin, job.copy_end});
  span("upload", times.upload);
  span("compute", times.compute);
  span("download", times.download);
  span("fence", {times.download.end, times.seen});
  if (!job.slot) span("copy out", {times.seen, done});
  trace_->span(trace_group_, "dispatch", "dispatch" + n, times.dispatch.begin, times.dispatch.end);
}

void ExecutorState::settle(Job& job, const Interval& interval, const RunStats& stats, const std::optional<Error>& error,
                           bool cancelled) noexcept {
  // Under the ring's lock: who finds the ticket done also finds it counted, and the other way round.
  std::unique_lock lock(ring_->mutex);
  if (error)
    job.ticket->fail(*error);
  else
    job.ticket->succeed(stats);
  ExecutorStats& total = ring_->stats;
  --total.in_flight;
  ++(cancelled ? total.cancelled : error ? total.failed : total.completed);
  if (!error) {
    // Intervals come in order of their start, so their union grows by what lies behind the latest end.
    if (total.completed == 1) ring_->first_start = ring_->last_end = interval.start;
    const auto start = std::max(interval.start, ring_->last_end);
    if (interval.end > start) ring_->busy_ms += milliseconds(interval.end - start);
    ring_->last_end = std::max(ring_->last_end, interval.end);
    if (!host_memory_) {
      total.bytes_uploaded += (job.src.size() + (chain_.back().desc().accumulate ? job.dst.size() : 0)) * sizeof(float);
      total.bytes_downloaded += job.dst.size() * sizeof(float);
    }
  }
  lock.unlock();
  job.ticket
      .reset();  // a slot's memory goes with its last ticket: before its place is free, or its next user allocates
  lock.lock();
  if (job.slot) --ring_->slots_taken;
  ring_->changed.notify_all();
}

void ExecutorState::drain() {
  std::unique_lock lock(ring_->mutex);
  const ExecutorStats& s = ring_->stats;
  // What was submitted up to now, not what others go on submitting.
  ring_->changed.wait(lock, [&, target = s.submitted] { return s.submitted - s.in_flight >= target; });
}

ExecutorStats ExecutorState::stats() const {
  const std::scoped_lock lock(ring_->mutex);
  ExecutorStats s = ring_->stats;
  const double wall_ms = milliseconds(ring_->last_end - ring_->first_start);
  if (wall_ms > 0) s.device_busy_share = std::min(1.0, ring_->busy_ms / wall_ms);
  return s;
}

namespace {

ExecutorState& valid(const std::unique_ptr<ExecutorState>& state) {
  if (!state) fail(ErrorCode::invalid_argument, "this Executor was moved from");
  return *state;
}

}  // namespace
}  // namespace core

Executor::Executor(Conv2dPlan plan, int depth) : Executor(std::vector<Conv2dPlan>{std::move(plan)}, depth) {}
Executor::Executor(std::vector<Conv2dPlan> chain, int depth)
    : state_(std::make_unique<core::ExecutorState>(std::move(chain), depth)) {}
Executor::Executor(Executor&&) noexcept = default;
Executor& Executor::operator=(Executor&&) noexcept = default;
Executor::~Executor() = default;

Ticket Executor::submit(std::span<const float> src, std::span<float> dst) {
  return core::valid(state_).submit(src, dst);
}
Slot Executor::acquire() { return core::valid(state_).acquire(); }
Ticket Executor::submit(Slot slot) { return core::valid(state_).submit(std::move(slot)); }
void Executor::drain() { core::valid(state_).drain(); }
ExecutorStats Executor::stats() const { return core::valid(state_).stats(); }

}  // namespace convrt
