/// \file
/// The seam between winograd.cpp (what is computed where) and winograd_kernels.cpp (how, once per instruction set).
///
/// Letters: m x m is the output tile, a = m + 2 the patch it reads, and a*a its points. Tiles are numbered over image,
/// tile row, tile column; the last row and column may stick out of the image.
#pragma once

#include <cstddef>
#include <cstdint>

#include "convrt/conv2d.hpp"
#include "cpu/cpu_probe.hpp"

namespace convrt::cpu {

/// Tiles transformed together. 48 is eight rows of 6: enough to read a weight rarely, few enough for the transformed
/// block to stay in L2 up to 128 channels.
constexpr int kWinogradTiles = 48;

/// Filters transformed together: a whole cache line of them, for the points often lie a multiple of 4 KiB apart, or a
/// quarter.
constexpr int kFilterLine = 16, kFilterQuad = 4;

/// One group of a convolution as the kernels see it.
struct WinogradShape {
  int c = 0, k = 0;                        ///< of the group
  int src_channels = 0, dst_channels = 0;  ///< of the whole tensors
  int h = 0, w = 0, p = 0, q = 0;
  int pad_top = 0, pad_left = 0;
  int tiles_h = 0, tiles_w = 0;  ///< ceil(p / m), ceil(q / m)
  bool accumulate = false;
  Activation activation = {};
};

/// A block of tiles times a range of weight panels. `src`, `dst`, `bias`, `weights` point at the group's first channel.
struct WinogradTask {
  const WinogradShape& shape;
  std::int64_t first_tile;
  int tiles;                   ///< at most kWinogradTiles
  int panel;                   ///< filters of a weight panel
  int panel_begin, panel_end;  ///< weight panels
  const float* weights;        ///< [points][panel][c][filter of the panel]; the last panel may be narrower
  const float* bias;           ///< [k]
  const float* src;
  float* dst;
  float* v;        ///< transformed patches: [points][slot of a tile][c]
  float* m;        ///< products, the points of a tile side by side
  float* staging;  ///< columns between the two halves of a transform, rows on their way to planes
};

/// The kernels of one tile size in one layout, with the sizes their caller must know.
struct WinogradForm {
  int segment_tiles;  ///< most neighbours of a tile row that are transformed together
  int panel;          ///< most filters of a weight panel, as many as a register tile
  int filter_step;    ///< k is padded to a multiple of this, and so is a panel
  /// kFilterLine or kFilterQuad filters [3][3], `step` floats apart, each rounded once, to[point * stride + filter].
  void (*transform_filters)(const float* weights, std::ptrdiff_t step, int count, float* to, std::ptrdiff_t stride);
  std::size_t (*v_floats)(int c, int tiles);
  std::size_t (*m_floats)(int tiles);
  std::size_t staging_floats;
  void (*transform_input)(const WinogradTask& task);
  /// Needs the task's `v`; transforms back, adds bias and (accumulate) dst, activates, writes dst.
  void (*multiply)(const WinogradTask& task);
};

struct WinogradKernels {
  WinogradForm f2x2_nchw, f2x2_nhwc, f4x4_nchw, f4x4_nhwc;
};

const WinogradKernels* winograd_kernels(Isa isa);

}  // namespace convrt::cpu
