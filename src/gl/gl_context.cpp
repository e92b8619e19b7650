#include "gl/gl_context.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/fail.hpp"
#include "core/log.hpp"
#include "gl/driver_turns.hpp"
#include "gl/stragglers.hpp"

namespace convrt::gl {
namespace {

// How long the owner thread sleeps on a fence before it looks for new jobs.
constexpr GLuint64 kFenceSlice_ns = 50'000;

// How long it sleeps between two looks at a fence, with Polling::outside.
constexpr auto kNap = std::chrono::microseconds(20);

// Turns in the driver: many calls, but short beside the work that a device has in its queue meanwhile, so the first
// ones, when it has little, shorter. Longer ones gained nothing (bench/NOTES.md, four H200).
constexpr auto kFirstTurn = std::chrono::microseconds(20), kTurn = std::chrono::microseconds(100);

// The longest between two looks at a fence while other contexts enqueue.
constexpr auto kLookLatest = std::chrono::milliseconds(1);

// Jobs between two flushes, so that the GPU starts on a long queue early, and between two looks at a fence meanwhile;
// a job whose end somebody waits for is flushed at once, and the oldest fence looked at.
constexpr int kFlushJobs = 64;

using Clock = std::chrono::steady_clock;

bool is_lost(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    return e.code() == ErrorCode::device_lost;
  } catch (...) {
    return false;
  }
}

const char* name_of(GLenum error) {
  switch (error) {
    case GL_INVALID_ENUM: return "GL_INVALID_ENUM";
    case GL_INVALID_VALUE: return "GL_INVALID_VALUE";
    case GL_INVALID_OPERATION: return "GL_INVALID_OPERATION";
    case GL_INVALID_FRAMEBUFFER_OPERATION: return "GL_INVALID_FRAMEBUFFER_OPERATION";
    default: return "an unknown OpenGL error";
  }
}

}  // namespace

void GlState::use(GLuint name) {
  if (name == program) return;
  gl.UseProgram(name);
  program = name;
}

void GlState::touch(std::span<const GLuint> reads, std::span<const GLuint> writes) {
  if (hazards.note(reads, writes)) gl.MemoryBarrier(GL_SHADER_STORAGE_BARRIER_BIT);
}

void GlState::barrier() {
  gl.MemoryBarrier(GL_SHADER_STORAGE_BARRIER_BIT);
  hazards.clear();
}

void GlState::check(const char* what) {
  const auto lost = [&] {
    core::fail(ErrorCode::device_lost, what, ": the OpenGL context was reset, by this or by another program; work in ",
               "flight and buffers on the device are gone, the device re-opens on next use");
  };
  if (gl.GetGraphicsResetStatus != nullptr && gl.GetGraphicsResetStatus() != GL_NO_ERROR) lost();
  const GLenum error = gl.GetError();
  if (error == GL_NO_ERROR) return;
  // A distributed implementation may keep one error per part; a lost context may report its loss without end.
  for (int i = 0; i < 16 && gl.GetError() != GL_NO_ERROR; ++i) {
  }
  if (error == GL_CONTEXT_LOST) lost();
  if (error == GL_OUT_OF_MEMORY)
    core::fail(ErrorCode::out_of_memory, what, ": the OpenGL driver is out of memory; use smaller problems or free ",
               "buffers");
  core::fail(ErrorCode::internal, what, ": OpenGL reports ", name_of(error));
}

void ErrorSlot::set(std::exception_ptr error) {
  const std::scoped_lock lock(mutex_);
  if (!first_) first_ = std::move(error);
}

void ErrorSlot::rethrow() {
  std::exception_ptr error;
  {
    const std::scoped_lock lock(mutex_);
    error = std::exchange(first_, nullptr);
  }
  if (error) std::rethrow_exception(error);
}

GlContext::GlContext(const Options& options, std::shared_ptr<ErrorSlot> errors)
    : options_(options), errors_(std::move(errors)), process_(getpid()) {}

std::shared_ptr<GlContext> GlContext::open(const EglDevice& device, const Options& options,
                                           std::shared_ptr<ErrorSlot> errors, const std::shared_ptr<GlContext>& share) {
  std::shared_ptr<GlContext> context(new GlContext(options, std::move(errors)));
  std::promise<void> opened;
  std::future<void> ready = opened.get_future();
  context->thread_ = std::thread(
      [self = context, device, from = share, promise = std::move(opened), ended = context->gone_]() mutable {
        Stragglers::instance().begin();
        self->loop(device, std::exchange(from, nullptr), std::move(promise));
        self.reset();
        Stragglers::instance().end();
        *ended = true;
      });
  try {
    ready.get();
  } catch (...) {
    context->thread_.join();
    throw;
  }
  return context;
}

// The thread holds a reference: whoever drops the last one, the thread is at its end.
GlContext::~GlContext() { let_go(); }

void GlContext::let_go() noexcept {
  if (!thread_.joinable()) return;
  try {
    if (getpid() == process_) Stragglers::instance().add(thread_, gone_);
  } catch (...) {  // no memory for the list
  }
  if (thread_.joinable()) thread_.detach();  // not taken
}

void GlContext::close() {
  {
    const std::scoped_lock lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  if (!thread_.joinable()) return;
  // A lost context's thread may hang in the driver for ever.
  if (alive() && thread_.get_id() != std::this_thread::get_id())
    thread_.join();
  else
    let_go();
}

void GlContext::push(Item item) {
  if (getpid() != process_)
    core::fail(ErrorCode::unsupported, "this GL device was opened before fork(); an OpenGL context cannot cross a ",
               "fork, so open the device in the process that uses it");
  {
    const std::scoped_lock lock(mutex_);
    if (!alive_ || closing_)
      core::fail(ErrorCode::device_lost, "the OpenGL context of this work is gone; the device re-opens on next use");
    item.number = ++pushed_;
    item.alone = item.fenced || item.hearer.promise;
    if (item.hearer.errors == errors_) last_post_ = item.number;
    queue_.push_back(std::move(item));
  }
  wake_.notify_one();
}

void GlContext::post(Job job, Job after, std::shared_ptr<ErrorSlot> errors) {
  const bool fenced = after != nullptr;
  Hearer hearer{.promise = {}, .errors = errors_};
  if (errors != nullptr) hearer.errors = std::move(errors);
  push({.job = std::move(job), .after = std::move(after), .hearer = std::move(hearer), .fenced = fenced});
}

void GlContext::dispatch(Job job) {
  push({.job = std::move(job), .after = {}, .hearer = {.promise = {}, .errors = errors_}, .brief = true});
}

void GlContext::call(Job job) {
  Item item{.job = std::move(job), .after = {}, .hearer = {.promise = std::promise<void>(), .errors = {}}};
  std::future<void> done = item.hearer.promise->get_future();
  push(std::move(item));
  wait(done);
}

std::future<void> GlContext::submit(Job job, Job after) {
  Item item{.job = std::move(job),
            .after = std::move(after),
            .hearer = {.promise = std::promise<void>(), .errors = {}},
            .fenced = true};
  std::future<void> done = item.hearer.promise->get_future();
  push(std::move(item));
  return done;
}

std::future<void> GlContext::submit_timed(Job job, std::shared_ptr<double> ms) {
  // Deleted on every way out, also where the job fails.
  struct Stamps {
    std::shared_ptr<GlContext> context;
    std::array<GLuint, 2> names = {};
    explicit Stamps(std::shared_ptr<GlContext> of) : context(std::move(of)) {}
    Stamps(const Stamps&) = delete;
    Stamps& operator=(const Stamps&) = delete;
    ~Stamps() {
      if (names[0] != 0) context->discard([names = names](GlState& state) { state.gl.DeleteQueries(2, names.data()); });
    }
  };
  const auto stamps = std::make_shared<Stamps>(shared_from_this());
  return submit(
      [stamps, job = std::move(job)](GlState& state) {
        state.gl.GenQueries(2, stamps->names.data());
        state.gl.QueryCounter(stamps->names[0], GL_TIMESTAMP);
        job(state);
        state.gl.QueryCounter(stamps->names[1], GL_TIMESTAMP);
      },
      [stamps, ms = std::move(ms)](GlState& state) {
        std::array<GLuint64, 2> ns = {};
        for (std::size_t i = 0; i < 2; ++i) state.gl.GetQueryObjectui64v(stamps->names[i], GL_QUERY_RESULT, &ns[i]);
        *ms = static_cast<double>(ns[1] - ns[0]) * 1e-6;
      });
}

void GlContext::wait(std::future<void>& future) {
  Watch watch(*this);
  while (future.wait_for(watch.slice()) != std::future_status::ready) watch.tick();
  future.get();
}

std::chrono::milliseconds GlContext::Watch::slice() const {
  return std::min(context_.options_.timeout, std::chrono::milliseconds(100));
}

void GlContext::Watch::tick() {
  const auto now = std::chrono::steady_clock::now();
  if (const std::uint64_t progress = context_.progress_.load(); progress != seen_) {
    seen_ = progress;
    since_ = now;
  } else if (!context_.alive()) {
    core::fail(ErrorCode::device_lost, "the OpenGL context was lost; the device re-opens on next use");
  } else if (now - since_ >= context_.options_.timeout) {
    context_.abandon();
  }
}

void GlContext::abandon() {
  lose(std::make_exception_ptr(
      Error(ErrorCode::device_lost,
            "the OpenGL context was abandoned because the driver hung; the device re-opens on next use")));
  core::fail(ErrorCode::timeout, "the OpenGL driver made no progress for ", options_.timeout.count(),
             " ms; its context is abandoned and the device re-opens on next use (CONVRT_GL_TIMEOUT_MS and, for ",
             "custom shaders, CONVRT_CUSTOM_TIMEOUT_MS set the limit)");
}

void GlContext::give_up() noexcept {
  try {
    lose(std::make_exception_ptr(
        Error(ErrorCode::device_lost, "the OpenGL context was abandoned; the device re-opens on next use")));
  } catch (...) {  // no memory for the message: those who wait see that the context is gone
  }
}

void GlContext::discard(Job deletion) noexcept {
  try {
    // Nobody hears of it: that it is lost with its context is no error.
    if (alive() && getpid() == process_) push({.job = std::move(deletion), .after = {}, .hearer = {}});
  } catch (...) {  // lost in between, or no memory for the queue: the object goes with its context
  }
}

void GlContext::Hearer::fail(const std::exception_ptr& error) {
  if (promise)
    promise->set_exception(error);
  else if (errors)
    errors->set(error);
}

void GlContext::Hearer::succeed() {
  if (promise) promise->set_value();
}

// Fails everything that waits. Items die outside the lock: what they hold may discard() objects here. The slot first:
// whoever is woken by a promise empties it, and shall not find the same loss there later. False if already lost.
bool GlContext::drop(const std::exception_ptr& error) {
  std::deque<Item> items;
  {
    const std::scoped_lock lock(mutex_);
    if (!alive_.exchange(false)) return false;
    if (last_post_ > confirmed_) errors_->set(error);
    items.swap(queue_);
    for (Item& item : fenced_) items.push_back(std::move(item));
    fenced_.clear();
    std::exchange(current_, {}).fail(error);
    for (Item& item : items) item.hearer.fail(error);
  }
  wake_.notify_all();
  DriverTurns::instance().leave(this);  // its thread may hang in the driver
  return true;
}

void GlContext::lose(const std::exception_ptr& error) {
  if (drop(error)) core::log(LogLevel::error, "OpenGL context of ", info_.renderer, " lost");
}

void GlContext::leave(std::chrono::steady_clock::time_point deadline) noexcept {
  try {
    if (getpid() != process_ || !thread_.joinable() || thread_.get_id() == std::this_thread::get_id()) return;
    drop(std::make_exception_ptr(Error(ErrorCode::device_lost, "the process is ending")));
    while (!ended_ && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    // Joined, its thread-local data is gone too, of which the driver has some.
    if (ended_)
      thread_.join();
    else
      thread_.detach();
  } catch (...) {  // no memory for the message: the process ends anyway
  }
}

void GlContext::loop(const EglDevice& device, const std::shared_ptr<GlContext>& share, std::promise<void> opened) {
  try {
    // One at a time: with several devices opening contexts at once, an NVIDIA driver (580) crashed.
    static std::mutex opening;
    const std::scoped_lock turn(opening);
    egl_ = std::make_unique<EglContext>(device, options_.robust_access, share ? share->egl_.get() : nullptr);
    info_ = query_info(egl_->gl);
    // Once, where programs are compiled: on an NVIDIA driver each further call costs the next compilation 200 ms.
    if (info_.parallel_compile && share == nullptr) egl_->gl.MaxShaderCompilerThreadsKHR(~0U);
    opened.set_value();
  } catch (...) {
    alive_ = false;
    if (egl_ != nullptr) egl_->release();
    opened.set_exception(std::current_exception());
    return;
  }
  prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);  // 1 us: by default Linux makes a nap 50 us longer
  GlState state{egl_->gl, info_};
  DriverTurns& turns = DriverTurns::instance();
  auto turn = kFirstTurn;
  std::unique_lock lock(mutex_);
  while (alive_) {
    bool awaited = false;
    if (!queue_.empty()) {
      Item item = std::move(queue_.front());
      queue_.pop_front();
      awaited = item.fenced && item.hearer.promise.has_value();
      std::swap(current_, item.hearer);
      lock.unlock();
      if (item.brief)
        (void)turns.take(this);
      else
        turns.leave(this);
      run(std::move(item), state);
      const bool over = turns.over(this, turn);
      if (++unflushed_ >= kFlushJobs || over) flush(state);
      if (over) {
        turns.leave(this);
        turn = std::min(2 * turn, kTurn);
      }
      lock.lock();
    }
    if (!fenced_.empty() && (queue_.empty() || unflushed_ == 0 || awaited)) {
      lock.unlock();
      poll(state);
      lock.lock();
    } else if (queue_.empty()) {
      if (unflushed_ > 0) {
        lock.unlock();
        flush(state);
        lock.lock();
        continue;
      }
      turns.leave(this);
      if (closing_) break;
      wake_.wait(lock, [&] { return !alive_ || closing_ || !queue_.empty(); });
      turn = kFirstTurn;
    }
  }
  alive_ = false;
  lock.unlock();
  turns.leave(this);
  egl_->release();
  ended_ = true;
}

// What the jobs so far left of OpenGL errors is theirs: nobody who comes after them shall hear it as his own.
void GlContext::settle(GlState& state) {
  if (!std::exchange(unchecked_, false)) return;
  try {
    state.check("enqueued work");
  } catch (...) {
    const std::exception_ptr error = std::current_exception();
    if (is_lost(error))
      lose(error);
    else
      errors_->set(error);
  }
}

void GlContext::flush(GlState& state) {
  state.gl.Flush();
  unflushed_ = 0;
  settle(state);
}

// The hearer stands in current_, where lose() finds it; the rest of the item is this thread's own.
void GlContext::run(Item item, GlState& state) {
  std::exception_ptr error;
  if (item.alone) settle(state);
  try {
    if (!alive()) return;  // and everybody knows
    item.job(state);
    item.job = nullptr;
    if (item.alone) state.check("work on the device");
    unchecked_ = unchecked_ || !item.alone;
    if (item.fenced) {
      item.fence = state.gl.FenceSync(GL_SYNC_GPU_COMMANDS_COMPLETE, 0);
      if (item.fence == nullptr) {
        state.check("fence");
        core::fail(ErrorCode::internal, "the OpenGL driver ", state.info.renderer, " makes no fence and says no error");
      }
    }
  } catch (...) {
    error = std::current_exception();
  }
  if (error && is_lost(error)) lose(error);
  ++progress_;
  const std::scoped_lock lock(mutex_);
  std::swap(current_, item.hearer);
  if (!alive_) return;
  if (item.fence != nullptr)
    fenced_.push_back(std::move(item));
  else if (error)
    item.hearer.fail(error);
  else
    item.hearer.succeed();
}

// Looks at the oldest fence; sleeps on it briefly if there is nothing else to do.
void GlContext::poll(GlState& state) {
  DriverTurns& turns = DriverTurns::instance();
  const bool shared = turns.shared();
  const auto nap = [&](bool idle) {
    if (!idle) return;
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, kNap, [&] { return !alive_ || !queue_.empty(); });
  };
  const auto oldest = [&]() -> std::pair<GLsync, bool> {  // and whether there is nothing else to do
    const std::scoped_lock lock(mutex_);
    return {fenced_.empty() ? nullptr : fenced_.front().fence, queue_.empty()};
  };
  if (!shared) {
    turns.leave(this);
  } else if (!turns.try_take(this)) {
    // Those who enqueue come first, but not before what nobody has told the GPU yet, and not for ever.
    if (unflushed_ == 0 && Clock::now() - looked_ < kLookLatest) return nap(oldest().second);
    (void)turns.take(this);
  }
  looked_ = Clock::now();
  settle(state);
  const auto [fence, idle] = oldest();
  if (fence == nullptr) return turns.leave(this);
  const GLbitfield flags = unflushed_ > 0 ? GL_SYNC_FLUSH_COMMANDS_BIT : 0;
  const bool outside = shared || polling_ == Polling::outside;
  const GLenum status = state.gl.ClientWaitSync(fence, flags, idle && !outside ? kFenceSlice_ns : 0);
  turns.leave(this);
  unflushed_ = 0;
  if (status == GL_TIMEOUT_EXPIRED) return outside ? nap(idle) : void();
  Item item;
  {
    const std::scoped_lock lock(mutex_);
    if (fenced_.empty()) return;  // lost meanwhile
    item = std::move(fenced_.front());
    fenced_.pop_front();
    std::swap(current_, item.hearer);
  }
  std::exception_ptr error;
  try {
    state.gl.DeleteSync(fence);
    state.check("work on the device");
    if (status == GL_WAIT_FAILED)
      core::fail(ErrorCode::device_lost, "waiting for a fence failed: the OpenGL context is unusable");
    if (item.after) item.after(state);
    item.after = nullptr;
  } catch (...) {
    error = std::current_exception();
  }
  if (error && is_lost(error)) lose(error);
  ++progress_;
  const std::scoped_lock lock(mutex_);
  std::swap(current_, item.hearer);
  confirmed_ = item.number;
  if (!alive_) return;
  if (error)
    item.hearer.fail(error);
  else
    item.hearer.succeed();
}

}  // namespace convrt::gl
