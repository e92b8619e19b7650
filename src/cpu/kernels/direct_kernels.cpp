// Direct micro-kernels: no im2col, the taps of a filter are a list of offsets into a padded copy of the source.
//
//   planes<MR, NV>   NCHW   per tap: NV source vectors, MR broadcast weights, MR * NV multiply-adds
//   pixels<NP, NV>   NHWC   per tap: NV weight vectors, NP broadcast pixels, NP * NV multiply-adds
//   lookup<NP>       NHWC   small groups: per tap NP source vectors; each is permuted for every channel of a group so
//                           that a lane holds its own group's channel
//   lookup_columns   the same for three tap columns, which share the permutations
//
// Assumptions: tiles leave registers for their operands (see the tables at the end); the padded copy makes every load
// legal, so only stores know about edges.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/kernels/direct_kernels.cpp"
#include "cpu/kernels/direct_kernels.hpp"
#include "cpu/kernels/targets.hpp"
// clang-format off: foreach_target.h includes this file again and must stand before highway.h
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on
#include "cpu/kernels/activation-inl.h"
#include "cpu/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {
#if CONVRT_TARGET

namespace hn = hwy::HWY_NAMESPACE;

constexpr std::ptrdiff_t kLanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(hn::ScalableTag<float>()));

// One tile: NV vectors of filters m < MR from source offset `at` on. FLAT: raw sums at the same offset of `sums`; else
// finished pixels, the first `count`, at `dst`.
template <int MR, int NV, bool FLAT>
HWY_INLINE void planes_tile(const DirectPlanes& a, std::ptrdiff_t at, float* dst, std::ptrdiff_t count) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  V sum[MR][NV];
  HWY_UNROLL(8)
  for (int m = 0; m < MR; ++m) {
    const V bias = hn::Set(d, a.bias[m]);
    HWY_UNROLL(8)
    for (int v = 0; v < NV; ++v) sum[m][v] = bias;
  }
  const float* src = a.src + at;
  const float* weights = a.weights;
  HWY_UNROLL(1)
  for (std::ptrdiff_t t = 0; t < a.tap_count; ++t, weights += MR) {
    const float* from = src + a.taps[t];
    V x[NV];
    HWY_UNROLL(8)
    for (int v = 0; v < NV; ++v) x[v] = hn::LoadU(d, from + v * kLanes);
    HWY_UNROLL(8)
    for (int m = 0; m < MR; ++m) {
      const V w = hn::Set(d, weights[m]);
      HWY_UNROLL(8)
      for (int v = 0; v < NV; ++v) sum[m][v] = hn::MulAdd(w, x[v], sum[m][v]);
    }
  }
  if (FLAT) {
    float* to = a.sums + at;
    HWY_UNROLL(8)
    for (int m = 0; m < MR; ++m, to += a.sums_stride) {
      HWY_UNROLL(8)
      for (int v = 0; v < NV; ++v) hn::StoreU(sum[m][v], d, to + v * kLanes);
    }
  } else {
    finish_tile(d, sum, a.filters, count, a.accumulate, a.activation, dst, a.dst_plane);
  }
}

// A run of `count` pixels in tiles of nearly equal width: narrow ones load more per multiply-add.
template <int MR, int NV, bool FLAT>
HWY_INLINE void planes_run(const DirectPlanes& a, std::ptrdiff_t at, float* dst, std::ptrdiff_t count) {
  const std::ptrdiff_t vectors = (count + kLanes - 1) / kLanes, tiles = (vectors + NV - 1) / NV;
  for (std::ptrdiff_t tile = 0, from = 0; tile < tiles; ++tile) {
    const std::ptrdiff_t to = vectors * (tile + 1) / tiles, offset = from * kLanes;
    switch (to - from) {
      case 1: planes_tile<MR, 1, FLAT>(a, at + offset, dst + offset, count - offset); break;
      case 2: planes_tile<MR, HWY_MIN(2, NV), FLAT>(a, at + offset, dst + offset, count - offset); break;
      case 3: planes_tile<MR, HWY_MIN(3, NV), FLAT>(a, at + offset, dst + offset, count - offset); break;
      case 4: planes_tile<MR, HWY_MIN(4, NV), FLAT>(a, at + offset, dst + offset, count - offset); break;
      case 5: planes_tile<MR, HWY_MIN(5, NV), FLAT>(a, at + offset, dst + offset, count - offset); break;
      default: planes_tile<MR, HWY_MIN(6, NV), FLAT>(a, at + offset, dst + offset, count - offset); break;
    }
    from = to;
  }
}

// dst[0, count) from raw sums.
HWY_INLINE void finish_row(const DirectPlanes& a, const float* sums, float* dst) {
  const hn::ScalableTag<float> d;
  for (std::ptrdiff_t i = 0; i < a.q; i += kLanes)
    finish(d, load_first(d, sums + i, a.q - i), a.accumulate, a.activation, dst + i, a.q - i);
}

template <int MR, int NV>
void planes(const DirectPlanes& a) {
  static_assert(NV <= 6);
  if (a.sums != nullptr) {
    planes_run<MR, NV, true>(a, 0, a.dst, (a.rows - 1) * a.row_stride + a.q);
    for (int m = 0; m < a.filters; ++m)
      for (std::ptrdiff_t p = 0; p < a.rows; ++p)
        finish_row(a, a.sums + m * a.sums_stride + p * a.row_stride, a.dst + m * a.dst_plane + p * a.q);
  } else {
    for (std::ptrdiff_t p = 0; p < a.rows; ++p) planes_run<MR, NV, false>(a, p * a.row_stride, a.dst + p * a.q, a.q);
  }
  if (is_long(a.activation))
    for (int m = 0; m < a.filters; ++m)
      activate_row(a.activation, a.dst + m * a.dst_plane, static_cast<std::size_t>(a.rows * a.q));
}

// Walks the destination pixels of a band NP at a time; they are consecutive in dst.
template <int NP>
struct PixelTile {
  const float* src[NP];
  float* dst;
  int pixels;  // that exist; the others repeat the last one and are not stored
  std::ptrdiff_t left, q = 0;
  const float *row, *next;

  explicit PixelTile(const DirectPixels& a) : left(a.rows * a.q), row(a.src), next(a.src) {}

  HWY_INLINE bool advance(const DirectPixels& a) {
    if (left == 0) return false;
    dst = a.dst + (a.rows * a.q - left) * a.dst_pixel;
    pixels = static_cast<int>(std::min<std::ptrdiff_t>(NP, left));
    left -= pixels;
    if (q + NP <= a.q - 1) {  // all in this row, which then goes on
      HWY_UNROLL(12)
      for (int i = 0; i < NP; ++i) src[i] = next + i * a.pixel_step;
      next += NP * a.pixel_step;
      q += NP;
      return true;
    }
    HWY_UNROLL(1)
    for (int i = 0; i < NP; ++i) {
      src[i] = next;
      if (i + 1 >= pixels && left == 0) continue;
      next += a.pixel_step;
      if (++q == a.q) q = 0, next = row += a.row_step;
    }
    return true;
  }
};

// Stores the sums of NP pixels, of which the first `count` exist.
template <int NP, int NV, class D>
HWY_INLINE void finish_pixels(D d, const DirectPixels& a, float* dst, int count, hn::Vec<D> (&sum)[NP][NV]) {
  finish_tile(d, sum, count, a.count, a.accumulate, a.activation, dst, a.dst_pixel);
  if (is_long(a.activation))
    for (int i = 0; i < count; ++i)
      activate_row(a.activation, dst + i * a.dst_pixel, static_cast<std::size_t>(a.count));
}

template <int NP, int NV>
HWY_INLINE void pixels_tile(const DirectPixels& a, const PixelTile<NP>& tile) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  V sum[NP][NV];
  HWY_UNROLL(4)
  for (int v = 0; v < NV; ++v) {
    const V bias = hn::LoadU(d, a.bias + v * kLanes);
    HWY_UNROLL(12)
    for (int i = 0; i < NP; ++i) sum[i][v] = bias;
  }
  const float* src[NP];  // copies that live in registers
  HWY_UNROLL(12)
  for (int i = 0; i < NP; ++i) src[i] = tile.src[i];
  const float* weights = a.weights;
  HWY_UNROLL(1)
  for (std::ptrdiff_t t = 0; t < a.tap_count; ++t, weights += NV * kLanes) {
    const std::ptrdiff_t offset = a.taps[t];
    V w[NV];
    HWY_UNROLL(4)
    for (int v = 0; v < NV; ++v) w[v] = hn::LoadU(d, weights + v * kLanes);
    HWY_UNROLL(12)
    for (int i = 0; i < NP; ++i) {
      const V x = hn::Set(d, src[i][offset]);
      HWY_UNROLL(4)
      for (int v = 0; v < NV; ++v) sum[i][v] = hn::MulAdd(w[v], x, sum[i][v]);
    }
  }
  finish_pixels(d, a, tile.dst, tile.pixels, sum);
}

template <int NP, int NV>
void pixels(const DirectPixels& a) {
  for (PixelTile<NP> tile(a); tile.advance(a);) pixels_tile<NP, NV>(a, tile);
}

template <int NP>
HWY_INLINE void lookup_tile(const DirectPixels& a, const PixelTile<NP>& tile) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  V sum[NP][1];
  HWY_UNROLL(12)
  for (int i = 0; i < NP; ++i) sum[i][0] = hn::LoadU(d, a.bias);
  const float* src[NP];  // copies that live in registers
  HWY_UNROLL(12)
  for (int i = 0; i < NP; ++i) src[i] = tile.src[i];
  const float* weights = a.weights;
  HWY_UNROLL(1)
  for (std::ptrdiff_t t = 0, column = 0; t < a.tap_count; ++t) {
    const std::ptrdiff_t offset = a.taps[t];
    V x[NP];
    HWY_UNROLL(12)
    for (int i = 0; i < NP; ++i) x[i] = hn::LoadU(d, src[i] + offset);
    const std::int32_t* lookup = a.lookup;
    const float* w_at = weights + column * kLanes;
    HWY_UNROLL(1)
    for (std::ptrdiff_t c = 0; c < a.group_c; ++c, lookup += kLanes, w_at += a.s * kLanes) {
      const auto lanes = hn::SetTableIndices(d, lookup);
      const V w = hn::LoadU(d, w_at);
      HWY_UNROLL(12)
      for (int i = 0; i < NP; ++i) sum[i][0] = hn::MulAdd(w, hn::TableLookupLanes(x[i], lanes), sum[i][0]);
    }
    if (++column == a.s) column = 0, weights += a.group_c * a.s * kLanes;
  }
  finish_pixels(d, a, tile.dst, tile.pixels, sum);
}

template <int NP>
void lookup(const DirectPixels& a) {
  for (PixelTile<NP> tile(a); tile.advance(a);) lookup_tile<NP>(a, tile);
}

// Three tap columns without dilation, strides of ST: NP neighbouring pixels of a row, from padded pixel src on. Each
// permuted source pixel serves all the tap columns that need it.
template <int ST, int NP>
HWY_INLINE void lookup_columns_tile(const DirectPixels& a, const float* src, float* dst, int count) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  V sum[NP][1];
  const V bias = hn::LoadU(d, a.bias);
  HWY_UNROLL(16)
  for (int q = 0; q < NP; ++q) sum[q][0] = bias;
  const float* weights = a.weights;
  const std::ptrdiff_t *taps = a.taps, tap_count = a.tap_count, group_c = a.group_c;
  const std::int32_t* table = a.lookup;
  for (std::ptrdiff_t t = 0; t < tap_count; t += 3) {
    const float* row = src + taps[t];
    const std::int32_t* lookup = table;
    HWY_UNROLL(1)
    for (std::ptrdiff_t c = 0; c < group_c; ++c, lookup += kLanes, weights += 3 * kLanes) {
      HWY_FENCE;  // else the compiler takes the source vectors out of this loop, and has no registers for them
      const auto lanes = hn::SetTableIndices(d, lookup);
      V w[3];
      HWY_UNROLL(3)
      for (int s = 0; s < 3; ++s) w[s] = hn::LoadU(d, weights + s * kLanes);
      HWY_UNROLL(32)
      for (int i = 0; i < (NP - 1) * ST + 3; ++i) {
        const V x = hn::TableLookupLanes(hn::LoadU(d, row + i * kLanes), lanes);
        HWY_UNROLL(3)
        for (int s = 2; s >= 0; --s)
          if (i >= s && (i - s) % ST == 0 && (i - s) / ST < NP)
            sum[(i - s) / ST][0] = hn::MulAdd(w[s], x, sum[(i - s) / ST][0]);
      }
    }
  }
  finish_pixels(d, a, dst, count, sum);
}

template <int ST, int NP>
void lookup_columns(const DirectPixels& a) {
  for (std::ptrdiff_t p = 0; p < a.rows; ++p) {
    const float* src = a.src + p * a.row_step;
    float* dst = a.dst + p * a.q * a.dst_pixel;
    for (std::ptrdiff_t q = 0; q < a.q;) {
      const std::ptrdiff_t left = a.q - q;
      const float* at = src + q * ST * kLanes;
      if (2 * left > NP) {
        lookup_columns_tile<ST, NP>(a, at, dst + q * a.dst_pixel, static_cast<int>(std::min<std::ptrdiff_t>(left, NP)));
        q += NP;
      } else {
        lookup_columns_tile<ST, NP / 2>(a, at, dst + q * a.dst_pixel,
                                        static_cast<int>(std::min<std::ptrdiff_t>(left, NP / 2)));
        q += NP / 2;
      }
    }
  }
}

// Live vectors: planes MR*NV + NV + 1, pixels NP*NV + NV + 1, lookup 2*NP + 3,
// lookup_columns NP + 5; SSE4 needs one more for the product.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr DirectKernels kDirectKernels = {
    static_cast<int>(kLanes),
    pad_row,
    pad_pixels,
    {{8, 3, planes<8, 3>}, {4, 6, planes<4, 6>}, {1, 6, planes<1, 6>}},
    {{8, 1, pixels<8, 1>}, {8, 2, pixels<8, 2>}, {8, 3, pixels<8, 3>}, {6, 4, pixels<6, 4>}},
    4,
    {8, 1, lookup<8>},
    {{14, 1, lookup_columns<1, 14>}, {14, 1, lookup_columns<2, 14>}}};
#else
constexpr int kColumnPixels = HWY_TARGET == HWY_SSE4 ? 4 : 8;
constexpr DirectKernels kDirectKernels = {
    static_cast<int>(kLanes),
    pad_row,
    pad_pixels,
    {{6, 2, planes<6, 2>},
     {4, 2 + (HWY_TARGET == HWY_AVX2), planes<4, 2 + (HWY_TARGET == HWY_AVX2)>},
     {1, 6, planes<1, 6>}},
    {{6, 1, pixels<6, 1>}, {4, 2, pixels<4, 2>}, {}, {}},
    2,
    {6, 1, lookup<6>},
    {{kColumnPixels, 1, lookup_columns<1, kColumnPixels>}, {kColumnPixels, 1, lookup_columns<2, kColumnPixels>}}};
#endif

#endif  // CONVRT_TARGET
}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace convrt::cpu {
const DirectKernels* direct_kernels(Isa isa) { CONVRT_FIND_TARGET(isa, kDirectKernels); }
}  // namespace convrt::cpu
#endif
