#include "gl/driver_turns.hpp"

#include <utility>

namespace convrt::gl {

DriverTurns& DriverTurns::instance() {
  static auto& turns = *new DriverTurns;  // for good: owner threads may outlive static objects
  return turns;
}

void DriverTurns::begin(const void* who) {
  holder_ = who;
  since_ = Clock::now();
  if (last_ != nullptr && last_ != who) changed_ = since_;
}

bool DriverTurns::try_take(const void* who) {
  const std::scoped_lock lock(mutex_);
  if (holder_ == nullptr && waiting_ == 0) begin(who);
  return holder_ == who;
}

bool DriverTurns::take(const void* who) {
  std::unique_lock lock(mutex_);
  if (holder_ == who) return true;
  ++waiting_;
  const bool mine =
      left_.wait_for(lock, kPatience, [&] { return holder_ == nullptr && (waiting_ == 1 || last_ != who); });
  --waiting_;
  if (mine) begin(who);
  return mine;
}

bool DriverTurns::over(const void* who, std::chrono::microseconds length) {
  const std::scoped_lock lock(mutex_);
  return holder_ == who && waiting_ > 0 && Clock::now() - since_ >= length;
}

bool DriverTurns::shared() {
  const std::scoped_lock lock(mutex_);
  return changed_ != Clock::time_point() && Clock::now() - changed_ < kRecent;
}

void DriverTurns::leave(const void* who) {
  {
    const std::scoped_lock lock(mutex_);
    if (holder_ != who) return;
    last_ = std::exchange(holder_, nullptr);
  }
  left_.notify_all();
}

}  // namespace convrt::gl
