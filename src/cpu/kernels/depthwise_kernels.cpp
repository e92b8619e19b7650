// Depthwise micro-kernels. A depthwise convolution does R*S multiply-adds per element, so it is bound by loads: every
// kernel here is arranged for one thing, using a loaded vector for as many multiply-adds as possible.
//
// NCHW, lanes are pixels. `strip` keeps 4 destination rows x 2 vectors in registers and loads each source row once per
// tap column; a 3x3 stride-1 tile makes 36 + 9 loads for 72 FMAs.
// NHWC, lanes are channels. `row` keeps 7 destination pixels in registers and loads each source pixel once per tap row;
// 3x3 stride 1: 27 + 9 loads for 63 FMAs. 7 because image widths of the common networks are multiples of 7.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/kernels/depthwise_kernels.cpp"
#include "cpu/kernels/depthwise_kernels.hpp"
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

constexpr bool kManyRegisters = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON;  // 32, otherwise 16

// Vectors per row of a strip tile: accumulators, one weight per tap row and a source vector must fit the registers.
template <int R>
constexpr int kStripVectors = kManyRegisters || R <= 5 ? 2 : 1;

// `sum` is final but for what the destination holds and the activation; only `count` lanes are stored.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void finish(D d, V sum, bool accumulate, const Activation& activation, float* to, std::size_t count) {
  if (count >= hn::Lanes(d)) {
    if (accumulate) sum = hn::Add(sum, hn::LoadU(d, to));
    hn::StoreU(activation.kind == ActivationKind::relu ? activate(d, activation, sum) : sum, d, to);
  } else {
    if (accumulate) sum = hn::Add(sum, load_first(d, to, count));
    store_first(d, activation.kind == ActivationKind::relu ? activate(d, activation, sum) : sum, to, count);
  }
}

// The other activations are long: inlined after every accumulator they would crowd the kernels out of the instruction
// cache. They run over what was just stored.
HWY_INLINE bool needs_second_pass(const Activation& a) {
  return a.kind != ActivationKind::none && a.kind != ActivationKind::relu;
}

// Destination rows [0, ROWS), columns [q0, q0 + NV vectors), of which `count` columns are stored.
template <int R, int SH, int ROWS, int NV, class D>
HWY_INLINE void strip_tile(D d, const DepthwiseStrip& a, std::ptrdiff_t q0, std::size_t count) {
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
  HWY_UNROLL(4)
  for (int o = 0; o < ROWS; ++o) {
    HWY_UNROLL(2)
    for (int v = 0; v < NV; ++v)
      finish(d, sum[o][v], a.accumulate, a.activation, a.dst + o * a.dst_stride + q0 + v * lanes,
             v + 1 < NV ? static_cast<std::size_t>(lanes) : count - static_cast<std::size_t>(v * lanes));
  }
}

// Any taps: one load per multiply-add, NV vectors of ROWS rows against one broadcast weight.
template <int ROWS, int NV, class D>
HWY_INLINE void any_strip_tile(D d, const DepthwiseStrip& a, std::ptrdiff_t q0, std::size_t count) {
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
  HWY_UNROLL(4)
  for (int o = 0; o < ROWS; ++o) {
    HWY_UNROLL(2)
    for (int v = 0; v < NV; ++v)
      finish(d, sum[o][v], a.accumulate, a.activation, a.dst + o * a.dst_stride + q0 + v * lanes,
             v + 1 < NV ? static_cast<std::size_t>(lanes) : count - static_cast<std::size_t>(v * lanes));
  }
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
      half(q0, static_cast<std::size_t>(left));
      q0 = a.q;
    } else {
      q0 += wide_and_single(q0, left);
    }
  }
  if (needs_second_pass(a.activation))
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
          strip_tile<R, SH, ROWS, NV>(d, a, q0, static_cast<std::size_t>(std::min(left, NV * lanes)));
          return NV * lanes;
        }
        strip_tile<R, SH, ROWS, 1>(d, a, q0, static_cast<std::size_t>(std::min(left, lanes)));
        return lanes;
      },
      [&](std::ptrdiff_t q0, std::size_t count) HWY_ATTR { strip_tile<R, SH, ROWS, 1>(half, a, q0, count); });
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
          any_strip_tile<ROWS, 2>(d, a, q0, static_cast<std::size_t>(std::min(left, 2 * lanes)));
          return 2 * lanes;
        }
        any_strip_tile<ROWS, 1>(d, a, q0, static_cast<std::size_t>(std::min(left, lanes)));
        return lanes;
      },
      [&](std::ptrdiff_t q0, std::size_t count) HWY_ATTR { any_strip_tile<ROWS, 1>(half, a, q0, count); });
}

// Destination pixels [q0, q0 + NQ). EDGE: some taps may stand left or right of the image.
template <int S, int SW, int NQ, bool EDGE, class D>
HWY_INLINE void row_tile(D d, const DepthwiseRow& a, std::ptrdiff_t q0) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  constexpr int columns = (NQ - 1) * SW + S;
  const std::ptrdiff_t w0 = q0 * SW - a.pad_left;
  hn::Vec<D> sum[NQ];
  HWY_UNROLL(8)
  for (int i = 0; i < NQ; ++i) sum[i] = hn::LoadU(d, a.bias);
  HWY_UNROLL(1)
  for (int r = 0; r < a.r; ++r) {
    if (a.rows[r] == nullptr) continue;
    const float* weights = a.weights + r * S * lanes;
    hn::Vec<D> w[S];
    HWY_UNROLL(7)
    for (int s = 0; s < S; ++s) w[s] = hn::LoadU(d, weights + s * lanes);
    const float* at = a.rows[r] + w0 * a.pixel_stride;
    HWY_UNROLL(20)
    for (int i = 0; i < columns; ++i, at += a.pixel_stride) {
      if (EDGE && (w0 + i < 0 || w0 + i >= a.w)) continue;
      const hn::Vec<D> x = hn::LoadU(d, at);
      HWY_UNROLL(8)
      for (int q = 0; q < NQ; ++q) {
        const int s = i - q * SW;
        if (s >= 0 && s < S) sum[q] = hn::MulAdd(w[s], x, sum[q]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int i = 0; i < NQ; ++i)
    finish(d, sum[i], a.accumulate, a.activation, a.dst + (q0 + i) * a.dst_pixel_stride, a.count);
}

template <int S, int SW, int NQ, class D>
HWY_INLINE void row_tile(D d, const DepthwiseRow& a, std::ptrdiff_t q0) {
  const std::ptrdiff_t w0 = q0 * SW - a.pad_left;
  if (w0 >= 0 && w0 + (NQ - 1) * SW + S <= a.w)
    row_tile<S, SW, NQ, false>(d, a, q0);
  else
    row_tile<S, SW, NQ, true>(d, a, q0);
}

HWY_INLINE void activate_pixels(const DepthwiseRow& a) {
  if (needs_second_pass(a.activation))
    for (std::ptrdiff_t q = 0; q < a.q; ++q) activate_row(a.activation, a.dst + q * a.dst_pixel_stride, a.count);
}

template <int S, int SW>
void row(const DepthwiseRow& a) {
  const hn::ScalableTag<float> d;
  std::ptrdiff_t q0 = 0;
  for (; q0 + 7 <= a.q; q0 += 7) row_tile<S, SW, 7>(d, a, q0);
  for (; q0 + 3 <= a.q; q0 += 3) row_tile<S, SW, 3>(d, a, q0);
  for (; q0 < a.q; ++q0) row_tile<S, SW, 1>(d, a, q0);
  activate_pixels(a);
}

// Any taps: NQ pixels against one weight vector.
template <int NQ, class D>
HWY_INLINE void any_row_tile(D d, const DepthwiseRow& a, std::ptrdiff_t q0) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  hn::Vec<D> sum[NQ];
  HWY_UNROLL(8)
  for (int i = 0; i < NQ; ++i) sum[i] = hn::LoadU(d, a.bias);
  for (int r = 0; r < a.r; ++r) {
    if (a.rows[r] == nullptr) continue;
    HWY_UNROLL(1)
    for (int s = 0; s < a.s; ++s) {
      const std::ptrdiff_t w0 = q0 * a.stride_w - a.pad_left + std::ptrdiff_t{s} * a.dilation_w;
      const hn::Vec<D> w = hn::LoadU(d, a.weights + (r * a.s + s) * lanes);
      HWY_UNROLL(8)
      for (int i = 0; i < NQ; ++i) {
        const std::ptrdiff_t at = w0 + std::ptrdiff_t{i} * a.stride_w;
        if (at >= 0 && at < a.w) sum[i] = hn::MulAdd(w, hn::LoadU(d, a.rows[r] + at * a.pixel_stride), sum[i]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int i = 0; i < NQ; ++i)
    finish(d, sum[i], a.accumulate, a.activation, a.dst + (q0 + i) * a.dst_pixel_stride, a.count);
}

void any_row(const DepthwiseRow& a) {
  const hn::ScalableTag<float> d;
  std::ptrdiff_t q0 = 0;
  for (; q0 + 7 <= a.q; q0 += 7) any_row_tile<7>(d, a, q0);
  for (; q0 < a.q; ++q0) any_row_tile<1>(d, a, q0);
  activate_pixels(a);
}

#define CONVRT_STRIPS(R, SH) \
  { strip<R, SH, 1>, strip<R, SH, 2>, strip<R, SH, 3>, strip<R, SH, 4> }
constexpr DepthwiseKernels kDepthwiseKernels = {
    static_cast<int>(hn::MaxLanes(hn::ScalableTag<float>())),
    pad_row,
    {{CONVRT_STRIPS(3, 1), CONVRT_STRIPS(3, 2)},
     {CONVRT_STRIPS(5, 1), CONVRT_STRIPS(5, 2)},
     {CONVRT_STRIPS(7, 1), CONVRT_STRIPS(7, 2)}},
    {any_strip<1>, any_strip<2>, any_strip<3>, any_strip<4>},
    {{row<3, 1>, row<3, 2>}, {row<5, 1>, row<5, 2>}, {row<7, 1>, row<7, 2>}},
    any_row};
#undef CONVRT_STRIPS

#endif  // CONVRT_TARGET
}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace convrt::cpu {
const DepthwiseKernels* depthwise_kernels(Isa isa) { CONVRT_FIND_TARGET(isa, kDepthwiseKernels); }
}  // namespace convrt::cpu
#endif
