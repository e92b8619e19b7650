/// \file
/// Direct convolution kernels of one instruction set, as plain functions over plain structs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "convrt/conv2d.hpp"
#include "cpu/cpu_probe.hpp"

namespace convrt::cpu {

/// NCHW: a band of destination rows of up to MR filters of one group; lanes are pixels. Source are phase planes
/// (cpu/phase_planes.hpp). With `sums` the band is one flat run whose pixels beyond column q of a row are computed and
/// dropped, without it every row is one. Reads up to one vector beyond a run.
struct DirectPlanes {
  const float* src;            ///< first phase plane of the group's first channel
  const std::ptrdiff_t* taps;  ///< [tap_count] where tap (c, r, s) starts
  std::ptrdiff_t tap_count;    ///< C/groups * R * S
  const float* weights;        ///< [tap_count][MR]
  const float* bias;           ///< [MR]
  int filters;                 ///< to be stored, at most MR
  float* sums;                 ///< null, or scratch: [MR][sums_stride]
  std::ptrdiff_t sums_stride;  ///< at least the run, rounded up to whole vectors
  std::ptrdiff_t row_stride;   ///< floats between destination rows in the run
  std::ptrdiff_t rows, q;
  float* dst;                ///< first row of the first filter: [filters][dst_plane]
  std::ptrdiff_t dst_plane;  ///< floats
  bool accumulate;
  Activation activation;
};

/// NHWC: a band of destination rows of up to NV vectors of filters; lanes are filters. Reads zero-padded source rows.
struct DirectPixels {
  const float* src;            ///< padded row and column 0, first channel
  std::ptrdiff_t row_step;     ///< floats between the source of destination rows
  std::ptrdiff_t pixel_step;   ///< floats between the source of destination columns
  const std::ptrdiff_t* taps;  ///< [tap_count] as above, for lookup kernels (r, s) only
  std::ptrdiff_t tap_count;
  const float* weights;        ///< [tap_count][NV * lanes]; lookup kernels: [R][group_c][S][lanes]
  const float* bias;           ///< [NV * lanes]
  const std::int32_t* lookup;  ///< lookup kernels: [group_c][lanes] source channel of every lane, from src on
  std::ptrdiff_t group_c, s;   ///< lookup kernels: C/groups, S
  std::ptrdiff_t rows, q;
  float* dst;                ///< first destination pixel, first filter of the block
  std::ptrdiff_t dst_pixel;  ///< K
  std::ptrdiff_t count;      ///< filters to store, at most NV * lanes
  bool accumulate;
  Activation activation;
};

struct DirectKernels {
  int lanes;  ///< floats of one vector
  void (*pad_row)(const float* row, std::ptrdiff_t width, std::ptrdiff_t pad_left, std::ptrdiff_t stride, int phases,
                  std::ptrdiff_t phase_size, std::ptrdiff_t length, float* to);
  void (*pad_pixels)(const float* row, std::ptrdiff_t width, std::ptrdiff_t pixel_stride, std::ptrdiff_t count,
                     std::ptrdiff_t pad_left, std::ptrdiff_t length, std::ptrdiff_t pitch, float* to);
  struct PlanesTile {
    int filters, vectors;  ///< MR, NV
    void (*run)(const DirectPlanes&);
  };
  PlanesTile planes[3];  ///< most filters first
  struct PixelsTile {
    int pixels, vectors;
    void (*run)(const DirectPixels&);
  };
  PixelsTile pixels[4];  ///< [vectors - 1]; null beyond max_vectors
  int max_vectors;
  /// Small groups: K/groups divides `lanes`, C/groups <= K/groups; a vector of filters spans several groups.
  PixelsTile lookup;
  /// The same for S = 3 without dilation: [stride_w - 1]. Reads whole tiles: up to `pixels` pixels beyond the band.
  PixelsTile lookup_columns[2];
};

/// Null where this build has no kernels for `isa`.
const DirectKernels* direct_kernels(Isa isa);

}  // namespace convrt::cpu
