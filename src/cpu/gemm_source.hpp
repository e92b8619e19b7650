/// \file
/// What tiles of cpu.gemm with lanes along k read: the source where it stands, or what a chunk of tiles needs of it in
/// the order that suits them, in a thread's scratch. Internal to gemm*.cpp.
#pragma once

#include <algorithm>

#include "cpu/gemm_shape.hpp"

namespace convrt::cpu::gemm_detail {

/// The shape that tiles with lanes along k work on. Wide ones read strided pixels of planes where they stand: a step is
/// long enough for their lines (measured: gathering them costs 0 to 7 %).
inline Shape channel_shape(const Conv2dDesc& d, Index lanes) {
  return Shape(d, d.layout == Layout::nhwc || lanes < 16);
}

/// Lanes along k: the source turned to [h][w][c], or gathered in that order, a chunk of the destination at a time, in a
/// thread's scratch. A chunk is some lines of one image; a line is a row of the destination, or where that has but one
/// row, a tile.
struct TurnedSource {
  TurnedSource(const Shape& s, Index tile_pixels, Index lanes)
      : pitch(s.group_c % 256 == 0 ? s.group_c + 16 : s.group_c),
        by_rows(s.p > 1),
        lines(by_rows ? s.p : ceil_div(s.q, tile_pixels)) {
    const Index rows = std::min(s.h, (s.r - 1) * s.dilation_h + 1);
    line_floats = (by_rows ? s.stride_h * s.w : rows * tile_pixels * s.stride_w) * pitch;
    const Index first = (by_rows ? rows * s.w : rows * ((tile_pixels - 1) * s.stride_w + (s.s - 1) * s.dilation_w + 1));
    halo_floats = first * pitch - line_floats;
    used = s.gathered || (!s.nhwc && (lanes < 16 || (s.r * s.s > 1 && s.h * s.w <= 64)) && floats(1) <= kMostFloats);
  }
  static constexpr Index kMostFloats = 128 * 1024;  // half the L2 cache

  /// Floats of the source of `count` neighbouring lines, at most.
  Index floats(Index count) const { return halo_floats + count * line_floats; }
  Index lines_of_chunk() const { return std::clamp<Index>((kMostFloats - halo_floats) / line_floats, 1, lines); }

  Index pitch;  ///< floats of a pixel; no power of two, or neighbours would fall into few sets of the L1 cache
  bool by_rows;
  Index lines;  ///< of an image
  Index line_floats, halo_floats;
  bool used;  ///< else the source is read in place
};

/// Where the channels of one group and image stand: those of pixel h, w from
/// first + (h - h_first) * h_step + (w - w_first) * w_step on, depth_step apart.
struct Source {
  const float* first;
  Index h_first, w_first, h_step, w_step, depth_step;
};

/// Destination rows [p_first, p_last) of image n, columns [q_first, q_last).
struct Pixels {
  Index n, p_first, p_last, q_first, q_last;
};

/// The source of `run`, whose channel_shape() is `shape`. Thread-safe.
class SourceReader {
 public:
  SourceReader(const Run& run, const Shape& shape, const TurnedSource& turned, const GemmKernels& kernels)
      : src_(run.src), s_(shape), pitch_(turned.pitch), kernels_(kernels) {}

  Source in_place(Index n, Index g) const;
  /// What `pixels` read of group g, turned or, if the shape is gathered, gathered, at `to`.
  Source turned(const Pixels& pixels, Index g, float* to) const;

 private:
  Source gathered(const Pixels& pixels, Index g, float* to) const;
  void turn(const float* planes, Index plane, Index pixels, float* to) const;
  void gather(const float* planes, Index pixels, float* to) const;

  const float* src_;
  const Shape& s_;
  Index pitch_;
  const GemmKernels& kernels_;
};

}  // namespace convrt::cpu::gemm_detail
