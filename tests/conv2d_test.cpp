// Conv2dDesc: problem strings, sizes, validation messages.
#include "convrt/conv2d.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "convrt/convrt.hpp"

namespace {

using convrt::Conv2dDesc;
using convrt::Error;
using convrt::ErrorCode;

std::string message_of(const auto& action) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument) << e.what();
    return e.what();
  }
  return "no error";
}

TEST(ProblemString, PrintsSizesAndWhatDiffersFromItsDefault) {
  Conv2dDesc d = {.n = 1, .c = 64, .h = 56, .w = 56, .k = 64, .r = 3, .s = 3};
  EXPECT_EQ(d.str(), "n1c64h56w56k64r3s3");
  d.pad_top = d.pad_bottom = d.pad_left = d.pad_right = 1;
  EXPECT_EQ(d.str(), "n1c64h56w56k64r3s3ph1pw1");
  d.pad_right = 0;
  d.layout = convrt::Layout::nhwc;
  d.accumulate = true;
  d.activation = {convrt::ActivationKind::clamp, 0, 6};
  EXPECT_EQ(d.str(), "n1c64h56w56k64r3s3ph1pl1+nhwc+acc+clamp:0:6");
}

TEST(ProblemString, RoundTripsForEveryDescriptor) {
  std::vector<Conv2dDesc> cases(1);
  for (const int v : {-1, 0, 1, 7, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    Conv2dDesc d = {
        .n = v, .c = v, .h = 2, .w = v, .k = 3, .r = v, .s = 1, .stride_h = v, .stride_w = 2, .dilation_h = v};
    d.pad_top = v;
    d.pad_left = 3;
    d.groups = v;
    cases.push_back(d);
    d.pad_bottom = v;
    d.dilation_w = 5;
    cases.push_back(d);
  }
  for (int kind = 0; kind < 9; ++kind)
    for (const float a : {0.0F, -0.0F, 0.1F, -3e-39F, std::numeric_limits<float>::infinity()}) {
      Conv2dDesc d;
      d.activation = {static_cast<convrt::ActivationKind>(kind), a, -a};
      d.accumulate = kind % 2 == 0;
      cases.push_back(d);
    }
  for (const Conv2dDesc& d : cases) EXPECT_EQ(Conv2dDesc::parse(d.str()), d) << d.str();
}

TEST(ProblemString, ComplaintsNameThePositionAndWhatWasExpected) {
  const auto complaint = [](const char* text) { return message_of([&] { (void)Conv2dDesc::parse(text); }); };
  EXPECT_NE(complaint("").find("expected a problem"), std::string::npos);
  EXPECT_NE(complaint("n1x3").find("position 3: expected a field name"), std::string::npos);
  EXPECT_NE(complaint("n1n2").find("n stands twice"), std::string::npos);
  EXPECT_NE(complaint("n1ph2pt1").find("pt stands twice"), std::string::npos);
  EXPECT_NE(complaint("n1c").find("expected an integer"), std::string::npos);
  EXPECT_NE(complaint("n99999999999").find("expected an integer below 2^31"), std::string::npos);
  EXPECT_NE(complaint("n1+lrelu").find("leaky_relu"), std::string::npos);
  EXPECT_NE(complaint("n1+relu+gelu").find("activation stands twice"), std::string::npos);
  EXPECT_NE(complaint("n1+clamp:0:6:7").find("at most two numbers"), std::string::npos);
}

TEST(Validate, NamesTheFieldItsValueAndTheRule) {
  const Conv2dDesc good = Conv2dDesc::parse("n1c4h8w8k4r3s3");
  good.validate();
  const auto complaint = [&](auto change) {
    Conv2dDesc d = good;
    change(d);
    return message_of([&] { d.validate(); });
  };
  EXPECT_NE(complaint([](auto& d) { d.c = 0; }).find("c must be at least 1, found 0"), std::string::npos);
  EXPECT_NE(complaint([](auto& d) { d.n = -1; }).find("n must be at least 0, found -1"), std::string::npos);
  EXPECT_NE(complaint([](auto& d) { d.stride_w = 0; }).find("stride_w must be at least 1, found 0"), std::string::npos);
  EXPECT_NE(complaint([](auto& d) { d.pad_left = -2; }).find("pad_left must be at least 0, found -2"),
            std::string::npos);
  EXPECT_NE(complaint([](auto& d) { d.groups = 3; }).find("groups=3, c=4, k=4"), std::string::npos);
  EXPECT_NE(complaint([](auto& d) { d.r = 9; }).find("height P must be between 1"), std::string::npos);
  EXPECT_NE(complaint([](auto& d) {
              d.activation = {convrt::ActivationKind::clamp, 6, 0};
            }).find("alpha=6, beta=0"),
            std::string::npos);
  EXPECT_NE(complaint([](auto& d) { d.n = d.h = d.w = d.c = 1 << 30; }).find("2^61-1 floats"), std::string::npos);
  EXPECT_NE(complaint([](auto& d) { d.pad_top = d.pad_bottom = std::numeric_limits<int>::max(); }).find("found"),
            std::string::npos);
}

TEST(Plan, ReferenceRunsAnIdentityFilter) {
  const Conv2dDesc d = Conv2dDesc::parse("n1c1h3w4k1r1s1+relu");
  const std::vector<float> weights = {2}, src = {1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6};
  std::vector<float> dst(12, NAN);
  const convrt::Conv2dPlan plan(convrt::find_device("cpu"), d, weights, {}, {.kernel = "cpu.reference"});
  plan.run(src, dst);
  for (std::size_t i = 0; i < src.size(); ++i) EXPECT_EQ(dst[i], src[i] > 0 ? 2 * src[i] : 0);
}

}  // namespace
