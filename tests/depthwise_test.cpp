// cpu.depthwise inside: the padded copies it reads, packed weights, and every kernel of every instruction set at the
// sizes where it changes from one register tile to the next. conformance_test runs it on ugly geometries.
#include <gtest/gtest.h>

#include <algorithm>

#include "cases.hpp"
#include "conformance.hpp"
#include "cpu/algorithm.hpp"
#include "cpu/kernels/depthwise_kernels.hpp"
#include "cpu/phase_planes.hpp"
#include "guarded.hpp"

namespace convrt::cpu {
namespace {

using test::Flush;
using test::Guarded;
using Index = std::ptrdiff_t;

class DepthwiseOnIsa : public testing::TestWithParam<Isa> {
 protected:
  const DepthwiseKernels& kernels = *depthwise_kernels(GetParam());

  void expect_right(const std::string& problem) {
    const Conv2dDesc d = Conv2dDesc::parse(problem);
    const std::string prefix = std::string("cpu.depthwise.") + to_string(GetParam());
    EXPECT_EQ(test::check_kernels(find_device("cpu"), d, test::seed(), prefix), "") << problem;
  }
};

TEST_P(DepthwiseOnIsa, PadRowSplitsARowIntoZeroPaddedPhases) {
  for (const int width : {1, 3, 8, 17, 40})
    for (const int stride : {1, 2, 3})
      for (const int pad_left : {0, 1, 2, 5, 33})
        for (const Index length : {1, 7, 16, 37})
          for (int phases = 1; phases <= stride; ++phases)
            for (const Flush flush : {Flush::front, Flush::back}) {
              const Index phase_size = length + 3;
              Guarded row(static_cast<std::size_t>(width), flush);
              Guarded to(static_cast<std::size_t>((phases - 1) * phase_size + length), flush);
              for (int w = 0; w < width; ++w) row.floats()[static_cast<std::size_t>(w)] = static_cast<float>(w + 1);
              kernels.pad_row(row.floats().data(), width, pad_left, stride, phases, phase_size, length,
                              to.floats().data());
              ASSERT_TRUE(row.intact() && to.intact());
              for (int f = 0; f < phases; ++f)
                for (Index i = 0; i < length; ++i) {
                  const Index w = i * stride + f - pad_left;
                  ASSERT_EQ(to.floats()[static_cast<std::size_t>(f * phase_size + i)],
                            w >= 0 && w < width ? static_cast<float>(w + 1) : 0.0F)
                      << "width " << width << " stride " << stride << " pad " << pad_left << " phase " << f << " at "
                      << i;
                }
            }
}

TEST_P(DepthwiseOnIsa, NhwcWeightsArePackedInVectorsOfFilters) {
  const Index lanes = kernels.lanes;
  const Conv2dDesc d = Conv2dDesc::parse("n1c19h4w4k19r3s3g19+nhwc");
  std::vector<float> weights(d.weights_size());
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i + 1);
  const auto variants = depthwise.variants(d, cpu_info(), 1);
  const auto variant = std::ranges::find(variants, GetParam(), &Variant::isa);
  ASSERT_NE(variant, variants.end());
  const AlignedFloats packed = depthwise.pack(d, *variant, weights, 1);
  ASSERT_EQ(packed.size(), static_cast<std::size_t>((19 + lanes - 1) / lanes * lanes * 9));
  for (Index at = 0; at < static_cast<Index>(packed.size()); ++at) {
    const Index k = at / (9 * lanes) * lanes + at % lanes, tap = at / lanes % 9;
    EXPECT_EQ(packed.data()[at], k < 19 ? static_cast<float>(k * 9 + tap + 1) : 0.0F) << at;
  }
}

// Widths 1 to 40 meet the narrow, half, one-vector and two-vector tiles and their rests; heights all row counts.
TEST_P(DepthwiseOnIsa, NchwIsRightAtEveryWidth) {
  for (int w = 1; w <= 40; ++w) {
    const std::string size = "n1c3h" + std::to_string(1 + w % 11) + "w" + std::to_string(w);
    for (const char* filter :
         {"k3r3s3ph1pw1g3", "k3r3s3sh2sw2ph1pw1g3+acc", "k3r5s5ph2pw2g3+relu", "k6r5s5sh2sw2ph2pw2g3",
          "k3r7s7ph3pw3g3+silu", "k3r7s7sh2sw2ph3pw3g3", "k3r3s3sh2ph1pw1g3"})
      expect_right(size + filter);
  }
}

// Odd and even numbers of planes, several to a channel, cut among threads and, where they are few, into bands of rows.
TEST_P(DepthwiseOnIsa, NchwIsRightForManyPlanes) {
  for (const char* problem :
       {"n1c5h7w7k5r3s3ph1pw1g5", "n3c2h7w7k6r3s3ph1pw1g2+acc+relu", "n1c130h7w7k260r3s3ph1pw1g130+relu",
        "n2c67h14w14k67r3s3ph1pw1g67+acc", "n1c200h14w14k200r3s3sh2sw2ph1pw1g200+gelu", "n1c3h150w90k3r3s3ph1pw1g3",
        "n1c2h301w70k6r3s3sh2sw2ph1pw1g2+relu", "n1c40h28w28k40r3s3pt1pb0pl0pr1g40"})
    expect_right(problem);
}

// Several vectors to a row, read whole or at an edge, blocks of four of them, padding that no whole vector may read.
TEST_P(DepthwiseOnIsa, NchwStrideTwoIsRightForWideRows) {
  for (const int w : {33, 34, 63, 64, 65, 75, 97, 127, 128, 129, 200, 259})
    for (const char* filter : {"k2r3s3sh2sw2ph1pw1g2", "k4r3s3sh2sw2g2+acc+relu", "k2r3s3sh2sw2pt0pb1pl0pr1g2+silu",
                               "k2r3s3sh2sw2ph2pw2g2", "k2r3s3sh2sw2pt1pb2pl1pr5g2+acc", "k2r3s3sh2sw2ph1pl33pr40g2"})
      expect_right("n1c2h" + std::to_string(6 + w % 5) + "w" + std::to_string(w) + filter);
}

// Planes that no cache holds take another way to the same bits, inside the same buffers.
TEST_P(DepthwiseOnIsa, NchwFromMemoryGivesTheSameBits) {
  const DepthwiseKernels::Planes kernel = kernels.planes[0][0];
  if (kernel == nullptr) GTEST_SKIP() << "loads are not masked here";
  test::Random random(test::seed());
  constexpr Index h = 7, planes = 3;
  for (const Index w : {17, 31, 32, 33, 48, 56, 64, 65, 112, 130})
    for (const Index pad : {0, 1, 2})
      for (const bool accumulate : {false, true})
        for (const Flush flush : {Flush::front, Flush::back}) {
          const Index p = h + 2 * pad - 2, q = w + 2 * pad - 2;
          Guarded src(static_cast<std::size_t>(planes * h * w), flush);
          Guarded weights(static_cast<std::size_t>(planes * 9), flush), bias(static_cast<std::size_t>(planes), flush);
          Guarded cached(static_cast<std::size_t>(planes * p * q), flush);
          Guarded streamed(static_cast<std::size_t>(planes * p * q), flush);
          for (const Guarded* g : {&src, &weights, &bias, &cached})
            for (float& f : g->floats()) f = static_cast<float>(random.between(-1000, 1000)) / 7;
          std::ranges::copy(cached.floats(), streamed.floats().begin());
          DepthwisePlanes task = {.src = src.floats().data(),
                                  .h = h,
                                  .w = w,
                                  .pad_top = pad,
                                  .pad_left = pad,
                                  .weights = weights.floats().data(),
                                  .bias = bias.floats().data(),
                                  .dst = cached.floats().data(),
                                  .first_p = 0,
                                  .last_p = p,
                                  .p = p,
                                  .q = q,
                                  .count = planes,
                                  .multiplier = 1,
                                  .phase = 0,
                                  .taps = 9,
                                  .from_memory = false,
                                  .accumulate = accumulate,
                                  .activation = {.kind = ActivationKind::relu}};
          kernel(task);
          task.from_memory = true;
          task.dst = streamed.floats().data();
          task.last_p = 2;  // in two bands
          kernel(task);
          task.first_p = 2;
          task.last_p = p;
          kernel(task);
          EXPECT_TRUE(cached.intact() && streamed.intact());
          ASSERT_TRUE(std::ranges::equal(cached.floats(), streamed.floats())) << "width " << w << " pad " << pad;
        }
}

TEST_P(DepthwiseOnIsa, NhwcIsRightAtEveryWidthAndChannelCount) {
  for (int w = 1; w <= 18; ++w) {
    const std::string channels = std::to_string(2 + w * 2), size = "n1c" + channels + "h5w" + std::to_string(w) + "k";
    for (const char* filter : {"r3s3ph1pw1", "r3s3sh2sw2ph1pw1", "r5s5ph2pw2", "r5s5sh2sw2ph2pw2", "r7s7ph3pw3",
                               "r7s7sh2sw2ph3pw3", "r2s3dw2ph1pw2"})
      expect_right(size + channels + filter + "g" + channels + "+nhwc");
  }
  for (const char* multiplier : {"n1c5h6w7k10r3s3ph1pw1g5+nhwc", "n2c7h20w5k21r3s3sh2sw2ph1pw1g7+nhwc+acc",
                                 "n1c16h9w9k32r5s5ph2pw2g16+nhwc+gelu",
                                 // more vectors than one kernel call takes, the last one partial; odd rows
                                 "n1c1100h3w4k1100r3s3ph1pw1g1100+nhwc+relu", "n2c70h7w9k70r3s3ph1pw1g70+nhwc+acc+tanh",
                                 "n1c64h9w40k64r3s3sh2sw2ph1pw1g64+nhwc+silu", "n1c40h9w9k40r3s3sh2ph1pw1g40+nhwc"})
    expect_right(multiplier);
}

TEST_P(DepthwiseOnIsa, LargePadsStridesAndDilationsAreRight) {
  for (const char* problem :
       {"n1c3h4w5k3r3s3ph7pw9g3", "n1c3h2w2k3r7s7ph3pw3g3", "n1c3h9w40k3r3s3pl20g3", "n1c3h9w9k3r3s3sh2sw2ph6pl17g3",
        "n1c3h30w50k3r3s3dh4dw5ph4pw5g3", "n1c3h30w50k3r4s2sh5sw7g3", "n1c3h90w150k6r3s3ph1pw1g3", "n1c2h6w7k2r1s1g2"})
    for (const char* layout : {"", "+nhwc"}) expect_right(std::string(problem) + layout);
}

TEST(DepthwiseList, DependsOnNoSourceSizeAndHoldsDepthwiseOnly) {
  const auto listed = [](const char* problem) {
    std::vector<std::string> names = find_device("cpu").kernels(Conv2dDesc::parse(problem));
    std::erase_if(names, [](const std::string& name) { return !name.starts_with("cpu.depthwise."); });
    std::ranges::sort(names);
    return names;
  };
  EXPECT_EQ(listed("n1c8h112w112k8r3s3ph1pw1g8"), listed("n9c8h1w1k8r3s3ph1pw1g8"));
  EXPECT_TRUE(listed("n1c8h9w9k8r3s3g4").empty());
  EXPECT_TRUE(listed("n1c1h9w9k8r3s3").empty());
}

std::vector<Isa> vector_isas() {
  std::vector<Isa> found = cpu_info().isas;
  std::erase_if(found, [](Isa isa) { return depthwise_kernels(isa) == nullptr; });
  return found;
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, DepthwiseOnIsa, testing::ValuesIn(vector_isas()),
                         [](const auto& isa) { return std::string(to_string(isa.param)); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(DepthwiseOnIsa);

}  // namespace
}  // namespace convrt::cpu
