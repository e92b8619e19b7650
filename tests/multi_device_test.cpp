// MultiDevicePlan: any split gives the single device's result, shares follow speed, failures move the work.
#include "convrt/multi_device.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <thread>

#include "convrt/convrt.hpp"
#include "core/even_out.hpp"
#include "core/split.hpp"
#include "fake_backend.hpp"
#include "problem.hpp"

namespace {

using namespace std::chrono_literals;
using convrt::Conv2dDesc;
using convrt::Conv2dPlan;
using convrt::Device;
using convrt::Error;
using convrt::ErrorCode;
using convrt::MultiDevicePlan;
using convrt::core::Axis;
using convrt::core::Part;
using convrt::test::fake;
using convrt::test::FakeBackend;
using convrt::test::integers;

/// Integer-valued data, so every order of summation gives the same bits.
struct Data {
  Conv2dDesc desc;
  std::vector<float> weights, bias, src, before, expected;
  explicit Data(const Conv2dDesc& d)
      : desc(d),
        weights(integers(d.weights_size(), 1)),
        bias(integers(static_cast<std::size_t>(d.k), 4)),
        src(integers(d.src_size(), 2)),
        before(integers(d.dst_size(), 3)),
        expected(before) {
    Conv2dPlan(convrt::find_device("cpu"), d, weights, bias, {.kernel = "cpu.reference"}).run(src, expected);
  }
  explicit Data(const char* problem) : Data(Conv2dDesc::parse(problem)) {}
  std::vector<float> run(MultiDevicePlan& plan) const {
    std::vector<float> dst = before;
    plan.run(src, dst);
    return dst;
  }
};

std::vector<Device> devices(const std::vector<std::shared_ptr<FakeBackend>>& backends) {
  std::vector<Device> list;
  for (const auto& b : backends) list.push_back(b->device());
  return list;
}

/// Devices that differ in speed by their delays.
std::vector<std::shared_ptr<FakeBackend>> fakes(std::initializer_list<std::chrono::microseconds> delays) {
  std::vector<std::shared_ptr<FakeBackend>> list;
  for (const auto delay : delays) list.push_back(fake("fake:" + std::to_string(list.size()), {.delay = delay}));
  return list;
}

std::string first_difference(const std::vector<float>& a, const std::vector<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i])
      return "element " + std::to_string(i) + ": " + std::to_string(a[i]) + " != " + std::to_string(b[i]);
  return "";
}

TEST(Split, EveryCutOfEveryAxisPutsTheSameResultTogether) {
  std::mt19937 random(7);
  const auto upto = [&random](int most) { return 1 + static_cast<int>(random() % static_cast<unsigned>(most)); };
  int cuts = 0;
  for (int round = 0; round < 150; ++round) {
    Conv2dDesc d = {.n = upto(3), .c = upto(3), .h = upto(9), .w = upto(7), .k = upto(5), .r = upto(3), .s = upto(3)};
    d.stride_h = upto(3);
    d.stride_w = upto(2);
    d.dilation_h = upto(2);
    d.pad_top = upto(4) - 1;
    d.pad_bottom = upto(4) - 1;
    d.pad_left = 1;
    d.layout = random() % 2 == 0 ? convrt::Layout::nchw : convrt::Layout::nhwc;
    d.accumulate = random() % 3 == 0;
    if (round % 4 == 0) d.groups = d.c = d.k = upto(3);
    try {
      d.validate();
    } catch (const Error&) {
      continue;
    }
    const Data data(d);
    for (const Axis axis : {Axis::n, Axis::k, Axis::p}) {
      if (!convrt::core::can_split(d, axis)) continue;
      std::vector<double> rates(static_cast<std::size_t>(upto(4)));
      for (double& r : rates) r = upto(5) - 1;
      rates[0] = 1;
      const Part whole = {axis, 0, convrt::core::axis_size(d, axis)};
      std::vector<float> dst = data.before;
      int at = 0;
      for (const Part& part : convrt::core::cut(whole, rates)) {
        ASSERT_EQ(part.begin, at);
        at = part.end;
        if (part.size() == 0) continue;
        ++cuts;
        const Conv2dDesc sub = convrt::core::part_desc(d, part);
        const auto from = convrt::core::src_box(d, part), to = convrt::core::dst_box(d, part);
        ASSERT_EQ(from.size(), sub.src_size()) << d.str() << " -> " << sub.str();
        ASSERT_EQ(to.size(), sub.dst_size()) << d.str() << " -> " << sub.str();
        std::vector<float> in, out;
        for (std::size_t b = 0; b < from.blocks; ++b)
          for (std::size_t i = 0; i < from.length; ++i) in.push_back(data.src[from.offset + b * from.stride + i]);
        for (std::size_t b = 0; b < to.blocks; ++b)
          for (std::size_t i = 0; i < to.length; ++i) out.push_back(dst[to.offset + b * to.stride + i]);
        std::span<const float> weights = data.weights, bias = data.bias;
        if (axis == Axis::k) {
          weights = weights.subspan(
              data.weights.size() / static_cast<std::size_t>(d.k) * static_cast<std::size_t>(part.begin),
              sub.weights_size());
          bias = bias.subspan(static_cast<std::size_t>(part.begin), static_cast<std::size_t>(sub.k));
        }
        Conv2dPlan(convrt::find_device("cpu"), sub, weights, bias, {.kernel = "cpu.reference"}).run(in, out);
        for (std::size_t b = 0; b < to.blocks; ++b)
          for (std::size_t i = 0; i < to.length; ++i) dst[to.offset + b * to.stride + i] = out[b * to.length + i];
      }
      ASSERT_EQ(at, whole.end) << "something was left to nobody";
      ASSERT_EQ(first_difference(dst, data.expected), "") << d.str() << " axis " << static_cast<int>(axis);
    }
  }
  EXPECT_GT(cuts, 300) << "too few of the random problems were valid";
}

TEST(Split, SharesFollowRates) {
  const std::vector<double> rates = {3, 0, 1};
  const auto parts = convrt::core::cut({Axis::n, 0, 40}, rates);
  EXPECT_EQ(parts[0].size(), 30);
  EXPECT_EQ(parts[1].size(), 0);
  EXPECT_EQ(parts[2].size(), 10);
  EXPECT_EQ(convrt::core::makespan(parts, rates), 10);
  EXPECT_EQ(convrt::core::cut({Axis::k, 0, 256}, std::vector<double>{1.03, 1})[0].size() % 8, 0) << "whole tiles";
}

TEST(Split, DevicesOfOneProductAreEqualWithinTheNoise) {
  std::vector<double> rates = {100, 93, 140, 30, 99, 98};
  const std::vector<std::size_t> products = {7, 7, 7, 7, 8, 0};
  convrt::core::even_out(rates, products);
  EXPECT_EQ(rates, (std::vector<double>{100, 100, 100, 30, 99, 98}));
}

TEST(MultiDevice, EqualsTheSingleDeviceOnEveryAxis) {
  const auto backends = fakes({0us, 0us, 0us});
  for (const char* problem :
       {"n9c3h7w8k4r3s3ph1pw1+relu", "n1c3h9w8k24r3s3ph1pw1", "n1c3h9w8k24r3s3ph1pw1+nhwc+acc",
        "n1c6h31w8k6r3s3sh2ph1pw1g6", "n1c6h31w8k6r3s3pt2pb1g3+nhwc", "n2c4h17w5k6r5s3dh2ph4g2+acc+relu",
        "n1c1h1w1k1r1s1", "n3c2h1w1k2r1s1", "n0c3h7w8k4r3s3"}) {
    const Data data(problem);
    MultiDevicePlan plan(devices(backends), data.desc, data.weights, data.bias);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(first_difference(data.run(plan), data.expected), "") << problem;
  }
}

TEST(MultiDevice, RealDevicesTogether) {
  std::vector<Device> list = convrt::devices();
  const auto extra = fakes({0us});
  list.push_back(extra[0]->device());
  const Data data("n8c8h14w14k16r3s3ph1pw1+relu");
  MultiDevicePlan plan(list, data.desc, data.weights, data.bias, {.accuracy = convrt::Accuracy::strict});
  EXPECT_EQ(first_difference(data.run(plan), data.expected), "");
}

double fraction(const MultiDevicePlan& plan, std::size_t device) { return plan.shares()[device].fraction; }

TEST(MultiDevice, SharesAdaptToMeasuredSpeed) {
  // Time in proportion to the images: the delay is per run, so it is put into the kernel by counting images.
  std::atomic<int> slowness = 1;
  const auto paced = [&](std::string id, bool adapts) {
    return fake(std::move(id), {.after_run = [&slowness, adapts](std::span<float> dst) {
                  const auto images = static_cast<int>(dst.size() / (2 * 6 * 6));
                  std::this_thread::sleep_for(images * (adapts ? slowness.load() : 1) * 300us);
                }});
  };
  const Data data("n24c2h6w6k2r1s1");
  const std::vector<std::shared_ptr<FakeBackend>> backends = {paced("fake:0", false), paced("fake:1", true)};
  MultiDevicePlan plan(devices(backends), data.desc, data.weights, data.bias);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(first_difference(data.run(plan), data.expected), "");
  EXPECT_NEAR(fraction(plan, 0), 0.5, 0.2);
  slowness = 5;
  for (int i = 0; i < 12; ++i) EXPECT_EQ(first_difference(data.run(plan), data.expected), "");
  EXPECT_GT(fraction(plan, 0), 0.7);
  EXPECT_GT(fraction(plan, 1), 0);
  EXPECT_NEAR(fraction(plan, 0) + fraction(plan, 1), 1, 1e-12);
  EXPECT_GT(plan.shares()[0].gflops, plan.shares()[1].gflops);
}

TEST(MultiDevice, ACpuThatAddsLittleGetsNoShare) {
  const auto cpu = fake("cpu", {.delay = 30ms}), gpu = fake("fake:0", {});
  const Data data("n16c2h6w6k2r1s1");
  MultiDevicePlan plan({cpu->device(), gpu->device()}, data.desc, data.weights, data.bias);
  EXPECT_EQ(first_difference(data.run(plan), data.expected), "");
  EXPECT_EQ(fraction(plan, 0), 0);
  EXPECT_EQ(fraction(plan, 1), 1);
}

// A device with memory of its own gets a large batch in pieces, the last of which ends with the last image.
TEST(MultiDevice, LargeBatchesAreStreamedAndExact) {
  const Data data("n37c16h56w56k16r3s3ph1pw1+relu");  // 0.4 MB an image: pieces of eleven
  const auto good = std::make_shared<std::atomic<int>>(1 << 30);
  const auto apart = std::make_shared<FakeBackend>(
      "fake:0",
      std::vector<convrt::test::FakeKernel>{{.name = "fake.streamed",
                                             .before_run =
                                                 [good](int) {
                                                   if (--*good < 0) throw Error(ErrorCode::device_lost, "gone");
                                                 }}},
      false);
  const auto steady = fake("fake:1");
  MultiDevicePlan alone({apart->device()}, data.desc, data.weights, data.bias),
      both({apart->device(), steady->device()}, data.desc, data.weights, data.bias);
  const int before = apart->runs();
  for (int i = 0; i < 2; ++i) EXPECT_EQ(first_difference(data.run(alone), data.expected), "");
  EXPECT_EQ(apart->runs() - before, 2 * 4);
  EXPECT_EQ(first_difference(data.run(both), data.expected), "");
  *good = 0;
  EXPECT_EQ(first_difference(data.run(both), data.expected), "");
  EXPECT_EQ(fraction(both, 0), 0);
  *good = 1;  // the second piece fails, while others are under way
  std::vector<float> dst = data.before;
  EXPECT_THROW(alone.run(data.src, dst), Error);
}

// One image tells little of a device that takes long to start.
TEST(MultiDevice, RatesAreThoseOfManyImages) {
  const auto paced = [](std::string id, std::chrono::microseconds start, std::chrono::microseconds image) {
    return fake(std::move(id), {.after_run = [start, image](std::span<float> dst) {
                  std::this_thread::sleep_for(start + static_cast<int>(dst.size() / (2 * 6 * 6)) * image);
                }});
  };
  const auto cpu = paced("cpu", 0us, 1500us), gpu = paced("fake:0", 1000us, 20us);
  const Data data("n200c2h6w6k2r1s1");
  MultiDevicePlan plan({cpu->device(), gpu->device()}, data.desc, data.weights, data.bias);
  EXPECT_EQ(plan.allocate_src().images(), (std::vector<int>{0, 200}));
}

// Its rate promises a gain that the whole does not show: while it computes, the other device stands still.
TEST(MultiDevice, ACpuThatIsInTheWayIsLeftOut) {
  std::mutex bus;
  std::atomic<bool> shared = false;
  const auto paced = [&](std::string id) {
    return fake(std::move(id), {.after_run = [&](std::span<float> dst) {
                  std::unique_lock lock(bus, std::defer_lock);
                  if (shared) lock.lock();
                  std::this_thread::sleep_for(static_cast<int>(dst.size() / (2 * 6 * 6)) * 500us);
                }});
  };
  const auto cpu = fake("cpu", {.after_run = [&](std::span<float> dst) {
                          std::unique_lock lock(bus, std::defer_lock);
                          if (shared) lock.lock();
                          std::this_thread::sleep_for(static_cast<int>(dst.size() / (2 * 6 * 6)) * 1000us);
                        }});
  const auto gpu = paced("fake:0");
  const Data data("n24c2h6w6k2r1s1");
  MultiDevicePlan plan({cpu->device(), gpu->device()}, data.desc, data.weights, data.bias);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(first_difference(data.run(plan), data.expected), "");
  EXPECT_GT(fraction(plan, 0), 0.1);
  shared = true;
  MultiDevicePlan crowded({cpu->device(), gpu->device()}, data.desc, data.weights, data.bias);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(first_difference(data.run(crowded), data.expected), "");
  EXPECT_EQ(fraction(crowded, 0), 0);
}

// Each is as fast as the other, but the host serves one at a time, and slower when both ask.
TEST(MultiDevice, WhereDevicesAreInEachOthersWayTheFastestWorksAlone) {
  for (const bool crowded : {true, false}) {
    const auto users = std::make_shared<std::atomic<int>>(0);
    const auto device = [&](std::string id) {
      return std::make_shared<FakeBackend>(
          std::move(id),
          std::vector<convrt::test::FakeKernel>{{.name = "fake.bus",
                                                 .after_run =
                                                     [users, crowded](std::span<float> dst) {
                                                       const int images = static_cast<int>(dst.size() / (2 * 6 * 6));
                                                       const bool others = ++*users > 1;
                                                       std::this_thread::sleep_for(images * 800us);
                                                       if (crowded && (others || *users > 1))
                                                         std::this_thread::sleep_for(images * 1600us);
                                                       --*users;
                                                     }}},
          false);
    };
    const auto a = device("fake:0"), b = device("fake:1");
    const Data data("n24c2h6w6k2r1s1");
    MultiDevicePlan plan({a->device(), b->device()}, data.desc, data.weights, data.bias);
    for (int i = 0; i < 8; ++i) EXPECT_EQ(first_difference(data.run(plan), data.expected), "");
    EXPECT_EQ(std::max(fraction(plan, 0), fraction(plan, 1)) == 1, crowded);
  }
}

TEST(MultiDevice, AFailedDeviceDropsOutAndOthersDoItsPart) {
  for (const char* problem :
       {"n12c3h7w8k4r3s3ph1pw1", "n1c3h9w8k24r3s3ph1pw1+acc", "n1c6h31w8k6r3s3ph1pw1g6+nhwc+acc"}) {
    const auto steady = fake("fake:0");
    // Calibrated, one good run, then the device is gone, having written rubbish.
    const auto good = std::make_shared<std::atomic<int>>(1 << 30);
    const auto dying = fake("fake:1", {.after_run = [good](std::span<float> dst) {
                              if (--*good >= 0) return;
                              std::fill(dst.begin(), dst.end(), -99.0F);
                              throw Error(ErrorCode::device_lost, "fell off the bus");
                            }});
    std::string said;
    convrt::set_log(convrt::LogLevel::warning, [&](convrt::LogLevel, std::string_view text) { said = text; });
    const Data data(problem);
    MultiDevicePlan plan({steady->device(), dying->device()}, data.desc, data.weights, data.bias);
    *good = 1;
    for (int i = 0; i < 4; ++i) EXPECT_EQ(first_difference(data.run(plan), data.expected), "") << problem;
    convrt::set_log(convrt::LogLevel::off, {});
    EXPECT_NE(said.find("fake:1 drops out"), std::string::npos) << said;
    EXPECT_NE(said.find("fell off the bus"), std::string::npos) << said;
    EXPECT_EQ(fraction(plan, 0), 1);
    EXPECT_EQ(fraction(plan, 1), 0);
    const int before = dying->runs();
    data.run(plan);
    EXPECT_EQ(dying->runs(), before);
  }
}

TEST(MultiDevice, WhenAllAreGoneTheErrorSaysSo) {
  const auto gone = std::make_shared<std::atomic<bool>>(false);
  const auto a = fake("fake:0", {.before_run =
                                     [gone](int) {
                                       if (*gone) throw Error(ErrorCode::device_lost, "gone");
                                     }}),
             broken = fake("fake:1", {.on_prepare = [] { throw Error(ErrorCode::compile_failed, "line 3"); }});
  const Data data("n12c3h7w8k4r3s3ph1pw1");
  MultiDevicePlan plan({a->device(), broken->device()}, data.desc, data.weights, data.bias);
  *gone = true;
  for (int i = 0; i < 2; ++i) {
    std::vector<float> dst = data.before;
    try {
      plan.run(data.src, dst);
      ADD_FAILURE() << "no device is left, but the run succeeded";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::device_lost) << e.what();
    }
  }
  EXPECT_THROW(MultiDevicePlan({broken->device()}, data.desc, data.weights, data.bias), Error);
}

TEST(MultiDevice, BadArgumentsAreNamed) {
  const auto a = fake("fake:0");
  const Data data("n2c3h7w8k4r3s3");
  const auto code = [](const auto& action) {
    try {
      action();
    } catch (const Error& e) {
      return e.code();
    }
    return ErrorCode::internal;
  };
  const auto make = [&](const std::vector<Device>& list, const convrt::PlanOptions& options = {}) {
    return code([&] { MultiDevicePlan(list, data.desc, data.weights, data.bias, options); });
  };
  EXPECT_EQ(make({}), ErrorCode::invalid_argument);
  EXPECT_EQ(make({a->device(), a->device()}), ErrorCode::invalid_argument);
  EXPECT_EQ(make({a->device()}, {.kernel = "cpu.gemm"}), ErrorCode::invalid_argument);
  EXPECT_EQ(make({a->device(), convrt::find_device("cpu")}, {.kernel = "cpu.nothing"}), ErrorCode::invalid_argument);
  EXPECT_EQ(code([&] { MultiDevicePlan({a->device()}, data.desc, data.src); }), ErrorCode::invalid_argument);
  MultiDevicePlan plan({a->device()}, data.desc, data.weights);
  std::vector<float> dst(3);
  EXPECT_EQ(code([&] { plan.run(data.src, dst); }), ErrorCode::invalid_argument);
}

// Two layers on tensors that stay where they are, three times.
void check_chain(const std::vector<Device>& list, int least_used) {
  const Data first("n13c3h7w8k4r3s3ph1pw1"), second("n13c4h7w8k5r3s3ph1pw1");
  std::vector<float> expected(second.desc.dst_size());
  Conv2dPlan(convrt::find_device("cpu"), second.desc, second.weights, second.bias, {.kernel = "cpu.reference"})
      .run(first.expected, expected);
  const convrt::PlanOptions strict = {.accuracy = convrt::Accuracy::strict};
  MultiDevicePlan one(list, first.desc, first.weights, first.bias, strict),
      two(list, second.desc, second.weights, second.bias, strict);
  convrt::MultiBuffer a = one.allocate_src(), b = one.allocate_dst(a), c = two.allocate_dst(b);
  const std::vector<int> images = a.images();
  EXPECT_EQ(std::accumulate(images.begin(), images.end(), 0), 13);
  EXPECT_GE(std::count_if(images.begin(), images.end(), [](int n) { return n > 0; }), least_used);
  EXPECT_EQ(b.images(), images);
  EXPECT_EQ(c.size(), expected.size());
  for (int round = 0; round < 3; ++round) {
    std::vector<float> found(expected.size());
    a.upload(first.src);
    one.enqueue(a, b);
    two.enqueue(b, c);
    two.synchronize();
    c.download(found);
    EXPECT_EQ(first_difference(found, expected), "");
    a.upload(std::vector<float>(a.size()));
  }
}

TEST(MultiBuffer, ChainsStayOnTheirDevicesAndAreExact) {
  check_chain(devices(fakes({1000us, 3000us, 1000us})), 2);
  check_chain(convrt::devices(), 1);
}

TEST(MultiBuffer, AFailureAppearsAndBadArgumentsAreNamed) {
  const auto good = std::make_shared<std::atomic<int>>(1 << 30);
  const auto steady = fake("fake:0"), dying = fake("fake:1", {.before_run = [good](int) {
                                                     if (--*good < 0) throw Error(ErrorCode::device_lost, "gone");
                                                   }});
  const Data data("n12c3h7w8k4r3s3ph1pw1");
  MultiDevicePlan plan({steady->device(), dying->device()}, data.desc, data.weights, data.bias),
      other({steady->device()}, data.desc, data.weights, data.bias);
  *good = 1;
  convrt::MultiBuffer src = plan.allocate_src(), dst = plan.allocate_dst(src), elsewhere = other.allocate_src();
  src.upload(data.src);
  std::vector<float> found(dst.size());
  const auto code = [](const auto& action) {
    try {
      action();
    } catch (const Error& e) {
      return e.code();
    }
    return ErrorCode::internal;
  };
  EXPECT_EQ(code([&] {
              for (int i = 0; i < 4; ++i) plan.enqueue(src, dst);
              plan.synchronize();
            }),
            ErrorCode::device_lost);
  EXPECT_EQ(code([&] { plan.enqueue(elsewhere, dst); }), ErrorCode::invalid_argument);
  EXPECT_EQ(code([&] { plan.enqueue(src, src); }), ErrorCode::invalid_argument);
  EXPECT_EQ(code([&] { plan.allocate_dst(elsewhere); }), ErrorCode::invalid_argument);
  EXPECT_EQ(code([&] { src.upload(found); }), ErrorCode::invalid_argument);
  EXPECT_EQ(code([&] { dst.download(std::span(found).first(1)); }), ErrorCode::invalid_argument);
  EXPECT_EQ(convrt::MultiBuffer().size(), 0U);
}

TEST(MultiDeviceStress, ManySubmittersFailuresAndDestruction) {
  for (int round = 0; round < 12; ++round) {
    const auto steady = fake("fake:0"), second = fake("fake:1"),
               dying = fake("fake:2", {.before_run = [round](int run) {
                              if (run >= 3 + round) throw Error(ErrorCode::device_lost, "gone");
                            }});
    const Data data("n12c3h7w8k4r3s3ph1pw1");
    std::vector<std::vector<float>> dst(12, data.before);
    std::vector<convrt::Ticket> tickets;
    std::mutex mutex;
    {
      MultiDevicePlan plan({steady->device(), dying->device(), second->device()}, data.desc, data.weights, data.bias);
      std::vector<std::jthread> submitters;
      for (std::size_t t = 0; t < 3; ++t)
        submitters.emplace_back([&, t] {
          for (std::size_t i = 0; i < 4; ++i) {
            convrt::Ticket ticket = plan.submit(data.src, dst[4 * t + i]);
            (void)plan.shares();
            const std::scoped_lock lock(mutex);
            tickets.push_back(std::move(ticket));
          }
        });
      submitters.clear();
      if (round % 2 == 0) tickets[5].wait();
    }
    for (const convrt::Ticket& ticket : tickets) {
      ASSERT_TRUE(ticket.done());
      try {
        ticket.wait();
        const auto found = ticket.dst();
        ASSERT_EQ(first_difference({found.begin(), found.end()}, data.expected), "");
      } catch (const Error& e) {
        ASSERT_EQ(e.code(), ErrorCode::cancelled) << e.what();
      }
    }
  }
}

}  // namespace
