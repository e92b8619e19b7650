/// \file
/// What variants.cpp (which kernels, in which order) and recipe.cpp (how one runs) know about a row of the table.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "gl/variants.hpp"

namespace convrt::gl {

using TileSizes = std::array<int, 6>;

/// How a kernel cuts a convolution into work groups.
struct Blocking {
  int filters = 1;       ///< a tile; also what weights are packed by
  int pixels = 1;        ///< a tile
  int depth = 1;         ///< channels are padded to a multiple of this in the packed weights
  int rows = 1;          ///< destination rows that count as one pixel (depthwise strips)
  int columns = 1;       ///< destination columns of a row that count as one pixel; a row's rest counts as one more
  bool grouped = true;   ///< a filter block stays inside one convolution group
  int invocations = 64;  ///< a work group
  std::uint32_t shared_bytes = 0;
  bool flat = false;    ///< the depth is taps times channels, padded as one
  bool shares = false;  ///< work groups may share the depth of tiles (depth_share.hpp)
  int text = 0;         ///< multiply-adds of a step that stand one after another in an invocation's text
  double batches = 1;   ///< work groups a tile (Winograd: products that a tile's outputs are spread over)
};

/// A family of kernels: one file of shaders/. The rows stand in variants.cpp.
struct Variant {
  const char* name;  ///< without "gl."
  const char* file;
  bool (*fits)(const Conv2dDesc& desc);  ///< may not look at n, h, w
  Blocking (*blocking)(const Conv2dDesc& desc, const TileSizes& tile);
  std::string (*suffix)(const TileSizes& tile);
  Defines (*defines)(const Conv2dDesc& desc, const TileSizes& tile, const GlInfo& info);
  struct Choice {
    TileSizes tile;
    double rate;  ///< guessed share of the device's multiply-add peak on a large problem; orders untuned kernels
  };
  std::vector<Choice> choices;
  /// A family that takes more than one dispatch (Winograd) plans its own; nullptr: one file, cut by `blocking`.
  Recipe (*recipe)(const Config& config, const Conv2dDesc& desc, const GlInfo& info) = nullptr;
  std::vector<float> (*pack)(const Config& config, const Conv2dDesc& desc, std::span<const float> weights) = nullptr;
  /// More defines, constants of the image's height and width, where no dispatch sees a part of its rows; may be
  /// nullptr.
  Defines (*extents)(const Conv2dDesc& desc, const Blocking& blocking) = nullptr;
};

const std::vector<Variant>& variants();

inline int filters_per_group(const Conv2dDesc& d) { return d.k / d.groups; }
inline int channels_per_group(const Conv2dDesc& d) { return d.c / d.groups; }
inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// A dispatch of at most this much direct or transformed work stays below 50 ms even with a slow kernel: displays'
/// watchdogs reset a device after 2 to 10 s.
inline double longest_dispatch_flops(const GlInfo& info) {
  const double processors = info.compute_units > 0 ? info.compute_units : 4;
  return 0.05 * (info.software ? 2e9 : 20e9 * processors);
}

/// Tile sizes as they stand in kernel names: "64x64x8".
std::string sizes(std::initializer_list<int> values);
/// What the shaders see of a convolution at compile time (shaders/common.glsl); everything else is in the parameters.
Defines common_defines(const Conv2dDesc& desc, bool filter_size = true);

/// depthwise.cpp: tile = {rows an invocation, filters a tile of NCHW}; NHWC: {rows, columns, channels an invocation}.
bool depthwise_fits(const Conv2dDesc& desc);
std::string depthwise_suffix(const TileSizes& tile);
Blocking depthwise_blocking(const Conv2dDesc& desc, const TileSizes& tile);
Defines depthwise_defines(const Conv2dDesc& desc, const TileSizes& tile, const GlInfo& info);
std::string depthwise_nhwc_suffix(const TileSizes& tile);
bool depthwise_nhwc_fits(const Conv2dDesc& desc);
Blocking depthwise_nhwc_blocking(const Conv2dDesc& desc, const TileSizes& tile);
Defines depthwise_nhwc_defines(const Conv2dDesc& desc, const TileSizes& tile, const GlInfo& info);
Defines depthwise_extents(const Conv2dDesc& desc, const Blocking& blocking);  ///< of both

/// winograd.cpp: tile = {BM, BN, BK, TM, TN, outputs a Winograd tile and axis}.
bool winograd_fits(const Conv2dDesc& desc);
Recipe winograd_recipe(const Config& config, const Conv2dDesc& desc, const GlInfo& info);
std::vector<float> winograd_weights(const Config& config, const Conv2dDesc& desc, std::span<const float> weights);

/// bands.cpp: for NCHW images of which recipe() cannot bind the planes of one filter block at once.
Recipe banded_recipe(const Config& config, const Conv2dDesc& desc, const GlInfo& info);

/// Filter blocks of the whole convolution.
std::int64_t block_count(const Blocking& blocking, const Conv2dDesc& desc);
/// Floats of one block in the packed weights.
std::int64_t block_floats(const Blocking& blocking, const Conv2dDesc& desc);
/// First filter of a block; that of block_count is k.
std::int64_t first_filter(const Blocking& blocking, const Conv2dDesc& desc, std::int64_t block);
/// Rows of the multiplication that a tile does, padding included.
std::int64_t depth(const Blocking& blocking, const Conv2dDesc& desc);
/// Tiles of the whole convolution.
std::int64_t tile_count(const Blocking& blocking, const Conv2dDesc& desc);

}  // namespace convrt::gl
