/// \file
/// What a Ticket refers to: the outcome of one submission, settled once, waited for by anyone.
#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "convrt/error.hpp"
#include "convrt/plan.hpp"

namespace convrt::core {

using Clock = std::chrono::steady_clock;

inline double milliseconds(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

/// Any exception as the Error that a caller of convrt may see: bad_alloc becomes out_of_memory, a foreign one internal.
Error as_error(const std::exception_ptr& thrown) noexcept;

struct TicketState {
  /// `memory` keeps what `result` points to alive as long as the state.
  explicit TicketState(std::span<const float> result, std::shared_ptr<const void> memory = nullptr)
      : dst(result), keep_alive(std::move(memory)) {}

  void succeed(const RunStats& result);  ///< total_ms becomes the time since the submission
  void fail(const Error& why);
  bool done() const;
  /// Throws the Error of the submission, a fresh copy for every waiter; Error{timeout} after `limit` if there is one.
  RunStats wait(std::optional<std::chrono::milliseconds> limit) const;

  const Clock::time_point submitted = Clock::now();
  const std::span<const float> dst;
  const std::shared_ptr<const void> keep_alive;

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable settled_;
  bool done_ = false;
  RunStats stats_;
  std::optional<Error> error_;
};

}  // namespace convrt::core
