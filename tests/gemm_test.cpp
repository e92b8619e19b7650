// cpu.gemm inside: every register tile of every instruction set, the panel copy, and where packed weights land.
// conformance_test runs the whole algorithm through the public API.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "cases.hpp"
#include "conformance.hpp"
#include "cpu/algorithm.hpp"
#include "cpu/kernels/gemm_kernels.hpp"
#include "guarded.hpp"

namespace convrt::cpu {
namespace {

using test::Flush;
using test::Guarded;
using test::Random;

using Index = std::ptrdiff_t;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Small integers: every sum is exact in any order.
void fill(std::span<float> to, Random& random) {
  for (float& f : to) f = static_cast<float>(random.between(-8, 8));
}

float finished(float sum, float bias, float before, const Epilogue& e) {
  return std::min(std::max(sum + bias + (e.accumulate ? before : 0), e.low), e.high);
}

class GemmOnIsa : public testing::TestWithParam<Isa> {
 protected:
  const GemmKernels& kernels = *gemm_kernels(GetParam());
  Random random{test::seed()};

  // Calls `check(tile, rows, vectors, depth, epilogue fields)` for every tile of a table and some depths.
  void for_each_tile(const auto& table, auto check) {
    int tiles = 0;
    for (int rows = 1; rows <= kMaxTileRows; ++rows)
      for (int vectors = 1; vectors <= kMaxTileVectors; ++vectors) {
        if (table[rows][vectors] == nullptr) continue;
        ++tiles;
        for (const int depth : {0, 1, 9})
          for (const bool accumulate : {false, true})
            check(table[rows][vectors], rows, vectors, depth,
                  accumulate ? Epilogue{nullptr, true, -30, 40} : Epilogue{nullptr, false, -kInfinity, kInfinity});
      }
    EXPECT_GE(tiles, 16);
  }
};

TEST_P(GemmOnIsa, PixelTilesMultiplyAndTouchNothingElse) {
  for_each_tile(kernels.pixel, [&](PixelKernel tile, int rows, int vectors, int depth, Epilogue e) {
    const int width = vectors * kernels.lanes, b_step = width + 3, out_step = width + 5;
    for (const int tiles : {1, 3}) {
      const int all = tiles * rows, a_step = depth * rows + 2;
      Guarded a(static_cast<std::size_t>((tiles - 1) * a_step + depth * rows), Flush::back),
          bias(static_cast<std::size_t>(all), Flush::back),
          b(static_cast<std::size_t>(depth == 0 ? 0 : (depth - 1) * b_step + width), Flush::back),
          out(static_cast<std::size_t>((all - 1) * out_step + width), Flush::back);
      for (const Guarded* g : {&a, &bias, &b, &out}) fill(g->floats(), random);
      const std::vector<float> before(out.floats().begin(), out.floats().end());
      e.bias = bias.floats().data();
      tile({tiles, a.floats().data(), a_step, b.floats().data(), b_step, depth, out.floats().data(), out_step, e});
      EXPECT_TRUE(out.intact());
      for (int m = 0; m < all; ++m)
        for (int x = 0; x < std::min(out_step, static_cast<int>(before.size()) - m * out_step); ++x) {
          const auto at = static_cast<std::size_t>(m * out_step + x);
          float sum = 0;
          for (int i = 0; i < depth && x < width; ++i)
            sum += a.floats()[static_cast<std::size_t>(m / rows * a_step + i * rows + m % rows)] *
                   b.floats()[static_cast<std::size_t>(i * b_step + x)];
          const float expected = x < width ? finished(sum, e.bias[m], before[at], e) : before[at];
          ASSERT_EQ(out.floats()[at], expected)
              << tiles << " of " << rows << "x" << vectors << " depth " << depth << " at " << m << "," << x;
        }
    }
  });
}

TEST_P(GemmOnIsa, ChannelTilesMultiplyAndTouchNothingElse) {
  struct Case {
    int pixel_step, depth_step, run_count, tiles;
  };
  std::vector<Case> cases;
  for (const int tiles : {1, 3})
    for (const int run_count : {0, 1, 3})
      for (const auto& [pixel_step, depth_step] : {std::pair{11, 1}, {2, 37}})  // NHWC-like and NCHW-like steps
        cases.push_back({pixel_step, depth_step, run_count, tiles});
  for_each_tile(kernels.channel, [&](ChannelKernel tile, int pixels, int vectors, int depth, Epilogue e) {
    const int width = vectors * kernels.lanes, out_step = width + 5;
    for (const Case& c : cases) {
      const int all = c.tiles * pixels;
      const auto extent =
          static_cast<std::size_t>((all - 1) * c.pixel_step + std::max(0, depth - 1) * c.depth_step + 1);
      Guarded src(extent + 6, Flush::back), weights(static_cast<std::size_t>(c.run_count * depth * width), Flush::back),
          bias(static_cast<std::size_t>(width), Flush::back),
          out(static_cast<std::size_t>((all - 1) * out_step + width), Flush::back);
      for (const Guarded* g : {&src, &weights, &bias, &out}) fill(g->floats(), random);
      const std::vector<float> before(out.floats().begin(), out.floats().end());
      e.bias = bias.floats().data();
      TapRun runs[3];  // of different places
      for (int r = 0; r < c.run_count; ++r)
        runs[r] = {src.floats().data() + 3 * r, weights.floats().data() + r * depth * width};
      tile({c.tiles, runs, c.run_count, depth, c.pixel_step, c.depth_step, out.floats().data(), out_step, e});
      EXPECT_TRUE(out.intact());
      for (int x = 0; x < all; ++x)
        for (int k = 0; k < std::min(out_step, static_cast<int>(before.size()) - x * out_step); ++k) {
          const auto at = static_cast<std::size_t>(x * out_step + k);
          float sum = 0;
          for (int r = 0; r < c.run_count && k < width; ++r)
            for (int i = 0; i < depth; ++i)
              sum += runs[r].src[x * c.pixel_step + i * c.depth_step] * runs[r].weights[i * width + k];
          const float expected = k < width ? finished(sum, e.bias[k], before[at], e) : before[at];
          ASSERT_EQ(out.floats()[at], expected)
              << c.tiles << " of " << pixels << "x" << vectors << " depth " << depth << " at " << x << "," << k;
        }
    }
  });
}

TEST_P(GemmOnIsa, TilesKeepNaN) {
  const auto width = static_cast<std::size_t>(kernels.lanes);
  const std::vector<float> b(width, std::numeric_limits<float>::quiet_NaN());
  std::vector<float> out(width);
  const float one = 1, zero = 0;
  kernels.pixel[1][1]({1, &one, 0, b.data(), 0, 1, out.data(), 0, {&zero, false, 0, 6}});
  for (const float f : out) EXPECT_TRUE(std::isnan(f));
}

TEST_P(GemmOnIsa, PanelCopyReadsNothingBehindTheSource) {
  constexpr Index channels = 3;
  for (const Index stride : {1, 2, 3})
    for (Index len = 1; len <= 4 * kernels.lanes + 3; ++len) {
      const Index plane = len * stride + 2, written = (len + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
      // The last element to copy is the last one of the source.
      Guarded src(static_cast<std::size_t>((channels - 1) * plane + (len - 1) * stride + 1), Flush::back),
          panel(static_cast<std::size_t>(channels * written), Flush::back);
      fill(src.floats(), random);
      const float* begin = src.floats().data();
      kernels.copy({panel.floats().data(), written, begin, plane, begin + src.floats().size(), channels, len, stride});
      EXPECT_TRUE(panel.intact());
      for (Index c = 0; c < channels; ++c)
        for (Index x = 0; x < len; ++x)
          ASSERT_EQ(panel.floats()[static_cast<std::size_t>(c * written + x)], begin[c * plane + x * stride])
              << "stride " << stride << " len " << len;
    }
}

TEST_P(GemmOnIsa, TransposeTouchesNothingElse) {
  for (Index rows = 1; rows <= 15; ++rows)
    for (Index columns = 1; columns <= 11; ++columns) {
      const Index from_step = columns + 2, to_step = rows + 3;
      Guarded from(static_cast<std::size_t>((rows - 1) * from_step + columns), Flush::back),
          to(static_cast<std::size_t>((columns - 1) * to_step + rows), Flush::back);
      fill(from.floats(), random);
      std::ranges::fill(to.floats(), 99.0F);
      kernels.transpose({from.floats().data(), from_step, to.floats().data(), to_step, rows, columns});
      EXPECT_TRUE(to.intact());
      for (Index i = 0; i < static_cast<Index>(to.floats().size()); ++i) {
        const Index c = i / to_step, r = i % to_step;
        ASSERT_EQ(to.floats()[static_cast<std::size_t>(i)],
                  r < rows ? from.floats()[static_cast<std::size_t>(r * from_step + c)] : 99.0F)
            << rows << "x" << columns;
      }
    }
}

const char* const kProblems[] = {"n1c6h9w9k35r3s2",          "n1c6h9w9k35r3s2+nhwc", "n1c12h9w9k140r1s3g4",
                                 "n1c12h9w9k140r1s3g4+nhwc", "n1c5h9w9k5r3s3g5",     "n1c1h9w9k1r1s1+nhwc"};

// Weights that name their own place must all arrive, once, and in the documented order: [group][block][R][S][C][...].
TEST_P(GemmOnIsa, PackedWeightsStandWhereTheTilesReadThem) {
  for (const char* text : kProblems) {
    const Conv2dDesc d = Conv2dDesc::parse(text);
    std::vector<float> weights(d.weights_size());
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i + 1);
    const Index group_k = d.k / d.groups, group_c = d.c / d.groups, taps = Index{d.r} * d.s;
    for (const Variant& v : gemm.variants(d, cpu_info(), 1)) {
      if (v.isa != GetParam()) continue;
      const bool channel = v.name.back() == 'k';
      const AlignedFloats packed = gemm.pack(d, v, weights, 2);
      const Index unit = channel ? kernels.lanes : 1, items = (group_k + unit - 1) / unit;
      const Index blocks = (items + (channel ? v.vectors : v.rows) - 1) / (channel ? v.vectors : v.rows);
      ASSERT_EQ(static_cast<Index>(packed.size()), d.groups * items * unit * taps * group_c) << v.name;
      const float* at = packed.data();
      for (Index g = 0; g < d.groups; ++g)
        for (Index block = 0, first = 0; block < blocks; ++block) {
          // Sizes differ by at most one, the larger ones first.
          const Index size = items / blocks + (block < items % blocks ? 1 : 0);
          for (Index tap = 0; tap < taps; ++tap)
            for (Index c = 0; c < group_c; ++c)
              for (Index i = first * unit; i < (first + size) * unit; ++i) {
                const Index from = ((g * group_k + i) * group_c + c) * taps + tap;
                ASSERT_EQ(*at++, i < group_k ? weights[static_cast<std::size_t>(from)] : 0) << v.name << " " << text;
              }
          first += size;
        }
    }
  }
}

TEST(GemmVariants, DoNotDependOnTheSourceSize) {
  const auto names = [](const Conv2dDesc& d) {
    std::set<std::string> found;
    for (const Variant& v : gemm.variants(d, cpu_info(), 4)) found.insert(v.name);
    return found;
  };
  for (const char* text : kProblems) {
    Conv2dDesc d = Conv2dDesc::parse(text);
    const auto listed = names(d);
    EXPECT_FALSE(listed.empty()) << "needs a vector instruction set";
    d.n = 0;
    EXPECT_EQ(names(d), listed) << text;
    d.n = 7, d.h = 300, d.w = 5;
    EXPECT_EQ(names(d), listed) << text;
  }
}

// Tiles turn or gather what they read, a chunk of lines at a time.
TEST_P(GemmOnIsa, SourcesOfSeveralChunksAreRight) {
  const std::string prefix = std::string("cpu.gemm.") + to_string(GetParam());
  for (const char* problem :
       {"n2c64h60w60k8r3s3ph1pw1+acc",                 // chunks of rows, several images
        "n1c1024h2w150k16r1s1+relu",                   // a plane is one row: chunks of its tiles
        "n1c300h3w300k8r3s3pw1+gelu",                  // the destination is one row, the source three
        "n1c300h5w300k8r3s3sh2sw2pt0pb1pl1pr0g2+acc",  // strides, groups
        "n1c128h40w40k9r3s3dh3dw2ph3pw2",              // rows far apart
        "n3c20h7w7k40r3s3ph1pw1",                      // small planes: wide tiles turn them too
        "n1c600h4w300k8r3s3",                          // a line is too much
        "n1c2h9w9k10r2s5ph1pw4",                       // fewer channels than lanes
        "n4c200h40w40k8r1s1",                          // images of wide tiles
        "n3c20h19w23k40r1s1sh2sw2",                    // pixels of a grid, several images
        "n3c20h19w23k40r1s1sh2sw3+nhwc+acc", "n2c40h29w160k50r1s1sh1sw2g2+relu", "n2c500h30w40k9r1s1sh2sw1",
        "n2c500h30w40k70r1s1sh3sw2+nhwc+gelu",  // chunks of them
        "n1c8h9w9k8r1s1sh2sw2pb1pr2"})          // not all of them inside the image
    EXPECT_EQ(test::check_kernels(find_device("cpu"), Conv2dDesc::parse(problem), test::seed(), prefix), "") << problem;
}

std::vector<Isa> vector_isas() {
  std::vector<Isa> found;
  for (const Isa isa : cpu_info().isas)
    if (gemm_kernels(isa) != nullptr) found.push_back(isa);
  return found;
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, GemmOnIsa, testing::ValuesIn(vector_isas()),
                         [](const auto& isa) { return std::string(to_string(isa.param)); });

}  // namespace
}  // namespace convrt::cpu
