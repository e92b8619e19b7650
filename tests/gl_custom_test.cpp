// Custom shaders: the contract, and that a bad one harms nobody.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "convrt/convrt.hpp"

namespace {

using convrt::Conv2dDesc;
using convrt::CustomShader;
using convrt::Device;
using convrt::Error;
using convrt::ErrorCode;
using convrt::ShaderSource;

constexpr const char* kContract = R"(#version 430 core
layout(local_size_x = LANES) in;
layout(std430, binding = 0) readonly buffer Src { float src[]; };
layout(std430, binding = 1) readonly buffer Weights { float weights[]; };
layout(std430, binding = 2) buffer Dst { float dst[]; };
layout(std430, binding = 4) readonly buffer Bias { float bias[]; };
layout(std140, binding = 3) uniform Params {
  int n, c, h, w, k, r, s, p, q, stride_h, stride_w, pad_top, pad_left, pad_bottom, pad_right, dilation_h, dilation_w,
      groups, layout_, activation;
  float alpha, beta;
};
)";

// One dst element per invocation, NCHW, groups, relu.
const std::string kDirect = std::string(kContract) + R"(void main() {
  int i = int(gl_GlobalInvocationID.x + gl_GlobalInvocationID.y * gl_NumWorkGroups.x * uint(LANES));
  if (i >= n * k * p * q) return;
  int x = i % q, y = i / q % p, f = i / (q * p) % k, image = i / (q * p * k);
  int per_group = c / groups, first = f / (k / groups) * per_group;
  float sum = bias[f];
  for (int ch = 0; ch < per_group; ++ch)
    for (int a = 0; a < r; ++a)
      for (int b = 0; b < s; ++b) {
        int row = y * stride_h - pad_top + a * dilation_h, column = x * stride_w - pad_left + b * dilation_w;
        if (row >= 0 && row < h && column >= 0 && column < w)
          sum += weights[((f * per_group + ch) * r + a) * s + b] *
                 src[((image * c + first + ch) * h + row) * w + column];
      }
  dst[i] = activation == 1 ? max(sum, 0.0) : sum;
}
)";

ShaderSource shader(std::string glsl, const char* label, const char* lanes = "64") {
  ShaderSource source;
  source.glsl = std::move(glsl);
  source.label = label;
  source.defines = {{"LANES", lanes}};
  return source;
}

std::vector<float> integers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> value(-4, 4);
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return static_cast<float>(value(random)); });
  return values;
}

class GlCustom : public testing::Test {
 protected:
  void SetUp() override {
    for (const Device& d : convrt::devices())
      if (d.info().id.starts_with("gl:")) device_.push_back(d);
    if (device_.empty()) GTEST_SKIP() << "no GL device here (CONVRT_VERBOSE=info says why)";
  }
  const Device& device() const { return device_.front(); }

  std::vector<float> oracle() const {
    std::vector<float> dst(desc_.dst_size());
    convrt::Conv2dPlan(convrt::find_device("cpu"), desc_, weights_, bias_, {.kernel = "cpu.reference"}).run(src_, dst);
    return dst;
  }
  std::vector<float> run(const CustomShader& custom) const {
    std::vector<float> dst(desc_.dst_size(), 77);
    convrt::gpu_execute_conv2d_custom(custom, desc_, src_, weights_, dst, bias_);
    return dst;
  }
  void expect_library_unharmed() const {
    const convrt::Conv2dPlan plan(device(), desc_, weights_, bias_);
    std::vector<float> dst(desc_.dst_size());
    plan.run(src_, dst);
    EXPECT_EQ(dst, oracle());
  }

  std::vector<Device> device_;
  const Conv2dDesc desc_ = Conv2dDesc::parse("n2c4h9w7k6r3s2sh2ph1pl1dw2g2+relu");
  const std::vector<float> src_ = integers(desc_.src_size(), 1), weights_ = integers(desc_.weights_size(), 2),
                           bias_ = integers(static_cast<std::size_t>(desc_.k), 3);
};

TEST_F(GlCustom, AShaderToTheContractMatchesTheOracle) {
  for (const char* lanes : {"1", "7", "64"}) {
    const CustomShader custom = gpu_compile_custom_shader(device(), shader(kDirect, "direct", lanes));
    EXPECT_EQ(run(custom), oracle()) << lanes;
  }
}

TEST_F(GlCustom, LaunchesBeyondTheGroupLimitContinueInY) {
  // 1 x 1 x 300 x 300 elements of one invocation each are more than 65,535 groups.
  const Conv2dDesc desc = Conv2dDesc::parse("n1c1h300w300k1r1s1");
  const std::vector<float> src = integers(desc.src_size(), 1), weights = {2};
  std::vector<float> dst(desc.dst_size(), 77), expected = src;
  for (float& x : expected) x *= 2;
  const CustomShader custom = gpu_compile_custom_shader(device(), shader(kDirect, "direct", "1"));
  convrt::gpu_execute_conv2d_custom(custom, desc, src, weights, dst);
  EXPECT_EQ(dst, expected);
}

TEST_F(GlCustom, WhatIsNotWrittenKeepsItsValue) {
  ShaderSource one =
      shader(std::string(kContract) + "void main() { dst[0] = float(groups) + alpha; }\n", "one element");
  one.groups = {1, 1, 1};
  std::vector<float> expected(desc_.dst_size(), 77);
  expected[0] = 2;
  EXPECT_EQ(run(gpu_compile_custom_shader(device(), one)), expected);
}

TEST_F(GlCustom, ACompileErrorShowsTheDriversLogAndTheLine) {
  const std::string text = std::string(kContract) + "void main() {\n  flaot x = 1.0;\n  dst[0] = x;\n}\n";
  try {
    (void)gpu_compile_custom_shader(device(), shader(text, "my shader"));
    FAIL() << "a bad shader compiled";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::compile_failed);
    const std::string what = e.what();
    EXPECT_NE(what.find("my shader"), std::string::npos) << what;
    EXPECT_NE(what.find("error"), std::string::npos) << what;
    EXPECT_NE(what.find("> 13 |   flaot x = 1.0;"), std::string::npos) << what;
  }
  EXPECT_THROW((void)gpu_compile_custom_shader(device(), shader("void main() {}", "no version")), Error);
  expect_library_unharmed();
}

TEST_F(GlCustom, OutOfBoundsAccessesHarmNobody) {
  const std::string text = std::string(kContract) + R"(void main() {
  uint i = gl_GlobalInvocationID.x;
  dst[i + 100000000u] = 13.0;
  if (i < uint(dst.length())) dst[i] = src[i + 100000000u] * 0.0 + 1.0;
}
)";
  std::vector<float> dst;
  try {
    dst = run(gpu_compile_custom_shader(device(), shader(text, "out of bounds")));
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::device_lost) << e.what();  // a driver may reset the context instead
  }
  if (!dst.empty()) {
    EXPECT_EQ(dst, std::vector<float>(desc_.dst_size(), 1));
  }
  expect_library_unharmed();
}

TEST_F(GlCustom, TooLargeALaunchIsRefusedWithTheNumbers) {
  ShaderSource source = shader(kDirect, "direct");
  source.groups = {1, 1, 4000000000U};
  const CustomShader custom = gpu_compile_custom_shader(device(), source);
  try {
    run(custom);
    FAIL() << "4000000000 groups in z ran";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(e.what()).find("4000000000"), std::string::npos) << e.what();
  }
}

// Last: on a software driver the endless shader keeps the CPU busy until this process ends.
TEST_F(GlCustom, ZAnEndlessLoopIsATimeoutAndTheLibraryWorksOn) {
  const std::string text = std::string(kContract) + R"(void main() {
  float x = 0.0;
  while (dst[0] != 12345.0) x += src[0];
  dst[1] = x;
}
)";
  if (!device().info().software) GTEST_SKIP() << "a GPU without a watchdog would stay hung for other programs";
  ShaderSource source = shader(text, "endless");
  source.groups = {65535, 65535, 1};  // llvmpipe ends each loop after 65,535 turns; this many groups take weeks
  const CustomShader endless = gpu_compile_custom_shader(device(), source);
  expect_library_unharmed();
  try {
    run(endless);
    FAIL() << "an endless shader ended";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::timeout) << e.what();
  }
  expect_library_unharmed();
}

}  // namespace

int main(int argc, char** argv) {
  setenv("CONVRT_CUSTOM_TIMEOUT_MS", "5000", 1);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
