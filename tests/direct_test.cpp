// cpu.direct inside: padded pixels, packed weights, and every register tile of every instruction set, full and partial.
// conformance_test runs it on ugly geometries.
#include <gtest/gtest.h>

#include <algorithm>

#include "cases.hpp"
#include "conformance.hpp"
#include "cpu/algorithm.hpp"
#include "cpu/kernels/direct_kernels.hpp"
#include "guarded.hpp"

namespace convrt::cpu {
namespace {

using test::Flush;
using test::Guarded;
using Index = std::ptrdiff_t;

class DirectOnIsa : public testing::TestWithParam<Isa> {
 protected:
  const DirectKernels& kernels = *direct_kernels(GetParam());

  std::vector<Variant> variants(const Conv2dDesc& d) {
    std::vector<Variant> found = direct.variants(d, cpu_info(), 1);
    std::erase_if(found, [](const Variant& v) { return v.isa != GetParam(); });
    return found;
  }
  void expect_right(const std::string& problem) {
    const Conv2dDesc d = Conv2dDesc::parse(problem);
    ASSERT_FALSE(variants(d).empty()) << problem;
    const std::string prefix = std::string("cpu.direct.") + to_string(GetParam());
    EXPECT_EQ(test::check_kernels(find_device("cpu"), d, test::seed(), prefix), "") << problem;
  }
};

TEST_P(DirectOnIsa, PadPixelsCopiesASliceOfChannels) {
  for (const int width : {1, 4, 9})
    for (const int channels : {3, 16, 21})
      for (const int count : {1, 3, 16, 21})
        for (const int pad_left : {0, 2, 12})
          for (const Index length : {1, 6, 14})
            for (const Flush flush : {Flush::front, Flush::back}) {
              if (count > channels) continue;
              // From the last `count` channels: the last pixel ends where the row does.
              const Index skipped = channels - count;
              Guarded row(static_cast<std::size_t>(width * channels - skipped), flush);
              Guarded to(static_cast<std::size_t>(length * count), flush);
              for (std::size_t i = 0; i < row.floats().size(); ++i) row.floats()[i] = static_cast<float>(i + 1);
              kernels.pad_pixels(row.floats().data(), width, channels, count, pad_left, length, count,
                                 to.floats().data());
              ASSERT_TRUE(row.intact() && to.intact());
              for (Index at = 0; at < length * count; ++at) {
                const Index w = at / count - pad_left;
                ASSERT_EQ(to.floats()[static_cast<std::size_t>(at)],
                          w >= 0 && w < width ? static_cast<float>(w * channels + at % count + 1) : 0.0F)
                    << "width " << width << " channels " << channels << " count " << count << " at " << at;
              }
            }
}

// Every weight stands in the packed copy once; the rest is zero.
TEST_P(DirectOnIsa, PackedWeightsAreTheWeightsAndZeros) {
  for (const char* problem : {"n1c3h8w8k19r3s2", "n1c3h8w8k70r3s3+nhwc", "n1c12h8w8k20r3s3g4",
                              "n1c24h8w8k24r3s3g6+nhwc", "n1c4h8w8k10r1s3g2+nhwc"}) {
    const Conv2dDesc d = Conv2dDesc::parse(problem);
    std::vector<float> weights(d.weights_size());
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i + 1);
    for (const Variant& variant : variants(d)) {
      const AlignedFloats packed = direct.pack(d, variant, weights, 1);
      std::vector<float> found(packed.data(), packed.data() + packed.size());
      std::erase(found, 0.0F);
      std::ranges::sort(found);
      EXPECT_EQ(found, weights) << problem << " " << variant.name;
    }
  }
}

// NCHW: filters 1 to 17 meet full and partial tiles of every height, widths those of every number of vectors, in runs
// over a whole band and row by row.
TEST_P(DirectOnIsa, NchwTilesAreRight) {
  for (int k = 1; k <= 17; ++k)
    for (const char* image : {"n1c3h9w11", "n1c2h3w16", "n2c1h4w33", "n1c3h5w97"})
      for (const char* filter : {"r3s3ph1pw1", "r5s4sh2sw2pt2pl1+acc+relu"})
        expect_right(std::string(image) + "k" + std::to_string(k) + filter);
}

// NHWC: filters around every number of vectors; pixels that fill the last tile and that do not.
TEST_P(DirectOnIsa, NhwcTilesAreRight) {
  for (int vectors = 1; vectors <= 5; ++vectors)
    for (const int off : {-1, 0, 1})
      for (const char* image : {"n1c3h3w5", "n1c1h4w4", "n2c5h7w9"})
        for (const char* filter : {"r3s3ph1pw1+nhwc", "r2s5sh2sw3pt1pl4pr1+nhwc+acc+tanh"})
          expect_right(std::string(image) + "k" + std::to_string(vectors * kernels.lanes + off) + filter);
}

TEST_P(DirectOnIsa, SmallGroupsAreRight) {
  for (const char* layout : {"", "+nhwc", "+nhwc+acc", "+relu"})
    for (const char* problem : {"n1c32h6w7k32r3s3ph1pw1g8", "n1c12h5w19k12r3s3ph1pw1g3", "n1c6h5w6k12r3s3g6",
                                "n1c20h9w4k40r3s3sh2sw2ph1pw1g10", "n2c24h5w5k24r1s1g3",
                                "n1c36h20w20k36r3s3dh2dw3ph2pw3g9", "n1c32h7w7k32r3s3ph1pw1g2"}) {
      const Conv2dDesc d = Conv2dDesc::parse(std::string(problem) + layout);
      if (!variants(d).empty()) expect_right(d.str());
    }
}

// Rows that fill whole and half tiles of the kernel with shared permutations, and leave every rest.
TEST_P(DirectOnIsa, SmallGroupsOfAnyWidthAreRight) {
  for (int w = 1; w <= 31; ++w)
    for (const char* filter : {"k16r3s3ph1pw1g4+nhwc", "k32r3s3sh2sw2ph1pw1g8+nhwc+acc+relu"})
      expect_right("n1c16h5w" + std::to_string(w) + filter);
}

TEST_P(DirectOnIsa, LookupKernelsTakeGroupsThatShareAVector) {
  const auto has_lookup = [&](const char* problem) {
    return std::ranges::any_of(variants(Conv2dDesc::parse(problem)),
                               [](const Variant& v) { return v.name.ends_with(".lookup"); });
  };
  EXPECT_TRUE(has_lookup("n1c32h6w7k32r3s3g8+nhwc"));
  EXPECT_FALSE(has_lookup("n1c32h6w7k32r3s3g8"));
  EXPECT_FALSE(has_lookup("n1c24h6w7k24r3s3g8+nhwc"));
  EXPECT_FALSE(has_lookup("n1c16h6w7k8r3s3g4+nhwc"));
}

TEST(DirectList, DependsOnNoSourceSizeAndEndsWithManyChannels) {
  const auto listed = [](const char* problem) {
    std::vector<std::string> names = find_device("cpu").kernels(Conv2dDesc::parse(problem));
    std::erase_if(names, [](const std::string& name) { return !name.starts_with("cpu.direct."); });
    std::ranges::sort(names);
    return names;
  };
  for (const std::string layout : {"", "+nhwc"})
    EXPECT_EQ(listed(("n1c3h224w224k64r7s7sh2sw2ph3pw3" + layout).c_str()),
              listed(("n9c3h1w1k64r7s7sh2sw2ph3pw3" + layout).c_str()));
  EXPECT_TRUE(listed("n1c128h14w14k128r3s3").empty());
}

std::vector<Isa> vector_isas() {
  std::vector<Isa> found = cpu_info().isas;
  std::erase_if(found, [](Isa isa) { return direct_kernels(isa) == nullptr; });
  return found;
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, DirectOnIsa, testing::ValuesIn(vector_isas()),
                         [](const auto& isa) { return std::string(to_string(isa.param)); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(DirectOnIsa);

}  // namespace
}  // namespace convrt::cpu
