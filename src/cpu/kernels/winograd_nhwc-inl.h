/// \file
/// Winograd with channels and filters in the lanes, for pixels in memory (nhwc). v[points][tile][c],
/// m[tile][vector of filters][points][filter]: the points of a tile side by side, since they are read together.

#if defined(CONVRT_WINOGRAD_NHWC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONVRT_WINOGRAD_NHWC_INL_H_
#undef CONVRT_WINOGRAD_NHWC_INL_H_
#else
#define CONVRT_WINOGRAD_NHWC_INL_H_
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
class NhwcWinograd {
  using T = Tile<m>;
  static constexpr int kPoints = T::kPoints, kPanel = kFilterVectors * kLanes;
  static constexpr int kSlices = std::max(1, kPanel / kLineFloats);  // cache lines of a panel per channel
  static constexpr int kSegmentTiles = 8;  // neighbours that share columns; their staging stays in L1

  static std::ptrdiff_t padded(int channels) { return (channels + kLanes - 1) / kLanes * kLanes; }
  // One vector more than the data: neighbouring tiles and points must not fall on the same cache sets.
  static std::ptrdiff_t v_row(int c) { return padded(c) + kLanes; }
  static std::ptrdiff_t v_stride(int c, int tiles) { return v_row(c) * tiles; }
  static constexpr std::ptrdiff_t kProducts = kPoints * kPoints * kLanes;  // of one tile and kLanes filters

  // Tile `index` of the block's task.
  struct Position {
    std::ptrdiff_t n;
    int tile_h, tile_w;
  };
  static Position position(const WinogradTask& task, int index) {
    const std::int64_t tile = task.first_tile + index;
    const WinogradShape& s = task.shape;
    return {static_cast<std::ptrdiff_t>(tile / s.tiles_w / s.tiles_h), static_cast<int>(tile / s.tiles_w % s.tiles_h),
            static_cast<int>(tile % s.tiles_w)};
  }

  // Vertical half for `columns` columns from `first` on: staging[column][point][lane].
  static HWY_INLINE void transform_columns(const WinogradShape& s, const float* (&row)[kPoints],
                                           const std::ptrdiff_t (&step)[kPoints], std::int64_t first, int columns,
                                           std::ptrdiff_t channels, float* staging) {
    const F32 d;
    for (int x = 0; x < columns; ++x) {
      float* to = staging + x * kPoints * kLanes;
      const std::int64_t w = first + x;
      if (w < 0 || w >= s.w) {
        std::fill_n(to, kPoints * kLanes, 0.0F);
        continue;
      }
      Vf in[kPoints], out[kPoints];
      HWY_UNROLL(6)
      for (int r = 0; r < kPoints; ++r) in[r] = load_first(d, row[r] + w * step[r], channels);
      T::input(in, out);
      HWY_UNROLL(6)
      for (int r = 0; r < kPoints; ++r) hn::Store(out[r], d, to + r * kLanes);
    }
  }

  static HWY_INLINE void transform_rows(const float* staging, float* to, std::ptrdiff_t point) {
    const F32 d;
    for (int r = 0; r < kPoints; ++r) {
      Vf in[kPoints], out[kPoints];
      HWY_UNROLL(6)
      for (int j = 0; j < kPoints; ++j) in[j] = hn::Load(d, staging + (j * kPoints + r) * kLanes);
      T::input(in, out);
      HWY_UNROLL(6)
      for (int j = 0; j < kPoints; ++j) hn::Store(out[j], d, to + (r * kPoints + j) * point);
    }
  }

  static void transform_input(const WinogradTask& task) {
    const WinogradShape& s = task.shape;
    HWY_ALIGN static constexpr float kZeros[kLanes] = {};
    const std::ptrdiff_t point = v_stride(s.c, task.tiles);
    for (int i = 0; i < task.tiles;) {
      const Position at = position(task, i);
      const int count = std::min({kSegmentTiles, task.tiles - i, s.tiles_w - at.tile_w});
      const std::int64_t first = std::int64_t{at.tile_w} * m - s.pad_left;
      for (int c = 0; c < s.c; c += kLanes) {
        const float* row[kPoints];
        std::ptrdiff_t step[kPoints];
        for (int r = 0; r < kPoints; ++r) {
          const std::int64_t h = std::int64_t{at.tile_h} * m - s.pad_top + r;
          const bool inside = h >= 0 && h < s.h;
          row[r] = inside ? task.src + (at.n * s.h + h) * s.w * s.src_channels + c : kZeros;
          step[r] = inside ? s.src_channels : 0;
        }
        transform_columns(s, row, step, first, count * m + 2, s.c - c, task.staging);
        for (int t = 0; t < count; ++t)
          transform_rows(task.staging + t * m * kPoints * kLanes, task.v + (i + t) * v_row(s.c) + c, point);
      }
      i += count;
    }
  }

  // v times one weight panel, `vectors` wide, into m.
  static void multiply_panel(const WinogradTask& task, int panel, int vectors) {
    const WinogradShape& s = task.shape;
    const std::ptrdiff_t panel_stride = std::ptrdiff_t{vectors} * kLanes, row = v_row(s.c);
    const int groups = (task.tiles + kTileRows - 1) / kTileRows;
    const int slices = (kSlices + groups - 1) / groups;  // fetched by each row group
    for (int point = 0; point < kPoints * kPoints; ++point) {
      const float* weights = task.weights + s.c * (point * padded(s.k) + std::ptrdiff_t{panel} * kPanel);
      const float* v = task.v + point * v_stride(s.c, task.tiles);
      float* out = task.m + point * kLanes;
      for (int c = 0; c < s.c; c += kDepth) {
        const std::ptrdiff_t depth = std::min(kDepth, s.c - c);
        const float* b = weights + c * panel_stride;
        // What follows b: more channels, or this panel at the next point. Row groups share its slices.
        const float* next = c + depth < s.c ? b + depth * panel_stride : weights + s.c * padded(s.k);
        for (int t = 0; t < task.tiles; t += kTileRows) {
          const std::ptrdiff_t slice = depth * kLineFloats;
          const int group = t / kTileRows;
          const PlainRows a = {v + t * row + c, row, next + group * slices * slice, slice,
                               group * slices < kSlices ? slices : 0};
          const int rows = std::min(kTileRows, task.tiles - t);
          float* to = out + t * kFilterVectors * kProducts;
          if (rows == kTileRows && vectors == kFilterVectors)
            multiply_tile<kTileRows, kFilterVectors>(a, b, panel_stride, depth, c > 0, to, kFilterVectors * kProducts,
                                                     kProducts);
          else
            multiply_edge<kTileRows, kFilterVectors>(rows, vectors, a, b, panel_stride, depth, c > 0, to,
                                                     kFilterVectors * kProducts, kProducts);
        }
      }
    }
  }

  // m of one tile and kLanes filters, of which `filters` exist; `dst` is the tile's first pixel.
  static HWY_INLINE void transform_output(const WinogradShape& s, const float* from, const float* bias,
                                          std::ptrdiff_t filters, int rows, int columns, float* dst) {
    const F32 d;
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
    const Vf offset = load_first(d, bias, filters);
    for (int i = 0; i < rows; ++i) {
      Vf in[kPoints], out[m];
      HWY_UNROLL(6)
      for (int j = 0; j < kPoints; ++j) in[j] = hn::Load(d, half + (i * kPoints + j) * kLanes);
      T::output(in, out);
      HWY_UNROLL(4)
      for (int j = 0; j < m; ++j) {
        if (j >= columns) continue;
        float* to = dst + (std::ptrdiff_t{i} * s.q + j) * s.dst_channels;
        finish(d, hn::Add(out[j], offset), s.accumulate, s.activation, to, filters);
      }
    }
  }

  static void multiply(const WinogradTask& task) {
    const WinogradShape& s = task.shape;
    for (int panel = task.panel_begin; panel < task.panel_end; ++panel) {
      const int k_begin = panel * kPanel, filters = std::min(kPanel, s.k - k_begin);
      multiply_panel(task, panel, static_cast<int>(padded(filters) / kLanes));
      for (int t = 0; t < task.tiles; ++t) {
        const Position at = position(task, t);
        const int p = at.tile_h * m, q = at.tile_w * m;
        const int rows = std::min(m, s.p - p), columns = std::min(m, s.q - q);
        float* dst = task.dst + ((at.n * s.p + p) * s.q + q) * s.dst_channels + k_begin;
        for (int k = 0; k < filters; k += kLanes)
          transform_output(s, task.m + (t * kFilterVectors + k / kLanes) * kProducts, task.bias + k_begin + k,
                           filters - k, rows, columns, dst + k);
        if (!is_long(s.activation)) continue;
        for (int i = 0; i < rows; ++i)
          for (int j = 0; j < columns; ++j)
            activate_row(s.activation, dst + (std::ptrdiff_t{i} * s.q + j) * s.dst_channels,
                         static_cast<std::size_t>(filters));
      }
    }
  }

  static std::size_t v_floats(int c, int tiles) {
    return static_cast<std::size_t>(kPoints * kPoints * v_stride(c, tiles));
  }
  static std::size_t m_floats(int tiles) { return static_cast<std::size_t>(tiles * kFilterVectors * kProducts); }

 public:
  static constexpr WinogradForm form() {
    return {
        kTileRows,        1,        kPanel, kLanes, &v_floats, &m_floats, (kSegmentTiles * m + 2) * kPoints * kLanes,
        &transform_input, &multiply};
  }
};

}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
