// What a convolution must obey whatever computes it. Integers, so every equation holds to the bit; Winograd, which
// divides, is left out by Accuracy::strict (conformance_test bounds it).
#include <gtest/gtest.h>

#include <algorithm>

#include "cases.hpp"
#include "conformance.hpp"

namespace convrt::test {
namespace {

using Floats = std::vector<float>;

class Property : public testing::TestWithParam<std::string> {
 protected:
  Floats convolve(const Conv2dDesc& d, std::span<const float> src, std::span<const float> weights,
                  std::span<const float> bias = {}) const {
    Floats dst(d.dst_size());
    Conv2dPlan(find_device(GetParam()), d, weights, bias, {.accuracy = Accuracy::strict}).run(src, dst);
    return dst;
  }
};

// dst and src of one image are contiguous in both layouts; a channel is only in NCHW.
Conv2dDesc at(const char* problem) { return Conv2dDesc::parse(problem); }

Floats integers(std::size_t size, int limit) {
  Random random(seed() + size);
  Floats f(size);
  for (float& x : f) x = static_cast<float>(random.between(-limit, limit));
  return f;
}

Floats combine(float a, const Floats& x, float b, const Floats& y) {
  Floats z(x.size());
  for (std::size_t i = 0; i < z.size(); ++i) z[i] = a * x[i] + b * y[i];
  return z;
}

TEST_P(Property, LinearInSourceAndWeights) {
  for (const char* problem : {"n1c13h15w17k11r3s3ph1pw1", "n2c16h9w10k8r1s1+nhwc", "n1c12h13w14k12r5s5ph2pw2g12"}) {
    const Conv2dDesc d = at(problem);
    const Floats x = integers(d.src_size(), 5), w = integers(d.weights_size(), 4);
    Floats y = x, v = w;
    std::ranges::reverse(y);
    std::ranges::reverse(v);
    EXPECT_EQ(convolve(d, combine(2, x, -3, y), w), combine(2, convolve(d, x, w), -3, convolve(d, y, w))) << problem;
    EXPECT_EQ(convolve(d, x, combine(4, w, 5, v)), combine(4, convolve(d, x, w), 5, convolve(d, x, v))) << problem;
  }
}

TEST_P(Property, GroupsAreConvolutionsSideBySide) {
  const Conv2dDesc whole = at("n1c12h11w13k18r3s3sh2ph1pw1g3");
  Conv2dDesc part = whole;
  part.c /= 3;
  part.k /= 3;
  part.groups = 1;
  const Floats src = integers(whole.src_size(), 5), weights = integers(whole.weights_size(), 5);
  Floats joined;
  for (std::size_t g = 0; g < 3; ++g) {
    const Floats one = convolve(part, std::span(src).subspan(g * part.src_size(), part.src_size()),
                                std::span(weights).subspan(g * part.weights_size(), part.weights_size()));
    joined.insert(joined.end(), one.begin(), one.end());
  }
  EXPECT_EQ(convolve(whole, src, weights), joined);
}

TEST_P(Property, ABatchIsItsImages) {
  for (const char* problem : {"n5c9h12w10k7r3s3ph1pw1", "n4c8h7w9k8r3s3sw2pw1g8+nhwc"}) {
    const Conv2dDesc batch = at(problem);
    Conv2dDesc single = batch;
    single.n = 1;
    const Floats src = integers(batch.src_size(), 5), weights = integers(batch.weights_size(), 5);
    Floats joined;
    for (std::size_t n = 0; n < static_cast<std::size_t>(batch.n); ++n) {
      const Floats one = convolve(single, std::span(src).subspan(n * single.src_size(), single.src_size()), weights);
      joined.insert(joined.end(), one.begin(), one.end());
    }
    EXPECT_EQ(convolve(batch, src, weights), joined) << problem;
  }
}

TEST_P(Property, PaddingIsZerosAround) {
  const Conv2dDesc padded = at("n2c5h8w9k6r3s4sh2dw2pt3pb1pl2pr4");
  Conv2dDesc bare = padded;
  bare.h += 3 + 1;
  bare.w += 2 + 4;
  bare.pad_top = bare.pad_bottom = bare.pad_left = bare.pad_right = 0;
  const Floats src = integers(padded.src_size(), 5), weights = integers(padded.weights_size(), 5);
  Floats framed(bare.src_size());
  for (int plane = 0; plane < 2 * 5; ++plane)
    for (int h = 0; h < 8; ++h)
      for (int w = 0; w < 9; ++w) framed[(plane * bare.h + h + 3) * bare.w + w + 2] = src[(plane * 8 + h) * 9 + w];
  EXPECT_EQ(convolve(padded, src, weights), convolve(bare, framed, weights));
}

Floats to_nhwc(const Floats& nchw, int n, int c, int hw) {
  Floats nhwc(nchw.size());
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < c; ++j)
      for (int p = 0; p < hw; ++p) nhwc[(i * hw + p) * c + j] = nchw[(i * c + j) * hw + p];
  return nhwc;
}

TEST_P(Property, LayoutsAgree) {
  for (const char* problem : {"n2c13h10w11k17r3s3ph1pw1+relu", "n1c24h9w8k24r3s3ph1pw1g24",
                              "n1c3h21w20k16r7s7sh2sw2ph3pw3", "n2c31h7w7k33r1s1"}) {
    const Conv2dDesc d = at(problem);
    Conv2dDesc last = d;
    last.layout = Layout::nhwc;
    const Floats src = integers(d.src_size(), 5), weights = integers(d.weights_size(), 4), bias = integers(d.k, 9);
    EXPECT_EQ(to_nhwc(convolve(d, src, weights, bias), d.n, d.k, d.p() * d.q()),
              convolve(last, to_nhwc(src, d.n, d.c, d.h * d.w), weights, bias))
        << problem;
  }
}

TEST_P(Property, AShiftedPictureGivesAShiftedResult) {
  const Conv2dDesc d = at("n1c4h12w14k6r3s3");
  const Floats src = integers(d.src_size(), 5), weights = integers(d.weights_size(), 5);
  Floats moved(src.size());  // one row down, two columns right
  for (int c = 0; c < 4; ++c)
    for (int h = 1; h < 12; ++h)
      for (int w = 2; w < 14; ++w) moved[(c * 12 + h) * 14 + w] = src[(c * 12 + h - 1) * 14 + w - 2];
  const Floats a = convolve(d, src, weights), b = convolve(d, moved, weights);
  for (int k = 0; k < 6; ++k)
    for (int p = 1; p < 10; ++p)
      for (int q = 2; q < 12; ++q) ASSERT_EQ(b[(k * 10 + p) * 12 + q], a[(k * 10 + p - 1) * 12 + q - 2]);
}

TEST_P(Property, AccumulationAddsWhatWasThere) {
  Conv2dDesc d = at("n1c9h8w7k10r3s3ph1pw1");
  const Floats src = integers(d.src_size(), 5), weights = integers(d.weights_size(), 5),
               before = integers(d.dst_size(), 50);
  const Floats plain = convolve(d, src, weights);
  d.accumulate = true;
  const Conv2dPlan plan(find_device(GetParam()), d, weights, {}, {.accuracy = Accuracy::strict});
  Floats dst = before;
  plan.run(src, dst);
  EXPECT_EQ(dst, combine(1, plain, 1, before));
  plan.run(src, dst);
  EXPECT_EQ(dst, combine(2, plain, 1, before));
}

TEST_P(Property, NotANumberStaysInsideItsWindow) {
  const Conv2dDesc d = at("n1c3h11w12k20r3s3ph1pw1");
  Floats src = integers(d.src_size(), 5);
  const Floats weights(d.weights_size(), 1);
  src[(1 * 11 + 5) * 12 + 6] = NAN;
  const Floats dst = convolve(d, src, weights);
  for (int k = 0; k < 20; ++k)
    for (int p = 0; p < 11; ++p)
      for (int q = 0; q < 12; ++q)
        ASSERT_EQ(std::isnan(dst[(k * 11 + p) * 12 + q]), std::abs(p - 5) <= 1 && std::abs(q - 6) <= 1)
            << p << ' ' << q;
}

std::vector<std::string> device_ids() {
  std::vector<std::string> ids;
  for (const Device& d : devices()) ids.push_back(d.info().id);
  return ids;
}

std::string name(const testing::TestParamInfo<std::string>& info) {
  std::string text = info.param;
  std::ranges::replace(text, ':', '_');
  return text;
}

INSTANTIATE_TEST_SUITE_P(On, Property, testing::ValuesIn(device_ids()), name);

}  // namespace
}  // namespace convrt::test
