// Does the conformance check catch a broken kernel? Each defect here is one that kernels really have.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cases.hpp"
#include "conformance.hpp"
#include "fake_backend.hpp"

namespace convrt::test {
namespace {

struct Defect {
  const char* name;
  const char* complaint;
  std::function<void(std::span<float> dst)> spoil;
};

const Conv2dDesc kProblem = Conv2dDesc::parse("n1c8h9w11k6r3s3ph1pw1");

std::string verdict(std::function<void(std::span<float>)> spoil, Data data, const std::string& kernel = "fake.direct") {
  const auto backend =
      std::make_shared<FakeBackend>("fake:0", std::vector<FakeKernel>{{.name = kernel, .after_run = std::move(spoil)}});
  return check_kernel(backend->device(), kernel, Problem(kProblem, data, seed()));
}

TEST(CheckKernel, AcceptsARightKernel) {
  for (const Data data : {Data::integers, Data::reals}) {
    EXPECT_EQ(verdict({}, data), "");
    EXPECT_EQ(verdict({}, data, "fake.winograd_f2x2"), "");
    EXPECT_EQ(verdict({}, data, "fake.winograd_f4x4"), "");
  }
}

TEST(CheckKernel, RefusesEveryDefect) {
  const Defect defects[] = {
      {"one value never written", "is nan", [](auto dst) { dst[17] = std::nanf(""); }},
      {"the last value wrong", "q=10] is", [](auto dst) { dst.back() += 1; }},
      {"infinity", "is inf", [](auto dst) { dst[0] = std::numeric_limits<float>::infinity(); }},
      {"a column shifted", "values are wrong",
       [](auto dst) { std::copy_backward(dst.begin(), dst.end() - 1, dst.end()); }},
      {"all zero", "values are wrong", [](auto dst) { std::ranges::fill(dst, 0.0F); }},
      {"a float written before dst", "memory beside dst",
       [](auto dst) {
         // Only where that float is canary memory, not the page without access.
         if (reinterpret_cast<std::uintptr_t>(dst.data()) % 4096 != 0) dst.data()[-1] = 0;
       }},
      {"a float written behind dst", "memory beside dst",
       [](auto dst) {
         if (reinterpret_cast<std::uintptr_t>(dst.data() + dst.size()) % 4096 != 0) dst.data()[dst.size()] = 0;
       }},
  };
  for (const Defect& defect : defects)
    for (const Data data : {Data::integers, Data::reals}) {
      const std::string found = verdict(defect.spoil, data);
      EXPECT_NE(found.find(defect.complaint), std::string::npos) << defect.name << ": " << found;
      EXPECT_NE(found.find("CONVRT_TEST_PROBLEM=" + kProblem.str()), std::string::npos) << found;
      EXPECT_NE(found.find("CONVRT_TEST_KERNEL=fake.direct"), std::string::npos) << found;
      EXPECT_NE(found.find("CONVRT_TEST_SEED="), std::string::npos) << found;
    }
}

TEST(CheckKernel, TheBoundIsTight) {
  // Of integers not one may be off by the smallest step, except under F(4x4), which divides.
  const auto next = [](std::span<float> dst) { dst[3] = std::nextafter(dst[3], 1e9F); };
  EXPECT_NE(verdict(next, Data::integers), "");
  EXPECT_NE(verdict(next, Data::integers, "fake.winograd_f2x2"), "");
  EXPECT_EQ(verdict(next, Data::integers, "fake.winograd_f4x4"), "");
  EXPECT_EQ(verdict(next, Data::reals), "");
  // 72 terms and sum|w||x| around 18 make bounds near 50u * 18 = 5e-5: rounding the result to bfloat16 is an error.
  const auto rounded = [](std::span<float> dst) {
    for (float& f : dst) f = static_cast<float>(std::lround(f * 256)) / 256;
  };
  EXPECT_NE(verdict(rounded, Data::reals), "");
  EXPECT_NE(verdict(rounded, Data::reals, "fake.winograd_f4x4"), "");
}

TEST(CheckKernel, AFaultNamesTheProblemBeforeTheProcessEnds) {
  const auto stray = [](std::span<float> dst) {
    volatile float* before = dst.data() - 1;  // in the first of both runs dst starts at a page
    *before = 0;
  };
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH((void)verdict(stray, Data::reals),
               "Reproduce with\n  CONVRT_TEST_SEED=.*CONVRT_TEST_KERNEL=fake.direct");
}

TEST(CheckKernel, NoisesOfOneElementAreFoundInEveryCornerOfTheBuffer) {
  const std::size_t size = kProblem.dst_size();
  for (const std::size_t at : {std::size_t{0}, std::size_t{10}, size / 2, size - 11, size - 1})
    EXPECT_NE(verdict([at](std::span<float> dst) { dst[at] *= 1.001F; }, Data::reals), "") << at;
}

}  // namespace
}  // namespace convrt::test
