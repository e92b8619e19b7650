// The GL runtime on whatever driver this machine has (llvmpipe in CI): buffers, chains, caches, faults.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <random>
#include <thread>

#include "convrt/convrt.hpp"
#include "core/access.hpp"
#include "gl/gl_backend.hpp"

namespace {

using convrt::Conv2dDesc;
using convrt::Conv2dPlan;
using convrt::Device;
using convrt::Error;
using convrt::ErrorCode;

// Small integers: sums are exact in any order, so results compare bit for bit.
std::vector<float> integers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> value(-4, 4);
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return static_cast<float>(value(random)); });
  return values;
}

std::vector<float> oracle(const Conv2dDesc& desc, const std::vector<float>& weights, const std::vector<float>& bias,
                          const std::vector<float>& src, std::vector<float> dst = {}) {
  dst.resize(desc.dst_size());
  Conv2dPlan(convrt::find_device("cpu"), desc, weights, bias, {.kernel = "cpu.reference"}).run(src, dst);
  return dst;
}

class GlBackend : public testing::Test {
 protected:
  static const Device* device() {
    static const std::vector<Device> all = convrt::devices();
    for (const Device& d : all)
      if (d.info().id.starts_with("gl:")) return &d;
    return nullptr;
  }
  void SetUp() override {
    if (device() == nullptr) GTEST_SKIP() << "no GL device here (CONVRT_VERBOSE=info says why)";
  }
};

TEST_F(GlBackend, BuffersKeepWhatWasUploaded) {
  // Sizes around the vec4 tail and the 8 MiB staging block.
  for (const std::size_t size : {1U, 3U, 4U, 5U, 1023U, (2U << 20) - 1U, (2U << 20) + 1U, (7U << 20) + 3U}) {
    convrt::Buffer buffer = device()->allocate(size);
    std::vector<float> in(size), out(size, -1);
    std::iota(in.begin(), in.end(), static_cast<float>(size));
    buffer.upload(in);
    buffer.download(out);
    EXPECT_EQ(in, out) << size;
  }
}

TEST_F(GlBackend, RunMatchesTheOracle) {
  for (const char* problem : {"n2c5h9w7k6r3s3ph1pw1", "n1c8h6w6k4r1s1g2+nhwc+relu", "n3c4h11w5k4r3s2sh2sw3g4"}) {
    Conv2dDesc desc = Conv2dDesc::parse(problem);
    const auto weights = integers(desc.weights_size(), 1), src = integers(desc.src_size(), 2),
               bias = integers(desc.k, 3);
    const Conv2dPlan plan(*device(), desc, weights, bias);
    std::vector<float> dst(desc.dst_size(), NAN);
    const convrt::RunStats stats = plan.run(src, dst);
    EXPECT_EQ(dst, oracle(desc, weights, bias, src)) << problem << ' ' << plan.kernel();
    EXPECT_GT(stats.total_ms, 0);
    EXPECT_GT(stats.device_ms, 0);
    EXPECT_LE(stats.device_ms, stats.total_ms);
  }
}

}  // namespace
