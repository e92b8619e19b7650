/// \file
/// Depthwise convolution with channels in the lanes, for pixels in memory (nhwc).
///
/// A tile is a few destination pixels of one vector of channels, kept in registers; each source pixel under it is
/// loaded once. The innermost loop walks the vectors of channels: neighbouring vectors of a pixel share cache lines'
/// pages and the prefetchers' streams, which a walk along the row (pixels C floats apart) does not.
///
///     3x3 on 32 registers   2 rows x 7 pixels, all nine weights in registers: 36 loads for 126 multiply-adds
///     else                  1 row x 7 pixels, the weights of one filter row: 27 + 9 loads for 63 (3x3, stride 1)
///
/// 7 because image widths of the common networks are multiples of 7.

#if defined(CONVRT_DEPTHWISE_NHWC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONVRT_DEPTHWISE_NHWC_INL_H_
#undef CONVRT_DEPTHWISE_NHWC_INL_H_
#else
#define CONVRT_DEPTHWISE_NHWC_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "cpu/kernels/activation-inl.h"
#include "cpu/kernels/depthwise_kernels.hpp"
#include "cpu/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {
#if CONVRT_TARGET

namespace hn = hwy::HWY_NAMESPACE;

// Pixels of a tile; SSE4 has no fused multiply-add, so the product needs a register too.
constexpr int kPixels = HWY_TARGET == HWY_SSE4 ? 4 : 7;

// Destination rows [p, p + NP), pixels [q0, q0 + NQ) of every vector of channels. R = 0: a.r filter rows, and NP = 1.
// EDGE: some taps may stand left or right of the image.
template <int R, int S, int ST, int NP, int NQ, bool EDGE, class D>
HWY_NOINLINE void pixel_tile(D d, const DepthwisePixels& a, std::ptrdiff_t p, std::ptrdiff_t q0) {
  static_assert(R != 0 || NP == 1);
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  constexpr int columns = (NQ - 1) * ST + S;
  const std::ptrdiff_t w0 = q0 * ST - a.pad_left, top = p * a.stride_h - a.pad_top;
  const std::ptrdiff_t pixel_stride = a.pixel_stride, row_step = a.dilation_h * a.row_stride;
  const float* weights = a.weights;
  const float* src = a.src + (top - a.first_h) * a.row_stride + w0 * pixel_stride;
  float* dst = a.dst + p * a.dst_row_stride + q0 * a.dst_pixel_stride;
  HWY_UNROLL(1)
  for (std::ptrdiff_t block = 0; block < a.blocks; ++block, src += lanes, dst += lanes) {
    hn::Vec<D> sum[NP][NQ][1];
    const hn::Vec<D> bias = hn::LoadU(d, a.bias + block * lanes);
    HWY_UNROLL(2)
    for (int o = 0; o < NP; ++o) {
      HWY_UNROLL(8)
      for (int q = 0; q < NQ; ++q) sum[o][q][0] = bias;
    }
    const float* row = src;
    std::ptrdiff_t h = top;
    if constexpr (R != 0) {
      hn::Vec<D> w[R][S];
      HWY_UNROLL(3)
      for (int r = 0; r < R; ++r) {
        HWY_UNROLL(3)
        for (int s = 0; s < S; ++s) w[r][s] = hn::LoadU(d, weights + (r * S + s) * lanes);
      }
      weights += R * S * lanes;
      HWY_UNROLL(8)
      for (int i = 0; i < (NP - 1) * ST + R; ++i, ++h, row += row_step) {
        if (static_cast<std::size_t>(h) >= static_cast<std::size_t>(a.h)) continue;
        HWY_FENCE;  // of the loads: all at once would not fit the registers
        const float* at = row;
        HWY_UNROLL(20)
        for (int c = 0; c < columns; ++c, at = opaque(at + pixel_stride)) {
          if (EDGE && static_cast<std::size_t>(w0 + c) >= static_cast<std::size_t>(a.w)) continue;
          const hn::Vec<D> x = hn::LoadU(d, at);
          HWY_UNROLL(2)
          for (int o = 0; o < NP; ++o) {
            HWY_UNROLL(8)
            for (int q = 0; q < NQ; ++q) {
              const int r = i - o * ST, s = c - q * ST;
              if (r >= 0 && r < R && s >= 0 && s < S) sum[o][q][0] = hn::MulAdd(w[r][s], x, sum[o][q][0]);
            }
          }
        }
      }
    } else {
      HWY_UNROLL(1)
      for (int r = 0; r < a.r; ++r, h += a.dilation_h, row += row_step, weights += S * lanes) {
        if (static_cast<std::size_t>(h) >= static_cast<std::size_t>(a.h)) continue;
        hn::Vec<D> w[S];
        HWY_UNROLL(7)
        for (int s = 0; s < S; ++s) w[s] = hn::LoadU(d, weights + s * lanes);
        const float* at = row;
        HWY_UNROLL(20)
        for (int c = 0; c < columns; ++c, at = opaque(at + pixel_stride)) {
          if (EDGE && static_cast<std::size_t>(w0 + c) >= static_cast<std::size_t>(a.w)) continue;
          const hn::Vec<D> x = hn::LoadU(d, at);
          HWY_UNROLL(8)
          for (int q = 0; q < NQ; ++q) {
            const int s = c - q * ST;
            if (s >= 0 && s < S) sum[0][q][0] = hn::MulAdd(w[s], x, sum[0][q][0]);
          }
        }
      }
    }
    // All rows are stored before any is finished: a call would have to save the other's sums.
    HWY_ALIGN float raw[NP][NQ * lanes];
    const bool whole = is_whole<NQ, 1>(d, NQ, a.count, a.accumulate);
    HWY_UNROLL(2)
    for (int o = 0; o < NP; ++o)
      store_tile(d, sum[o], whole, a.count, a.activation, dst + o * a.dst_row_stride, a.dst_pixel_stride, raw[o]);
    for (int o = 0; !whole && o < NP; ++o)
      finish_raw(d, raw[o], NQ, lanes, a.count, a.accumulate, a.activation, dst + o * a.dst_row_stride,
                 a.dst_pixel_stride);
  }
}

template <int R, int S, int ST, int NP, int NQ, class D>
HWY_INLINE void pixel_tile(D d, const DepthwisePixels& a, std::ptrdiff_t p, std::ptrdiff_t q0) {
  const std::ptrdiff_t w0 = q0 * ST - a.pad_left;
  if (w0 >= 0 && w0 + (NQ - 1) * ST + S <= a.w)
    pixel_tile<R, S, ST, NP, NQ, false>(d, a, p, q0);
  else
    pixel_tile<R, S, ST, NP, NQ, true>(d, a, p, q0);
}

HWY_INLINE void activate_pixels(const DepthwisePixels& a, std::ptrdiff_t p) {
  if (!is_long(a.activation)) return;
  const std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(hn::ScalableTag<float>()));
  for (std::ptrdiff_t q = 0; q < a.q; ++q)
    activate_row(a.activation, a.dst + p * a.dst_row_stride + q * a.dst_pixel_stride,
                 static_cast<std::size_t>((a.blocks - 1) * lanes + a.count));
}

// NP destination rows from p on.
template <int R, int S, int ST, int NP>
HWY_INLINE void pixel_rows(const DepthwisePixels& a, std::ptrdiff_t p) {
  const hn::ScalableTag<float> d;
  std::ptrdiff_t q0 = 0;
  for (; q0 + kPixels <= a.q; q0 += kPixels) pixel_tile<R, S, ST, NP, kPixels>(d, a, p, q0);
  for (; q0 + 3 <= a.q; q0 += 3) pixel_tile<R, S, ST, NP, 3>(d, a, p, q0);
  for (; q0 < a.q; ++q0)
    for (int o = 0; o < NP; ++o) pixel_tile<0, S, ST, 1, 1>(d, a, p + o, q0);
  for (int o = 0; o < NP; ++o) activate_pixels(a, p + o);
}

template <int S, int ST>
void pixels(const DepthwisePixels& a) {
  std::ptrdiff_t p = a.first_p;
  if constexpr (S == 3 && kManyRegisters) {
    if (a.r == S && a.stride_h == ST)
      for (; p + 2 <= a.last_p; p += 2) pixel_rows<S, S, ST, 2>(a, p);
  }
  for (; p < a.last_p; ++p) pixel_rows<0, S, ST, 1>(a, p);
}

// Any taps: NQ pixels against one weight vector.
template <int NQ, class D>
HWY_INLINE void any_pixel_tile(D d, const DepthwisePixels& a, std::ptrdiff_t p, std::ptrdiff_t q0,
                               std::ptrdiff_t block) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  const float* weights = a.weights + block * a.r * a.s * lanes;
  hn::Vec<D> sum[NQ][1];
  HWY_UNROLL(8)
  for (int i = 0; i < NQ; ++i) sum[i][0] = hn::LoadU(d, a.bias + block * lanes);
  for (int r = 0; r < a.r; ++r) {
    const std::ptrdiff_t h = p * a.stride_h - a.pad_top + std::ptrdiff_t{r} * a.dilation_h;
    if (h < 0 || h >= a.h) continue;
    const float* row = a.src + (h - a.first_h) * a.row_stride + block * lanes;
    HWY_UNROLL(1)
    for (int s = 0; s < a.s; ++s) {
      const std::ptrdiff_t w0 = q0 * a.stride_w - a.pad_left + std::ptrdiff_t{s} * a.dilation_w;
      const hn::Vec<D> w = hn::LoadU(d, weights + (r * a.s + s) * lanes);
      HWY_UNROLL(8)
      for (int i = 0; i < NQ; ++i) {
        const std::ptrdiff_t at = w0 + std::ptrdiff_t{i} * a.stride_w;
        if (at >= 0 && at < a.w) sum[i][0] = hn::MulAdd(w, hn::LoadU(d, row + at * a.pixel_stride), sum[i][0]);
      }
    }
  }
  finish_tile(d, sum, NQ, a.count, a.accumulate, a.activation,
              a.dst + p * a.dst_row_stride + q0 * a.dst_pixel_stride + block * lanes, a.dst_pixel_stride);
}

void any_pixels(const DepthwisePixels& a) {
  const hn::ScalableTag<float> d;
  for (std::ptrdiff_t p = a.first_p; p < a.last_p; ++p) {
    for (std::ptrdiff_t block = 0; block < a.blocks; ++block) {
      std::ptrdiff_t q0 = 0;
      for (; q0 + kPixels <= a.q; q0 += kPixels) any_pixel_tile<kPixels>(d, a, p, q0, block);
      for (; q0 < a.q; ++q0) any_pixel_tile<1>(d, a, p, q0, block);
    }
    activate_pixels(a, p);
  }
}

#endif  // CONVRT_TARGET
}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
