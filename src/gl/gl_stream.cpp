#include "gl/gl_stream.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <exception>
#include <future>
#include <optional>
#include <string_view>
#include <utility>

#include "core/fail.hpp"
#include "core/log.hpp"

namespace convrt::gl {
namespace {

using Clock = std::chrono::steady_clock;
using core::StreamTimes;

// Epochs told to the GPU and not known to be done: one that runs and one behind it, so that the GPU never waits for
// the host. More would fix the order of work before it is known what arrives.
constexpr int kEpochs = 2;

// Sets of device memory that jobs take in turn. In epochs one is computed on while the other is filled or emptied; with
// contexts each stage of a job has one, and one more hides how long the host takes to see that a job is done.
constexpr std::size_t kEpochSets = 2, kContextSets = 4;

bool use_contexts(const GlInfo& info) {
  const char* form = std::getenv("CONVRT_GL_STREAM");
  return form == nullptr ? !info.software : std::string_view(form) == "contexts";
}

constexpr const char* kLost = "the OpenGL context failed before this job was done; the device re-opens on next use";

std::exception_ptr error_of(ErrorCode code, const char* what) { return std::make_exception_ptr(Error(code, what)); }

}  // namespace

/// What a StreamMemory owns.
struct GlStream::Staging {
  std::shared_ptr<GlStorage> up, down;
};

/// One submission on its way: uploaded, computed and downloaded in three epochs, one after another.
struct GlStream::Job {
  std::shared_ptr<Staging> staging;
  std::size_t set = 0;
  StreamTimes times;
  std::array<GLuint, 6> stamps = {};  ///< begin and end of upload, compute, download; 0: not stamped
  GLsync fence = nullptr;             ///< with contexts: of the stage before
  std::atomic<int> stages = 3;        ///< likewise: whose end the host has not seen
  std::promise<void> landed;
  std::atomic<bool> settled = false;

  void succeed() {
    if (!settled.exchange(true)) landed.set_value();
  }
  void fail(const std::exception_ptr& error) {
    if (!settled.exchange(true)) landed.set_exception(error);
  }
};

/// The stream in one context. Its lists are the owner thread's, but for a context that is lost on another one.
class GlStream::Pipeline : public std::enable_shared_from_this<Pipeline> {
 public:
  Pipeline(std::shared_ptr<GlSession> session, GlDevice& device,
           const std::vector<std::shared_ptr<const GlConv>>& chain, const core::StreamOptions& options);
  ~Pipeline() {
    for (std::size_t i = 0; i < contexts_.size(); ++i)
      if (contexts_[i])
        contexts_[i]->discard([names = std::move(queries_[i])](GlState& state) {
          state.gl.DeleteQueries(static_cast<GLsizei>(names.size()), names.data());
        });
  }
  GlContext& context() const { return *session_->context; }
  const std::shared_ptr<GlContext>& shared_context() const { return session_->context; }
  bool alive() const {
    return !broken_ && context().alive() && (!apart() || (contexts_[0]->alive() && contexts_[2]->alive()));
  }
  /// After a time-out: contexts that wait for one another's fences go together.
  void give_up() const {
    for (const auto& context : contexts_)
      if (context) context->give_up();
  }
  void submit(std::shared_ptr<Job> job);

 private:
  /// The jobs that one epoch moves on by a stage; nullptr: none. An epoch that goes without being retired takes the
  /// pipeline with it.
  struct Epoch {
    std::shared_ptr<Pipeline> pipeline;
    std::shared_ptr<Job> up, compute, down;
    bool retired = false;
    ~Epoch();
  };
  /// With contexts: a job in one of its stages (0 upload, 1 compute, 2 download). As with an epoch.
  struct Stage {
    std::shared_ptr<Pipeline> pipeline;
    std::shared_ptr<Job> job;
    std::size_t number;
    bool retired = false;
    ~Stage();
  };
  bool apart() const { return contexts_[0] != nullptr; }
  void start_jobs();
  void start_stage(std::shared_ptr<Job> job, std::size_t number);
  void encode(Stage& stage, GlState& state);
  void retire(Stage& stage, GlState& state);
  void advance();
  void encode(Epoch& epoch, GlState& state);
  void retire(Epoch& epoch, GlState& state);
  void break_down(const std::exception_ptr& error);
  void stamp(GlState& state, Job& job, std::size_t which);
  void read_stamps(GlState& state, Job& job, std::size_t stage);

  const std::shared_ptr<GlSession> session_;
  std::array<std::shared_ptr<GlContext>, 3>
      contexts_;  ///< of upload, compute, download; in epochs the middle one alone
  const core::StreamOptions options_;
  const bool accumulate_;
  struct Set {
    std::shared_ptr<GlStorage> src, dst;
    std::vector<std::function<void(GlState&)>> convolutions;
  };
  std::vector<Set> sets_;
  std::atomic<bool> broken_ = false;

  std::mutex order_;  ///< epochs reach the context in the order in which they were put together
  std::mutex mutex_;
  std::deque<std::shared_ptr<Job>> waiting_, uploaded_, computed_;
  std::size_t started_ = 0, done_ = 0;  ///< jobs that took, and gave back, a set
  int epochs_ = 0;
  std::size_t count_ = 0;

  std::array<std::vector<GLuint>, 3> queries_;  ///< free ones of each context, its thread's own
  Clock::duration clock_offset_{};              ///< steady_clock minus the GPU's
};

GlStream::Pipeline::Pipeline(std::shared_ptr<GlSession> session, GlDevice& device,
                             const std::vector<std::shared_ptr<const GlConv>>& chain,
                             const core::StreamOptions& options)
    : session_(std::move(session)), options_(options), accumulate_(chain.back()->desc().accumulate) {
  contexts_[1] = session_->context;
  if (use_contexts(session_->context->info())) {
    try {
      auto beside = device.beside(*session_);
      contexts_[0] = std::move(beside[0]);
      contexts_[2] = std::move(beside[1]);
    } catch (const Error& e) {
      core::log(LogLevel::info, session_->context->info().renderer, ": no contexts for copies alone: ", e.what());
    }
  }
  sets_.resize(apart() ? kContextSets : kEpochSets);
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

void GlStream::Pipeline::submit(std::shared_ptr<Job> job) {
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

// Jobs take their sets in turn and are done in order, so the next set is free once as many jobs are done.
void GlStream::Pipeline::start_jobs() {
  const std::scoped_lock in_order(order_);
  for (;;) {
    std::shared_ptr<Job> job;
    {
      const std::scoped_lock lock(mutex_);
      if (broken_ || waiting_.empty() || started_ - done_ >= sets_.size()) return;
      job = std::move(waiting_.front());
      waiting_.pop_front();
      ++started_;
    }
    start_stage(std::move(job), 0);
  }
}

void GlStream::Pipeline::start_stage(std::shared_ptr<Job> job, std::size_t number) {
  const auto stage = std::shared_ptr<Stage>(new Stage{shared_from_this(), std::move(job), number});
  (void)contexts_[number]->submit([stage](GlState& state) { stage->pipeline->encode(*stage, state); },
                                  [stage](GlState& state) { stage->pipeline->retire(*stage, state); });
}

// The stage before has put its fence into its own context's commands; this context's wait for it on the GPU.
void GlStream::Pipeline::encode(Stage& stage, GlState& state) {
  const GladGLContext& gl = state.gl;
  Job& job = *stage.job;
  const Set& set = sets_[job.set];
  const auto begin = Clock::now();
  try {
    if (job.fence != nullptr) {
      gl.WaitSync(job.fence, 0, GL_TIMEOUT_IGNORED);
      gl.DeleteSync(std::exchange(job.fence, nullptr));
    }
    stamp(state, job, 2 * stage.number);
    if (stage.number == 0) {
      DeviceCopy::encode_by_driver(state, job.staging->up->name(), set.src->name(), job.staging->up->bytes());
      if (accumulate_)
        DeviceCopy::encode_by_driver(state, job.staging->down->name(), set.dst->name(), job.staging->down->bytes());
    } else if (stage.number == 2) {
      DeviceCopy::encode_by_driver(state, set.dst->name(), job.staging->down->name(), job.staging->down->bytes());
    } else if (!options_.copies_only) {
      for (const auto& convolution : set.convolutions) convolution(state);
    }
    stamp(state, job, 2 * stage.number + 1);
    if (stage.number == 1) {
      gl.MemoryBarrier(GL_BUFFER_UPDATE_BARRIER_BIT);
      job.times.dispatch = {begin, Clock::now()};
    }
    if (stage.number < 2) job.fence = gl.FenceSync(GL_SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.Flush();
    state.check("a job of an executor");
    if (stage.number < 2) start_stage(stage.job, stage.number + 1);
  } catch (...) {
    break_down(std::current_exception());
    job.fail(std::current_exception());
    throw;  // the context must know if it is lost
  }
}

// On the thread of the stage's context; a job's stages may be seen to end in any order.
void GlStream::Pipeline::retire(Stage& stage, GlState& state) {
  stage.retired = true;
  Job& job = *stage.job;
  read_stamps(state, job, stage.number);
  if (--job.stages > 0) return;
  job.times.seen = Clock::now();
  job.succeed();
  {
    const std::scoped_lock lock(mutex_);
    ++done_;
  }
  try {
    start_jobs();
  } catch (...) {
    break_down(std::current_exception());
  }
}

GlStream::Pipeline::Stage::~Stage() {
  if (retired) return;
  const auto error = error_of(ErrorCode::device_lost, kLost);
  pipeline->break_down(error);
  job->fail(error);
}

// Queues the next epoch if there is room. One without an upload waits for the GPU to have nothing else: until then an
// upload may still arrive, and must stand before the convolutions, for the GPU starts dispatches in order.
void GlStream::Pipeline::advance() {
  const std::scoped_lock in_order(order_);
  auto epoch = std::make_shared<Epoch>();
  {
    const std::scoped_lock lock(mutex_);
    if (broken_ || epochs_ >= kEpochs) return;
    if (waiting_.empty() && (epochs_ > 0 || (uploaded_.empty() && computed_.empty()))) return;
    const auto take = [](std::deque<std::shared_ptr<Job>>& from) -> std::shared_ptr<Job> {
      if (from.empty()) return nullptr;
      std::shared_ptr<Job> job = std::move(from.front());
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

void GlStream::Pipeline::encode(Epoch& epoch, GlState& state) {
  const DeviceCopy& copy = session_->transfer.device_copy();
  const auto begin = Clock::now();
  try {
    if (epoch.down) {
      Job& job = *epoch.down;
      stamp(state, job, 4);
      copy.encode(state, sets_[job.set].dst->name(), 0, job.staging->down->name(), 0, job.staging->down->bytes());
      state.gl.MemoryBarrier(GL_CLIENT_MAPPED_BUFFER_BARRIER_BIT);
      stamp(state, job, 5);
    }
    if (epoch.up) {
      Job& job = *epoch.up;
      stamp(state, job, 0);
      copy.encode(state, job.staging->up->name(), 0, sets_[job.set].src->name(), 0, job.staging->up->bytes());
      if (accumulate_)
        copy.encode(state, job.staging->down->name(), 0, sets_[job.set].dst->name(), 0, job.staging->down->bytes());
      stamp(state, job, 1);
    }
    if (epoch.compute) {
      Job& job = *epoch.compute;
      stamp(state, job, 2);
      if (!options_.copies_only)
        for (const auto& convolution : sets_[job.set].convolutions) convolution(state);
      stamp(state, job, 3);
      job.times.dispatch = {begin, Clock::now()};
    }
    state.gl.Flush();
    state.check("a job of an executor");
  } catch (...) {
    break_down(std::current_exception());
    throw;  // the context must know if it is lost
  }
}

void GlStream::Pipeline::retire(Epoch& epoch, GlState& state) {
  epoch.retired = true;
  if (epoch.down) {
    for (std::size_t stage = 0; stage < 3; ++stage) read_stamps(state, *epoch.down, stage);
    epoch.down->times.seen = Clock::now();
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

GlStream::Pipeline::Epoch::~Epoch() {
  if (pipeline == nullptr || retired) return;
  const auto error = error_of(ErrorCode::device_lost, kLost);
  pipeline->break_down(error);
  for (const auto& job : {up, compute, down})
    if (job) job->fail(error);
}

void GlStream::Pipeline::break_down(const std::exception_ptr& error) {
  std::deque<std::shared_ptr<Job>> jobs;
  {
    const std::scoped_lock lock(mutex_);
    broken_ = true;
    for (auto* list : {&waiting_, &uploaded_, &computed_}) {
      jobs.insert(jobs.end(), list->begin(), list->end());
      list->clear();
    }
  }
  for (const auto& job : jobs) job->fail(error);
}

// The convolutions are always timed, for the busy share; copies only for a trace.
void GlStream::Pipeline::stamp(GlState& state, Job& job, std::size_t which) {
  if (!options_.timed && which / 2 != 1) return;
  std::vector<GLuint>& free = queries_[apart() ? which / 2 : 1];
  if (free.empty()) {
    free.resize(12);
    state.gl.GenQueries(static_cast<GLsizei>(free.size()), free.data());
  }
  job.stamps[which] = free.back();
  free.pop_back();
  state.gl.QueryCounter(job.stamps[which], GL_TIMESTAMP);
}

void GlStream::Pipeline::read_stamps(GlState& state, Job& job, std::size_t stage) {
  std::array<Clock::time_point, 2> at = {};
  for (std::size_t i = 0; i < 2; ++i) {
    GLuint& query = job.stamps[2 * stage + i];
    if (query == 0) return;
    GLuint64 ns = 0;
    state.gl.GetQueryObjectui64v(query, GL_QUERY_RESULT, &ns);
    at[i] = Clock::time_point(std::chrono::nanoseconds(ns) + clock_offset_);
    queries_[apart() ? stage : 1].push_back(std::exchange(query, 0));
  }
  (stage == 0 ? job.times.upload : stage == 1 ? job.times.compute : job.times.download) = {at[0], at[1]};
}

GlStream::GlStream(std::shared_ptr<GlDevice> device, std::vector<std::shared_ptr<const GlConv>> chain,
                   const core::StreamOptions& options)
    : device_(std::move(device)), chain_(std::move(chain)), options_(options) {
  (void)pipeline();
}

GlStream::~GlStream() = default;

std::shared_ptr<GlStream::Pipeline> GlStream::pipeline() {
  const std::scoped_lock lock(mutex_);
  if (pipeline_ == nullptr || !pipeline_->alive()) {
    pipeline_ = nullptr;
    pipeline_ = std::make_shared<Pipeline>(device_->session(), *device_, chain_, options_);
  }
  return pipeline_;
}

core::StreamMemory GlStream::allocate() {
  const std::shared_ptr<GlContext> context = pipeline()->shared_context();
  const std::size_t src = chain_.front()->desc().src_size(), dst = chain_.back()->desc().dst_size();
  auto staging = std::make_shared<Staging>();
  staging->up = GlStorage::staging(context, src * sizeof(float), true);
  staging->down = chain_.back()->desc().accumulate ? GlStorage::staging_both_ways(context, dst * sizeof(float))
                                                   : GlStorage::staging(context, dst * sizeof(float), false);
  return {
      {static_cast<float*>(staging->up->mapped()), src}, {static_cast<float*>(staging->down->mapped()), dst}, staging};
}

bool GlStream::usable(const core::StreamMemory& memory) const {
  return static_cast<const Staging&>(*static_cast<Staging*>(memory.owner.get())).up->context()->alive();
}

std::function<StreamTimes()> GlStream::submit(const core::StreamMemory& memory) {
  const std::shared_ptr<Pipeline> through = pipeline();
  const auto job = std::make_shared<Job>();
  job->staging = std::static_pointer_cast<Staging>(memory.owner);
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

}  // namespace convrt::gl
