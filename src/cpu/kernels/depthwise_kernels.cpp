// Depthwise micro-kernels. A depthwise convolution does R*S multiply-adds per element, so it is bound by loads: every
// kernel here is arranged for one thing, using a loaded vector for as many multiply-adds as possible.
//
// NCHW, lanes are pixels. `strip` keeps 4 destination rows x 2 vectors in registers and loads each source row once per
// tap column; a 3x3 stride-1 tile makes 36 + 9 loads for 72 FMAs.
// NHWC, lanes are channels: depthwise_nhwc-inl.h.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/kernels/depthwise_kernels.cpp"
#include "cpu/kernels/depthwise_kernels.hpp"

#include "cpu/kernels/targets.hpp"
// clang-format off: foreach_target.h includes this file again and must stand before highway.h
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on
#include "cpu/kernels/activation-inl.h"
#include "cpu/kernels/depthwise_nhwc-inl.h"
#include "cpu/kernels/depthwise_window-inl.h"
#include "cpu/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {
#if CONVRT_TARGET

namespace hn = hwy::HWY_NAMESPACE;

// Vectors per row of a strip tile: accumulators, one weight per tap row and a source vector must fit the registers.
template <int R>
constexpr int kStripVectors = kManyRegisters || R <= (HWY_TARGET == HWY_SSE4 ? 3 : 5) ? 2 : 1;

// Destination rows [0, ROWS), columns [q0, q0 + NV vectors), of which `count` columns are stored.
template <int R, int SH, int ROWS, int NV, class D>
HWY_INLINE void strip_tile(D d, const DepthwiseStrip& a, std::ptrdiff_t q0, std::ptrdiff_t count) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  constexpr int src_rows = (ROWS - 1) * SH + R;
  hn::Vec<D> sum[ROWS][NV];
  HWY_UNROLL(4)
  for (int o = 0; o < ROWS; ++o) {
    HWY_UNROLL(2)
    for (int v = 0; v < NV; ++v) sum[o][v] = hn::Set(d, a.bias);
  }
  const float* weights = a.weights;
  HWY_UNROLL(1)
  for (int s = 0; s < a.s; ++s, ++weights) {
    const float* at = a.src + a.column[s] + q0;
    hn::Vec<D> w[R];
    HWY_UNROLL(7)
    for (int r = 0; r < R; ++r) w[r] = hn::Set(d, weights[r * a.s]);
    HWY_UNROLL(16)
    for (int i = 0; i < src_rows; ++i) {
      HWY_FENCE;  // of the loads: all at once would not fit the registers
      HWY_UNROLL(2)
      for (int v = 0; v < NV; ++v) {
        const hn::Vec<D> x = hn::LoadU(d, at + i % SH * a.phase_h + i / SH * a.row_stride + v * lanes);
        HWY_UNROLL(4)
        for (int o = 0; o < ROWS; ++o) {
          const int r = i - o * SH;
          if (r >= 0 && r < R) sum[o][v] = hn::MulAdd(w[r], x, sum[o][v]);
        }
      }
    }
  }
  finish_tile(d, sum, ROWS, count, a.accumulate, a.activation, a.dst + q0, a.dst_stride);
}

// Any taps: one load per multiply-add, NV vectors of ROWS rows against one broadcast weight.
template <int ROWS, int NV, class D>
HWY_INLINE void any_strip_tile(D d, const DepthwiseStrip& a, std::ptrdiff_t q0, std::ptrdiff_t count) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  hn::Vec<D> sum[ROWS][NV];
  HWY_UNROLL(4)
  for (int o = 0; o < ROWS; ++o) {
    HWY_UNROLL(2)
    for (int v = 0; v < NV; ++v) sum[o][v] = hn::Set(d, a.bias);
  }
  const float* weights = a.weights;
  for (int r = 0; r < a.r; ++r) {
    const float* row = a.src + a.row[r] + q0;
    HWY_UNROLL(1)
    for (int s = 0; s < a.s; ++s) {
      const float* at = row + a.column[s];
      const hn::Vec<D> w = hn::Set(d, *weights++);
      HWY_UNROLL(4)
      for (int o = 0; o < ROWS; ++o) {
        HWY_UNROLL(2)
        for (int v = 0; v < NV; ++v)
          sum[o][v] = hn::MulAdd(w, hn::LoadU(d, at + o * a.row_stride + v * lanes), sum[o][v]);
      }
    }
  }
  finish_tile(d, sum, ROWS, count, a.accumulate, a.activation, a.dst + q0, a.dst_stride);
}

// Walks a strip from left to right: tiles of NV vectors, of one, and for the last few pixels of half a vector where
// that saves work (two 256-bit FMAs cost what one 512-bit FMA does on Zen 4).
template <int ROWS, int NV, class Tile, class HalfTile>
HWY_INLINE void walk_strip(const DepthwiseStrip& a, Tile wide_and_single, HalfTile half) {
  const hn::ScalableTag<float> d;
  const std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::Lanes(d));
  for (std::ptrdiff_t q0 = 0; q0 < a.q;) {
    const std::ptrdiff_t left = a.q - q0;
    if (left <= lanes / 2) {
      half(q0, left);
      q0 = a.q;
    } else {
      q0 += wide_and_single(q0, left);
    }
  }
  if (is_long(a.activation))
    for (int o = 0; o < ROWS; ++o) activate_row(a.activation, a.dst + o * a.dst_stride, static_cast<std::size_t>(a.q));
}

template <int R, int SH, int ROWS>
void strip(const DepthwiseStrip& a) {
  constexpr int NV = kStripVectors<R>;
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, HWY_MAX(hn::MaxLanes(d) / 2, 1)> half;
  const std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::Lanes(d));
  walk_strip<ROWS, NV>(
      a,
      [&](std::ptrdiff_t q0, std::ptrdiff_t left) HWY_ATTR {
        if (NV > 1 && left > lanes) {
          strip_tile<R, SH, ROWS, NV>(d, a, q0, std::min(left, NV * lanes));
          return NV * lanes;
        }
        strip_tile<R, SH, ROWS, 1>(d, a, q0, std::min(left, lanes));
        return lanes;
      },
      [&](std::ptrdiff_t q0, std::ptrdiff_t count) HWY_ATTR { strip_tile<R, SH, ROWS, 1>(half, a, q0, count); });
}

template <int ROWS>
void any_strip(const DepthwiseStrip& a) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, HWY_MAX(hn::MaxLanes(d) / 2, 1)> half;
  const std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::Lanes(d));
  walk_strip<ROWS, 2>(
      a,
      [&](std::ptrdiff_t q0, std::ptrdiff_t left) HWY_ATTR {
        if (left > lanes) {
          any_strip_tile<ROWS, 2>(d, a, q0, std::min(left, 2 * lanes));
          return 2 * lanes;
        }
        any_strip_tile<ROWS, 1>(d, a, q0, std::min(left, lanes));
        return lanes;
      },
      [&](std::ptrdiff_t q0, std::ptrdiff_t count) HWY_ATTR { any_strip_tile<ROWS, 1>(half, a, q0, count); });
}

#if CONVRT_MASKED_LOADS

// One plane of a task.
struct DepthwisePlane {
  const float* src;
  std::ptrdiff_t h, w, pad_top, pad_left;
  const float* weights;
  float bias;
  float* dst;
  std::ptrdiff_t first_p, last_p, q;
  bool accumulate;
  Activation activation;
};

// Adds tap columns s (and, where PAIR, s + 1) of every tap row. EDGE: some columns or lanes stand outside the image.
// With stride 2 one pair of loads gives both columns: its even and its odd elements.
template <int R, int ST, int ROWS, int NV, bool EDGE, bool PAIR, class D>
HWY_INLINE void add_columns(D d, const DepthwisePlane& a, std::ptrdiff_t top, std::ptrdiff_t at, const float* weights,
                            hn::Vec<D> (&sum)[ROWS][NV]) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  constexpr int src_rows = (ROWS - 1) * ST + R;
  hn::Vec<D> w[R], w_odd[R];
  HWY_UNROLL(7)
  for (int r = 0; r < R; ++r) {
    w[r] = hn::Set(d, weights[r * R]);
    if (PAIR) w_odd[r] = hn::Set(d, weights[r * R + 1]);
  }
  hn::Mask<D> inside[NV * ST];
  if (EDGE) {
    HWY_UNROLL(4)
    for (int v = 0; v < NV * ST; ++v) inside[v] = columns_inside(d, at + v * lanes, a.w);
  }
  const float* row = a.src + top * a.w + at;
  HWY_UNROLL(16)
  for (int i = 0; i < src_rows; ++i, row += a.w) {
    if (static_cast<std::size_t>(top + i) >= static_cast<std::size_t>(a.h)) continue;
    if constexpr (R == 7 && ST == 2) HWY_FENCE;  // as above
    HWY_UNROLL(2)
    for (int v = 0; v < NV; ++v) {
      const float* from = row + v * ST * lanes;
      hn::Vec<D> x = EDGE ? hn::MaskedLoad(inside[v * ST], d, from) : hn::LoadU(d, from), odd = x;
      if (ST == 2) {
        const hn::Vec<D> low = x;
        const hn::Vec<D> high =
            EDGE ? hn::MaskedLoad(inside[v * ST + ST - 1], d, from + lanes) : hn::LoadU(d, from + lanes);
        x = hn::ConcatEven(d, high, low);
        if (PAIR) odd = hn::ConcatOdd(d, high, low);
      }
      HWY_UNROLL(4)
      for (int o = 0; o < ROWS; ++o) {
        const int r = i - o * ST;
        if (r < 0 || r >= R) continue;
        sum[o][v] = hn::MulAdd(w[r], x, sum[o][v]);
        if (PAIR) sum[o][v] = hn::MulAdd(w_odd[r], odd, sum[o][v]);
      }
    }
  }
}

template <int R, int ST, int ROWS, int NV, bool EDGE, class D>
HWY_INLINE void plane_tile(D d, const DepthwisePlane& a, std::ptrdiff_t p0, std::ptrdiff_t q0, std::ptrdiff_t count) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  constexpr bool pair = ST == 2 && (kManyRegisters || R == 3);
  const std::ptrdiff_t top = p0 * ST - a.pad_top, left = q0 * ST - a.pad_left;
  hn::Vec<D> sum[ROWS][NV];
  HWY_UNROLL(4)
  for (int o = 0; o < ROWS; ++o) {
    HWY_UNROLL(2)
    for (int v = 0; v < NV; ++v) sum[o][v] = hn::Set(d, a.bias);
  }
  int s = 0;
  if (pair) {
    HWY_UNROLL(1)
    for (; s + 1 < R; s += 2) add_columns<R, ST, ROWS, NV, EDGE, pair>(d, a, top, left + s, a.weights + s, sum);
  }
  HWY_UNROLL(1)
  for (; s < R; ++s) add_columns<R, ST, ROWS, NV, EDGE, false>(d, a, top, left + s, a.weights + s, sum);
  finish_tile(d, sum, ROWS, count, a.accumulate, a.activation, a.dst + p0 * a.q + q0, a.q);
}

template <int R, int ST, int ROWS, int NV, class D>
HWY_INLINE void plane_tile(D d, const DepthwisePlane& a, std::ptrdiff_t p0, std::ptrdiff_t q0) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  const std::ptrdiff_t left = q0 * ST - a.pad_left;
  const std::ptrdiff_t count = std::min(a.q - q0, NV * lanes);
  if (left >= 0 && left + R - 1 + NV * ST * lanes <= a.w)
    plane_tile<R, ST, ROWS, NV, false>(d, a, p0, q0, count);
  else
    plane_tile<R, ST, ROWS, NV, true>(d, a, p0, q0, count);
}

template <int R, int ST, int ROWS>
HWY_NOINLINE void plane_rows(const DepthwisePlane& a, std::ptrdiff_t p0) {
  constexpr int NV = kManyRegisters ? (R == 7 && ST == 2 ? 1 : 2) : ST == 1 ? kStripVectors<R> : 1;
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, HWY_MAX(hn::MaxLanes(d) / 2, 1)> half;
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  std::ptrdiff_t q0 = 0;
  for (; a.q - q0 > (NV - 1) * lanes + lanes / 2; q0 += NV * lanes) plane_tile<R, ST, ROWS, NV>(d, a, p0, q0);
  for (; a.q - q0 > lanes / 2; q0 += lanes) plane_tile<R, ST, ROWS, 1>(d, a, p0, q0);
  if (q0 < a.q) plane_tile<R, ST, ROWS, 1>(half, a, p0, q0);
}

// Images narrower than a vector: every source row is loaded once and its tap columns are permutations of it. The last
// lane is always zero, so it stands for every column outside the image. Rows outside count as zeros.
template <int R, int ST, int ROWS, class D>
HWY_INLINE void narrow_tile(D d, const DepthwisePlane& a, std::ptrdiff_t p0) {
  const hn::RebindToSigned<D> di;
  const hn::RebindToUnsigned<D> du;
  constexpr int src_rows = (ROWS - 1) * ST + R;
  const auto columns = hn::FirstN(d, static_cast<std::size_t>(a.w));
  const std::ptrdiff_t top = p0 * ST - a.pad_top;
  const float* row = a.src + top * a.w;
  hn::Vec<D> x[src_rows];
  HWY_UNROLL(16)
  for (int i = 0; i < src_rows; ++i, row += a.w)
    x[i] = static_cast<std::size_t>(top + i) < static_cast<std::size_t>(a.h) ? hn::MaskedLoad(columns, d, row)
                                                                             : hn::Zero(d);
  hn::Vec<D> sum[ROWS][1];
  HWY_UNROLL(7)
  for (int o = 0; o < ROWS; ++o) sum[o][0] = hn::Set(d, a.bias);
  // Unsigned: columns left of the image are huge numbers, and lanes from w on hold zeros.
  auto column = hn::BitCast(
      du, hn::Sub(hn::Mul(hn::Iota(di, 0), hn::Set(di, ST)), hn::Set(di, static_cast<std::int32_t>(a.pad_left))));
  HWY_UNROLL(1)
  for (int s = 0; s < R; ++s) {
    const auto from = hn::IndicesFromVec(d, hn::Min(column, hn::Set(du, hn::MaxLanes(d) - 1)));
    column = hn::Add(column, hn::Set(du, 1));
    hn::Vec<D> w[R];
    HWY_UNROLL(7)
    for (int r = 0; r < R; ++r) w[r] = hn::Set(d, a.weights[r * R + s]);
    HWY_UNROLL(16)
    for (int i = 0; i < src_rows; ++i) {
      const hn::Vec<D> shifted = hn::TableLookupLanes(x[i], from);
      HWY_UNROLL(7)
      for (int o = 0; o < ROWS; ++o) {
        const int r = i - o * ST;
        if (r >= 0 && r < R) sum[o][0] = hn::MulAdd(w[r], shifted, sum[o][0]);
      }
    }
  }
  finish_tile(d, sum, ROWS, a.q, a.accumulate, a.activation, a.dst + p0 * a.q, a.q);
}

// Rows of a narrow tile: source rows, sums and weights live in registers together. 0: not on this instruction set.
template <int R, int ST>
constexpr int kNarrowRows = kManyRegisters ? (ST == 2  ? 4
                                              : R == 7 ? 5
                                                       : 7)
                            : R == 3       ? (ST == 1 ? 3 : 2)
                                           : 0;

template <int R, int ST, int ROWS, class D>
HWY_INLINE void narrow_rows(D d, const DepthwisePlane& a, std::ptrdiff_t p0, std::ptrdiff_t rows) {
  if (rows == ROWS)
    narrow_tile<R, ST, ROWS>(d, a, p0);
  else if constexpr (ROWS > 1)
    narrow_rows<R, ST, ROWS - 1>(d, a, p0, rows);
}

template <int R, int ST, class D>
HWY_NOINLINE void narrow_plane(D d, const DepthwisePlane& a) {
  constexpr int most = kNarrowRows<R, ST>;
  const std::ptrdiff_t rows = a.last_p - a.first_p, tiles = (rows + most - 1) / most;
  for (std::ptrdiff_t tile = 0, p0 = a.first_p; tile < tiles; ++tile) {
    const std::ptrdiff_t p1 = a.first_p + rows * (tile + 1) / tiles;
    narrow_rows<R, ST, most>(d, a, p0, p1 - p0);
    p0 = p1;
  }
}

template <int R, int ST>
void plane(const DepthwisePlane& a) {
  static_assert(kStripRows == 4);
  const hn::ScalableTag<float> d;
  [[maybe_unused]] const hn::CappedTag<float, HWY_MAX(hn::MaxLanes(d) / 2, 1)> half;
  const std::ptrdiff_t rows = a.last_p - a.first_p, tiles = (rows + kStripRows - 1) / kStripRows;
  const std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::Lanes(d)), widest = std::max(a.w + 1, a.q);
  constexpr bool narrow = kNarrowRows<R, ST> != 0;
  if (narrow && widest <= lanes && a.pad_left <= lanes) {
    if constexpr (narrow && hn::MaxLanes(half) >= 8) {
      widest <= lanes / 2 ? narrow_plane<R, ST>(half, a) : narrow_plane<R, ST>(d, a);
    } else if constexpr (narrow) {
      narrow_plane<R, ST>(d, a);
    }
  } else {
    for (std::ptrdiff_t tile = 0; tile < tiles; ++tile) {
      const std::ptrdiff_t p0 = a.first_p + rows * tile / tiles, p1 = a.first_p + rows * (tile + 1) / tiles;
      switch (p1 - p0) {
        case 1: plane_rows<R, ST, 1>(a, p0); break;
        case 2: plane_rows<R, ST, 2>(a, p0); break;
        case 3: plane_rows<R, ST, 3>(a, p0); break;
        default: plane_rows<R, ST, 4>(a, p0); break;
      }
    }
  }
}

template <int R, int ST>
void planes(const DepthwisePlanes& a) {
  if constexpr (R == 3 && CONVRT_WINDOW) {
    window_planes<ST>(a);
  } else {
    for (std::ptrdiff_t i = 0; i < a.count; ++i)
      plane<R, ST>({a.src_of(i), a.h, a.w, a.pad_top, a.pad_left, a.weights_of(i), a.bias[i], a.dst_of(i), a.first_p,
                    a.last_p, a.q, a.accumulate, a.activation});
  }
  if (is_long(a.activation))
    for (std::ptrdiff_t i = 0; i < a.count; ++i)
      activate_row(a.activation, a.dst_of(i) + a.first_p * a.q, static_cast<std::size_t>((a.last_p - a.first_p) * a.q));
}

#endif  // CONVRT_MASKED_LOADS

#define CONVRT_STRIPS(R, SH) \
  { strip<R, SH, 1>, strip<R, SH, 2>, strip<R, SH, 3>, strip<R, SH, 4> }
constexpr DepthwiseKernels kDepthwiseKernels = {
    static_cast<int>(hn::MaxLanes(hn::ScalableTag<float>())),
    pad_row,
    {{CONVRT_STRIPS(3, 1), CONVRT_STRIPS(3, 2)},
     {CONVRT_STRIPS(5, 1), CONVRT_STRIPS(5, 2)},
     {CONVRT_STRIPS(7, 1), CONVRT_STRIPS(7, 2)}},
    {any_strip<1>, any_strip<2>, any_strip<3>, any_strip<4>},
#if CONVRT_MASKED_LOADS
    {{planes<3, 1>, planes<3, 2>}, {planes<5, 1>, planes<5, 2>}, {planes<7, 1>, planes<7, 2>}},
#else
    {},
#endif
    {{pixels<3, 1>, pixels<3, 2>}, {pixels<5, 1>, pixels<5, 2>}, {pixels<7, 1>, pixels<7, 2>}},
    any_pixels};
#undef CONVRT_STRIPS

#endif  // CONVRT_TARGET
}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace convrt::cpu {
const DepthwiseKernels* depthwise_kernels(Isa isa) { CONVRT_FIND_TARGET(isa, kDepthwiseKernels); }
}  // namespace convrt::cpu
#endif
