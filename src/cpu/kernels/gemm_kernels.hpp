/// \file
/// The register tiles of cpu.gemm, one table per instruction set. Everything outside the innermost loops (blocking,
/// packing, edges, threads) stands in src/cpu/gemm*.cpp.
#pragma once

#include <cstddef>

#include "convrt/conv2d.hpp"
#include "cpu/cpu_probe.hpp"

namespace convrt::cpu {

/// What happens to a sum before it is stored: out = min(max(sum + bias + (accumulate ? out : 0), low), high); NaN
/// stays NaN.
struct Epilogue {
  const float* bias;  ///< one float per k of the tile
  bool accumulate;
  float low, high;
};

/// Lanes along pixels: out[m][x] = sum over i < depth of a[i][m] * b[i][x], m < rows, x < vectors * lanes; then the
/// next `rows` filters over the same pixels, `tiles` times in all.
struct PixelTiles {
  std::ptrdiff_t tiles;
  const float* a;  ///< weights, a[depth][rows], those of two tiles a_step floats apart
  std::ptrdiff_t a_step;
  const float* b;  ///< im2col rows, b_step floats apart
  std::ptrdiff_t b_step;
  std::ptrdiff_t depth;
  float* out;  ///< rows out_step floats apart
  std::ptrdiff_t out_step;
  Epilogue epilogue;
};
using PixelKernel = void (*)(const PixelTiles&);

/// One contiguous piece of a channel tile's reduction: `depth` source elements of pixel 0 and their weights.
struct TapRun {
  const float* src;
  const float* weights;  ///< [depth][vectors * lanes]
};

/// Lanes along k: out[x][k] = sum over runs and i < depth of src[x * pixel_step + i * depth_step] * weights[i][k],
/// x < pixels, k < vectors * lanes; then the next `pixels` pixels, `tiles` times in all. The source is read in place; a
/// run holds no padded element.
struct ChannelTiles {
  std::ptrdiff_t tiles;
  const TapRun* runs;
  std::ptrdiff_t run_count;
  std::ptrdiff_t depth;
  std::ptrdiff_t pixel_step, depth_step;
  float* out;  ///< pixels out_step floats apart
  std::ptrdiff_t out_step;
  Epilogue epilogue;
};
using ChannelKernel = void (*)(const ChannelTiles&);

/// Copies `len` source elements, `stride` apart, of `depth` channels into panel rows.
struct PanelCopy {
  float* panel;  ///< rows panel_step floats apart; each may be overwritten up to len rounded up to whole vectors
  std::ptrdiff_t panel_step;
  const float* src;  ///< channels src_step floats apart
  std::ptrdiff_t src_step;
  const float* src_end;  ///< nothing is read from here on
  std::ptrdiff_t depth, len, stride;
};

/// to[column][row] = from[row][column]; steps in floats between rows of either.
struct Transpose {
  const float* from;
  std::ptrdiff_t from_step;
  float* to;
  std::ptrdiff_t to_step;
  std::ptrdiff_t rows, columns;
};

constexpr int kMaxTileRows = 14, kMaxTileVectors = 4;

struct GemmKernels {
  int lanes;
  PixelKernel pixel[kMaxTileRows + 1][kMaxTileVectors + 1];      ///< [rows][vectors]; null where there is none
  ChannelKernel channel[kMaxTileRows + 1][kMaxTileVectors + 1];  ///< [pixels][vectors]
  void (*copy)(const PanelCopy&);
  void (*transpose)(const Transpose&);       ///< rows anywhere
  void (*transpose_near)(const Transpose&);  ///< faster, for rows that lie in the L1 cache together
  void (*activate_row)(const Activation&, float* row, std::size_t count);
};

/// nullptr where the instruction set has no vector kernels.
const GemmKernels* gemm_kernels(Isa isa);

}  // namespace convrt::cpu
