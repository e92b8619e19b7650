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
  using Ended = std::shared_ptr<std::atomic<bool>>;

  static Stragglers& instance() {
    static auto& all = *new Stragglers;  // for good: threads may outlive static objects
    return all;
  }

  /// `thread` stays the caller's where this throws.
  void add(std::thread& thread, Ended ended) {
    const std::scoped_lock lock(mutex_);
    // Registered after the driver was loaded, this runs before it goes.
    static const int registered = std::atexit([] { instance().leave(); });
    (void)registered;
    join_ended();
    threads_.reserve(threads_.size() + 1);
    threads_.emplace_back(std::move(thread), std::move(ended));
  }

 private:
  void join_ended() {
    std::erase_if(threads_, [](auto& straggler) {
      if (!*straggler.second) return false;
      straggler.first.join();  // its thread-local data is gone then, of which the driver has some
      return true;
    });
  }

  void leave() noexcept {
    const std::scoped_lock lock(mutex_);
    if (getpid() == process_)
      for (const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(2);
           !threads_.empty() && std::chrono::steady_clock::now() < deadline;) {
        join_ended();
        if (!threads_.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    for (auto& straggler : threads_) straggler.first.detach();
    threads_.clear();
  }

  const pid_t process_ = getpid();
  std::mutex mutex_;
  std::vector<std::pair<std::thread, Ended>> threads_;
};

}  // namespace convrt::gl
