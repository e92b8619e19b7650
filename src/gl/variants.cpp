#include "gl/variants.hpp"

#include <algorithm>
#include <cmath>

#include "core/fail.hpp"
#include "core/winograd.hpp"
#include "gl/depth_share.hpp"
#include "gl/variant_table.hpp"

namespace convrt::gl {

std::string sizes(std::initializer_list<int> values) {
  std::string text;
  for (const int v : values) text.append(text.empty() ? "" : "x").append(std::to_string(v));
  return text;
}

Defines common_defines(const Conv2dDesc& d, bool filter_size) {
  Defines defines = {{"PACKED", "1"}};
  if (d.groups == 1) defines.emplace_back("GROUPS", "1");
  if (filter_size) {
    defines.insert(defines.end(), {{"R", std::to_string(d.r)}, {"S", std::to_string(d.s)}});
    defines.insert(defines.end(), {{"STRIDE_H", std::to_string(d.stride_h)},
                                   {"STRIDE_W", std::to_string(d.stride_w)},
                                   {"DILATION_H", std::to_string(d.dilation_h)},
                                   {"DILATION_W", std::to_string(d.dilation_w)}});
  }
  defines.insert(defines.end(), {{"NHWC", d.layout == Layout::nhwc ? "1" : "0"},
                                 {"ACCUMULATE", d.accumulate ? "1" : "0"},
                                 {"ACTIVATION", std::to_string(static_cast<int>(d.activation.kind))}});
  return defines;
}

namespace {

bool always(const Conv2dDesc&) { return true; }

// --- basic_64: tile = {filters}

Blocking basic_blocking(const Conv2dDesc&, const TileSizes& t) { return {.filters = t[0], .pixels = 64}; }
std::string basic_suffix(const TileSizes& t) { return sizes({t[0]}); }
Defines basic_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo&) {
  Defines defines = common_defines(d);
  defines.emplace_back("BM", std::to_string(t[0]));
  return defines;
}

// --- GEMM tiles: tile = {BM, BN, BK, TM, TN, ROLLED}

Blocking gemm_blocking(const Conv2dDesc&, const TileSizes& t) {
  const int sums = t[3] * t[4], invocations = t[0] * t[1] / sums;
  return {.filters = t[0],
          .pixels = t[1],
          .depth = t[2],
          .invocations = invocations,
          .shared_bytes = static_cast<std::uint32_t>(4 * 2 * t[2] * (t[0] + t[1])),
          .shares = sums < 64 || invocations <= 128,  // else one group a processor instead of two
          .text = sums * (t[5] > 0 ? t[5] : 2 * t[2])};
}
std::string gemm_suffix(const TileSizes& t) {
  return sizes({t[0], t[1], t[2]}) + (t[5] > 0 ? ".rolled" + std::to_string(t[5]) : "");
}

bool dst_aligned(const Conv2dDesc& d) {
  if (d.layout == Layout::nhwc) return d.k % 4 == 0 && filters_per_group(d) % 4 == 0;
  return std::int64_t{d.p()} * d.q() % 4 == 0;
}

void add_gemm_defines(Defines& defines, const Conv2dDesc& d, const TileSizes& t, const GlInfo& info, bool shares) {
  constexpr const char* names[] = {"BM", "BN", "BK", "TM", "TN"};
  for (std::size_t i = 0; i < std::size(names); ++i) defines.emplace_back(names[i], std::to_string(t[i]));
  if (t[5] > 0) defines.emplace_back("ROLLED", std::to_string(t[5]));
  if (dst_aligned(d)) defines.emplace_back("DST_VEC4", "1");
  if (channels_per_group(d) % t[2] == 0) defines.emplace_back("WHOLE_STEPS", "1");
  if (info.vendor == Vendor::nvidia) defines.insert(defines.end(), {{"UNROLL", "1"}, {"FENCE", "0"}});
  if (!shares) defines.emplace_back("SHARES", "0");
}

Blocking gather_blocking(const Conv2dDesc& d, const TileSizes& t) {
  Blocking b = gemm_blocking(d, t);
  // NHWC: rows of B in gemm_tile.glsl have a vec4 more.
  if (d.layout == Layout::nhwc) b.shared_bytes += static_cast<std::uint32_t>(2 * 16 * t[2]);
  if (d.r * d.s > 1) b.shared_bytes += static_cast<std::uint32_t>(16 * t[1]);  // slots: a struct takes up to 16 bytes
  return b;
}
Defines gather_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo& info) {
  Defines defines = common_defines(d);
  if (d.r == 1 && d.s == 1) defines.emplace_back("ONE_TAP", "1");
  add_gemm_defines(defines, d, t, info, gemm_blocking(d, t).shares);
  return defines;
}

bool large_fits(const Conv2dDesc& d) { return filters_per_group(d) >= 8 && channels_per_group(d) >= 4; }

Defines medium_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo& info) {
  Defines defines = gather_defines(d, t, info);
  defines.emplace_back("LOCAL", "128");
  return defines;
}

Blocking pointwise_blocking(const Conv2dDesc& d, const TileSizes& t) {
  Blocking b = gemm_blocking(d, t);
  b.shares = b.invocations == 128;
  return b;
}
// Sums of an invocation where they are not the usual 8x8.
std::string pointwise_suffix(const TileSizes& t) {
  return gemm_suffix(t) + (t[3] * t[4] == 64 ? "" : "." + sizes({t[3], t[4]}));
}
bool pointwise_split_fits(const Conv2dDesc& d) {
  return d.r == 1 && d.s == 1 && d.pad_top == 0 && d.pad_left == 0 && d.pad_bottom == 0 && d.pad_right == 0 &&
         filters_per_group(d) >= 4;
}
// NHWC: pointwise_split or a gather was faster on every layer measured (bench/NOTES.md).
bool pointwise_fits(const Conv2dDesc& d) { return d.layout == Layout::nchw && pointwise_split_fits(d); }
// Whether four pixels are one aligned load.
bool pointwise_aligned(const Conv2dDesc& d) {
  return d.layout == Layout::nchw && d.stride_h == 1 && d.stride_w == 1 && std::int64_t{d.h} * d.w % 4 == 0;
}
Defines add_pointwise_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo& info, bool shares) {
  Defines defines = common_defines(d, false);
  if (pointwise_aligned(d)) defines.emplace_back("SRC_VEC4", "1");
  defines.emplace_back("LOCAL", std::to_string(t[0] / t[3] * (t[1] / t[4])));
  add_gemm_defines(defines, d, t, info, shares);
  return defines;
}
Defines pointwise_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo& info) {
  return add_pointwise_defines(d, t, info, pointwise_blocking(d, t).shares);
}
Defines pointwise_split_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo& info) {
  return add_pointwise_defines(d, t, info, gemm_blocking(d, t).shares);
}

// --- flattened: tile = {BM, BN, BK, TM, TN}

bool flattened_fits(const Conv2dDesc& d) {
  return channels_per_group(d) <= 8 && filters_per_group(d) >= 8 &&
         std::int64_t{d.r} * d.s * channels_per_group(d) <= 1024;
}
Blocking flattened_blocking(const Conv2dDesc& d, const TileSizes& t) {
  Blocking b = gemm_blocking(d, t);
  b.flat = true;
  b.shared_bytes += static_cast<std::uint32_t>(16 * depth(b, d));  // ivec3 in an array takes up to 16 bytes
  return b;
}
Defines flattened_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo& info) {
  Defines defines = common_defines(d);
  defines.emplace_back("CHANNELS", std::to_string(channels_per_group(d)));
  defines.emplace_back("LOCAL", std::to_string(t[0] / t[3] * (t[1] / t[4])));
  add_gemm_defines(defines, d, t, info, gemm_blocking(d, t).shares);
  return defines;
}

// --- few_channels: tile = {BM, TN}

constexpr int kFewInvocations = 128;
bool few_channels_fits(const Conv2dDesc& d) { return channels_per_group(d) <= 4 && filters_per_group(d) >= 4; }
Blocking few_blocking(const Conv2dDesc& d, const TileSizes& t) {
  return {.filters = t[0],
          .pixels = kFewInvocations * t[1],
          .invocations = kFewInvocations,
          .shared_bytes = static_cast<std::uint32_t>(4 * t[0] * std::min(d.r * d.s * channels_per_group(d), 1 << 20))};
}
std::string few_suffix(const TileSizes& t) { return sizes({t[0], t[1]}); }
Defines few_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo&) {
  Defines defines = common_defines(d);
  defines.insert(defines.end(), {{"CHANNELS", std::to_string(channels_per_group(d))},
                                 {"BM", std::to_string(t[0])},
                                 {"TN", std::to_string(t[1])}});
  if (d.layout == Layout::nhwc && dst_aligned(d)) defines.emplace_back("DST_VEC4", "1");
  return defines;
}

// --- rdna3_dual_issue: tile = {LOCAL, BM, TN}

bool rdna3_fits(const Conv2dDesc& d) { return filters_per_group(d) >= 16; }
Blocking rdna3_blocking(const Conv2dDesc&, const TileSizes& t) {
  return {.filters = t[1], .pixels = t[0] * t[2], .invocations = t[0]};
}
std::string rdna3_suffix(const TileSizes& t) { return std::to_string(t[0]) + "." + sizes({t[1], t[2]}); }
Defines rdna3_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo&) {
  Defines defines = common_defines(d);
  defines.insert(defines.end(),
                 {{"LOCAL", std::to_string(t[0])}, {"BM", std::to_string(t[1])}, {"TN", std::to_string(t[2])}});
  if (d.pad_top == 0 && d.pad_left == 0 && d.pad_bottom == 0 && d.pad_right == 0) defines.emplace_back("PADDED", "0");
  return defines;
}

// --- Winograd: tile = {BM, BN, BK, TM, TN, outputs a Winograd tile and axis}; steps stand in winograd.cpp.

Blocking winograd_blocking(const Conv2dDesc&, const TileSizes& t) {
  return {.filters = t[0],
          .pixels = t[1] * t[5] * t[5],
          .depth = t[2],
          .invocations = t[0] / t[3] * (t[1] / t[4]),
          .shared_bytes = static_cast<std::uint32_t>(4 * 2 * t[2] * (t[0] + t[1])),
          .shares = t[3] * t[4] < 64,  // larger tiles are for layers that have enough of them
          .batches = static_cast<double>(core::winograd_points(t[5]))};
}
std::string winograd_suffix(const TileSizes& t) { return sizes({t[0], t[1], t[2]}) + "." + sizes({t[3], t[4]}); }
Defines winograd_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo& info) {
  Defines defines = {{"LOCAL", std::to_string(t[0] / t[3] * (t[1] / t[4]))},
                     {"SHARES", winograd_blocking(d, t).shares ? "1" : "0"}};
  constexpr const char* names[] = {"BM", "BN", "BK", "TM", "TN", "OUT"};
  for (std::size_t i = 0; i < std::size(names); ++i) defines.emplace_back(names[i], std::to_string(t[i]));
  if (info.vendor == Vendor::nvidia) defines.emplace_back("FENCE", "0");
  return defines;
}

// The share of the peak guessed for a choice, on this kind of device. RDNA3's own variant has never run on a card: its
// place is argued from machine code alone, so only a tuner may put it first elsewhere.
double rate(const Variant& variant, const Variant::Choice& choice, const Conv2dDesc& desc, const GlInfo& info) {
  const std::string_view name = variant.name;
  const bool pairs = info.arch == "rdna3" || info.arch == "rdna3.5";
  if (name == "rdna3_dual_issue") return pairs ? choice.rate : 1e-3;
  // The compiler pairs no multiply-add of the others there: 27 to 52 of the 55 TFLOP/s (bench/NOTES.md, RDNA3, static).
  if (pairs) return 0.75 * choice.rate;
  if (name == "pointwise" && !pointwise_aligned(desc)) return 0.8 * choice.rate;
  // Strips of one column: long ones, since they share the arithmetic of indices.
  if (name == "depthwise" && variant.blocking(desc, choice.tile).columns == 1 && choice.tile[0] == 7) return 0.25;
  return choice.rate;
}

// Guessed time in units of one multiply-add at the device's peak: padded work, slowed by processors that idle in the
// last round of tiles or have nothing to do at all.
double guessed_time(const Variant& variant, const Variant::Choice& choice, const Conv2dDesc& desc, const GlInfo& info) {
  const Blocking b = variant.blocking(desc, choice.tile);
  const std::int64_t tiles = tile_count(b, desc);
  if (b.batches == 1 && b.rows == 1 && b.columns == 1) {  // a GEMM
    const TileGrid grid = {tiles, depth(b, desc) / b.depth};
    return gemm_cycles(b, info, grid, best_share(b, info, grid)) * full_rate(b, info) * 128 * processors(info) /
           rate(variant, choice, desc, info);
  }
  const double work =
      static_cast<double>(tiles) * b.pixels * b.rows * b.columns * static_cast<double>(block_floats(b, desc));
  const double slots = processors(info) * (info.software ? 1.0 : std::max(2.0, 512.0 / b.invocations));
  const double groups = static_cast<double>(tiles) * b.batches;
  const double rounds = std::max(1.0, groups < 8 * slots ? std::ceil(groups / slots) : groups / slots);
  return work / rate(variant, choice, desc, info) * (rounds * slots / groups);
}

}  // namespace

const std::vector<Variant>& variants() {
  // clang-format off
  static const std::vector<Variant> table = {
      {"winograd_f4x4", "winograd_gemm.comp", winograd_fits, winograd_blocking, winograd_suffix, winograd_defines,
       {{{128, 128, 8, 8, 8, 4}, 1.5}, {{64, 64, 8, 8, 4, 4}, 1.51}, {{64, 128, 8, 8, 8, 4}, 1.46},
        {{64, 64, 8, 8, 8, 4}, 1.44}, {{32, 32, 16, 4, 4, 4}, 0.9}, {{64, 16, 16, 4, 4, 4}, 0.7}},
       winograd_recipe, winograd_weights},
      {"winograd_f2x2", "winograd_gemm.comp", winograd_fits, winograd_blocking, winograd_suffix, winograd_defines,
       {{{128, 128, 8, 8, 8, 2}, 0.8}, {{64, 64, 8, 8, 4, 2}, 0.79}, {{64, 32, 16, 4, 4, 2}, 0.5},
        {{32, 16, 32, 4, 4, 2}, 0.45}},
       winograd_recipe, winograd_weights},
      {"pointwise", "pointwise.comp", pointwise_fits, pointwise_blocking, pointwise_suffix, pointwise_defines,
       {{{128, 128, 8, 8, 8}, 0.75}, {{64, 128, 8, 8, 8}, 0.74}, {{128, 64, 8, 8, 8}, 0.74}, {{64, 64, 8, 8, 8}, 0.70},
        {{64, 64, 8, 8, 4}, 0.68}}},
      {"pointwise_split", "pointwise_split.comp", pointwise_split_fits, gather_blocking, gemm_suffix,
       pointwise_split_defines,
       {{{128, 64, 8, 8, 8}, 0.69}, {{64, 64, 8, 8, 4}, 0.60}, {{64, 64, 16, 8, 4}, 0.60}, {{64, 32, 32, 4, 4}, 0.32},
        {{64, 64, 16, 4, 4, 8}, 0.47}, {{64, 32, 16, 4, 4, 8}, 0.42}, {{32, 64, 32, 4, 4, 8}, 0.36},
        {{32, 32, 32, 4, 4, 8}, 0.34}}},
      {"flattened", "flattened.comp", flattened_fits, flattened_blocking, gemm_suffix, flattened_defines,
       {{{64, 128, 8, 8, 8}, 0.60}, {{64, 64, 8, 8, 8}, 0.48}, {{32, 64, 8, 4, 8}, 0.38}}},
      {"rdna3_dual_issue", "rdna3_dual_issue.comp", rdna3_fits, rdna3_blocking, rdna3_suffix, rdna3_defines,
       {{{160, 32, 2}, 0.80}, {{96, 32, 2}, 0.79}}},
      {"large_256", "large_256.comp", large_fits, gather_blocking, gemm_suffix, gather_defines,
       {{{128, 128, 8, 8, 8}, 0.69}, {{128, 64, 16, 8, 4}, 0.55},
        {{64, 128, 16, 4, 8}, 0.52}, {{64, 64, 16, 4, 4}, 0.46}}},
      {"medium_128", "large_256.comp", large_fits, gather_blocking, gemm_suffix, medium_defines,
       {{{128, 64, 8, 8, 8}, 0.68}, {{64, 128, 8, 8, 8}, 0.63}, {{64, 64, 8, 8, 4}, 0.58}, {{64, 64, 16, 8, 4}, 0.57},
        {{64, 32, 32, 4, 4}, 0.30}, {{32, 64, 32, 4, 4}, 0.30}}},
      {"depthwise", "depthwise.comp", depthwise_fits, depthwise_blocking, depthwise_suffix, depthwise_defines,
       {{{3, 1}, 0.20}, {{4, 1}, 0.19}, {{7, 1}, 0.19}, {{14, 1}, 0.18}, {{2, 1}, 0.18}, {{7, 8}, 0.17}},
       nullptr, nullptr, depthwise_extents},
      {"depthwise_nhwc", "depthwise.comp", depthwise_nhwc_fits, depthwise_nhwc_blocking, depthwise_nhwc_suffix,
       depthwise_nhwc_defines,
       {{{4, 2, 4}, 0.20}, {{4, 4, 1}, 0.195}, {{7, 2, 4}, 0.19}, {{2, 2, 4}, 0.185}, {{7, 4, 1}, 0.18},
        {{2, 7, 1}, 0.175}},
       nullptr, nullptr, depthwise_extents},
      {"few_channels", "few_channels.comp", few_channels_fits, few_blocking, few_suffix, few_defines,
       {{{16, 4}, 0.40}, {{32, 2}, 0.38}}},
      {"lds_64", "lds_64.comp", always, gather_blocking, gemm_suffix, gather_defines,
       {{{64, 64, 8, 8, 8}, 0.55}, {{64, 32, 16, 8, 4}, 0.45}, {{32, 64, 16, 4, 8}, 0.45}, {{32, 32, 16, 4, 4}, 0.30}}},
      {"basic_64", "basic_64.comp", always, basic_blocking, basic_suffix, basic_defines,
       {{{8}, 0.05}, {{4}, 0.03}}},
  };
  // clang-format on
  return table;
}

std::int64_t block_count(const Blocking& b, const Conv2dDesc& d) {
  return b.grouped ? d.groups * ceil_div(filters_per_group(d), b.filters) : ceil_div(d.k, b.filters);
}

std::int64_t block_floats(const Blocking& b, const Conv2dDesc& d) { return b.filters * depth(b, d); }

std::int64_t depth(const Blocking& b, const Conv2dDesc& d) {
  const std::int64_t taps = std::int64_t{d.r} * d.s, channels = channels_per_group(d);
  return b.flat ? ceil_div(taps * channels, b.depth) * b.depth : taps * (ceil_div(channels, b.depth) * b.depth);
}

std::int64_t first_filter(const Blocking& b, const Conv2dDesc& d, std::int64_t block) {
  if (block == block_count(b, d)) return d.k;
  if (!b.grouped) return block * b.filters;
  const std::int64_t blocks_a_group = ceil_div(filters_per_group(d), b.filters);
  return block / blocks_a_group * filters_per_group(d) + block % blocks_a_group * b.filters;
}

std::int64_t tile_count(const Blocking& b, const Conv2dDesc& d) {
  return block_count(b, d) * ceil_div(d.n * ceil_div(d.p(), b.rows) * ceil_div(d.q(), b.columns), b.pixels);
}

std::vector<Config> configs(const Conv2dDesc& desc, const GlInfo& info) {
  struct Candidate {
    Config config;
    bool fallback;
    double time;
  };
  std::vector<Candidate> found;
  for (std::size_t row = 0; row < variants().size(); ++row) {
    const Variant& v = variants()[row];
    if (!v.fits(desc)) continue;
    for (const Variant::Choice& choice : v.choices) {
      const Blocking b = v.blocking(desc, choice.tile);
      if (b.shared_bytes > info.limits.max_shared_bytes ||
          static_cast<std::uint32_t>(b.invocations) > info.limits.max_invocations)
        continue;
      Config config;
      config.name = "gl." + std::string(v.name) + '.' + v.suffix(choice.tile);
      config.row = row;
      config.tile = choice.tile;
      found.push_back({std::move(config), std::string_view(v.name) == "basic_64", guessed_time(v, choice, desc, info)});
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
    return a.fallback != b.fallback ? b.fallback : a.time < b.time;
  });
  std::vector<Config> list;
  for (Candidate& c : found) list.push_back(std::move(c.config));
  return list;
}

std::vector<float> pack_weights(const Config& config, const Conv2dDesc& d, std::span<const float> weights) {
  if (const auto own = variants()[config.row].pack) return own(config, d, weights);
  const Blocking b = variants()[config.row].blocking(d, config.tile);
  const std::int64_t taps = std::int64_t{d.r} * d.s, channels = channels_per_group(d);
  const std::int64_t rows = b.flat ? channels : ceil_div(channels, b.depth) * b.depth;  // a tap
  std::vector<float> packed(static_cast<std::size_t>(block_count(b, d) * block_floats(b, d)), 0.0F);
  for (std::int64_t block = 0; block < block_count(b, d); ++block) {
    const std::int64_t begin = first_filter(b, d, block), end = first_filter(b, d, block + 1);
    for (std::int64_t k = begin; k < end; ++k)
      for (std::int64_t c = 0; c < channels; ++c)
        for (std::int64_t tap = 0; tap < taps; ++tap)
          packed[static_cast<std::size_t>((block * depth(b, d) + tap * rows + c) * b.filters + k - begin)] =
              weights[static_cast<std::size_t>((k * channels + c) * taps + tap)];
  }
  return packed;
}

}  // namespace convrt::gl
