/// \file
/// Zero-padded copies of source planes in which every filter tap reads with unit stride, whatever the convolution's
/// stride, dilation and padding: padded row h' goes to row h'/stride_h of phase h' % stride_h, and likewise for
/// columns. Then destination pixel (p, q) of tap (r, s) lies at tap(r, s) + p * row_stride + q.
///
///     plane[phase_h][phase_w][row][row_stride]      one source channel, `band` destination rows
#pragma once

#include <algorithm>
#include <cstddef>

#include "convrt/conv2d.hpp"

namespace convrt::cpu {

struct PhasePlanes {
  int phases_h = 1, phases_w = 1;  ///< those that some tap reads
  std::ptrdiff_t rows = 0;         ///< in one phase
  std::ptrdiff_t row_stride = 0;   ///< floats
  int stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;

  /// For `band` destination rows of `d`, each `row_stride` floats apart; at least `columns(d, q)`.
  PhasePlanes(const Conv2dDesc& d, int band, std::ptrdiff_t stride)
      : phases_h(used_phases(d.r, d.dilation_h, d.stride_h)),
        phases_w(used_phases(d.s, d.dilation_w, d.stride_w)),
        rows(band + (std::ptrdiff_t{d.r} - 1) * d.dilation_h / d.stride_h),
        row_stride(stride),
        stride_h(d.stride_h),
        stride_w(d.stride_w),
        dilation_h(d.dilation_h),
        dilation_w(d.dilation_w) {}

  /// Floats of one phase's row that destination columns [0, q) read.
  static std::ptrdiff_t columns(const Conv2dDesc& d, std::ptrdiff_t q) {
    return q + (std::ptrdiff_t{d.s} - 1) * d.dilation_w / d.stride_w;
  }

  std::ptrdiff_t phase_size() const { return rows * row_stride; }
  std::ptrdiff_t size() const { return phase_size() * phases_h * phases_w; }  ///< floats of one channel
  std::ptrdiff_t row_offset(std::ptrdiff_t r) const {
    const std::ptrdiff_t at = r * dilation_h;
    return at % stride_h * phases_w * phase_size() + at / stride_h * row_stride;
  }
  std::ptrdiff_t column_offset(std::ptrdiff_t s) const {
    const std::ptrdiff_t at = s * dilation_w;
    return at % stride_w * phase_size() + at / stride_w;
  }
  std::ptrdiff_t tap(std::ptrdiff_t r, std::ptrdiff_t s) const { return row_offset(r) + column_offset(s); }

 private:
  static int used_phases(int taps, int dilation, int stride) {
    return static_cast<int>(std::min<std::ptrdiff_t>(stride, (std::ptrdiff_t{taps} - 1) * dilation + 1));
  }
};

/// Fills the planes of one channel for destination rows [first_row, first_row + band). `pad_row` is the instruction
/// set's (rows-inl.h). plane: [H][W].
template <class PadRow>
void fill_phase_planes(const Conv2dDesc& d, const PhasePlanes& to_shape, const float* plane, std::ptrdiff_t first_row,
                       PadRow pad_row, float* to) {
  for (int phase = 0; phase < to_shape.phases_h; ++phase)
    for (std::ptrdiff_t row = 0; row < to_shape.rows; ++row) {
      const std::ptrdiff_t h = (first_row + row) * d.stride_h + phase - d.pad_top;
      const float* from = h >= 0 && h < d.h ? plane + h * d.w : nullptr;
      pad_row(from, d.w, d.pad_left, d.stride_w, to_shape.phases_w, to_shape.phase_size(), to_shape.row_stride,
              to + phase * to_shape.phases_w * to_shape.phase_size() + row * to_shape.row_stride);
    }
}

}  // namespace convrt::cpu
