/// \file
/// One OpenMP region over independent units of work, and none where one thread does them: to open a region costs
/// libgomp an allocation and half a microsecond even with a team of one.
///
/// The cores of a machine are not equally fast: neighbours share execution units with other work, clocks differ, the
/// system takes a core away. So every thread begins with an equal share of neighbouring units, which keeps what it
/// reads in its own cache from run to run, and takes over some of another's when it has none left (affinity scheduling:
/// Markatos and LeBlanc, "Using Processor Affinity in Loop Scheduling on Shared-Memory Multiprocessors", 1994).
/// OpenMP's own schedules either stay with equal shares or forget who had what.
#pragma once

#include <omp.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace convrt::cpu {

/// The units that a thread has still to do. It takes them from the front, others from the back. Thread-safe; all in one
/// word, so that nobody waits for anybody.
class alignas(64) WorkQueue {
 public:
  struct Units {
    std::uint32_t begin = 0, end = 0;
    std::uint32_t count() const { return end - begin; }
  };

  /// By the owner, when it has none left; what others are told by a unit's number must be written before.
  void post(Units units) {
    unfinished_.store(units.count(), std::memory_order_relaxed);
    units_.store(packed(units), std::memory_order_release);
  }

  /// One `part`-th of what is left, rounded up, so at least one; empty where nothing is left.
  Units take_front(std::uint32_t part) {
    return take([part](Units left) { return Units{left.begin, left.begin + share(left, part)}; });
  }
  Units take_back(std::uint32_t part) {
    return take([part](Units left) { return Units{left.end - share(left, part), left.end}; });
  }

  std::uint32_t left() const { return unpacked(units_.load(std::memory_order_relaxed)).count(); }

  /// For owners who need the results of what others took: whoever has done units says so.
  void finish(std::uint32_t units) { unfinished_.fetch_sub(units, std::memory_order_release); }
  bool all_finished() const { return unfinished_.load(std::memory_order_acquire) == 0; }

  /// By the owner: nothing will be posted any more.
  void close() { closed_.store(true, std::memory_order_relaxed); }
  bool closed() const { return closed_.load(std::memory_order_relaxed); }

 private:
  static std::uint64_t packed(Units units) { return std::uint64_t{units.end} << 32 | units.begin; }
  static Units unpacked(std::uint64_t word) {
    return {static_cast<std::uint32_t>(word), static_cast<std::uint32_t>(word >> 32)};
  }
  static std::uint32_t share(Units left, std::uint32_t part) {
    return left.count() / part + (left.count() % part != 0 ? 1 : 0);
  }

  template <class Choose>
  Units take(const Choose& choose) {
    std::uint64_t word = units_.load(std::memory_order_acquire);
    for (;;) {
      const Units left = unpacked(word);
      if (left.count() == 0) return {};
      const Units taken = choose(left);
      const Units rest = taken.begin == left.begin ? Units{taken.end, left.end} : Units{left.begin, taken.begin};
      if (units_.compare_exchange_weak(word, packed(rest), std::memory_order_acquire)) return taken;
    }
  }

  std::atomic<std::uint64_t> units_ = 0;
  std::atomic<std::uint32_t> unfinished_ = 0;
  std::atomic<bool> closed_ = false;
};

/// Queues stand at the front of a run's scratch, one a thread.
static_assert(std::is_trivially_destructible_v<WorkQueue>);  // they end with the scratch
constexpr std::size_t queue_floats(int threads) {
  return static_cast<std::size_t>(threads) * (sizeof(WorkQueue) / sizeof(float));
}
inline WorkQueue* make_queues(float* scratch, int threads) {
  auto* queues = reinterpret_cast<WorkQueue*>(scratch);
  std::uninitialized_default_construct_n(queues, threads);
  return queues;
}

/// Of the other threads' queues the one with the most units left, null where none has more than `enough`.
inline WorkQueue* fullest(WorkQueue* queues, int team, int thread, std::uint32_t enough) {
  WorkQueue* found = nullptr;
  std::uint32_t most = enough;
  for (int i = 1; i < team; ++i) {
    WorkQueue& other = queues[(thread + i) % team];
    if (const std::uint32_t left = other.left(); left > most) most = left, found = &other;
  }
  return found;
}

/// What one thread does of a run's units: `while (share.next(begin, end))`.
class Share {
 public:
  /// All units: one thread, no queues.
  explicit Share(std::ptrdiff_t units) : units_(units) {}
  /// Of `grain` units each.
  Share(WorkQueue* queues, int team, int thread, std::ptrdiff_t units, std::ptrdiff_t grain)
      : queues_(queues), team_(team), thread_(thread), units_(units), grain_(grain) {}

  bool next(std::ptrdiff_t& begin, std::ptrdiff_t& end) {
    if (queues_ == nullptr) {
      begin = 0, end = units_, units_ = 0;
      return begin < end;
    }
    WorkQueue& own = queues_[thread_];
    WorkQueue::Units taken = own.take_front(kOwn);
    while (taken.count() == 0) {
      WorkQueue* other = fullest(queues_, team_, thread_, 0);
      if (other == nullptr) return false;
      own.post(other->take_back(kStolen));
      taken = own.take_front(kOwn);
    }
    begin = taken.begin * grain_;
    end = taken.end * grain_ < units_ ? taken.end * grain_ : units_;
    return true;
  }

 private:
  static constexpr std::uint32_t kOwn = 3, kStolen = 2;  // a core half as fast as the others must be able to shed half

  WorkQueue* queues_ = nullptr;
  int team_ = 1, thread_ = 0;
  std::ptrdiff_t units_, grain_ = 1;
};

/// Calls run(thread, team) once on each thread of a team of at most `threads`.
template <class Run>
void for_each_thread(int threads, const Run& run) {
  if (threads <= 1) return run(0, 1);
#pragma omp parallel num_threads(threads)
  run(omp_get_thread_num(), omp_get_num_threads());
}

/// Calls run(share, thread) once a thread; the shares together are the units [0, units). `scratch`:
/// queue_floats(threads) floats, a cache line's alignment.
template <class Run>
void for_each_share(float* scratch, int threads, std::ptrdiff_t units, const Run& run) {
  if (threads <= 1) return run(Share(units), 0);
  WorkQueue* queues = make_queues(scratch, threads);
  const std::ptrdiff_t grain = units / (std::ptrdiff_t{1} << 31) + 1, grains = (units + grain - 1) / grain;
  for (int t = 0; t < threads; ++t)
    queues[t].post(
        {static_cast<std::uint32_t>(grains * t / threads), static_cast<std::uint32_t>(grains * (t + 1) / threads)});
  // A team smaller than asked for takes over the shares of threads that are not there.
  for_each_thread(threads, [&](int thread, int) { run(Share(queues, threads, thread, units, grain), thread); });
}

/// Calls run(task, thread) for every task of [0, tasks), always the same tasks on a thread: for work that memory bounds
/// or that ends soon, which loses more by data that changes cores than it wins by an even finish.
template <class Run>
void for_each_task(int threads, std::ptrdiff_t tasks, const Run& run) {
  for_each_thread(threads, [&](int thread, int team) {
    // Rounded up: the caller's thread, which starts first, has one more rather than one less.
    const std::ptrdiff_t first = (tasks * thread + team - 1) / team, end = (tasks * (thread + 1) + team - 1) / team;
    for (std::ptrdiff_t task = first; task < end; ++task) run(task, thread);
  });
}

}  // namespace convrt::cpu
