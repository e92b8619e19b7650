/// \file
/// The places of an executor's ring and the memory that goes with them. Shared, because a Slot or a Ticket may outlive
/// the executor.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "convrt/executor.hpp"
#include "core/backend.hpp"
#include "core/ticket.hpp"

namespace convrt::core {

/// What all users of a ring share: counters, the order of submission, spare memory.
struct Ring {
  explicit Ring(int size) : depth(static_cast<std::size_t>(size)) {}

  const std::size_t depth;
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t slots_taken = 0;          ///< acquired or submitted, and not done
  std::size_t next_turn = 0, turn = 0;  ///< who may hand over to the stream: submitters copy at once, but in order
  bool stopping = false;
  Clock::time_point first_start, last_end;
  double busy_ms = 0;
  ExecutorStats stats;
  std::vector<StreamMemory> spare;

  /// Waits until `free()` holds, under `lock`; counts the time as the host's.
  template <class Free>
  void wait(std::unique_lock<std::mutex>& lock, Free free) {
    if (free()) return;
    const auto start = Clock::now();
    changed.wait(lock, free);
    stats.host_wait_ms += milliseconds(Clock::now() - start);
  }
};

/// Memory goes back to the ring when the last ticket that shows it is gone, or dies with the ring.
std::shared_ptr<StreamMemory> lend(const std::shared_ptr<Ring>& ring, StreamMemory memory);

/// What a Slot refers to.
struct SlotState {
  std::shared_ptr<Ring> ring;
  std::shared_ptr<StreamMemory> memory;
  bool submitted = false;

  ~SlotState();  ///< an unsubmitted slot gives its place back
};

}  // namespace convrt::core
