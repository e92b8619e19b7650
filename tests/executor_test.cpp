// Executor: order, back-pressure, errors that stay with their ticket, cancellation, slots, chains.
#include "convrt/executor.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <set>
#include <thread>
#include <vector>

#include "convrt/convrt.hpp"
#include "fake_backend.hpp"
#include "problem.hpp"

namespace {

using namespace std::chrono_literals;
using convrt::Conv2dDesc;
using convrt::Conv2dPlan;
using convrt::Error;
using convrt::ErrorCode;
using convrt::Executor;
using convrt::Slot;
using convrt::Ticket;
using convrt::test::code_of;
using convrt::test::fake;
using convrt::test::FakeKernel;
using convrt::test::Gate;
using convrt::test::integers;
using convrt::test::Problem;

constexpr const char* kSmall = "n1c3h7w9k4r3s3ph1pw1+relu";

TEST(Executor, SlotsWhoseTicketsAreGoneNeedNoNewMemory) {
  const auto backend = fake("fake:0", {}, false);
  const Problem problem(backend->device(), "n1c1h2w2k1r1s1");
  Executor executor(problem.plan, 3);
  std::deque<Ticket> tickets;
  std::set<const float*> memory;
  for (int i = 0; i < 3000; ++i) {
    if (tickets.size() == 3) {
      tickets.front().wait();
      tickets.pop_front();
    }
    Slot slot = executor.acquire();
    memory.insert(slot.src().data());
    std::fill(slot.src().begin(), slot.src().end(), 1.0F);
    tickets.push_back(executor.submit(std::move(slot)));
  }
  EXPECT_EQ(memory.size(), 3U);
}

TEST(Executor, ResultsAreThoseOfTheirOwnSubmission) {
  for (const bool host : {true, false}) {
    const auto backend = fake("fake:0", {}, host);
    const Problem problem(backend->device(), kSmall);
    Executor executor(problem.plan);
    std::vector<std::vector<float>> src, dst(40, std::vector<float>(problem.desc.dst_size()));
    std::vector<Ticket> tickets;
    for (int i = 0; i < 40; ++i) {
      src.push_back(integers(problem.desc.src_size(), i));
      tickets.push_back(executor.submit(src.back(), dst[static_cast<std::size_t>(i)]));
    }
    for (std::size_t i = 0; i < 40; ++i) {
      EXPECT_GT(tickets[i].wait().total_ms, 0);
      EXPECT_EQ(dst[i], problem.expected(src[i]));
      EXPECT_EQ(tickets[i].dst().data(), dst[i].data());
    }
    executor.drain();
    const auto stats = executor.stats();
    EXPECT_EQ(stats.submitted, 40U);
    EXPECT_EQ(stats.completed, 40U);
    EXPECT_EQ(stats.in_flight + stats.failed + stats.cancelled, 0U);
    EXPECT_EQ(stats.bytes_uploaded, host ? 0 : 40 * 4 * problem.desc.src_size());
    EXPECT_EQ(stats.bytes_downloaded, host ? 0 : 40 * 4 * problem.desc.dst_size());
  }
}

TEST(Executor, RunsOnTheRealDevices) {
  for (const convrt::Device& device : convrt::devices()) {
    const Problem problem(device, kSmall);
    Executor executor(problem.plan, 2);
    const auto src = integers(problem.desc.src_size(), 5);
    std::vector<float> dst(problem.desc.dst_size());
    executor.submit(src, dst).wait();
    EXPECT_EQ(dst, problem.expected(src)) << device.info().id;
  }
}

TEST(Executor, BlocksOnlyWhileDepthAreInFlight) {
  Gate gate;
  const auto backend = fake("fake:0", {.before_run = [&](int) { gate.pass(); }});
  const Problem problem(backend->device(), kSmall);
  const auto src = integers(problem.desc.src_size(), 1);
  std::vector<float> dst(problem.desc.dst_size());
  Executor executor(problem.plan, 2);
  executor.submit(src, dst);
  executor.submit(src, dst);  // returns although nothing is done
  EXPECT_EQ(executor.stats().in_flight, 2U);
  std::atomic<bool> third = false;
  std::jthread producer([&] {
    executor.submit(src, dst);
    third = true;
  });
  std::this_thread::sleep_for(30ms);
  EXPECT_FALSE(third);
  gate.open();
  producer.join();
  executor.drain();
  EXPECT_TRUE(third);
  EXPECT_EQ(executor.stats().completed, 3U);
  EXPECT_GE(executor.stats().host_wait_ms, 10);
}

TEST(Executor, AFailureStaysWithItsTicket) {
  for (const bool host : {true, false}) {
    const auto backend = fake("fake:0",
                              {.before_run =
                                   [](int run) {
                                     if (run == 1) throw Error(ErrorCode::device_lost, "gone");
                                     if (run == 2) throw std::bad_alloc();
                                     if (run == 3) throw 42;
                                   }},
                              host);
    const Problem problem(backend->device(), kSmall);
    Executor executor(problem.plan);
    const auto src = integers(problem.desc.src_size(), 1);
    std::vector<std::vector<float>> dst(5, std::vector<float>(problem.desc.dst_size()));
    std::vector<Ticket> tickets;
    for (auto& d : dst) tickets.push_back(executor.submit(src, d));
    executor.drain();
    EXPECT_EQ(code_of([&] { tickets[1].wait(); }), ErrorCode::device_lost);
    EXPECT_EQ(code_of([&] { tickets[1].wait(); }), ErrorCode::device_lost) << "a second wait says the same";
    EXPECT_EQ(code_of([&] { tickets[2].wait(); }), ErrorCode::out_of_memory);
    EXPECT_EQ(code_of([&] { tickets[3].wait(); }), ErrorCode::internal);
    for (const std::size_t good : {0, 4}) {
      tickets[good].wait();
      EXPECT_EQ(dst[good], problem.expected(src));
    }
    EXPECT_EQ(executor.stats().failed, 3U);
    EXPECT_EQ(executor.stats().completed, 2U);
  }
}

TEST(Executor, ATimeoutLeavesTheWorkGoingOn) {
  Gate gate;
  const auto backend = fake("fake:0", {.before_run = [&](int) { gate.pass(); }});
  const Problem problem(backend->device(), kSmall);
  const auto src = integers(problem.desc.src_size(), 1);
  std::vector<float> dst(problem.desc.dst_size());
  Executor executor(problem.plan);
  const Ticket ticket = executor.submit(src, dst);
  EXPECT_FALSE(ticket.done());
  EXPECT_EQ(code_of([&] { ticket.wait(5ms); }), ErrorCode::timeout);
  gate.open();
  ticket.wait(10s);
  EXPECT_TRUE(ticket.done());
  EXPECT_EQ(dst, problem.expected(src));
}

TEST(Executor, DestructionCancelsWhatHasNotStarted) {
  Gate gate;
  const auto backend = fake("fake:0", {.before_run = [&](int) { gate.pass(); }});
  const Problem problem(backend->device(), kSmall);
  const auto src = integers(problem.desc.src_size(), 1);
  std::vector<std::vector<float>> dst(3, std::vector<float>(problem.desc.dst_size(), -77));
  std::vector<Ticket> tickets;
  {
    Executor executor(problem.plan, 3);
    for (auto& d : dst) tickets.push_back(executor.submit(src, d));
    gate.await_visitor();
    std::jthread opener([&] {
      std::this_thread::sleep_for(30ms);
      gate.open();
    });
    executor = Executor(problem.plan);  // destroys the first executor while its run stands at the gate
  }
  tickets[0].wait();
  EXPECT_EQ(dst[0], problem.expected(src));
  for (const std::size_t i : {1, 2}) {
    EXPECT_EQ(code_of([&] { tickets[i].wait(); }), ErrorCode::cancelled);
    EXPECT_EQ(dst[i], std::vector<float>(dst[i].size(), -77)) << "a cancelled submission touched dst";
  }
  EXPECT_EQ(backend->runs(), 1);
}

TEST(Executor, SlotsNeedNoCopyAndComeBack) {
  const auto backend = fake("fake:0");
  const Problem problem(backend->device(), kSmall);
  std::vector<Ticket> kept;
  std::vector<std::vector<float>> src;
  {
    Executor executor(problem.plan, 2);
    {
      Slot unused = executor.acquire();
      const Slot second = executor.acquire();
      Slot moved = std::move(unused);
      EXPECT_EQ(moved.src().size(), problem.desc.src_size());
      EXPECT_EQ(code_of([&] { executor.submit(std::move(unused)); }), ErrorCode::invalid_argument);
    }
    // More than depth, all tickets kept: places come back with the work, memory with the ticket.
    for (int i = 0; i < 7; ++i) {
      Slot slot = executor.acquire();
      src.push_back(integers(problem.desc.src_size(), i));
      std::copy(src.back().begin(), src.back().end(), slot.src().begin());
      kept.push_back(executor.submit(std::move(slot)));
    }
    executor.drain();
    Executor other(problem.plan);
    EXPECT_EQ(code_of([&] { executor.submit(other.acquire()); }), ErrorCode::invalid_argument);
  }
  for (std::size_t i = 0; i < kept.size(); ++i) {
    kept[i].wait();
    const auto dst = kept[i].dst();  // outlives the executor
    EXPECT_EQ(std::vector<float>(dst.begin(), dst.end()), problem.expected(src[i]));
  }
}

TEST(Executor, ChainsFeedEachResultToTheNext) {
  for (const bool host : {true, false}) {
    const auto backend = fake("fake:0", {}, host);
    const Problem a(backend->device(), "n2c3h9w8k5r3s3ph1pw1+relu", 1), b(backend->device(), "n2c5h9w8k4r1s1", 2),
        c(backend->device(), "n2c4h9w8k2r3s3sh2sw2+acc", 3);
    Executor executor(std::vector<Conv2dPlan>{a.plan, b.plan, c.plan});
    std::vector<std::vector<float>> src, dst;
    std::vector<Ticket> tickets;
    const auto before = integers(c.desc.dst_size(), 9);
    dst.assign(9, before);
    src.reserve(9);
    for (int i = 0; i < 9; ++i) {
      src.push_back(integers(a.desc.src_size(), i));
      tickets.push_back(executor.submit(src.back(), dst[static_cast<std::size_t>(i)]));
    }
    for (std::size_t i = 0; i < 9; ++i) {
      tickets[i].wait();
      EXPECT_EQ(dst[i], c.expected(b.expected(a.expected(src[i])), before)) << "host memory: " << host;
    }
    EXPECT_EQ(code_of([&] { executor.acquire(); }), ErrorCode::invalid_argument) << "a slot cannot accumulate";
  }
}

TEST(Executor, BadArgumentsAreNamed) {
  const auto backend = fake("fake:0"), elsewhere = fake("fake:1");
  const Problem a(backend->device(), kSmall), far(elsewhere->device(), "n1c4h7w9k4r1s1"),
      wrong(backend->device(), "n1c5h7w9k4r1s1");
  EXPECT_EQ(code_of([&] { Executor(a.plan, 0); }), ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([&] { Executor(std::vector<Conv2dPlan>{}); }), ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([&] { Executor(std::vector<Conv2dPlan>{a.plan, far.plan}); }), ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([&] { Executor(std::vector<Conv2dPlan>{a.plan, wrong.plan}); }), ErrorCode::invalid_argument);
  Executor executor(a.plan);
  std::vector<float> src(a.desc.src_size()), dst(a.desc.dst_size() + 1);
  EXPECT_EQ(code_of([&] { executor.submit(src, dst); }), ErrorCode::invalid_argument);
  EXPECT_EQ(executor.stats().submitted, 0U);
}

TEST(Executor, AnEmptyBatchIsDoneAtOnce) {
  for (const bool host : {true, false}) {
    const auto backend = fake("fake:0", {}, host);
    const Problem a(backend->device(), "n0c3h7w9k4r3s3"), b(backend->device(), "n0c4h5w7k2r1s1");
    Executor executor(std::vector<Conv2dPlan>{a.plan, b.plan});
    executor.submit({}, {}).wait();
    EXPECT_EQ(executor.stats().completed, 1U);
  }
}

TEST(Executor, BusyShareIsTheShareOfTheDevice) {
  const auto backend = fake("fake:0", {.delay = 2ms});
  const Problem problem(backend->device(), kSmall);
  const auto src = integers(problem.desc.src_size(), 1);
  std::vector<float> dst(problem.desc.dst_size());
  Executor executor(problem.plan);
  for (int i = 0; i < 5; ++i) executor.submit(src, dst).wait();
  const double dense = executor.stats().device_busy_share;
  EXPECT_GT(dense, 0.3);
  EXPECT_LE(dense, 1.0);
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(10ms);
    executor.submit(src, dst).wait();
  }
  EXPECT_LT(executor.stats().device_busy_share, dense);
}

TEST(ExecutorStress, ManyProducersDroppedTicketsFailuresAndMixedSubmissions) {
  const auto backend = fake("fake:0", {.before_run = [](int run) {
                              if (run % 13 == 5) throw Error(ErrorCode::device_lost, "gone");
                            }});
  const Problem problem(backend->device(), kSmall);
  constexpr int kProducers = 4, kEach = 60;
  std::atomic<int> good = 0, bad = 0;
  Executor executor(problem.plan, 3);
  {
    std::vector<std::jthread> producers;
    for (int t = 0; t < kProducers; ++t)
      producers.emplace_back([&, t] {
        const auto src = integers(problem.desc.src_size(), t), expected = problem.expected(src);
        std::vector<float> dst(problem.desc.dst_size());
        for (int i = 0; i < kEach; ++i) {
          std::optional<Ticket> ticket;
          if (i % 3 == 0) {
            Slot slot = executor.acquire();
            std::copy(src.begin(), src.end(), slot.src().begin());
            ticket = executor.submit(std::move(slot));
            if (i % 2 == 0) continue;  // dropped
          } else {
            ticket = executor.submit(src, dst);
          }
          try {
            ticket->wait();
            const auto found = ticket->dst();
            if (std::equal(found.begin(), found.end(), expected.begin())) ++good;
          } catch (const Error&) {
            ++bad;
          }
        }
      });
  }
  executor.drain();
  const auto stats = executor.stats();
  EXPECT_EQ(stats.submitted, static_cast<std::size_t>(kProducers * kEach));
  EXPECT_EQ(stats.completed + stats.failed, stats.submitted);
  EXPECT_EQ(good + bad, kProducers * (kEach - kEach / 6)) << "a result was wrong";
  EXPECT_GT(bad, 0);
}

TEST(ExecutorStress, RandomDestructionNeverHangsOrTouchesFreedMemory) {
  const auto backend = fake("fake:0");
  const Problem problem(backend->device(), kSmall);
  for (int round = 0; round < 60; ++round) {
    const auto src = integers(problem.desc.src_size(), round);
    std::vector<std::vector<float>> dst(5, std::vector<float>(problem.desc.dst_size()));
    std::vector<Ticket> tickets;
    {
      Executor executor(problem.plan, 1 + round % 4);
      for (auto& d : dst) tickets.push_back(executor.submit(src, d));
    }
    for (std::size_t i = 0; i < tickets.size(); ++i) {
      ASSERT_TRUE(tickets[i].done()) << "the destructor left work behind";
      try {
        tickets[i].wait();
        ASSERT_EQ(dst[i], problem.expected(src));
      } catch (const Error& e) {
        ASSERT_EQ(e.code(), ErrorCode::cancelled);
      }
    }
  }
}

}  // namespace
