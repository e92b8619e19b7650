/// \file
/// Winograd with one tile a lane, for planes in memory (nchw). v[points][c][tile], m[filter][vector of tiles]
/// [points][tile]: the points of a tile side by side, since they are read together.

#if defined(CONVRT_WINOGRAD_NCHW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONVRT_WINOGRAD_NCHW_INL_H_
#undef CONVRT_WINOGRAD_NCHW_INL_H_
#else
#define CONVRT_WINOGRAD_NCHW_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "cpu/kernels/activation-inl.h"
#include "cpu/kernels/rows-inl.h"
#include "cpu/kernels/winograd_kernels.hpp"
#include "cpu/kernels/winograd_multiply-inl.h"
#include "cpu/kernels/winograd_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {

template <int m>
class NchwWinograd {
  using T = Tile<m>;
  static constexpr int kPoints = T::kPoints, kUnitTiles = kLanes / m, kMaxUnits = kWinogradTiles / kUnitTiles;
  static constexpr int kPanelsAtOnce = 32 / kPanelFilters;

  static int padded(int tiles) { return (tiles + kLanes - 1) / kLanes * kLanes; }
  // One vector more than the data: neighbouring points must not fall on the same cache sets.
  static std::ptrdiff_t v_stride(int c, int tiles) { return std::ptrdiff_t{c} * padded(tiles) + kLanes; }
  static constexpr std::ptrdiff_t kProducts = kPoints * kPoints * kLanes;  // of one filter and kLanes tiles

  // Neighbouring tiles of one tile row.
  struct Segment {
    std::ptrdiff_t row[kPoints];  // `begin` in each row of the patch, -1 for rows of padding
    int begin, end;               // source columns, inside the image
    int line;                     // where `begin` goes in a staging line
  };

  // The staging area is kPoints lines, each with the columns of all segments of the block one behind the other: row r
  // of the vertically transformed patches. Units that do not lie in one piece get a copy at the line's end.
  struct Lines {
    Segment segments[kWinogradTiles];
    int segment_count = 0;
    int tile[kWinogradTiles + kLanes];             // column 0 of every tile
    int here[kMaxUnits + m], next[kMaxUnits + m];  // columns 0 and m of every unit
    int broken[kMaxUnits + m];                     // units to copy
    int broken_count = 0;
    std::ptrdiff_t length = 0;  // of a line
  };
  static constexpr int kLineFloats = kWinogradTiles * (m + 2 + 2 * kLanes) + 2 * (kMaxUnits + m) * kLanes;

  static Lines plan_lines(const WinogradTask& task) {
    const WinogradShape& s = task.shape;
    Lines lines;
    int at = 0;
    for (int i = 0; i < task.tiles;) {
      const std::int64_t tile = task.first_tile + i;
      const int tile_w = static_cast<int>(tile % s.tiles_w);
      const int tile_h = static_cast<int>(tile / s.tiles_w % s.tiles_h);
      const std::ptrdiff_t n = static_cast<std::ptrdiff_t>(tile / s.tiles_w / s.tiles_h);
      const int count = std::min(task.tiles - i, s.tiles_w - tile_w);
      Segment& segment = lines.segments[lines.segment_count++];
      const std::int64_t first = std::int64_t{tile_w} * m - s.pad_left;  // may lie outside the image
      segment.begin = static_cast<int>(std::clamp<std::int64_t>(first, 0, s.w));
      segment.end = static_cast<int>(std::clamp<std::int64_t>(first + count * m + 2, segment.begin, s.w));
      segment.line = segment.begin == segment.end ? at : at + static_cast<int>(segment.begin - first);
      for (int r = 0; r < kPoints; ++r) {
        const std::int64_t h = std::int64_t{tile_h} * m - s.pad_top + r;
        segment.row[r] = h < 0 || h >= s.h ? -1 : (n * s.src_channels * s.h + h) * s.w + segment.begin;
      }
      for (int t = 0; t < count; ++t) lines.tile[i + t] = at + t * m;
      // A vector may be stored past the segment's last column.
      at += (count * m + 2 + kLanes - 1) / kLanes * kLanes + kLanes;
      i += count;
    }
    const int all = padded(task.tiles);
    std::fill(lines.tile + task.tiles, lines.tile + all, lines.tile[task.tiles - 1]);
    for (int u = 0; u < all / kUnitTiles; ++u) {
      const int* tile = lines.tile + u * kUnitTiles;
      lines.here[u] = tile[0];
      lines.next[u] = tile[0] + m;
      bool whole = true;
      for (int t = 1; t < kUnitTiles; ++t) whole = whole && tile[t] == tile[0] + t * m;
      if (whole) continue;
      lines.broken[lines.broken_count++] = u;
      lines.here[u] = at;
      lines.next[u] = at + kLanes;
      at += 2 * kLanes;
    }
    lines.length = at;
    return lines;
  }

  // Vertical half: every column of the block once, in whole vectors. What lies outside the image stays zero.
  static void transform_columns(const Lines& lines, const float* src, float* staging) {
    const F32 d;
    HWY_ALIGN static constexpr float kZeros[kLanes] = {};
    for (int i = 0; i < lines.segment_count; ++i) {
      const Segment& segment = lines.segments[i];
      const float* row[kPoints];
      std::ptrdiff_t step[kPoints];
      for (int r = 0; r < kPoints; ++r) {
        step[r] = segment.row[r] < 0 ? 0 : 1;
        row[r] = segment.row[r] < 0 ? kZeros : src + segment.row[r];
      }
      const int count = segment.end - segment.begin;
      float* to = staging + segment.line;
      for (int x = 0; x < count; x += kLanes) {
        Vf in[kPoints], out[kPoints];
        HWY_UNROLL(6)
        for (int r = 0; r < kPoints; ++r) in[r] = load_first(d, row[r] + x * step[r], count - x);
        T::input(in, out);
        HWY_UNROLL(6)
        for (int r = 0; r < kPoints; ++r) hn::StoreU(out[r], d, to + r * lines.length + x);
      }
    }
  }

  static void copy_broken_units(const Lines& lines, float* staging) {
    for (int i = 0; i < lines.broken_count; ++i) {
      const int u = lines.broken[i];
      for (int r = 0; r < kPoints; ++r) {
        float* line = staging + r * lines.length;
        for (int t = 0; t < kUnitTiles; ++t) {
          const float* tile = line + lines.tile[u * kUnitTiles + t];
          std::copy_n(tile, m, line + lines.here[u] + t * m);
          std::copy_n(tile + m, 2, line + lines.next[u] + t * m);
        }
      }
    }
  }

 public:
  static void transform_input(const WinogradTask& task) {
    const F32 d;
    const WinogradShape& s = task.shape;
    const Lines lines = plan_lines(task);
    std::fill_n(task.staging, kPoints * lines.length, 0.0F);
    const int width = padded(task.tiles);
    const std::ptrdiff_t point = v_stride(s.c, task.tiles);
    for (int c = 0; c < s.c; ++c) {
      transform_columns(lines, task.src + std::ptrdiff_t{c} * s.h * s.w, task.staging);
      copy_broken_units(lines, task.staging);
      for (int x = 0; x < width; x += kLanes) {
        const int unit = x / kUnitTiles;
        float* to = task.v + std::ptrdiff_t{c} * width + x;
        for (int r = 0; r < kPoints; ++r) {
          Vf in[kPoints], out[kPoints];
          T::load_columns(task.staging + r * lines.length, lines.here + unit, lines.next + unit, in);
          T::input(in, out);
          HWY_UNROLL(6)
          for (int j = 0; j < kPoints; ++j) hn::Store(out[j], d, to + (r * kPoints + j) * point);
        }
      }
    }
  }

 private:
  // v and the panels [begin, end) into m.
  static void multiply_panels(const WinogradTask& task, int begin, int end) {
    const WinogradShape& s = task.shape;
    const int width = padded(task.tiles);
    const std::ptrdiff_t row = width / kLanes;
    const int panels = (s.k + kPanelFilters - 1) / kPanelFilters;
    const std::ptrdiff_t panel_floats = std::ptrdiff_t{s.c} * kPanelFilters;
    for (int point = 0; point < kPoints * kPoints; ++point) {
      const float* weights = task.weights + (std::ptrdiff_t{point} * panels + begin) * panel_floats;
      const float* v = task.v + point * v_stride(s.c, task.tiles);
      float* out = task.m + point * kLanes;
      for (int c = 0; c < s.c; c += kDepth) {
        const std::ptrdiff_t depth = std::min(kDepth, s.c - c);
        for (int x = 0; x < width; x += kTileVectors * kLanes) {
          const int vectors = std::min(kTileVectors, (width - x) / kLanes);
          const float* b = v + std::ptrdiff_t{c} * width + x;
          for (int panel = begin; panel < end;) {
            const PanelRows<kPanelFilters> a = {
                weights + (panel - begin) * panel_floats + std::ptrdiff_t{c} * kPanelFilters, panel_floats};
            float* to = out + ((panel - begin) * kPanelFilters * row + x / kLanes) * kProducts;
            // A single vector of tiles needs two panels to keep the multipliers busy.
            if (vectors == 1 && panel + 2 <= end) {
              multiply_tile<2 * kPanelFilters, 1>(a, b, width, depth, c > 0, to, row * kProducts, kProducts);
              panel += 2;
              continue;
            }
            if (vectors == 1)
              multiply_tile<kPanelFilters, 1>(a, b, width, depth, c > 0, to, row * kProducts, kProducts);
            if (vectors == 2)
              multiply_tile<kPanelFilters, 2>(a, b, width, depth, c > 0, to, row * kProducts, kProducts);
            if constexpr (kTileVectors == 3) {
              if (vectors == 3)
                multiply_tile<kPanelFilters, 3>(a, b, width, depth, c > 0, to, row * kProducts, kProducts);
            }
            ++panel;
          }
        }
      }
    }
  }

  // Where a tile, or a unit of tiles in one piece, goes in a plane of dst.
  struct Place {
    std::ptrdiff_t offset;  // of its first element from the first image's plane
    int rows, columns;      // inside the image; 0 rows: no tile
  };
  struct Places {
    Place tile[kWinogradTiles + kLanes];
    bool whole[kMaxUnits + m];  // units whose tiles are neighbours and complete in width
  };

  static Places plan_places(const WinogradTask& task) {
    const WinogradShape& s = task.shape;
    Places places;
    const int all = padded(task.tiles);
    for (int i = 0; i < all; ++i) {
      const std::int64_t tile = task.first_tile + i;
      const int q = static_cast<int>(tile % s.tiles_w) * m, p = static_cast<int>(tile / s.tiles_w % s.tiles_h) * m;
      const std::ptrdiff_t n = static_cast<std::ptrdiff_t>(tile / s.tiles_w / s.tiles_h);
      places.tile[i] = {(n * s.dst_channels * s.p + p) * s.q + q, i < task.tiles ? std::min(m, s.p - p) : 0,
                        std::min(m, s.q - q)};
    }
    for (int u = 0; u < all / kUnitTiles; ++u) {
      const Place* tile = places.tile + u * kUnitTiles;
      places.whole[u] = true;
      for (int t = 0; t < kUnitTiles; ++t)
        places.whole[u] = places.whole[u] && tile[t].rows == tile[0].rows && tile[t].columns == m &&
                          tile[t].offset == tile[0].offset + t * m;
    }
    return places;
  }

  // Row i of a unit in pieces, one a tile.
  static HWY_INLINE void store_pieces(const WinogradShape& s, const Place* tile, int i, Vf v, float* dst) {
    const F32 d;
    HWY_ALIGN float piece[kLanes] = {};
    if (s.accumulate) {
      for (int t = 0; t < kUnitTiles; ++t)
        if (i < tile[t].rows)
          for (int x = 0; x < tile[t].columns; ++x)
            piece[t * m + x] = dst[tile[t].offset + std::ptrdiff_t{i} * s.q + x];
      v = hn::Add(v, hn::Load(d, piece));
    }
    hn::Store(activate_short(d, s.activation, v), d, piece);
    for (int t = 0; t < kUnitTiles; ++t) {
      if (i >= tile[t].rows) continue;
      float* to = dst + tile[t].offset + std::ptrdiff_t{i} * s.q;
      if (tile[t].columns == m)
        std::copy_n(piece + t * m, m, to);
      else
        for (int x = 0; x < tile[t].columns; ++x) to[x] = piece[t * m + x];
    }
  }

  // m of one filter and kLanes tiles: `from` is its first point.
  static HWY_INLINE void transform_output(const WinogradTask& task, const Places& places, const float* from, int unit,
                                          float bias, float* dst) {
    const F32 d;
    const WinogradShape& s = task.shape;
    HWY_ALIGN float half[m * kPoints * kLanes];
    HWY_UNROLL(6)
    for (int j = 0; j < kPoints; ++j) {
      Vf in[kPoints], out[m];
      HWY_UNROLL(6)
      for (int i = 0; i < kPoints; ++i) in[i] = hn::Load(d, from + (i * kPoints + j) * kLanes);
      T::output(in, out);
      HWY_UNROLL(4)
      for (int i = 0; i < m; ++i) hn::Store(out[i], d, half + (i * kPoints + j) * kLanes);
    }
    for (int i = 0; i < m; ++i) {
      Vf in[kPoints], out[m], units[m];
      HWY_UNROLL(6)
      for (int j = 0; j < kPoints; ++j) in[j] = hn::Load(d, half + (i * kPoints + j) * kLanes);
      T::output(in, out);
      T::to_units(out, units);
      HWY_UNROLL(4)
      for (int u = 0; u < m; ++u) {
        const Place* tile = places.tile + (unit + u) * kUnitTiles;
        Vf v = hn::Add(units[u], hn::Set(d, bias));
        if (!places.whole[unit + u]) {
          store_pieces(s, tile, i, v, dst);
        } else if (i < tile->rows) {
          float* to = dst + tile->offset + std::ptrdiff_t{i} * s.q;
          if (s.accumulate) v = hn::Add(v, hn::LoadU(d, to));
          hn::StoreU(activate_short(d, s.activation, v), d, to);
        }
      }
    }
  }

  // In place over what the block wrote of one plane, tile row by tile row: the pieces are long there.
  static void activate_plane(const WinogradTask& task, const Places& places, float* dst) {
    const WinogradShape& s = task.shape;
    for (int i = 0; i < task.tiles;) {
      const int tile_w = static_cast<int>((task.first_tile + i) % s.tiles_w);
      const int count = std::min(task.tiles - i, s.tiles_w - tile_w);
      const int columns = std::min(count * m, s.q - tile_w * m);
      for (int row = 0; row < places.tile[i].rows; ++row)
        activate_row(s.activation, dst + places.tile[i].offset + std::ptrdiff_t{row} * s.q,
                     static_cast<std::size_t>(columns));
      i += count;
    }
  }

  static void multiply(const WinogradTask& task) {
    const WinogradShape& s = task.shape;
    const Places places = plan_places(task);
    const int width = padded(task.tiles);
    for (int panel = task.panel_begin; panel < task.panel_end; panel += kPanelsAtOnce) {
      const int end = std::min(panel + kPanelsAtOnce, task.panel_end);
      multiply_panels(task, panel, end);
      const int k_end = std::min(end * kPanelFilters, s.k);
      for (int k = panel * kPanelFilters; k < k_end; ++k) {
        const float* from = task.m + (k - panel * kPanelFilters) * (width / kLanes) * kProducts;
        float* dst = task.dst + std::ptrdiff_t{k} * s.p * s.q;
        for (int x = 0; x < width; x += kLanes)
          transform_output(task, places, from + x / kLanes * kProducts, x / kUnitTiles, task.bias[k], dst);
        if (is_long(s.activation)) activate_plane(task, places, dst);
      }
    }
  }

  static std::size_t v_floats(int c, int tiles) {
    return static_cast<std::size_t>(kPoints * kPoints * v_stride(c, tiles));
  }
  static std::size_t m_floats(int tiles) {
    return static_cast<std::size_t>(kPanelsAtOnce * kPanelFilters * (padded(tiles) / kLanes) * kProducts);
  }

 public:
  static constexpr WinogradForm form() {
    return {kLanes,           kLanes,   kPanelFilters, kPanelFilters, &v_floats, &m_floats, kPoints * kLineFloats,
            &transform_input, &multiply};
  }
};

}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
