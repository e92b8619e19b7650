// Runs under mpirun with any number of ranks: every rank runs every test, in step.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "convrt/mpi.hpp"

namespace convrt::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

int world_size() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

std::vector<float> numbers(std::size_t count, unsigned seed) {
  std::vector<float> values(count);
  for (float& v : values) {
    seed = seed * 1664525U + 1013904223U;
    v = static_cast<float>(seed >> 8) / 8388608.0F - 1.0F;
  }
  return values;
}

// On rank 0 alone, as the plan wants it.
std::vector<float> root_only(std::vector<float> values) {
  return world_rank() == 0 ? std::move(values) : std::vector<float>();
}

DistributedOptions quick() {
  DistributedOptions options;
  options.plan.threads = 1;
  options.timeout = 20s;
  return options;
}

struct Data {
  explicit Data(const Conv2dDesc& desc, bool with_bias = true)
      : weights(numbers(desc.weights_size(), 1)),
        bias(with_bias ? numbers(static_cast<std::size_t>(desc.k), 2) : std::vector<float>()),
        src(numbers(desc.src_size(), 3)),
        dst(numbers(desc.dst_size(), 4)) {}
  std::vector<float> weights, bias, src, dst;

  DistributedPlan plan(const Conv2dDesc& desc, const DistributedOptions& options = quick()) const {
    return DistributedPlan(MPI_COMM_WORLD, find_device("cpu"), desc, root_only(weights), root_only(bias), options);
  }
};

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

// run and run_local against one process, twice each: a plan keeps nothing of a run.
void expect_same_bits(const Conv2dDesc& desc, const DistributedOptions& options = quick(), bool with_bias = true) {
  SCOPED_TRACE(desc.str());
  const Data data(desc, with_bias);
  DistributedPlan plan = data.plan(desc, options);
  const Conv2dPlan alone(find_device("cpu"), desc, data.weights, data.bias, {.kernel = plan.kernel(), .threads = 1});
  std::vector<float> expected = data.dst;
  alone.run(data.src, expected);

  int images = 0, before = 0;
  for (int r = 0; r < plan.ranks(); ++r) {
    if (r < plan.rank()) before += plan.images()[static_cast<std::size_t>(r)];
    images += plan.images()[static_cast<std::size_t>(r)];
  }
  EXPECT_EQ(images, desc.n);
  const Conv2dDesc local = plan.local_desc();
  const std::size_t image_src = desc.src_size() / static_cast<std::size_t>(desc.n),
                    image_dst = desc.dst_size() / static_cast<std::size_t>(desc.n);
  for (int turn = 0; turn < 2; ++turn) {
    const std::vector<float> src = root_only(data.src);
    std::vector<float> dst = root_only(data.dst);
    plan.run(src, dst);
    EXPECT_TRUE(same_bits(dst, root_only(expected)));

    std::vector<float> mine(
        data.dst.begin() + static_cast<std::ptrdiff_t>(image_dst * static_cast<std::size_t>(before)),
        data.dst.begin() + static_cast<std::ptrdiff_t>(image_dst * static_cast<std::size_t>(before + local.n)));
    plan.run_local(std::span(data.src).subspan(image_src * static_cast<std::size_t>(before), local.src_size()), mine);
    EXPECT_TRUE(
        same_bits(mine, std::span(expected).subspan(image_dst * static_cast<std::size_t>(before), mine.size())));
  }
}

// Every rank throws `code`, and what it says contains `words`.
void expect_error(ErrorCode code, const std::string& words, const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "rank " << world_rank() << ": no error, expected " << to_string(code) << ": " << words;
  } catch (const Error& e) {
    EXPECT_STREQ(to_string(e.code()), to_string(code)) << e.what();
    EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
  }
}

TEST(Distributed, EqualsOneProcessBitForBit) {
  for (const char* problem :
       {"n7c8h14w13k16r3s3ph1pw1", "n7c8h14w13k16r3s3ph1pw1+nhwc+relu", "n9c16h10w10k24r1s1+acc+silu",
        "n5c16h12w12k16r3s3ph1pw1g16+nhwc+acc", "n6c3h23w21k8r7s7sh2sw2ph3pw3+relu"})
    expect_same_bits(Conv2dDesc::parse(problem));
  expect_same_bits(Conv2dDesc::parse("n7c8h14w13k16r3s3ph1pw1"), quick(), false);
}

TEST(Distributed, FewerImagesThanRanks) { expect_same_bits(Conv2dDesc::parse("n1c8h9w9k8r3s3ph1pw1+acc")); }

TEST(Distributed, NoImagesAreAnEmptySuccess) {
  const Conv2dDesc desc = Conv2dDesc::parse("n0c8h9w9k8r3s3");
  DistributedPlan plan = Data(desc).plan(desc);
  plan.run();
  plan.run_local({}, {});
}

TEST(Distributed, UnequalSharesAsGiven) {
  const Conv2dDesc desc = Conv2dDesc::parse("n17c8h9w9k8r3s3ph1pw1+nhwc+gelu");
  DistributedOptions options = quick();
  options.share =
      world_rank() == 0 && world_size() > 1 ? 0.0 : world_rank() + 0.5;  // rank 0 deals out and does nothing else
  expect_same_bits(desc, options);
  if (world_size() < 2) return;
  const std::vector<int> images = Data(desc).plan(desc, options).images();
  EXPECT_EQ(images[0], 0);
  EXPECT_GE(images.back(), images[1]);
  EXPECT_EQ(images.back() > images[1], world_size() > 2);
}

TEST(Distributed, LaterRanksMayHaveNothingToDo) {
  DistributedOptions options = quick();
  options.share = world_rank() == 0 ? 1.0 : 0.0;
  expect_same_bits(Conv2dDesc::parse("n3c8h9w9k8r3s3"), options);
}

TEST(Distributed, RankZerosKernelIsEverybodys) {
  const Conv2dDesc desc = Conv2dDesc::parse("n4c8h9w9k8r3s3");
  DistributedOptions options = quick();
  if (world_rank() == 0) options.plan.kernel = "cpu.reference";
  EXPECT_EQ(Data(desc).plan(desc, options).kernel(), "cpu.reference");
}

TEST(Distributed, AMovedPlanWorksOn) {
  const Conv2dDesc desc = Conv2dDesc::parse("n4c8h9w9k8r3s3");
  const Data data(desc);
  DistributedPlan first = data.plan(desc), second = std::move(first);
  first = data.plan(desc);
  second = std::move(first);
  std::vector<float> dst = root_only(data.dst);
  second.run(root_only(data.src), dst);
}

TEST(Distributed, WrongArgumentsAreErrorsOnEveryRankAndLeaveThePlanUsable) {
  const Conv2dDesc desc = Conv2dDesc::parse("n4c8h9w9k8r3s3");
  const Data data(desc);
  DistributedPlan plan = data.plan(desc);
  const int last = world_size() - 1;
  std::vector<float> dst = root_only(data.dst), none, some(3);
  const std::vector<float> src = root_only(data.src);

  expect_error(ErrorCode::invalid_argument, "floats on rank 0, found 3", [&] {
    if (world_rank() == 0)
      plan.run(some, dst);
    else
      plan.run();
  });
  expect_error(ErrorCode::invalid_argument, "rank " + std::to_string(last), [&] {
    if (world_rank() == last)
      plan.run(some, some);
    else
      plan.run(src, dst);
  });
  expect_error(ErrorCode::invalid_argument, "local_desc() has the sizes", [&] { plan.run_local(some, none); });
  plan.run(src, dst);

  Data short_weights = data;
  short_weights.weights.pop_back();
  expect_error(ErrorCode::invalid_argument, "weights", [&] { short_weights.plan(desc); });
  expect_error(ErrorCode::invalid_argument, "MPI_COMM_NULL",
               [&] { DistributedPlan(MPI_COMM_NULL, find_device("cpu"), desc, data.weights); });
  DistributedOptions options = quick();
  options.plan.kernel = "cpu.nonsense";
  expect_error(ErrorCode::invalid_argument, "cpu.nonsense", [&] { data.plan(desc, options); });
  options = quick();
  options.share = 0.0;
  expect_error(ErrorCode::invalid_argument, "0 on every rank", [&] { data.plan(desc, options); });
  options.share = world_rank() == last ? -1.0 : 1.0;
  expect_error(ErrorCode::invalid_argument, "at least 0, found -1", [&] { data.plan(desc, options); });
  options = quick();
  options.timeout = 0ms;
  expect_error(ErrorCode::invalid_argument, "timeout", [&] { data.plan(desc, options); });

  if (world_size() < 2) return;
  options = quick();
  if (world_rank() == 0) options.share = 1.0;
  expect_error(ErrorCode::invalid_argument, "by every rank or by none", [&] { data.plan(desc, options); });
  Conv2dDesc other = desc;
  if (world_rank() == last) other.n = 5;
  expect_error(ErrorCode::invalid_argument, "descriptor of rank 0", [&] { data.plan(other); });
  expect_error(ErrorCode::invalid_argument, "on rank 0 alone",
               [&] { DistributedPlan(MPI_COMM_WORLD, find_device("cpu"), desc, data.weights, {}, quick()); });
}

TEST(Distributed, LocalDeviceIsOneOfTheDevices) {
  const Device device = local_device(MPI_COMM_WORLD);
  EXPECT_FALSE(device.info().software);
  EXPECT_EQ(find_device(device.info().id).info().name, device.info().name);
}

// Last: the communicator is of no use after it.
TEST(DistributedFault, ASilentRankIsATimeoutOnTheOthers) {
  if (world_size() < 2) GTEST_SKIP() << "needs two ranks";
  const Conv2dDesc desc = Conv2dDesc::parse("n8c8h9w9k8r3s3");
  const Data data(desc);
  DistributedOptions options = quick();
  options.timeout = 2s;
  DistributedPlan plan = data.plan(desc, options);
  const std::vector<float> src = root_only(data.src);
  std::vector<float> dst = root_only(data.dst);
  plan.run(src, dst);
  if (world_rank() == world_size() - 1) {
    std::this_thread::sleep_for(8s);
    return;
  }
  const auto start = Clock::now();
  expect_error(ErrorCode::timeout, "2000 ms", [&] { plan.run(src, dst); });
  const auto waited = Clock::now() - start;
  EXPECT_GE(waited, 2s);
  EXPECT_LT(waited, 6s);
  expect_error(ErrorCode::timeout, "2000 ms", [&] { plan.run(src, dst); });  // at once, and again
  EXPECT_LT(Clock::now() - start, 6s);
}

// Not a gtest: a rank is killed in the middle of a series of runs. Prints what the others get to see.
int killed_rank() {
  const Conv2dDesc desc = Conv2dDesc::parse("n8c8h9w9k8r3s3");
  const Data data(desc);
  DistributedOptions options = quick();
  options.timeout = 3s;
  DistributedPlan plan = data.plan(desc, options);
  const std::vector<float> src = root_only(data.src);
  std::vector<float> dst = root_only(data.dst);
  for (int i = 0; i < 3; ++i) plan.run(src, dst);
  if (world_rank() == world_size() - 1) std::raise(SIGKILL);
  const auto start = Clock::now();
  try {
    for (int i = 0; i < 3; ++i) plan.run(src, dst);  // the first may have gone out before the death
    std::printf("rank %d saw no error\n", world_rank());
  } catch (const Error& e) {
    const bool in_time = Clock::now() - start < 3 * options.timeout + 2s;
    std::printf("rank %d %s: %s: %s\n", world_rank(), in_time ? "got its error in time" : "got its error late",
                to_string(e.code()), e.what());
  }
  std::fflush(stdout);
  std::this_thread::sleep_for(5s);  // so that the others' waits end by themselves
  std::_Exit(0);                    // MPI_Finalize would wait for the dead
}

}  // namespace
}  // namespace convrt::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  try {
    const convrt::Conv2dDesc desc = convrt::Conv2dDesc::parse("n1c1h3w3k1r2s2");
    const std::vector<float> weights(4);
    convrt::DistributedPlan(MPI_COMM_WORLD, convrt::find_device("cpu"), desc, weights);
    std::fputs("no error without MPI_Init\n", stderr);
    return 1;
  } catch (const convrt::Error& e) {
    if (std::strstr(e.what(), "call MPI_Init first") == nullptr) return 1;
  }
  MPI_Init(&argc, &argv);
  if (argc > 1 && std::strcmp(argv[1], "--killed-rank") == 0) return convrt::test::killed_rank();
  const int result = RUN_ALL_TESTS();
  MPI_Finalize();
  return result;
}
