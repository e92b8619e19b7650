/// \file
/// How the work groups of a GEMM share the depth of its tiles (shaders/share_depth.glsl), and a model of what it costs.
#pragma once

#include <cstdint>
#include <vector>

#include "gl/gl_probe.hpp"
#include "gl/variant_table.hpp"

namespace convrt::gl {

struct DepthShare {
  std::int64_t whole = 0;      ///< tiles that have a work group each, the first ones
  std::int64_t stretches = 0;  ///< work groups among which the steps of all other tiles are divided evenly
};

/// The tiles of a dispatch.
struct TileGrid {
  std::int64_t tiles = 0;
  std::int64_t steps = 0;  ///< of each, Blocking::depth rows
};

/// A guess, in cycles of a device whose processors do 128 multiply-adds a cycle.
double gemm_cycles(const Blocking& blocking, const GlInfo& info, const TileGrid& grid, const DepthShare& share);

/// The share of that peak which the same guess has for a processor with all the work groups it can hold.
double full_rate(const Blocking& blocking, const GlInfo& info);

/// The share for which gemm_cycles is least; all tiles whole unless Blocking::shares.
DepthShare best_share(const Blocking& blocking, const GlInfo& info, const TileGrid& grid);

/// Adds what a shader's parameters say of it: whole, share, extra.
void append(std::vector<std::uint32_t>& params, const DepthShare& share, const TileGrid& grid);

/// Workspace that the stretches store sums in.
std::int64_t partial_floats(const Blocking& blocking, const DepthShare& share);

/// Processors that the models count with where a device does not say how many it has.
int processors(const GlInfo& info);

}  // namespace convrt::gl
