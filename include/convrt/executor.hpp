/// \file
/// A stream of convolutions: submit the next while the device still works on the last.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "convrt/export.h"
#include "convrt/plan.hpp"

namespace convrt {

namespace core {
class ExecutorState;
struct TicketState;
struct SlotState;
}  // namespace core

/// The receipt of one submission. A cheap value; may be dropped. Thread-safe. RunStats::total_ms is the time from the
/// submission (once there was room for it) to its completion.
class CONVRT_API Ticket {
 public:
  bool done() const;      ///< finished, failed or cancelled
  RunStats wait() const;  ///< blocks until done; throws the Error of this submission
  /// As wait, but throws Error{timeout} after `limit`; the work goes on and can be waited for again.
  RunStats wait(std::chrono::milliseconds limit) const;
  /// Where the result stands once done: the span given to submit, or the slot's own memory (valid until this ticket and
  /// its copies are gone).
  std::span<const float> dst() const;

 private:
  friend class core::Access;
  explicit Ticket(std::shared_ptr<core::TicketState> state) noexcept;
  std::shared_ptr<core::TicketState> state_;
};

/// One place in an executor's ring: memory the device reads without a further copy. Move-only; dropping it unsubmitted
/// gives the place back.
class CONVRT_API Slot {
 public:
  Slot(Slot&&) noexcept;
  Slot& operator=(Slot&&) noexcept;
  ~Slot();
  std::span<float> src();  ///< write the input here, then Executor::submit(std::move(slot))

 private:
  friend class core::Access;
  friend class Executor;
  explicit Slot(std::shared_ptr<core::SlotState> state) noexcept;
  std::shared_ptr<core::SlotState> state_;
};

struct ExecutorStats {
  std::size_t submitted = 0, completed = 0, failed = 0, cancelled = 0;
  std::size_t in_flight = 0;     ///< submitted and not yet done
  double device_busy_share = 0;  ///< part of the wall time from first start to last end in which the device computed
  double host_wait_ms = 0;       ///< time producers spent blocked in submit and acquire
  std::size_t bytes_uploaded = 0, bytes_downloaded = 0;  ///< 0 on the CPU, which works where the data lies
};

/// Keeps `depth` convolutions in flight (triple buffering by default), in order. Thread-safe: many producers may
/// submit.
class CONVRT_API Executor {
 public:
  explicit Executor(Conv2dPlan plan, int depth = 3);
  /// A network: each plan's dst is the next one's src, on one device; sizes must match.
  explicit Executor(std::vector<Conv2dPlan> chain, int depth = 3);
  Executor(Executor&&) noexcept;
  Executor& operator=(Executor&&) noexcept;
  ~Executor();  ///< cancels what has not started; blocks until no caller memory is in use

  /// `src` and `dst` must live until the ticket is done. Blocks only while `depth` submissions are in flight.
  Ticket submit(std::span<const float> src, std::span<float> dst);
  Slot acquire();  ///< blocks only while `depth` slots are taken
  Ticket submit(Slot slot);

  void drain();  ///< waits until everything submitted is done; errors stay with their tickets
  ExecutorStats stats() const;

 private:
  std::unique_ptr<core::ExecutorState> state_;
};

}  // namespace convrt
