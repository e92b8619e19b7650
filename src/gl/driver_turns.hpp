/// \file
/// Whose turn it is in the OpenGL driver.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>

namespace convrt::gl {

/// Contexts that enqueue at the same time take turns of many calls each. Drivers let one thread of a process in at a
/// time, and where several want in at once they hand over, with a wake-up, at every call: with four GPUs NVIDIA's took
/// twice as long to enqueue convolutions as the GPUs took to compute them (bench/gpu/gl_fanout). First come, first
/// served: a GPU whose context must wait for more than one turn of each other runs out of work. Nothing but speed
/// depends on a turn, so nobody waits for one for ever: whoever has it may hang in the driver. Thread-safe.
class DriverTurns {
 public:
  using Clock = std::chrono::steady_clock;

  /// Those of the process.
  static DriverTurns& instance();

  /// Waits until the turn is `who`'s, for kPatience at most; then `who` goes on without, and it is false. At once
  /// where it is already.
  bool take(const void* who);
  /// Takes the turn if that needs no waiting.
  bool try_take(const void* who);
  /// Whether `who` has had it for `length` while others wait.
  bool over(const void* who, std::chrono::microseconds length);
  /// How many wait for theirs.
  std::size_t waiting();
  /// Whether two have taken turns within kRecent: then nobody should wait inside the driver.
  bool shared();
  /// Ends `who`'s turn; nothing where it is not `who`'s.
  void leave(const void* who);

 private:
  static constexpr auto kPatience = std::chrono::milliseconds(20);
  static constexpr auto kRecent = std::chrono::milliseconds(10);

  struct Waiter {
    const void* who;
    std::condition_variable mine = {};
  };

  void begin(const void* who);

  std::mutex mutex_;
  std::deque<Waiter*> line_;  // first come first
  const void* holder_ = nullptr;
  const void* last_ = nullptr;         // who had it before
  Clock::time_point since_, changed_;  // when the turn began; when last it was another's than the one before
};

}  // namespace convrt::gl
