/// \file
/// An OpenGL context with the thread that owns it: the queue of a GL device.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "gl/egl_context.hpp"
#include "gl/hazards.hpp"

namespace convrt::gl {

/// What a job sees. Exists on the owner thread only.
struct GlState {
  GladGLContext& gl;
  const GlInfo& info;
  Hazards hazards = {};
  GLuint program = 0;  ///< the one in use

  void use(GLuint name);
  /// A barrier if what is touched depends on earlier dispatches.
  void touch(std::span<const GLuint> reads, std::span<const GLuint> writes);
  void barrier();

  /// Throws Error if OpenGL reports an error or a reset: out_of_memory, device_lost, or internal naming `what`.
  void check(const char* what);
};

/// How an owner thread with nothing else to do waits for the GPU.
enum class Polling {
  inside,   ///< in the driver, a slice at a time; a job that comes meanwhile waits for the slice's end
  outside,  ///< asks the driver without waiting and sleeps in between, where a job wakes it and no driver lock is held
};

/// Errors of enqueued work that no caller waits for: the first one, until somebody asks.
class ErrorSlot {
 public:
  void set(std::exception_ptr error);
  void rethrow();  ///< throws what is there and forgets it

 private:
  std::mutex mutex_;
  std::exception_ptr first_;
};

/// Runs posted jobs in order on one thread whose current context this is. Once lost (reset, hung, or closed) it stays
/// so: what waits fails with device_lost, and GlDevice opens a new one.
///
/// A job may outlive the caller that posted it (a hung driver ends the caller's wait, not the job), so jobs own what
/// they use.
class GlContext : public std::enable_shared_from_this<GlContext> {
 public:
  using Job = std::function<void(GlState&)>;

  struct Options {
    bool robust_access = false;
    /// Longest time without any progress of the queue before a wait gives up and abandons the context.
    std::chrono::milliseconds timeout{0};
  };

  /// Opens on a new thread; throws what EglContext throws. Errors of post() jobs go to `errors`.
  /// With `share`, buffers and fences of that context are this one's too.
  static std::shared_ptr<GlContext> open(const EglDevice& device, const Options& options,
                                         std::shared_ptr<ErrorSlot> errors,
                                         const std::shared_ptr<GlContext>& share = nullptr);
  ~GlContext();

  const GlInfo& info() const { return info_; }
  bool alive() const { return alive_.load(); }
  void set_polling(Polling polling) { polling_ = polling; }

  /// Appends a job that nobody waits for; its errors go to `errors`, or else to the context's own ErrorSlot. `after`,
  /// if any, runs on the owner thread once the GPU is done with the job. A job with neither is not even asked for
  /// OpenGL errors by itself: those of several are found together. Throws Error{device_lost} if the context is lost.
  void post(Job job, Job after = {}, std::shared_ptr<ErrorSlot> errors = nullptr);
  /// post() of a job that does nothing but tell the driver what to do, in microseconds: contexts that have such jobs at
  /// the same time take turns (DriverTurns).
  void dispatch(Job job);
  /// Runs a job and waits until it has returned (not until the GPU is done); throws what it throws.
  void call(Job job);
  /// Appends a job; the future is ready once the GPU is done with it and with everything before it, and carries the
  /// error of that work. `after` runs on the owner thread just before.
  std::future<void> submit(Job job, Job after = {});
  /// submit() that stores the time the GPU took for the job alone.
  std::future<void> submit_timed(Job job, std::shared_ptr<double> ms);
  /// Waits for a future of submit() under a Watch; throws what the work or the watch throws.
  void wait(std::future<void>& future);

  /// For a thread that waits for something the queue does: wait a slice, tick(), wait again. A queue that makes no
  /// progress within the timeout makes tick() abandon the context and throw Error{timeout}. Hold no lock in tick().
  class Watch {
   public:
    explicit Watch(GlContext& context) : context_(context), seen_(context.progress_.load()) {}
    std::chrono::milliseconds slice() const;
    void tick();

   private:
    GlContext& context_;
    std::uint64_t seen_;
    std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  };

  /// The same limit for what the queue does not do itself: a driver that compiles in threads of its own.
  std::chrono::milliseconds timeout() const { return options_.timeout; }
  /// Gives the context up as hung and throws Error{timeout}.
  [[noreturn]] void abandon();
  /// Gives the context up, as one that hung: what waits for it fails with device_lost.
  void give_up() noexcept;

  /// Finishes what was posted and ends the thread.
  void close();

  /// For the end of the process: drops what waits and ends the thread, for the driver tears itself down next. One that
  /// hangs in the driver is left behind at the deadline. Does not throw, does not log. Not beside close().
  void leave(std::chrono::steady_clock::time_point deadline) noexcept;

  /// Deletes an OpenGL object, whenever the queue comes to it; a lost context needs no deleting. Does not throw.
  void discard(Job deletion) noexcept;

 private:
  // Who hears of an error: a promise of its own, or else a slot.
  struct Hearer {
    std::optional<std::promise<void>> promise;
    std::shared_ptr<ErrorSlot> errors;
    void fail(const std::exception_ptr& error);
    void succeed();
  };
  struct Item {
    Job job, after;
    Hearer hearer;
    bool fenced = false;
    bool brief = false;  // in a turn of the driver's
    bool alone = false;  // asked for OpenGL errors by itself
    GLsync fence = nullptr;
    std::uint64_t number = 0;  // in order of pushing, from 1
  };

  GlContext(const Options& options, std::shared_ptr<ErrorSlot> errors);
  void loop(const EglDevice& device, const std::shared_ptr<GlContext>& share, std::promise<void> opened);
  void push(Item item);
  void run(Item item, GlState& state);
  void poll(GlState& state);
  void settle(GlState& state);
  void flush(GlState& state);
  bool drop(const std::exception_ptr& error);
  void let_go() noexcept;
  void lose(const std::exception_ptr& error);

  const Options options_;
  const std::shared_ptr<ErrorSlot> errors_;
  const pid_t process_;
  const std::shared_ptr<std::atomic<bool>> gone_ = std::make_shared<std::atomic<bool>>(false);  // with its thread
  std::unique_ptr<EglContext> egl_;  // destroyed with this, not with the thread: mapped memory may be in use until then
  GlInfo info_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Item> queue_;
  std::deque<Item> fenced_;  // dispatched, waiting for their fences, in order
  Hearer current_;           // of what the owner thread is at
  std::uint64_t pushed_ = 0, last_post_ = 0,
                confirmed_ = 0;  // numbers of items: a passed fence confirms what is before it
  bool closing_ = false;
  std::atomic<bool> alive_ = true;
  std::atomic<bool> ended_ = false;  // the thread is done with the driver
  std::atomic<std::uint64_t> progress_ = 0;
  std::atomic<Polling> polling_ = Polling::inside;
  // The owner thread's own.
  bool unchecked_ = false;                        // jobs ran whose OpenGL errors nobody asked for
  int unflushed_ = 0;                             // jobs since the last flush
  std::chrono::steady_clock::time_point looked_;  // at a fence
  std::thread thread_;
};

}  // namespace convrt::gl
