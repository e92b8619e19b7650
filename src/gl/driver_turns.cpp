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
  if (holder_ == nullptr) begin(who);  // nobody waits, or it would be his
  return holder_ == who;
}

bool DriverTurns::take(const void* who) {
  std::unique_lock lock(mutex_);
  if (holder_ == who) return true;
  if (holder_ == nullptr) {
    begin(who);
    return true;
  }
  Waiter me{who};
  line_.push_back(&me);
  // leave() hands the turn over and takes `me` out, so that nobody else is first before this thread is awake.
  const bool handed = me.mine.wait_for(lock, kPatience, [&] { return holder_ == who; });
  if (handed)
    since_ = Clock::now();  // it starts now
  else
    std::erase(line_, &me);
  return handed;
}

bool DriverTurns::over(const void* who, std::chrono::microseconds length) {
  const std::scoped_lock lock(mutex_);
  return holder_ == who && !line_.empty() && Clock::now() - since_ >= length;
}

std::size_t DriverTurns::waiting() {
  const std::scoped_lock lock(mutex_);
  return line_.size();
}

bool DriverTurns::shared() {
  const std::scoped_lock lock(mutex_);
  return changed_ != Clock::time_point() && Clock::now() - changed_ < kRecent;
}

void DriverTurns::leave(const void* who) {
  const std::scoped_lock lock(mutex_);
  if (holder_ != who) return;
  last_ = std::exchange(holder_, nullptr);
  if (line_.empty()) return;
  Waiter* const next = line_.front();
  line_.pop_front();
  begin(next->who);
  next->mine.notify_one();
}

}  // namespace convrt::gl
