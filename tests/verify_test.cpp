// core/verify: accepts what is within the documented bound, and nothing else.
#include "core/verify.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "convrt/convrt.hpp"

namespace {

using convrt::Conv2dDesc;
using convrt::core::verify;
using convrt::core::VerifyResult;

struct Case {
  Conv2dDesc desc;
  std::vector<float> weights, bias, src, before, dst;

  explicit Case(const char* problem, unsigned seed = 1) : desc(Conv2dDesc::parse(problem)) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-1, 1);
    const auto fill = [&](std::vector<float>& v, std::size_t size) {
      v.resize(size);
      for (float& x : v) x = uniform(random);
    };
    fill(weights, desc.weights_size());
    fill(bias, static_cast<std::size_t>(desc.k));
    fill(src, desc.src_size());
    fill(before, desc.dst_size());
    dst = before;
    convrt::Conv2dPlan(convrt::find_device("cpu"), desc, weights, bias, {.kernel = "cpu.reference"}).run(src, dst);
  }
  VerifyResult check(std::size_t samples = 0, const char* kernel = "cpu.gemm.avx2.6x2") const {
    return verify({desc, kernel, weights, bias, src, before}, dst, samples);
  }
};

constexpr const char* kProblems[] = {"n2c3h9w11k5r3s3ph1pw1",        "n1c6h7w8k4r3s2sh2dw2pt2pr1g2+nhwc+acc+gelu",
                                     "n3c4h5w5k8r1s1g4+acc+relu",    "n1c8h12w12k8r5s5ph2pw2+silu",
                                     "n1c5h6w6k3r3s3+nhwc+tanh",     "n1c5h6w6k3r3s3+sigmoid",
                                     "n1c5h6w6k3r3s3+hard_swish",    "n1c5h6w6k3r3s3+leaky_relu:-2.5",
                                     "n1c5h6w6k3r3s3+clamp:-0.5:0.5"};

TEST(Verify, AcceptsTheReferenceEverywhere) {
  for (const char* problem : kProblems) {
    const Case c(problem);
    const VerifyResult whole = c.check();
    EXPECT_EQ(whole.checked, c.dst.size()) << problem;
    EXPECT_TRUE(whole.ok()) << problem << ": " << whole.str();
    EXPECT_TRUE(c.check(40).ok()) << problem;
    EXPECT_TRUE(c.check(0, "cpu.winograd_f4x4.avx512").ok()) << problem;
  }
}

TEST(Verify, FindsEverySingleWrongElement) {
  for (const char* problem : {kProblems[0], kProblems[1], kProblems[2]}) {
    Case c(problem);
    for (std::size_t i = 0; i < c.dst.size(); ++i) {
      const float right = c.dst[i];
      c.dst[i] = right + 1e-3F;
      const VerifyResult result = c.check();
      ASSERT_FALSE(result.ok()) << problem << " element " << i;
      ASSERT_EQ(result.found, static_cast<double>(right + 1e-3F)) << "names the wrong element: " << result.str();
      const auto& d = c.desc;
      const int at = d.layout == convrt::Layout::nhwc
                         ? ((result.n * d.p() + result.p) * d.q() + result.q) * d.k + result.k
                         : ((result.n * d.k + result.k) * d.p() + result.p) * d.q() + result.q;
      ASSERT_EQ(static_cast<std::size_t>(at), i);
      c.dst[i] = right;
    }
  }
}

TEST(Verify, TheUnitIsTheDocumentedBound) {
  Case c("n1c1h1w2k1r1s2");  // two taps and a bias: n = 3
  c.weights = {1, 1};
  c.bias = {0};
  c.src = {1, 1};
  c.dst = {2 + 0x1p-20F};  // sum |w||x| = 2, so the bound is 3 * 2^-24 * 2
  EXPECT_NEAR(c.check().error, 0x1p-20 / (6 * 0x1p-24), 1e-9);
  c.dst = {2 + 0x1p-22F};
  EXPECT_TRUE(c.check().ok());
}

TEST(Verify, NotANumberWhereANumberIsExpectedIsInfinitelyWrong) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Case c(kProblems[0]);
    c.dst[17] = bad;
    EXPECT_EQ(c.check().error, std::numeric_limits<double>::infinity());
  }
}

TEST(Verify, NonFiniteInputIsSkippedNotBelieved) {
  Case c("n1c1h4w4k1r3s3");
  c.src[0] = std::numeric_limits<float>::infinity();
  const VerifyResult direct = c.check();
  EXPECT_EQ(direct.skipped, 1U);  // only dst[0][0][0][0] reads it
  EXPECT_EQ(direct.checked, 3U);
  EXPECT_TRUE(direct.ok()) << direct.str();
  EXPECT_EQ(c.check(0, "cpu.winograd_f2x2.avx2").skipped, 4U);  // all four outputs share its tile
}

TEST(Verify, SamplesSeeCornersAndBadBlocks) {
  Case c("n1c2h70w70k40r3s3ph1pw1");
  const std::vector<float> right = c.dst;
  for (const std::size_t corner : {std::size_t{0}, c.dst.size() - 1}) {
    c.dst[corner] += 1;
    EXPECT_FALSE(c.check(16).ok());
    c.dst = right;
  }
  // A ragged last block of 16 filters left unwritten.
  std::fill(c.dst.begin() + 32 * 70 * 70, c.dst.end(), 0.0F);
  EXPECT_FALSE(c.check(64).ok());
}

TEST(Verify, WinogradRoundingIsJudgedByItsPatch) {
  // An impulse: every output but a few is exactly zero, and F(4,3) leaves 1e-7 of the neighbour there.
  Case c("n1c1h8w8k1r3s3ph1pw1");
  std::fill(c.src.begin(), c.src.end(), 0.0F);
  std::fill(c.bias.begin(), c.bias.end(), 0.0F);
  c.src[0] = 1;
  convrt::Conv2dPlan(convrt::find_device("cpu"), c.desc, c.weights, c.bias, {.kernel = "cpu.reference"})
      .run(c.src, c.dst);
  c.dst[3 * 8 + 3] = 1e-7F;
  EXPECT_FALSE(c.check().ok());
  EXPECT_TRUE(c.check(0, "gl.winograd_f4x4.64").ok());
  c.dst[3 * 8 + 3] = 0;
  c.dst[7 * 8 + 7] = 1e-7F;  // another tile, which the impulse does not reach
  EXPECT_FALSE(c.check(0, "gl.winograd_f4x4.64").ok());
}

TEST(Verify, WrongSpansAreAnError) {
  Case c(kProblems[2]);
  c.before.clear();
  EXPECT_THROW((void)c.check(), convrt::Error);
}

}  // namespace
