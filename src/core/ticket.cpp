#include "core/ticket.hpp"

#include <new>

#include "convrt/executor.hpp"
#include "core/fail.hpp"

namespace convrt {
namespace core {

namespace {

const Error kOutOfMemory(ErrorCode::out_of_memory, "host memory ran out");  // made while there is some

}  // namespace

Error as_error(const std::exception_ptr& thrown) noexcept {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& e) {
    return e;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  } catch (const std::exception& e) {
    try {
      return {ErrorCode::internal, e.what()};
    } catch (...) {
      return kOutOfMemory;
    }
  } catch (...) {
    try {
      return {ErrorCode::internal, "an exception of unknown type"};
    } catch (...) {
      return kOutOfMemory;
    }
  }
}

void TicketState::succeed(const RunStats& result) {
  const std::scoped_lock lock(mutex_);
  stats_ = result;
  stats_.total_ms = milliseconds(Clock::now() - submitted);
  done_ = true;
  settled_.notify_all();
}

void TicketState::fail(const Error& why) {
  const std::scoped_lock lock(mutex_);
  error_.emplace(why);
  done_ = true;
  settled_.notify_all();
}

bool TicketState::done() const {
  const std::scoped_lock lock(mutex_);
  return done_;
}

RunStats TicketState::wait(std::optional<std::chrono::milliseconds> limit) const {
  std::unique_lock lock(mutex_);
  const auto settled = [this] { return done_; };
  if (!limit) {
    settled_.wait(lock, settled);
  } else if (!settled_.wait_for(lock, *limit, settled)) {
    core::fail(ErrorCode::timeout, "Ticket::wait: not done after ", limit->count(),
               " ms; the work goes on and can be waited for again");
  }
  // A new object for every waiter: one exception object thrown on two threads would be shared between them.
  if (error_) throw Error(error_->code(), error_->what());
  return stats_;
}

}  // namespace core

namespace {

core::TicketState& valid(const std::shared_ptr<core::TicketState>& state) {
  if (!state) core::fail(ErrorCode::invalid_argument, "this Ticket was moved from; it refers to no submission");
  return *state;
}

}  // namespace

Ticket::Ticket(std::shared_ptr<core::TicketState> state) noexcept : state_(std::move(state)) {}
bool Ticket::done() const { return valid(state_).done(); }
RunStats Ticket::wait() const { return valid(state_).wait(std::nullopt); }
RunStats Ticket::wait(std::chrono::milliseconds limit) const { return valid(state_).wait(limit); }
std::span<const float> Ticket::dst() const { return valid(state_).dst; }

}  // namespace convrt
