/// \file
/// What the two halves of cpu.gemm share: the geometry in wide integers, even splits, the epilogue. Internal to
/// gemm*.cpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>

#include "cpu/algorithm.hpp"
#include "cpu/kernels/gemm_kernels.hpp"

namespace convrt::cpu::gemm_detail {

using Index = std::ptrdiff_t;

constexpr Index ceil_div(Index a, Index b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

/// `total` items in `parts` parts whose sizes differ by at most one.
struct Split {
  constexpr Split(Index total, Index count) : parts(count), size(total / count), extra(total % count) {}
  constexpr Index begin(Index part) const { return size * part + std::min(part, extra); }
  constexpr Index count(Index part) const { return size + (part < extra ? 1 : 0); }
  constexpr Index part_of(Index item) const {
    const Index in_larger = extra * (size + 1);
    return item < in_larger ? item / (size + 1) : extra + (item - in_larger) / size;
  }
  Index parts, size, extra;
};

/// A descriptor with P, Q and the per-group sizes worked out. A dense 1x1 convolution does not care where rows end: its
/// pixels become one row per image (NCHW) or one row altogether (NHWC), so no tile ends early. With `gather`, neither
/// does a strided one: its source is the pixels that it reads, which are to be gathered from the grid.
struct Shape {
  explicit Shape(const Conv2dDesc& d, bool gather = false)
      : nhwc(d.layout == Layout::nhwc),
        n(d.n),
        c(d.c),
        h(d.h),
        w(d.w),
        k(d.k),
        r(d.r),
        s(d.s),
        p(d.p()),
        q(d.q()),
        stride_h(d.stride_h),
        stride_w(d.stride_w),
        dilation_h(d.dilation_h),
        dilation_w(d.dilation_w),
        pad_top(d.pad_top),
        pad_left(d.pad_left),
        groups(d.groups),
        group_c(d.c / d.groups),
        group_k(d.k / d.groups) {
    if (r * s != 1 || pad_top + pad_left != 0 || (p - 1) * stride_h >= h || (q - 1) * stride_w >= w) return;
    const bool strided = stride_h * stride_w != 1;
    if (strided ? !gather : p != h || q != w) return;
    gathered = strided;
    grid = {p, q, h, w, stride_h, stride_w};
    const Index rows = nhwc ? n * p : p;
    if (nhwc) n = 1;
    dense = true;
    q *= rows;
    w = q;
    h = p = stride_h = stride_w = 1;
  }

  /// Filter rows [first, last) that meet the source for destination row `row`.
  struct Range {
    Index first, last;
    bool empty() const { return first >= last; }
  };
  Range filter_rows(Index row) const {
    const Index at = row * stride_h - pad_top;
    return {std::max<Index>(0, ceil_div(-at, dilation_h)), std::min(r, ceil_div(h - at, dilation_h))};
  }

  /// Of an image before its pixels became one row: P, Q, H, W, strides.
  struct Grid {
    Index p, q, h, w, stride_h, stride_w;
  };

  bool nhwc, dense = false, gathered = false;
  Grid grid = {};
  Index n, c, h, w, k, r, s, p, q, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  Index groups, group_c, group_k;
};

/// The part of an activation that tiles apply while storing; the others follow in a pass over the hot rows.
struct Finish {
  explicit Finish(const Activation& a) {
    if (a.kind == ActivationKind::relu) low = 0;
    if (a.kind == ActivationKind::clamp) low = a.alpha, high = a.beta;
    row_pass = a.kind != ActivationKind::none && a.kind != ActivationKind::relu && a.kind != ActivationKind::clamp;
  }
  float low = -std::numeric_limits<float>::infinity(), high = std::numeric_limits<float>::infinity();
  bool row_pass = false;
};

/// A tile of zeros: the bias of a partial sum.
alignas(64) inline constexpr float kZeros[kMaxTileVectors * 16] = {};

/// A dense 1x1 convolution has no im2col: the planes of the source are its rows. Packing them still pays where many
/// filters reuse a panel (fewer where its rows are short: a line or two of each plane), and where planes a multiple of
/// 2 KiB apart fall into few sets of the L1 cache.
inline bool reads_in_place(const Shape& s, Index lanes) {
  return s.dense && s.group_k <= (lanes < 16 ? 128 : 512) && s.w % 512 != 0;
}

/// One block of weights: to[(tap * channels + c) * step + i] = from[(i * channels + c) * taps + tap], i below
/// `filters`.
void pack_block(const GemmKernels& kernels, const float* from, Index filters, Index step, Index channels, Index taps,
                float* to);

/// Lanes along pixels, NCHW: weights [group][block of rows][R][S][C/groups][row]; one im2col panel per thread.
AlignedFloats pack_pixel(const Conv2dDesc& desc, const Variant& variant, std::span<const float> weights, int threads);
std::size_t pixel_scratch(const Shape& shape, const Variant& variant);
void execute_pixel(const Run& run) noexcept;

/// Lanes along k, both layouts: weights [group][block of vectors][R][S][C/groups][vectors * lanes], the source is read
/// in place.
AlignedFloats pack_channel(const Conv2dDesc& desc, const Variant& variant, std::span<const float> weights, int threads);
std::size_t channel_scratch(const Shape& shape, const Variant& variant);
void execute_channel(const Run& run) noexcept;

}  // namespace convrt::cpu::gemm_detail
