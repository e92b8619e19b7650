/// \file
/// Depthwise kernels of one instruction set, as plain functions over plain structs.
#pragma once

#include <cstddef>

#include "convrt/conv2d.hpp"
#include "cpu/cpu_probe.hpp"

namespace convrt::cpu {

/// NCHW: up to kStripRows destination rows of one channel; lanes are pixels. Reads phase planes (cpu/phase_planes.hpp),
/// so there are no edges. May read up to one vector beyond column q of each row.
struct DepthwiseStrip {
  const float* src;              ///< the phase planes at the first destination row
  std::ptrdiff_t row_stride;     ///< floats between rows of a phase
  std::ptrdiff_t phase_h;        ///< floats between row phases
  const std::ptrdiff_t* column;  ///< [S] where tap column s starts in a row
  const std::ptrdiff_t* row;     ///< [R] where tap row r starts
  const float* weights;          ///< [R][S]
  int r, s;
  float bias;
  float* dst;  ///< [rows][dst_stride]
  std::ptrdiff_t dst_stride;
  std::ptrdiff_t q;
  bool accumulate;
  Activation activation;
};

/// NHWC: one destination row of `lanes` channels; lanes are channels. Reads the source in place and skips the taps that
/// fall into padding.
struct DepthwiseRow {
  const float* const* rows;     ///< [R] source row of tap row r at column 0, null where it is padding
  std::ptrdiff_t pixel_stride;  ///< floats between source columns
  int w;                        ///< source columns
  int r, s, stride_w, dilation_w, pad_left;
  const float* weights;  ///< [R][S][lanes]
  const float* bias;     ///< [lanes]
  float* dst;
  std::ptrdiff_t dst_pixel_stride;
  std::ptrdiff_t q;
  std::size_t count;  ///< channels to store, at most `lanes`
  bool accumulate;
  Activation activation;
};

constexpr int kStripRows = 4;

struct DepthwiseKernels {
  int lanes;  ///< floats of one vector
  void (*pad_row)(const float* row, int width, int pad_left, int stride, int phases, std::ptrdiff_t phase_size,
                  std::ptrdiff_t length, float* to);
  using Strip = void (*)(const DepthwiseStrip&);
  using Row = void (*)(const DepthwiseRow&);
  Strip strip[3][2][kStripRows];  ///< [R = 3, 5, 7 without dilation][stride_h - 1][rows - 1]
  Strip any_strip[kStripRows];    ///< [rows - 1], any taps
  Row row[3][2];                  ///< [S = 3, 5, 7 without dilation][stride_w - 1], any R
  Row any_row;
};

/// Null where this build has no kernels for `isa`.
const DepthwiseKernels* depthwise_kernels(Isa isa);

}  // namespace convrt::cpu
