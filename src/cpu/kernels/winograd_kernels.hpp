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

/// Where the tiles of a task stand in v and m. A tile of fewer than m rows or columns lacks points, so that tiles are
/// sorted: those of few columns alone, whole ones, of few rows alone, of both. What has a point is then one range.
struct WinogradOrder {
  int slot[kWinogradTiles];
  int few_columns = 0, whole = 0, few_rows = 0, all = 0;  ///< ends of the first three kinds, and of all

  WinogradOrder(const WinogradShape& s, int m, std::int64_t first_tile, int tiles) : all(tiles) {
    int kind[kWinogradTiles], next[4] = {};
    int w = static_cast<int>(first_tile % s.tiles_w), h = static_cast<int>(first_tile / s.tiles_w % s.tiles_h);
    for (int t = 0; t < tiles; ++t) {
      const bool rows = s.p - h * m < m, columns = s.q - w * m < m;
      kind[t] = rows ? (columns ? 3 : 2) : (columns ? 0 : 1);
      for (int later = kind[t] + 1; later < 4; ++later) ++next[later];
      if (++w == s.tiles_w) w = 0, h = h + 1 == s.tiles_h ? 0 : h + 1;
    }
    few_columns = next[1], whole = next[2], few_rows = next[3];
    for (int t = 0; t < tiles; ++t) slot[t] = next[kind[t]]++;
  }
};

/// A block of tiles of one group. `src`, `dst`, `bias`, `weights` point at the group's first channel.
struct WinogradTask {
  const WinogradShape& shape;
  std::int64_t first_tile;
  int tiles;             ///< at most kWinogradTiles
  WinogradOrder order;   ///< of these tiles
  int panel;             ///< filters of a weight panel
  const float* weights;  ///< [panel][points][c][filter of the panel]; the last panel may be narrower
  const float* bias;     ///< [k]
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
  /// Fills `v`, and clears in `m` what no product will fill.
  void (*transform_input)(const WinogradTask& task);
  /// v times weight panel `panel` into m, for points [begin, end).
  void (*multiply)(const WinogradTask& task, int panel, int begin, int end);
  /// m of a panel, all its points: transforms back, adds bias and (accumulate) dst, activates, writes dst.
  void (*finish)(const WinogradTask& task, int panel);
};

struct WinogradKernels {
  WinogradForm f2x2_nchw, f2x2_nhwc, f4x4_nchw, f4x4_nhwc;
};

const WinogradKernels* winograd_kernels(Isa isa);

}  // namespace convrt::cpu
