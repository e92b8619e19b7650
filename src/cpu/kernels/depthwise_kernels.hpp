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

/// NCHW in place: destination rows [first_p, last_p) of neighbouring filters, R = S, one stride for both axes.
struct DepthwisePlanes {
  const float* src;  ///< [C][H][W], the first filter's channel
  std::ptrdiff_t h, w, pad_top, pad_left;
  const float* weights;  ///< [count][R][S]
  const float* bias;     ///< [count]
  float* dst;            ///< [count][P][Q]
  std::ptrdiff_t first_p, last_p, p, q;
  std::ptrdiff_t count;              ///< filters
  std::ptrdiff_t multiplier, phase;  ///< filters per channel; which of its channel's filters the first one is
  std::ptrdiff_t taps;               ///< R * S
  bool from_memory;                  ///< no cache holds source and destination
  bool accumulate;
  Activation activation;

  const float* src_of(std::ptrdiff_t i) const { return src + (multiplier == 1 ? i : (phase + i) / multiplier) * h * w; }
  const float* weights_of(std::ptrdiff_t i) const { return weights + i * taps; }
  float* dst_of(std::ptrdiff_t i) const { return dst + i * p * q; }
};

/// NHWC: destination rows [first_p, last_p) of `blocks` vectors of channels that stand side by side. Taps in padding
/// are skipped.
struct DepthwisePixels {
  const float* src;  ///< row first_h, column 0, first channel; whole vectors are read
  std::ptrdiff_t blocks;
  std::ptrdiff_t row_stride, pixel_stride;
  std::ptrdiff_t first_h, h, w;
  int r, s, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  const float* weights;  ///< [blocks][R][S][lanes]
  const float* bias;     ///< [blocks][lanes]
  float* dst;            ///< row 0, column 0, first channel
  std::ptrdiff_t dst_row_stride, dst_pixel_stride;
  std::ptrdiff_t first_p, last_p, q;
  std::ptrdiff_t count;  ///< channels to store of each block: `lanes`, or fewer where blocks = 1
  bool accumulate;
  Activation activation;
};

constexpr int kStripRows = 4;

struct DepthwiseKernels {
  int lanes;  ///< floats of one vector
  void (*pad_row)(const float* row, std::ptrdiff_t width, std::ptrdiff_t pad_left, std::ptrdiff_t stride, int phases,
                  std::ptrdiff_t phase_size, std::ptrdiff_t length, float* to);
  using Strip = void (*)(const DepthwiseStrip&);
  using Planes = void (*)(const DepthwisePlanes&);
  using Pixels = void (*)(const DepthwisePixels&);
  Strip strip[3][2][kStripRows];  ///< [R = 3, 5, 7 without dilation][stride_h - 1][rows - 1]
  Strip any_strip[kStripRows];    ///< [rows - 1], any taps
  Planes planes[3][2];            ///< [R = S = 3, 5, 7][stride - 1], null on instruction sets without masked loads
  Pixels pixels[3][2];            ///< [S = 3, 5, 7 without dilation][stride_w - 1], any R
  Pixels any_pixels;
};

/// Null where this build has no kernels for `isa`.
const DepthwiseKernels* depthwise_kernels(Isa isa);

}  // namespace convrt::cpu
