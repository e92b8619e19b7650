/// \file
/// Threads of lost contexts, until the process ends.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace convrt::gl {

/// Owner threads that nobody waits for, since they may hang in the driver: those of lost contexts. But the driver tears
/// itself down when the process ends, and a thread of ours inside it would crash then: what ends in time is joined.
class Stragglers {
 public:
  using Clock = std::chrono::steady_clock;
  using Ended = std::shared_ptr<std::atomic<bool>>;

  static Stragglers& instance() {
    static auto& all = *new Stragglers;  // for good: threads may outlive static objects
    return all;
  }

  /// Around an owner thread's life: it may drop the last reference to its own context, and stand in no list before.
  void begin() { ++running_; }
  void end() { --running_; }

  /// `thread` stays the caller's where this throws, and where the process is ending: nobody would join it.
  void add(std::thread& thread, Ended ended) {
    const std::scoped_lock lock(mutex_);
    if (left_) return;
    // Registered after the driver was loaded, this runs before it goes; and before what await_leave() announced, when
    // contexts are still in use.
    static const int registered = std::atexit([] {
      Stragglers& all = instance();
      all.leave(Clock::now() + std::chrono::seconds(2), !all.awaits_leave_);
    });
    (void)registered;
    join_ended();
    threads_.reserve(threads_.size() + 1);
    threads_.emplace_back(std::move(thread), std::move(ended));
  }

  /// Somebody will call leave() when the process ends, once he has ended the contexts in use.
  void await_leave() { awaits_leave_ = true; }

  /// Waits until these threads, or where `all` all owner threads, have ended; lets go of the others at the deadline.
  void leave(Clock::time_point deadline, bool all = true) noexcept {
    for (;; std::this_thread::sleep_for(std::chrono::milliseconds(1))) {
      const std::scoped_lock lock(mutex_);  // not while asleep: others are to come in
      const bool here = getpid() == process_;
      if (here) join_ended();
      if (here && Clock::now() < deadline && !(threads_.empty() && (!all || running_ <= 0))) continue;
      for (auto& straggler : threads_) straggler.first.detach();
      running_ -= static_cast<int>(threads_.size());  // whoever comes next shall not wait for them again
      threads_.clear();
      left_ = all;
      return;
    }
  }

 private:
  void join_ended() {
    std::erase_if(threads_, [](auto& straggler) {
      if (!*straggler.second) return false;
      straggler.first.join();  // its thread-local data is gone then, of which the driver has some
      return true;
    });
  }

  const pid_t process_ = getpid();
  std::atomic<int> running_ = 0;
  std::atomic<bool> awaits_leave_ = false;
  std::mutex mutex_;
  bool left_ = false;
  std::vector<std::pair<std::thread, Ended>> threads_;
};

}  // namespace convrt::gl
