/// \file
/// The problems that every kernel has to solve: ugly ones picked by hand and seeded random ones.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "convrt/conv2d.hpp"

namespace convrt::test {

/// An environment variable, or `otherwise` where it is unset or empty.
inline std::string environment(const char* name, const std::string& otherwise = {}) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

/// Decides all random data and all random problems; CONVRT_TEST_SEED sets it.
inline std::uint64_t seed() { return std::stoull(environment("CONVRT_TEST_SEED", "20240229")); }

/// The same numbers on every platform, which <random>'s distributions do not promise.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  int between(int low, int high) {  // both ends included
    return low + static_cast<int>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  float real() { return static_cast<float>(engine_() >> 40) * 0x1p-23F - 1; }  // [-1, 1), 24 bits
  template <class T>
  T pick(std::initializer_list<T> from) {
    return from.begin()[between(0, static_cast<int>(from.size()) - 1)];
  }

 private:
  std::mt19937_64 engine_;
};

/// A seed of one problem, so that its data do not depend on which problems ran before.
inline std::uint64_t seed_for(const Conv2dDesc& desc, std::uint64_t seed) {
  std::uint64_t hash = 0xcbf29ce484222325U ^ seed;  // FNV-1a
  for (const char c : desc.str()) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return hash;
}

/// Every geometry in both layouts; activation, accumulate and their absence take turns over the list.
inline std::vector<Conv2dDesc> hand_picked_cases() {
  static constexpr const char* kGeometries[] = {
      "n1c1h1w1k1r1s1",                     // the smallest
      "n1c3h5w7k2r2s3ph1pw1",               // nothing is square, nothing is a multiple of anything
      "n2c17h9w11k19r1s1",                  // 1x1 with tails everywhere
      "n1c64h7w7k65r1s1",                   // one filter too many for any tile
      "n1c16h10w13k24r1s1sh2sw2",           // 1x1 that skips source rows
      "n2c10h8w12k24r1s1sh2sw2",            // ... of whole quads of pixels
      "n1c5h6w6k7r1s1pt2pb1pl1pr3",         // 1x1 whose border is bias alone
      "n1c32h14w14k32r3s3ph1pw1",           // Winograd's home
      "n2c33h13w15k31r3s3ph1pw1",           // ... with tails
      "n1c16h12w12k16r3s3",                 // ... without padding
      "n1c20h11w9k24r3s3pt2pb0pl1pr2",      // ... padded askew
      "n1c24h7w7k40r3s3ph1pw1",             // ResNet's last stage in small
      "n1c8h30w61k13r3s3ph1pw1",            // rows that are no multiple of any vector
      "n3c12h9w8k18r3s3sh2sw2ph1pw1",       // stride 2
      "n1c7h17w19k9r3s3sh3sw2pt1pl2",       // strides that differ
      "n1c4h9w9k5r2s2sh4sw3",               // strides longer than the filter
      "n1c6h5w6k4r3s3sh9sw9ph1pw1",         // strides longer than the image
      "n1c3h23w19k16r7s7sh2sw2ph3pw3",      // the stem
      "n1c1h24w31k8r5s5ph2pw2",             // a grey picture
      "n1c9h10w14k6r1s7pw3",                // rows and
      "n1c9h14w10k6r7s1ph3",                // ... columns
      "n1c6h11w13k10r2s4pr3",               // even filters
      "n1c10h15w16k12r3s3dh2dw2ph2pw2",     // dilated
      "n1c5h18w21k7r3s2dh4dw3sh2ph1pw4",    // dilated, strided, askew
      "n1c3h4w4k5r3s3dh50dw50ph50pw50",     // only the centre tap ever meets the image
      "n1c2h3w3k3r3s3ph4pw5",               // padding wider than the filter: whole outputs see nothing
      "n1c4h2w2k6r5s5ph2pw2",               // a filter larger than the image
      "n2c40h7w7k50r7s7",                   // one output: a fully connected layer
      "n1c1030h3w4k18r1s1",                 // a long reduction
      "n1c131h5w5k20r3s3ph1pw1",            // ... in several blocks, the last one odd
      "n1c2h2w517k3r1s3pw1",                // a wide strip
      "n1c2h301w3k5r3s1ph1",                // a tall one
      "n5c3h4w5k4r2s2",                     // more images than pixels in a row
      "n1c48h16w16k200r1s1",                // many filters
      "n1c12h9w10k8r3s3ph1pw1g4",           // groups of 3 to 2
      "n1c32h8w9k32r3s3ph1pw1g8",           // ResNeXt's groups of 4
      "n2c15h7w6k10r1s1g5",                 // grouped 1x1
      "n1c68h6w7k34r3s3sh2sw2ph1pw1g2",     // large groups, strided
      "n1c35h12w13k35r3s3ph1pw1g35",        // depthwise
      "n1c16h28w28k16r3s3sh2sw2ph1pw1g16",  // ... strided
      "n2c9h11w10k27r3s3ph1pw1g9",          // ... with multiplier 3
      "n1c33h13w15k33r5s5ph2pw2g33",        // ... 5x5
      "n1c17h14w9k17r7s7sh2ph3pw3g17",      // ... 7x7, one stride
      "n1c18h9w16k18r3s3dh2dw3ph2pw3g18",   // ... dilated
      "n1c6h10w11k12r2s4pt3pl2g6",          // ... even and askew
      "n1c19h5w5k19r1s1g19",                // ... scaling of planes
  };
  static constexpr const char* kEpilogues[] = {
      "",          "+relu", "+acc",  "",      "+leaky_relu:0.25", "+acc+relu",  "", "+sigmoid", "+clamp:-3:6",
      "+acc+silu", "",      "+tanh", "+gelu", "+acc+clamp:-1:1",  "+hard_swish"};
  std::vector<Conv2dDesc> cases;
  std::size_t turn = 0;
  for (const char* geometry : kGeometries)
    for (const char* layout : {"", "+nhwc"})
      cases.push_back(Conv2dDesc::parse(std::string(geometry) + layout + kEpilogues[turn++ % std::size(kEpilogues)]));
  return cases;
}

/// One valid problem of at most `max_flops`.
inline Conv2dDesc random_case(Random& random, double max_flops = 6e6) {
  for (;;) {
    Conv2dDesc d;
    d.n = random.between(1, 3);
    d.groups = random.pick({1, 1, 1, 2, 3, random.between(2, 40)});
    const bool depthwise = d.groups > 1 && random.between(0, 1) == 0;
    d.c = d.groups * (depthwise ? 1 : random.between(1, random.pick({4, 40, 150})));
    d.k = d.groups * random.between(1, depthwise ? 2 : random.pick({4, 40, 150}));
    d.h = random.between(1, 40);
    d.w = random.between(1, 40);
    d.r = random.pick({1, 3, 3, random.between(1, 7)});
    d.s = random.between(0, 3) == 0 ? random.between(1, 7) : d.r;
    d.stride_h = random.pick({1, 1, 2, random.between(1, 5)});
    d.stride_w = random.between(0, 3) == 0 ? random.between(1, 5) : d.stride_h;
    d.dilation_h = random.pick({1, 1, 1, random.between(1, 4)});
    d.dilation_w = random.between(0, 3) == 0 ? random.between(1, 4) : d.dilation_h;
    d.pad_top = random.between(0, d.r);
    d.pad_left = random.between(0, d.s);
    const bool symmetric = random.between(0, 2) != 0;
    d.pad_bottom = symmetric ? d.pad_top : random.between(0, d.r);
    d.pad_right = symmetric ? d.pad_left : random.between(0, d.s);
    d.layout = random.pick({Layout::nchw, Layout::nhwc});
    d.accumulate = random.between(0, 3) == 0;
    if (random.between(0, 1) == 0) d.activation.kind = static_cast<ActivationKind>(random.between(0, 8));
    if (d.activation.kind == ActivationKind::clamp) d.activation = {ActivationKind::clamp, -2, 5.5F};
    if (d.activation.kind == ActivationKind::leaky_relu) d.activation.alpha = 0.125F;
    const bool fits = d.h + d.pad_top + d.pad_bottom > d.dilation_h * (d.r - 1) &&
                      d.w + d.pad_left + d.pad_right > d.dilation_w * (d.s - 1);
    if (fits && d.flops() <= max_flops) return d;
  }
}

inline std::vector<Conv2dDesc> random_cases(std::uint64_t seed, int count) {
  Random random(seed);
  std::vector<Conv2dDesc> cases;
  while (static_cast<int>(cases.size()) < count) cases.push_back(random_case(random));
  return cases;
}

/// What the conformance test walks: CONVRT_TEST_PROBLEM alone where set, else both lists with `random` random ones, or
/// as many as CONVRT_TEST_RANDOM says.
inline std::vector<Conv2dDesc> conformance_cases(int random) {
  if (const std::string problem = environment("CONVRT_TEST_PROBLEM"); !problem.empty())
    return {Conv2dDesc::parse(problem)};
  std::vector<Conv2dDesc> cases = hand_picked_cases();
  const int count = std::stoi(environment("CONVRT_TEST_RANDOM", std::to_string(random)));
  for (const Conv2dDesc& d : random_cases(seed(), count)) cases.push_back(d);
  return cases;
}

}  // namespace convrt::test
