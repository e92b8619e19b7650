// The error of cpu.winograd_* on inputs made to hurt, on every instruction set, down to one channel and one filter,
// which no kernel list offers. Geometry, epilogues and memory are the conformance test's business.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "cases.hpp"
#include "conformance.hpp"
#include "cpu/algorithm.hpp"
#include "cpu/cpu_probe.hpp"
#include "cpu/kernels/winograd_kernels.hpp"

namespace convrt::test {
namespace {

using Floats = std::vector<float>;

Conv2dDesc described(const char* problem, Layout layout) {
  Conv2dDesc d = Conv2dDesc::parse(problem);
  d.layout = layout;
  return d;
}

// `parts`: into which the filters of a register tile are cut.
cpu::Variant variant(cpu::Isa isa, int tile, int parts = 1) {
  const cpu::WinogradForm& form = cpu::winograd_kernels(isa)->f4x4_nchw;  // all forms have the same panels
  cpu::Variant v;
  v.name = "cpu.winograd_f" + std::to_string(tile) + "x" + std::to_string(tile) + "." + to_string(isa);
  v.isa = isa;
  v.rows = tile;
  v.vectors = form.panel / form.filter_step / parts;
  return v;
}

// Without a plan, whose list has only what pays. Scratch and dst hold NaN before.
Floats run(const cpu::Variant& v, const Conv2dDesc& d, const Floats& src, const Floats& weights, int threads = 1) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const cpu::AlignedFloats packed = cpu::winograd.pack(d, v, weights, threads);
  const cpu::AlignedFloats scratch(cpu::winograd.scratch_floats(d, v, threads));
  std::fill_n(scratch.data(), scratch.size(), kNan);
  const Floats bias(static_cast<std::size_t>(d.k), 0.0F);
  Floats dst(d.dst_size(), kNan);
  cpu::winograd.execute({d, v, packed.data(), bias.data(), src.data(), dst.data(), scratch.data(), threads});
  return dst;
}

Floats reference(const Conv2dDesc& d, const Floats& src, const Floats& weights) {
  Floats dst(d.dst_size());
  Conv2dPlan(find_device("cpu"), d, weights, {}, {.kernel = "cpu.reference"}).run(src, dst);
  return dst;
}

Floats absolute(Floats values) {
  for (float& v : values) v = std::abs(v);
  return values;
}

// Calls f(index into dst, n, k, p, q).
template <class F>
void for_each_output(const Conv2dDesc& d, F f) {
  const std::size_t p_end = static_cast<std::size_t>(d.p()), q_end = static_cast<std::size_t>(d.q());
  const auto k_end = static_cast<std::size_t>(d.k);
  for (std::size_t n = 0; n < static_cast<std::size_t>(d.n); ++n)
    for (std::size_t k = 0; k < k_end; ++k)
      for (std::size_t p = 0; p < p_end; ++p)
        for (std::size_t q = 0; q < q_end; ++q)
          f(d.layout == Layout::nchw ? ((n * k_end + k) * p_end + p) * q_end + q
                                     : ((n * p_end + p) * q_end + q) * k_end + k,
            n, k, p, q);
}

// One input with the right answer and what its error is measured by.
struct Measure {
  Measure(const Conv2dDesc& d, Floats source, Floats filters)
      : desc(d), src(std::move(source)), weights(std::move(filters)), expected(reference(d, src, weights)) {
    Conv2dDesc around = d;
    around.pad_top += 1;
    around.pad_left += 1;
    around.pad_bottom += kLargest + 1;
    around.pad_right += kLargest + 1;
    rows = static_cast<std::size_t>(around.p());
    columns = static_cast<std::size_t>(around.q());
    const Floats unordered = reference(around, absolute(src), absolute(weights));
    magnitude.resize(unordered.size());
    for_each_output(around, [&](std::size_t i, std::size_t n, std::size_t k, std::size_t p, std::size_t q) {
      magnitude[at(n, k, p, q)] = unordered[i];
    });
  }

  // Largest |error| in units of 2^-24 * the largest sum |w||x| over the outputs of the tile and one pixel around it.
  double worst_kappa(const cpu::Variant& v) const {
    const Floats found = run(v, desc, src, weights);
    const auto m = static_cast<std::size_t>(v.rows);
    double worst = 0;
    for_each_output(desc, [&](std::size_t i, std::size_t n, std::size_t k, std::size_t p, std::size_t q) {
      const double error = std::abs(static_cast<double>(found[i]) - static_cast<double>(expected[i]));
      if (error <= 0) return;
      float most = 0;
      for (std::size_t y = p / m * m; y < p / m * m + m + 2; ++y)
        for (std::size_t x = q / m * m; x < q / m * m + m + 2; ++x) most = std::max(most, magnitude[at(n, k, y, x)]);
      worst = std::max(worst, std::isnan(error) || most <= 0 ? HUGE_VAL : error / (most * 0x1p-24));
    });
    return worst;
  }

 private:
  static constexpr int kLargest = 4;
  std::size_t at(std::size_t n, std::size_t k, std::size_t p, std::size_t q) const {
    return ((n * static_cast<std::size_t>(desc.k) + k) * rows + p) * columns + q;
  }

  Conv2dDesc desc;
  Floats src, weights, expected;
  Floats magnitude;  // sum |w||x| of output (p - 1, q - 1), also where dst has none
  std::size_t rows = 0, columns = 0;
};

struct Pattern {
  const char* name;
  bool equal_channels;  // every term of a sum alike, so that all its rounding errors have one sign
  std::function<float(Random&, int h, int w)> src, weight;
};

const std::vector<Pattern>& patterns() {
  const auto real = [](Random& r, int, int) { return r.real(); };
  const auto scaled = [](Random& r, int, int) { return r.real() * r.pick({1.0F, 1e4F}); };
  const auto sign = [](int h, int w) { return (h + w) % 2 == 0 ? 1.0F : -1.0F; };
  static const std::vector<Pattern> all = {
      {"impulse", false, [](Random&, int h, int w) { return h == 3 && w == 4 ? 1.0F : 0.0F; }, real},
      {"constant", true, [](Random&, int, int) { return 0.7F; }, [](Random&, int, int) { return 0.3F; }},
      {"constant source", false, [](Random&, int, int) { return 1.0F; }, real},
      {"alternating", true, [sign](Random&, int h, int w) { return 0.9F * sign(h, w); },
       [sign](Random&, int r, int s) { return 0.1F * sign(r, s); }},
      {"alternating source", false, [sign](Random&, int h, int w) { return sign(h, w); }, real},
      {"after relu", false, [](Random& r, int, int) { return std::max(0.0F, r.real()); }, real},
      {"scale mix", false, scaled, real},
      {"scale mix everywhere", false, scaled, scaled},
  };
  return all;
}

Floats source(const Conv2dDesc& d, const Pattern& pattern, Random& random) {
  Floats src(d.src_size());
  const bool planes = d.layout == Layout::nchw;
  for (std::size_t i = 0; i < src.size(); ++i) {
    const std::size_t pixel = planes ? i : i / static_cast<std::size_t>(d.c);
    const auto w = static_cast<int>(pixel % static_cast<std::size_t>(d.w));
    const auto h = static_cast<int>(pixel / static_cast<std::size_t>(d.w) % static_cast<std::size_t>(d.h));
    src[i] = pattern.src(random, h, w);
  }
  return src;
}

Floats filters(const Conv2dDesc& d, const Pattern& pattern, Random& random) {
  Floats weights(d.weights_size());
  for (std::size_t i = 0; i < weights.size(); ++i)
    weights[i] = pattern.weight(random, static_cast<int>(i % 9 / 3), static_cast<int>(i % 3));
  return weights;
}

class Winograd : public testing::TestWithParam<cpu::Isa> {};

// kappa of src/cpu/winograd.cpp, which users read in the README, and the narrower one of data without a conspiracy.
double kappa_of(int tile, const Pattern& pattern) { return tile == 4 ? 64 : pattern.equal_channels ? 32 : 8; }

TEST_P(Winograd, StaysWithinItsBound) {
  constexpr const char* problems[] = {
      "n1c1h9w11k1r3s3ph1pw1",        "n1c1h8w7k5r3s3",
      "n2c3h13w23k18r3s3ph2pw2",      "n1c16h10w15k33r3s3pt2pb0pl0pr1",
      "n1c66h7w7k20r3s3pt0pb3pl4pr0", "n1c2048h4w5k3r3s3ph1pw1",
      "n3c32h14w14k24r3s3ph1pw1",     "n1c24h5w70k16r3s3ph1pw1g2",
  };
  double worst[2] = {};
  for (const char* problem : problems)
    for (const Layout layout : {Layout::nchw, Layout::nhwc})
      for (const Pattern& pattern : patterns()) {
        const Conv2dDesc d = described(problem, layout);
        Random random(seed_for(d, seed()));
        Floats src = source(d, pattern, random), weights = filters(d, pattern, random);
        const Measure measure(d, std::move(src), std::move(weights));
        for (const int tile : {2, 4}) {
          const cpu::Variant v = variant(GetParam(), tile);
          const double kappa = measure.worst_kappa(v), allowed = kappa_of(tile, pattern);
          EXPECT_LE(kappa, allowed) << v.name << " " << d.str() << " " << pattern.name;
          worst[tile / 4] = std::max(worst[tile / 4], kappa / allowed);
        }
      }
  // A bound that nothing comes near would test nothing.
  EXPECT_GT(worst[0], 0.25);
  EXPECT_GT(worst[1], 0.25);
  RecordProperty("f2x2", std::to_string(worst[0]));
  RecordProperty("f4x4", std::to_string(worst[1]));
}

// F(2x2) adds quarters of integers; 81 c max|w| max|x| < 2^22 keeps all of them in 24 bits.
TEST_P(Winograd, F2IsExactOnIntegers) {
  const cpu::Variant v = variant(GetParam(), 2);
  for (const char* problem : {"n1c1h5w4k1r3s3ph1pw1", "n1c40h9w13k19r3s3pt2pl1", "n1c2048h4w5k16r3s3ph1pw1"})
    for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
      const Conv2dDesc d = described(problem, layout);
      Random random(seed_for(d, seed()));
      Floats src(d.src_size()), weights(d.weights_size());
      for (float& x : src) x = static_cast<float>(random.between(-6, 6));
      for (float& w : weights) w = static_cast<float>(random.between(-4, 4));
      EXPECT_EQ(run(v, d, src, weights), reference(d, src, weights)) << v.name << " " << d.str();
    }
}

// Documented: a NaN reaches the tiles whose patch holds it, and no other.
TEST_P(Winograd, NanStaysInItsTiles) {
  for (const int tile : {2, 4})
    for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
      const Conv2dDesc d = described("n2c5h21w22k6r3s3ph1pw1", layout);
      const cpu::Variant v = variant(GetParam(), tile);
      constexpr int n_bad = 1, c_bad = 2, h_bad = 9, w_bad = 13;
      Floats src(d.src_size(), 1.0F);
      src[layout == Layout::nchw ? static_cast<std::size_t>(((n_bad * d.c + c_bad) * d.h + h_bad) * d.w + w_bad)
                                 : static_cast<std::size_t>(((n_bad * d.h + h_bad) * d.w + w_bad) * d.c + c_bad)] =
          std::numeric_limits<float>::quiet_NaN();
      const Floats dst = run(v, d, src, Floats(d.weights_size(), 0.5F));
      for_each_output(d, [&](std::size_t i, std::size_t n, std::size_t, std::size_t p, std::size_t q) {
        const auto reach = [](int bad, int first, int count) { return bad >= first - 1 && bad <= first + count; };
        const int row = static_cast<int>(p), column = static_cast<int>(q);
        const bool own = n == n_bad && reach(h_bad, row, 1) && reach(w_bad, column, 1);
        const bool patch =
            n == n_bad && reach(h_bad, row / tile * tile, tile) && reach(w_bad, column / tile * tile, tile);
        if (own || !patch) {
          EXPECT_EQ(std::isnan(dst[i]), own) << v.name << " " << d.str() << " at " << row << "," << column;
        }
      });
    }
}

// Blocks and splits of every team give the same bits, also with more threads than pieces, and so do narrower panels.
TEST_P(Winograd, BitsDoNotDependOnThreads) {
  for (const char* problem : {"n1c64h28w28k96r3s3ph1pw1", "n1c128h7w7k160r3s3ph1pw1", "n2c32h30w31k32r3s3ph1pw1g2"})
    for (const Layout layout : {Layout::nchw, Layout::nhwc})
      for (const int tile : {2, 4}) {
        const Conv2dDesc d = described(problem, layout);
        const cpu::Variant v = variant(GetParam(), tile);
        Random random(seed_for(d, seed()));
        const Floats src = source(d, patterns().back(), random), weights = filters(d, patterns().back(), random);
        const Floats alone = run(v, d, src, weights, 1);
        for (const int threads : {2, 3, 8, 16}) {
          EXPECT_EQ(run(v, d, src, weights, threads), alone) << v.name << " " << d.str();
          if (v.vectors % 2 != 0) continue;
          const cpu::Variant halved = variant(GetParam(), tile, 2);
          EXPECT_EQ(run(halved, d, src, weights, threads), alone) << v.name << ", half panels " << d.str();
        }
      }
}

// A thread of 16 has a quarter of 9.4 MB of weights in whole panels, an eighth in half ones.
TEST(WinogradPanels, AreHalvedWhereALargeTeamsWeightsThenFitItsL2) {
  cpu::CpuInfo info = cpu::cpu_info();
  const cpu::WinogradKernels* kernels = cpu::winograd_kernels(cpu::Isa::avx512);
  if (kernels == nullptr) GTEST_SKIP() << "no kernels for AVX-512";
  info.isas = {cpu::Isa::avx512};
  info.arch = "zen4";
  const Conv2dDesc d = Conv2dDesc::parse("n1c256h14w14k256r3s3ph1pw1");
  const int whole = kernels->f4x4_nchw.panel / kernels->f4x4_nchw.filter_step;
  const auto vectors_of = [&](const Conv2dDesc& problem, std::size_t l2_bytes, int threads) {
    info.l2_bytes = l2_bytes;
    return cpu::winograd.variants(problem, info, threads).front().vectors;
  };
  const auto vectors = [&](std::size_t l2_bytes, int threads) { return vectors_of(d, l2_bytes, threads); };
  EXPECT_EQ(vectors(2 << 20, 16), whole / 2);
  EXPECT_EQ(vectors(2 << 20, 1), whole) << "no team";
  EXPECT_EQ(vectors(8 << 20, 16), whole) << "they fit anyway";
  EXPECT_EQ(vectors(512 << 10, 16), whole) << "nor do half panels fit";
  // Four tiles: whole panels are too few for 16 threads, so all weights would be read twice.
  info.l3_bytes = std::size_t{256} << 20;
  EXPECT_EQ(vectors_of(Conv2dDesc::parse("n1c512h7w7k512r3s3ph1pw1"), 2 << 20, 16), whole / 2);
  EXPECT_EQ(vectors_of(Conv2dDesc::parse("n1c512h14w14k512r3s3ph1pw1"), 2 << 20, 16), whole);
}

std::vector<cpu::Isa> vector_isas() {
  std::vector<cpu::Isa> isas = cpu::cpu_info().isas;
  std::erase(isas, cpu::Isa::scalar);
  return isas;
}

// 512 at 7: F(4x4) has half of F(2x2)'s products, but 2.25 times its weights.
TEST(WinogradTiles, AreSmallWhereWeightsComeSlowly) {
  cpu::CpuInfo info = cpu::cpu_info();
  if (cpu::winograd_kernels(cpu::Isa::avx512) == nullptr) GTEST_SKIP() << "no kernels for AVX-512";
  info.isas = {cpu::Isa::avx512};
  info.l2_bytes = 2 << 20;
  info.l3_bytes = std::size_t{256} << 20;
  const auto best_tile = [&](const char* arch, const char* problem) {
    info.arch = arch;
    const std::vector<cpu::Variant> found = cpu::winograd.variants(Conv2dDesc::parse(problem), info, 4);
    return std::ranges::min(found, {}, &cpu::Variant::cost_ms).rows;
  };
  constexpr const char* kFewTiles = "n1c512h7w7k512r3s3ph1pw1";
  constexpr const char* kManyTiles = "n1c128h56w56k128r3s3ph1pw1";
  EXPECT_EQ(best_tile("emerald-rapids", kFewTiles), 2);
  EXPECT_EQ(best_tile("emerald-rapids", kManyTiles), 4);
  EXPECT_EQ(best_tile("zen4", kFewTiles), 4);
}

INSTANTIATE_TEST_SUITE_P(cpu, Winograd, testing::ValuesIn(vector_isas()),
                         [](const auto& isa) { return std::string(to_string(isa.param)); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Winograd);

bool listed(const Conv2dDesc& d) {
  const std::vector<std::string> kernels = find_device("cpu").kernels(d);
  return std::ranges::any_of(kernels, [](const std::string& k) { return k.find("winograd") != std::string::npos; });
}

TEST(WinogradList, HoldsWhatItCanAndNothingElse) {
  if (vector_isas().empty()) GTEST_SKIP() << "this CPU has no vector instruction set that kernels are built for";
  for (const char* yes : {"n1c16h4w4k16r3s3", "n3c64h56w56k64r3s3ph1pw1", "n1c64h9w9k32r3s3g2+nhwc"})
    EXPECT_TRUE(listed(Conv2dDesc::parse(yes))) << yes;
  for (const char* no : {"n1c64h9w9k64r3s3sh2", "n1c64h9w9k64r3s3dw2", "n1c64h9w9k64r3s1", "n1c15h9w9k64r3s3",
                         "n1c64h9w9k15r3s3", "n1c64h9w9k64r3s3g8"})
    EXPECT_FALSE(listed(Conv2dDesc::parse(no))) << no;
}

TEST(WinogradList, DependsOnNoSourceSize) {
  std::vector<std::string> large = find_device("cpu").kernels(Conv2dDesc::parse("n8c32h224w224k32r3s3ph1pw1"));
  std::vector<std::string> small = find_device("cpu").kernels(Conv2dDesc::parse("n1c32h1w1k32r3s3ph1pw1"));
  std::ranges::sort(large);
  std::ranges::sort(small);
  EXPECT_EQ(large, small);
}

TEST(WinogradList, IsClosedToStrictAccuracy) {
  const Conv2dDesc d = Conv2dDesc::parse("n1c64h56w56k64r3s3ph1pw1");
  const Conv2dPlan plan(find_device("cpu"), d, Floats(d.weights_size()), {}, {.accuracy = Accuracy::strict});
  EXPECT_EQ(plan.kernel().find("winograd"), std::string::npos) << plan.kernel();
}

}  // namespace
}  // namespace convrt::test
