// Conv2dPlan: arguments, which kernel runs, the same bits for any number of threads, callers in parallel.
#include "convrt/plan.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <set>
#include <string>
#include <thread>

#include "cases.hpp"
#include "conformance.hpp"
#include "core/select.hpp"
#include "cpu/cpu_conv.hpp"
#include "fake_backend.hpp"

namespace convrt::test {
namespace {

const Device& cpu() {
  static const Device device = find_device("cpu");
  return device;
}

// "code: message" of the Error that `action` throws.
std::string error_of(const auto& action) {
  try {
    action();
  } catch (const Error& e) {
    return std::string(to_string(e.code())) + ": " + e.what();
  }
  return "no error";
}

#define EXPECT_ERROR(action, code, part)                         \
  do {                                                           \
    const std::string found = error_of([&] { (void)(action); }); \
    EXPECT_EQ(found.find(code ": "), 0U) << found;               \
    EXPECT_NE(found.find(part), std::string::npos) << found;     \
  } while (false)

struct Environment {  // sets a variable for one scope
  Environment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Environment() { unsetenv(name_); }
  const char* name_;
};

TEST(PlanArguments, EveryLengthIsChecked) {
  const Conv2dDesc d = Conv2dDesc::parse("n1c2h3w4k5r1s1");
  std::vector<float> weights(10), bias(5), src(24), dst(60), longer(61);
  EXPECT_ERROR(Conv2dPlan(cpu(), d, std::span(weights).first(9)), "invalid_argument", "must hold 10 floats, found 9");
  EXPECT_ERROR(Conv2dPlan(cpu(), d, weights, std::span(bias).first(4)), "invalid_argument",
               "bias must hold 5 floats, found 4");
  EXPECT_ERROR(Conv2dPlan(cpu(), d, weights, bias, {.threads = -1}), "invalid_argument", "found -1");
  const Conv2dPlan plan(cpu(), d, weights, bias);
  EXPECT_ERROR(plan.run(std::span(src).first(23), dst), "invalid_argument", "src must hold 24 floats, found 23");
  EXPECT_ERROR(plan.run(src, longer), "invalid_argument", "dst must hold 60 floats, found 61");
  EXPECT_ERROR(plan.run({}, dst), "invalid_argument", "found 0");
  plan.run(src, dst);
}

TEST(PlanArguments, SourceAndDestinationMayTouchButNotOverlap) {
  const Conv2dDesc d = Conv2dDesc::parse("n1c2h3w4k2r1s1");
  const std::vector<float> weights(4, 1);
  const Conv2dPlan plan(cpu(), d, weights);
  std::vector<float> memory(48);
  const std::span<float> all = memory;
  for (const std::size_t shift : {0U, 1U, 23U}) {
    EXPECT_ERROR(plan.run(all.first(24), all.subspan(shift, 24)), "invalid_argument", "must not overlap");
    EXPECT_ERROR(plan.run(all.subspan(shift, 24), all.first(24)), "invalid_argument", "must not overlap");
  }
  plan.run(all.first(24), all.subspan(24));
  plan.run(all.subspan(24), all.first(24));
}

TEST(PlanArguments, SizesThatNoMachineHasAreErrors) {
  Conv2dDesc d = Conv2dDesc::parse("n2147483647c2147483647h2147483647w2147483647k1r1s1");
  const std::vector<float> one(1);
  EXPECT_ERROR(Conv2dPlan(cpu(), d, one), "invalid_argument", "2^61-1");
  d = Conv2dDesc::parse("n1c1h1w1k1r1s1");
  const Conv2dPlan plan(cpu(), d, one);
  constexpr int most = std::numeric_limits<int>::max();
  EXPECT_ERROR(plan.reshaped(most, most, most), "invalid_argument", "2^61-1");
  EXPECT_ERROR(plan.reshaped(-1, 1, 1), "invalid_argument", "found -1");
  EXPECT_ERROR(plan.reshaped(1, 0, 1), "invalid_argument", "h must be at least 1");
  // More than the address space, and a count whose bytes wrap around to few.
  EXPECT_ERROR(cpu().allocate(std::size_t{1} << 60), "out_of_memory", "");
  EXPECT_ERROR(cpu().allocate((std::size_t{1} << 62) + 1), "out_of_memory", "");
}

TEST(PlanArguments, NoImagesAreAnEmptySuccess) {
  for (const char* problem : {"n0c2h3w4k5r3s3ph1pw1", "n0c32h3w4k32r3s3ph1pw1", "n0c16h3w4k16r3s3ph1pw1g16"}) {
    const Conv2dDesc d = Conv2dDesc::parse(problem);
    const std::vector<float> weights(d.weights_size(), 1);
    for (const Device& device : devices())
      for (const std::string& kernel : device.kernels(d)) {
        const Conv2dPlan plan(device, d, weights, {}, {.kernel = kernel});
        plan.run({}, {});
        Buffer src = device.allocate(0), dst = device.allocate(0);
        plan.enqueue(src, dst);
        device.synchronize();
        // ... and the weights are there for the images to come.
        const Conv2dPlan one = plan.reshaped(1, 3, 4);
        std::vector<float> image(one.desc().src_size(), 1), result(one.desc().dst_size(), NAN);
        one.run(image, result);
        const int seen = 4 * d.c / d.groups;  // a corner sees 2 x 2 taps of every channel
        EXPECT_NEAR(result[0], seen, 1e-4 * seen) << kernel;
        EXPECT_EQ(one.reshaped(0, 9, 9).desc().n, 0);
      }
  }
}

TEST(Plan, CopiesShareAndOutliveTheOriginal) {
  const Conv2dDesc d = Conv2dDesc::parse("n1c1h2w2k1r1s1");
  auto plan = std::make_unique<Conv2dPlan>(cpu(), d, std::vector<float>{3}, std::vector<float>{1});
  const Conv2dPlan copy = *plan, smaller = plan->reshaped(1, 1, 2);
  plan.reset();
  std::vector<float> dst(4), row(2);
  copy.run(std::vector<float>{1, 2, 3, 4}, dst);
  EXPECT_EQ(dst, (std::vector<float>{4, 7, 10, 13}));
  smaller.run(std::vector<float>{5, 6}, row);
  EXPECT_EQ(row, (std::vector<float>{16, 19}));
  EXPECT_EQ(copy.desc(), d);
  EXPECT_EQ(smaller.desc(), Conv2dDesc::parse("n1c1h1w2k1r1s1"));
  EXPECT_EQ(copy.device().info().id, "cpu");
}

TEST(PlanEnqueue, ChainsInOrderAndChecksItsBuffers) {
  const Conv2dDesc d = Conv2dDesc::parse("n1c1h2w3k1r1s1");
  for (const Device& device : devices()) {
    const Conv2dPlan twice(device, d, std::vector<float>{2}),
        plus(device, d, std::vector<float>{1}, std::vector<float>{5});
    Buffer a = device.allocate(6), b = device.allocate(6), c = device.allocate(6), small = device.allocate(5);
    const std::vector<float> src = {1, 2, 3, 4, 5, 6};
    std::vector<float> dst(6);
    a.upload(src);
    for (int i = 0; i < 3; ++i) {  // b = 2a, c = b + 5, a = 2c
      twice.enqueue(a, b);
      plus.enqueue(b, c);
      twice.enqueue(c, a);
    }
    a.download(dst);
    for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(dst[i], 64 * src[i] + 210) << device.info().id;
    EXPECT_ERROR(twice.enqueue(a, a), "invalid_argument", "must be different buffers");
    EXPECT_ERROR(twice.enqueue(small, b), "invalid_argument", "src buffer must hold 6 floats, found 5");
    EXPECT_ERROR(twice.enqueue(a, small), "invalid_argument", "dst buffer must hold 6 floats, found 5");
    const auto other = fake("other:0");
    Buffer foreign = other->device().allocate(6);
    EXPECT_ERROR(twice.enqueue(foreign, b), "invalid_argument", "allocated on other:0");
    EXPECT_ERROR(twice.enqueue(a, foreign), "invalid_argument", "allocated on other:0");
  }
}

// Three kernels, told apart by a constant that each adds; its prefixes are traps.
std::shared_ptr<FakeBackend> three_kernels() {
  const auto adds = [](float what) {
    return [what](std::span<float> dst) {
      for (float& f : dst) f += what;
    };
  };
  return std::make_shared<FakeBackend>(
      "sim:0", std::vector<FakeKernel>{{.name = "sim.winograd_f4x4.fast", .after_run = adds(1000)},
                                       {.name = "sim.gemm.wide", .after_run = adds(2000)},
                                       {.name = "sim.gemm2.wide", .after_run = adds(3000)},
                                       {.name = "sim.gemm.narrow", .after_run = adds(4000)}});
}

float result_of(const Conv2dPlan& plan) {
  std::vector<float> dst(1);
  plan.run(std::vector<float>{1}, dst);
  return dst[0];
}

TEST(PlanKernel, TheForcedOneIsTheOneThatRuns) {
  const auto sim = three_kernels();
  const Conv2dDesc d = Conv2dDesc::parse("n1c1h1w1k1r1s1");
  const std::vector<float> one(1, 1);
  const auto run = [&](const PlanOptions& options) {
    const Conv2dPlan plan(sim->device(), d, one, {}, options);
    return std::pair(plan.kernel(), result_of(plan));
  };
  using Ran = std::pair<std::string, float>;
  EXPECT_EQ(run({.tune = Tune::off}), Ran("sim.winograd_f4x4.fast", 1001));  // nothing asked: the first guess
  EXPECT_EQ(run({.tune = Tune::off, .accuracy = Accuracy::strict}), Ran("sim.gemm.wide", 2001));
  EXPECT_EQ(run({.kernel = "sim.gemm.narrow"}), Ran("sim.gemm.narrow", 4001));  // a full name
  EXPECT_EQ(run({.kernel = "sim.gemm"}), Ran("sim.gemm.wide", 2001));           // the best under a prefix
  EXPECT_EQ(run({.kernel = "sim.gemm2"}), Ran("sim.gemm2.wide", 3001));         // whole components, not letters
  EXPECT_EQ(run({.kernel = "sim", .accuracy = Accuracy::strict}), Ran("sim.gemm.wide", 2001));
  {
    const Environment forced("CONVRT_KERNEL", "sim.gemm.narrow");
    EXPECT_EQ(run({}), Ran("sim.gemm.narrow", 4001));
    EXPECT_EQ(run({.kernel = "sim.gemm2"}), Ran("sim.gemm2.wide", 3001));  // the option outranks the variable
  }
  {
    const Environment forced("CONVRT_KERNEL", "gl.basic_64");  // another backend's: no matter of the CPU
    EXPECT_EQ(Conv2dPlan(cpu(), d, one, {}, {.tune = Tune::off}).kernel().substr(0, 4), "cpu.");
  }
  {
    const Environment misspelt("CONVRT_KERNEL", "cpuu.gemm");
    EXPECT_ERROR(Conv2dPlan(cpu(), d, one), "invalid_argument", "CONVRT_KERNEL \"cpuu.gemm\"");
  }
  EXPECT_ERROR(run({.kernel = "sim.gem"}), "invalid_argument", "names no kernel of device sim:0");
  EXPECT_ERROR(run({.kernel = "sim.gem"}), "invalid_argument", "it has: sim.winograd_f4x4.fast, sim.gemm.wide");
  EXPECT_ERROR(run({.kernel = "sim.gemm.wide.er"}), "invalid_argument", "sim.gemm.wide.er");
  EXPECT_ERROR(run({.kernel = "sim.winograd_f4x4.fast", .accuracy = Accuracy::strict}), "unsupported", "strict");
  const Environment unknown("CONVRT_KERNEL", "sim.unheard_of");
  EXPECT_ERROR(run({}), "invalid_argument", "CONVRT_KERNEL \"sim.unheard_of\"");
}

TEST(PlanKernel, WhatCannotBeMadeIsLeftOutAndSaidSo) {
  const auto refuse = [](ErrorCode code, const char* what) { return [=] { throw Error(code, what); }; };
  const Conv2dDesc d = Conv2dDesc::parse("n1c2h3w3k2r1s1");
  const std::vector<float> weights(4, 1), src(18, 1);
  std::vector<std::string> lines;
  set_log(LogLevel::warning, [&](LogLevel, std::string_view line) { lines.emplace_back(line); });
  const auto kernel_of = [&](std::vector<FakeKernel> kernels) {
    lines.clear();
    const Conv2dPlan plan(std::make_shared<FakeBackend>("odd:0", std::move(kernels))->device(), d, weights);
    std::vector<float> dst(d.dst_size());
    plan.run(src, dst);
    EXPECT_EQ(dst, std::vector<float>(d.dst_size(), 2));
    return plan.kernel();
  };
  const FakeKernel no_compile{.name = "odd.new", .on_prepare = refuse(ErrorCode::compile_failed, "line 7: no")};
  const FakeKernel no_fit{.name = "odd.large", .on_prepare = refuse(ErrorCode::unsupported, "needs 3 GiB")};
  const FakeKernel full{.name = "odd.full", .on_prepare = refuse(ErrorCode::out_of_memory, "the device is full")};

  EXPECT_EQ(kernel_of({no_compile, no_fit, {.name = "odd.plain"}}), "odd.plain");
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_NE(lines[0].find("odd.new left out: line 7: no"), std::string::npos) << lines[0];
  EXPECT_NE(lines[1].find("odd.large left out: needs 3 GiB"), std::string::npos) << lines[1];
  // The last one's reason where none is left; and no other kernel helps a device that is full.
  EXPECT_ERROR(kernel_of({no_compile, no_fit}), "unsupported", "needs 3 GiB");
  EXPECT_ERROR(kernel_of({no_fit, full, {.name = "odd.plain"}}), "out_of_memory", "the device is full");
  set_log(LogLevel::warning, nullptr);
}

TEST(PlanKernel, OnTheCpuTheForcedOneRunsToo) {
  // 2^24 + 1 + ... + 1 - 2^24: a double accumulator counts every 1, an fp32 one loses some of them. So the sum tells
  // which of the two ran, whatever the names say.
  const Conv2dDesc d = Conv2dDesc::parse("n1c66h8w8k16r1s1");
  const std::vector<float> weights(16 * 66, 1);
  std::vector<float> src(66 * 64, 1), dst(16 * 64);
  std::fill_n(src.begin(), 64, 0x1p24F);
  std::fill_n(src.end() - 64, 64, -0x1p24F);
  int single_precision = 0;
  for (const std::string& kernel : cpu().kernels(d)) {
    if (kernel.find("winograd") != std::string::npos) continue;
    const Environment forced("CONVRT_KERNEL", kernel.c_str());
    const Conv2dPlan plan(cpu(), d, weights);
    EXPECT_EQ(plan.kernel(), kernel);
    plan.run(src, dst);
    if (kernel == "cpu.reference") {
      EXPECT_EQ(dst[0], 64);
    } else {
      EXPECT_NE(dst[0], 64) << kernel << " added in more than fp32: did cpu.reference run?";
      ++single_precision;
    }
  }
  if (single_precision == 0) GTEST_SKIP() << "cpu.reference is the only kernel here: " << cpu().info().driver;
}

TEST(PlanKernel, StrictNeverChoosesWinograd) {
  const Conv2dDesc d = Conv2dDesc::parse("n1c64h56w56k64r3s3ph1pw1");
  const std::vector<float> weights(d.weights_size());
  for (const Device& device : devices())
    for (const Tune tune : {Tune::off, Tune::cached}) {
      const Conv2dPlan plan(device, d, weights, {}, {.tune = tune, .accuracy = Accuracy::strict});
      EXPECT_EQ(plan.kernel().find("winograd"), std::string::npos) << plan.kernel();
    }
}

TEST(PlanThreads, TheSameBitsForAnyNumberAndFromRunToRun) {
  for (const char* problem : {"n1c37h19w23k41r3s3ph1pw1", "n3c37h19w23k41r3s3ph1pw1+nhwc+gelu", "n1c150h9w9k70r1s1",
                              "n2c24h17w13k24r5s5sh2sw2ph2pw2g24", "n1c3h31w33k16r7s7sh2sw2ph3pw3+nhwc",
                              "n1c32h14w14k32r3s3ph1pw1g8+acc", "n1c600h4w4k40r3s3ph1pw1"}) {
    const Problem given(Conv2dDesc::parse(problem), Data::reals, seed());
    for (const std::string& kernel : cpu().kernels(given.desc)) {
      std::vector<float> first;
      for (const int threads : {1, 1, 2, 3, 4, 7, 0}) {
        const Conv2dPlan plan(cpu(), given.desc, given.weights, given.bias, {.kernel = kernel, .threads = threads});
        std::vector<float> dst = given.before;
        plan.run(given.src, dst);
        if (first.empty()) first = dst;
        // Compared as bits: -0 is not 0.
        EXPECT_EQ(std::memcmp(dst.data(), first.data(), dst.size() * sizeof(float)), 0)
            << kernel << " on " << problem << " with " << threads << " threads differs from one thread";
      }
    }
  }
}

// An image alone, and among others, by every kernel of every device.
TEST(PlanBatch, InvariantMeansTheSameBitsWhateverTheBatch) {
  for (const Device& device : devices())
    for (const char* problem : {"n5c72h7w7k32r1s1", "n3c40h9w8k16r3s3sh2sw2ph1pw1+nhwc"}) {
      const Problem given(Conv2dDesc::parse(problem), Data::reals, seed());
      const Conv2dDesc& desc = given.desc;
      for (const std::string& kernel : device.kernels(desc)) {
        const Conv2dPlan whole(device, desc, given.weights, given.bias, {.kernel = kernel, .batch_invariant = true});
        const Conv2dPlan one = whole.reshaped(1, desc.h, desc.w);
        std::vector<float> together(desc.dst_size()), alone(one.desc().dst_size());
        whole.run(given.src, together);
        for (int image = 0; image < desc.n; ++image) {
          const std::size_t floats = one.desc().src_size();
          one.run(std::span(given.src).subspan(static_cast<std::size_t>(image) * floats, floats), alone);
          ASSERT_EQ(std::memcmp(alone.data(), together.data() + static_cast<std::size_t>(image) * alone.size(),
                                alone.size() * sizeof(float)),
                    0)
              << device.info().id << ' ' << problem << ' ' << kernel << ", image " << image;
        }
      }
    }
}

TEST(PlanThreads, ManyCallersAtOnceGetTheirOwnResults) {
  const Conv2dDesc d = Conv2dDesc::parse("n1c16h20w18k24r3s3ph1pw1");
  const Problem given(d, Data::integers, seed());
  for (const Device& device : devices()) {
    const Conv2dPlan plan(device, d, given.weights, given.bias, {.accuracy = Accuracy::strict});
    const Conv2dPlan other = plan.reshaped(2, 7, 9);
    std::atomic<int> wrong = 0;
    std::vector<std::thread> callers;
    for (int t = 0; t < 6; ++t)
      callers.emplace_back([&, t] {
        std::vector<float> src(given.src.size()), dst(d.dst_size()), small(other.desc().dst_size());
        std::ranges::transform(given.src, src.begin(), [t](float f) { return f * static_cast<float>(t + 1); });
        for (int i = 0; i < 8; ++i) {
          plan.run(src, dst);
          if (t % 2 == 0) other.run(std::span(src).first(other.desc().src_size()), small);
          for (std::size_t j = 0; j < dst.size(); ++j) {
            const double bias = given.bias.empty() ? 0 : given.bias[j / (20 * 18)];
            wrong += dst[j] != (given.sums[j] - bias) * (t + 1) + bias;
          }
        }
      });
    for (std::thread& t : callers) t.join();
    EXPECT_EQ(wrong, 0) << plan.kernel() << " on " << device.info().id;
  }
}

std::set<std::string> threads_of_this_process() {
  std::set<std::string> ids;
  std::error_code gone;  // a thread may end while it is listed
  for (std::filesystem::directory_iterator task("/proc/self/task", gone), end; !gone && task != end;
       task.increment(gone))
    ids.insert(task->path().filename().string());
  return ids;
}

TEST(PlanThreads, InsideAParallelRegionARunStaysOnItsThread) {
  const Conv2dDesc d = Conv2dDesc::parse("n4c16h20w18k24r3s3ph1pw1");
  const Problem given(d, Data::integers, seed());
  const Conv2dPlan plan(cpu(), d, given.weights, given.bias, {.accuracy = Accuracy::strict, .threads = 4});
  omp_set_max_active_levels(3);  // nested teams are allowed, so only convrt's restraint prevents them
  // Thread 0 watches for threads that were not there before while the others run: a nested team ends with its region,
  // and threads of an earlier, larger team may still be ending, so that counts before and after would not tell.
  constexpr int watcher = 0;
  std::set<std::string> started;
  std::atomic<int> done = 0;
  int wrong = 0, team = 0;
#pragma omp parallel num_threads(3) reduction(+ : wrong)
  {
    std::set<std::string> before;
    if (omp_get_thread_num() == watcher) {
      team = omp_get_num_threads();
      before = threads_of_this_process();
    }
#pragma omp barrier
    if (omp_get_thread_num() == watcher) {
      while (done < team - 1)
        for (const std::string& id : threads_of_this_process())
          if (!before.contains(id)) started.insert(id);
    } else {
      std::vector<float> dst(d.dst_size());
      for (int i = 0; i < 50; ++i) {
        plan.run(given.src, dst);
        for (std::size_t j = 0; j < dst.size(); ++j) wrong += dst[j] != given.sums[j];
      }
      ++done;
    }
  }
  omp_set_max_active_levels(1);
  EXPECT_EQ(team, 3);
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(started.empty()) << "runs inside a parallel region started " << started.size() << " threads of their own";
}

TEST(PlanThreads, CallersAtOnceShareTheCores) {
  cpu::ThreadBudget budget(8);
  EXPECT_EQ(budget.take(6), 6);
  EXPECT_EQ(budget.take(6), 2);  // what is left
  EXPECT_EQ(budget.take(6), 1);  // nothing is, but one thread is the caller's own
  budget.give_back(1);
  budget.give_back(6);
  EXPECT_EQ(budget.take(8), 6);
  budget.give_back(6);
  budget.give_back(2);
  EXPECT_EQ(budget.take(12), 12);  // alone, a caller may ask for more threads than cores
  budget.give_back(12);
  int inside = 0;
#pragma omp parallel num_threads(2)
#pragma omp single
  {
    inside = budget.take(8);
    budget.give_back(inside);
  }
  EXPECT_EQ(inside, 1);
}

TEST(PlanStats, TimesAreThoseOfTheRun) {
  const Conv2dDesc d = Conv2dDesc::parse("n1c32h32w32k32r3s3ph1pw1");
  const std::vector<float> weights(d.weights_size()), src(d.src_size());
  std::vector<float> dst(d.dst_size());
  for (const Device& device : devices()) {
    const Conv2dPlan plan(device, d, weights);
    const auto start = std::chrono::steady_clock::now();
    const RunStats stats = plan.run(src, dst);
    const double wall = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    EXPECT_GT(stats.device_ms, 0) << device.info().id;
    EXPECT_GE(stats.total_ms, stats.device_ms * 0.99) << device.info().id;
    EXPECT_LE(stats.total_ms, wall) << device.info().id;
  }
}

}  // namespace
}  // namespace convrt::test
