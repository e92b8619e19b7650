// Turns in the OpenGL driver: one at a time, everybody's comes, and nobody waits for one who hangs.
#include "gl/driver_turns.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;
using convrt::gl::DriverTurns;
using Clock = DriverTurns::Clock;

TEST(DriverTurns, OneAtATimeAndEverybodysComes) {
  DriverTurns turns;
  std::array<int, 4> taken = {};
  std::atomic<int> inside = 0, together = 0;
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int& count : taken)
    threads.emplace_back([&] {
      while (!stop) {
        if (!turns.take(&count)) continue;  // a busy machine
        if (++inside > 1) ++together;
        while (!turns.over(&count, 100us) && !stop) std::this_thread::sleep_for(50us);
        ++count;
        --inside;
        turns.leave(&count);
      }
    });
  std::this_thread::sleep_for(200ms);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, 0);
  for (const int count : taken) EXPECT_GT(count, 3);
}

TEST(DriverTurns, FirstComeFirstServed) {
  DriverTurns turns;
  const std::array<int, 4> who = {};
  int in_time = 0;
  for (int round = 0; round < 50; ++round) {
    ASSERT_TRUE(turns.take(&who[0]));
    std::vector<std::size_t> order;  // written by whose turn it is
    std::atomic<bool> late = false;  // a busy machine: somebody's patience ended
    std::vector<std::thread> threads;
    for (std::size_t i = 1; i < who.size(); ++i) {
      threads.emplace_back([&, i] {
        if (!turns.take(&who[i])) {
          late = true;
          return;
        }
        order.push_back(i);
        turns.leave(&who[i]);
      });
      while (turns.waiting() < i && !late) std::this_thread::yield();
    }
    turns.leave(&who[0]);
    for (std::thread& thread : threads) thread.join();
    if (late) continue;
    ++in_time;
    EXPECT_EQ(order, (std::vector<std::size_t>{1, 2, 3}));
  }
  EXPECT_GT(in_time, 0);
}

TEST(DriverTurns, LastUntilAnotherWaits) {
  DriverTurns turns;
  const int a = 0, b = 0;
  EXPECT_TRUE(turns.take(&a));
  EXPECT_TRUE(turns.take(&a));  // still
  std::this_thread::sleep_for(2ms);
  EXPECT_FALSE(turns.over(&a, 100us)) << "nobody waits";
  EXPECT_FALSE(turns.over(&b, 100us)) << "never its turn";
  turns.leave(&b);  // not its to end
  std::atomic<bool> has = false;
  std::thread other([&] {
    while (!turns.take(&b)) {
    }
    has = true;
    turns.leave(&b);
  });
  while (!turns.over(&a, 100us)) std::this_thread::yield();
  EXPECT_FALSE(has);
  turns.leave(&a);
  other.join();
  EXPECT_TRUE(has);
}

TEST(DriverTurns, AreSharedWhileTheyChange) {
  DriverTurns turns;
  const int a = 0, b = 0;
  EXPECT_FALSE(turns.shared());
  EXPECT_TRUE(turns.try_take(&a));
  EXPECT_TRUE(turns.try_take(&a));
  EXPECT_FALSE(turns.try_take(&b));
  turns.leave(&a);
  EXPECT_TRUE(turns.try_take(&a));
  EXPECT_FALSE(turns.shared()) << "one alone";
  turns.leave(&a);
  EXPECT_TRUE(turns.try_take(&b));
  EXPECT_TRUE(turns.shared());
  turns.leave(&b);
  std::this_thread::sleep_for(15ms);
  EXPECT_FALSE(turns.shared()) << "long ago";
}

TEST(DriverTurns, NobodyWaitsForOneWhoHangs) {
  DriverTurns turns;
  const int hangs = 0, other = 0;
  EXPECT_TRUE(turns.take(&hangs));
  const auto start = Clock::now();
  EXPECT_FALSE(turns.take(&other));
  EXPECT_GE(Clock::now() - start, 15ms);
  EXPECT_LT(Clock::now() - start, 10s);
  turns.leave(&other);  // had none
  turns.leave(&hangs);  // as on behalf of a context that is given up
  EXPECT_TRUE(turns.take(&other));
}

}  // namespace
