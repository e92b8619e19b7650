// How units of work are shared by a team: each is done once, by whoever is free.
#include "cpu/parallel.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>
#include <vector>

#include "cpu/aligned.hpp"

namespace convrt::cpu {
namespace {

using Counts = std::vector<std::atomic<int>>;

TEST(WorkQueue, IsTakenFromBothEnds) {
  WorkQueue queue;
  EXPECT_EQ(queue.take_front(1).count(), 0U);
  EXPECT_EQ(queue.take_back(1).count(), 0U);
  queue.post({5, 20});
  EXPECT_EQ(queue.left(), 15U);
  const WorkQueue::Units front = queue.take_front(4), back = queue.take_back(2);
  EXPECT_EQ(front.begin, 5U);
  EXPECT_EQ(front.end, 9U);
  EXPECT_EQ(back.begin, 14U);
  EXPECT_EQ(back.end, 20U);
  const WorkQueue::Units one = queue.take_back(64), rest = queue.take_front(1);
  EXPECT_EQ(one.begin, 13U);
  EXPECT_EQ(one.end, 14U);
  EXPECT_EQ(rest.begin, 9U);
  EXPECT_EQ(rest.end, 13U);
  EXPECT_EQ(queue.left(), 0U);
  for (const WorkQueue::Units& done : {front, back, one}) {
    queue.finish(done.count());
    EXPECT_FALSE(queue.all_finished());
  }
  queue.finish(rest.count());
  EXPECT_TRUE(queue.all_finished());
}

TEST(ForEachShare, EveryUnitIsDoneOnce) {
  for (const int threads : {1, 2, 3, 16})
    for (const std::size_t units : {0UL, 1UL, 2UL, 15UL, 100UL, 12345UL}) {
      Counts done(units);
      const AlignedFloats scratch(queue_floats(threads));
      for_each_share(scratch.data(), threads, static_cast<std::ptrdiff_t>(units), [&](Share share, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, threads);
        for (std::ptrdiff_t begin = 0, end = 0; share.next(begin, end);)
          for (std::ptrdiff_t unit = begin; unit < end; ++unit) ++done[static_cast<std::size_t>(unit)];
      });
      for (std::size_t unit = 0; unit < units; ++unit)
        ASSERT_EQ(done[unit], 1) << "unit " << unit << " of " << units << ", " << threads << " threads";
    }
}

// Units are counted in groups where their number does not fit 32 bits.
TEST(ForEachShare, CountsBeyond32Bits) {
  constexpr std::ptrdiff_t units = (std::ptrdiff_t{1} << 33) + 5;
  const AlignedFloats scratch(queue_floats(2));
  std::atomic<std::ptrdiff_t> done = 0, last = 0;
  for_each_share(scratch.data(), 2, units, [&](Share share, int) {
    for (std::ptrdiff_t begin = 0, end = 0; share.next(begin, end);) {
      done += end - begin;
      if (end == units) ++last;
    }
  });
  EXPECT_EQ(done, units);
  EXPECT_EQ(last, 1);
}

TEST(ForEachShare, OthersTakeOverFromASlowThread) {
  constexpr std::ptrdiff_t units = 400;
  const AlignedFloats scratch(queue_floats(4));
  std::atomic<std::ptrdiff_t> done = 0;
  std::atomic<bool> waited_in_vain = false;
  for_each_share(scratch.data(), 4, units, [&](Share share, int) {
    for (std::ptrdiff_t begin = 0, end = 0; share.next(begin, end);) {
      const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (begin == 0 && done != units - end && !waited_in_vain) {
        waited_in_vain = std::chrono::steady_clock::now() > give_up;
        std::this_thread::yield();
      }
      done += end - begin;
    }
  });
  EXPECT_FALSE(waited_in_vain) << "nobody did the units of a thread that was busy with its first";
  EXPECT_EQ(done, units);
}

// An OpenMP runtime may give fewer threads than were asked for: here, since regions do not nest by default.
TEST(ForEachShare, ASmallTeamDoesTheSharesOfMissingThreads) {
  Counts done(100);
#pragma omp parallel num_threads(2)
  {
    const AlignedFloats scratch(queue_floats(7));
    for_each_share(scratch.data(), 7, 100, [&](Share share, int) {
      for (std::ptrdiff_t begin = 0, end = 0; share.next(begin, end);)
        for (std::ptrdiff_t unit = begin; unit < end; ++unit) ++done[static_cast<std::size_t>(unit)];
    });
  }
  for (std::atomic<int>& count : done) EXPECT_EQ(count, 2);
}

}  // namespace
}  // namespace convrt::cpu
