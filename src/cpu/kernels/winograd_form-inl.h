/// \file
/// Winograd with channels and filters in the lanes: v[points][slot][c], m[slot][vector of filters][points][filter], a
/// slot for each tile, the points of a tile side by side, since they are read together. Pixels in memory (nhwc) are
/// transformed as they stand; planes (nchw) are turned by 4x4 transposes on the way in and out. Tiles in the lanes
/// would need no turning, but 49 tiles of a 28x28 plane would take 64 lanes.

#if defined(CONVRT_WINOGRAD_FORM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONVRT_WINOGRAD_FORM_INL_H_
#undef CONVRT_WINOGRAD_FORM_INL_H_
#else
#define CONVRT_WINOGRAD_FORM_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <utility>

#include "cpu/kernels/activation-inl.h"
#include "cpu/kernels/rows-inl.h"
#include "cpu/kernels/turn-inl.h"
#include "cpu/kernels/winograd_filters-inl.h"
#include "cpu/kernels/winograd_kernels.hpp"
#include "cpu/kernels/winograd_multiply-inl.h"
#include "cpu/kernels/winograd_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {

template <int m, bool kPlanes>
class Winograd {
  using T = Tile<m>;
  static constexpr int kPoints = T::kPoints, kPanel = kFilterVectors * kLanes;
  static constexpr int kSegmentTiles = 56 / m;               // neighbours that share columns
  static constexpr std::ptrdiff_t kCachedWeights = 2 << 20;  // floats; more may not stay in L3
  static constexpr int kLine = 80;  // floats of a staged row: a segment, its neighbours, and off the 4 KiB

  static std::ptrdiff_t padded(int channels) { return (channels + kLanes - 1) / kLanes * kLanes; }
  // One vector more than the data: neighbouring tiles and points must not fall on the same cache sets.
  static std::ptrdiff_t v_row(int c) { return padded(c) + kLanes; }
  static std::ptrdiff_t v_stride(int c, int tiles) { return v_row(c) * tiles; }
  static constexpr std::ptrdiff_t kProducts = kPoints * kPoints * kLanes;  // of one tile and kLanes filters

  // Neighbouring tiles of one tile row, from tile `index` of the task on.
  struct Segment {
    std::ptrdiff_t n;
    int tile_h, tile_w, count;
  };
  static Segment segment(const WinogradTask& task, int index) {
    const std::int64_t tile = task.first_tile + index;
    const WinogradShape& s = task.shape;
    const int tile_w = static_cast<int>(tile % s.tiles_w);
    return {static_cast<std::ptrdiff_t>(tile / s.tiles_w / s.tiles_h), static_cast<int>(tile / s.tiles_w % s.tiles_h),
            tile_w, std::min({kSegmentTiles, task.tiles - index, s.tiles_w - tile_w})};
  }

  // Outputs of a tile that exist.
  static int rows_of(const WinogradShape& s, int tile_h) { return std::min(m, s.p - tile_h * m); }
  static int columns_of(const WinogradShape& s, int tile_w) { return std::min(m, s.q - tile_w * m); }

  // Slots of the tiles that have point (i, j).
  static std::pair<int, int> with_point(const WinogradTask& task, int i, int j) {
    const WinogradShape& s = task.shape;
    const WinogradOrder& order = task.order;
    const bool rows = i >= rows_of(s, s.tiles_h - 1) + 2, columns = j >= columns_of(s, s.tiles_w - 1) + 2;
    return {columns ? order.few_columns : 0, rows ? order.whole : columns ? order.few_rows : order.all};
  }

  // Of a segment's first pixel in planes of h x w.
  static std::ptrdiff_t offset(const Segment& at, int c, int channels, int h, int w) {
    return ((at.n * channels + c) * h + std::ptrdiff_t{at.tile_h} * m) * w + std::ptrdiff_t{at.tile_w} * m;
  }

  // Vertical half for `columns` columns from `first` on: staging[column][point][lane].
  static HWY_INLINE void transform_columns(const WinogradShape& s, const float* (&row)[kPoints],
                                           const std::ptrdiff_t (&step)[kPoints], std::int64_t first, int columns,
                                           int outputs, std::ptrdiff_t channels, std::ptrdiff_t ahead, float* staging) {
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
      for (int r = 0; r < kPoints; ++r) {
        in[r] = load_first(d, row[r] + w * step[r], channels);
        __builtin_prefetch(row[r] + w * step[r] + ahead, 0, 2);
      }
      if (outputs < m) T::shorten(outputs, in);
      T::input(in, out);
      HWY_UNROLL(6)
      for (int r = 0; r < kPoints; ++r) hn::Store(out[r], d, to + r * kLanes);
    }
  }

  // The same from planes, whose vectors hold columns: row[r] is row r of the first of `channels` planes, null in the
  // padding; lines[point][channel][column]. Source lines are touched once, since planes that lie a multiple of 4 KiB
  // apart share few sets of the L1 cache.
  template <bool kWhole>
  static HWY_NOINLINE void transform_plane_columns(const WinogradShape& s, const float* (&row)[kPoints], int channels,
                                                   std::ptrdiff_t first, int columns, int outputs, std::ptrdiff_t ahead,
                                                   float* lines) {
    const F32 d;
    const std::ptrdiff_t plane = std::ptrdiff_t{s.h} * s.w;
    HWY_ALIGN static constexpr float kZeros[kLanes] = {};
    for (int x = 0; x < columns; x += kLanes) {
      const std::ptrdiff_t w = first + x;
      const float* from[kPoints];
      std::ptrdiff_t step[kPoints];
      for (int r = 0; r < kPoints; ++r) {
        from[r] = row[r] == nullptr ? kZeros : row[r] + w;
        step[r] = row[r] == nullptr ? 0 : plane;
      }
      const auto transform = [&](auto&& load) HWY_ATTR {
        for (int i = 0; i < kLanes; ++i) {
          const int channel = std::min(i, channels - 1);  // v may hold anything beyond
          Vf in[kPoints], out[kPoints];
          HWY_UNROLL(6)
          for (int r = 0; r < kPoints; ++r) {
            in[r] = load(r, from[r] + channel * step[r]);
            __builtin_prefetch(from[r] + channel * step[r] + ahead, 0, 2);
          }
          if constexpr (!kWhole) T::shorten(outputs, in);
          T::input(in, out);
          HWY_UNROLL(6)
          for (int r = 0; r < kPoints; ++r) hn::Store(out[r], d, lines + (r * kLanes + i) * kLine + x);
        }
      };
#if CONVRT_MASKED_LOADS
      const auto mask = columns_inside(d, w, s.w);
      transform([&](int, const float* at) HWY_ATTR { return hn::MaskedLoad(mask, d, at); });
#else
      if (w >= 0 && w + kLanes <= s.w)
        transform([&](int, const float* at) HWY_ATTR { return hn::LoadU(d, at); });
      else
        transform([&](int r, const float* at)
                      HWY_ATTR { return row[r] == nullptr ? hn::Zero(d) : load_inside(d, at - w, w, s.w); });
#endif
    }
  }

  // Horizontal half of `count` tiles from such lines, turned four columns at a time: a patch meets two fours, of which
  // the second is the next tile's first.
  static HWY_INLINE void transform_lines(const float* lines, const int* slot, int count, int outputs, float* to,
                                         std::ptrdiff_t row, std::ptrdiff_t point) {
    const F32 d;
    constexpr int kTogether = 4 / m;                  // tiles of four columns
    const int few = outputs < m ? count - 1 : count;  // the tile of few columns, if there is one
    for (int r = 0; r < kPoints; ++r, lines += kLanes * kLine, to += kPoints * point) {
      Vf here[4], next[4];
      load_turned(d, lines, kLine, here);
      for (int t = 0; t < count; t += kTogether) {
        load_turned(d, lines + t * m + 4, kLine, next);
        HWY_UNROLL(2)
        for (int g = 0; g < kTogether; ++g) {
          if (t + g >= count) break;
          Vf in[kPoints], out[kPoints];
          HWY_UNROLL(6)
          for (int j = 0; j < kPoints; ++j) in[j] = g * m + j < 4 ? here[g * m + j] : next[g * m + j - 4];
          if (t + g == few) T::shorten(outputs, in);
          T::input(in, out);
          HWY_UNROLL(6)
          for (int j = 0; j < kPoints; ++j) hn::Store(out[j], d, to + j * point + slot[t + g] * row);
        }
        HWY_UNROLL(4)
        for (int j = 0; j < 4; ++j) here[j] = next[j];
      }
    }
  }

  static HWY_INLINE void transform_rows(const float* staging, int outputs, float* to, std::ptrdiff_t point) {
    const F32 d;
    for (int r = 0; r < kPoints; ++r) {
      Vf in[kPoints], out[kPoints];
      HWY_UNROLL(6)
      for (int j = 0; j < kPoints; ++j) in[j] = hn::Load(d, staging + (j * kPoints + r) * kLanes);
      if (outputs < m) T::shorten(outputs, in);
      T::input(in, out);
      HWY_UNROLL(6)
      for (int j = 0; j < kPoints; ++j) hn::Store(out[j], d, to + (r * kPoints + j) * point);
    }
  }

  // Visits every segment with every kLanes of `channels`, in the order of memory: along a plane, or along a pixel.
  // Planes, their rows and pixels of few channels end soon, and the hardware does not guess what follows: each visit is
  // told what the next one is of.
  static HWY_INLINE void walk(const WinogradTask& task, int channels, auto&& visit) {
    int i = 0, c = 0;
    for (Segment at = segment(task, 0);;) {
      int next_i = i, next_c = c;
      if constexpr (kPlanes) {
        next_i += at.count;
        if (next_i >= task.tiles) next_i = 0, next_c += kLanes;
      } else {
        next_c += kLanes;
        if (next_c >= channels) next_c = 0, next_i += at.count;
      }
      const bool last = next_i >= task.tiles || next_c >= channels;
      // Behind the task's last segment stands the first one of the task that a thread most likely gets next.
      const Segment next = segment(task, last ? task.tiles : next_i);
      visit(at, i, c, next, last ? 0 : next_c);
      if (last) return;
      at = next;
      i = next_i;
      c = next_c;
    }
  }

  // Vertical half of a segment, channels from c on, into staging.
  static HWY_INLINE void transform_segment_columns(const WinogradTask& task, const Segment& at, int c,
                                                   const Segment& next, int next_c) {
    const WinogradShape& s = task.shape;
    const std::int64_t first = std::int64_t{at.tile_w} * m - s.pad_left, top = std::int64_t{at.tile_h} * m - s.pad_top;
    const int columns = at.count * m + 2, rows = rows_of(s, at.tile_h);
    const auto inside = [&](int r) { return top + r >= 0 && top + r < s.h; };
    const float* row[kPoints];
    if constexpr (kPlanes) {
      const float* plane = task.src + (at.n * s.src_channels + c) * s.h * s.w;
      for (int r = 0; r < kPoints; ++r) row[r] = inside(r) ? plane + (top + r) * s.w : nullptr;
      const auto transform = rows == m ? transform_plane_columns<true> : transform_plane_columns<false>;
      transform(s, row, std::min(kLanes, s.c - c), static_cast<std::ptrdiff_t>(first), columns, rows,
                offset(next, next_c, s.src_channels, s.h, s.w) - offset(at, c, s.src_channels, s.h, s.w), task.staging);
    } else {
      HWY_ALIGN static constexpr float kZeros[kLanes] = {};
      std::ptrdiff_t step[kPoints];
      for (int r = 0; r < kPoints; ++r) {
        row[r] = inside(r) ? task.src + (at.n * s.h + top + r) * s.w * s.src_channels + c : kZeros;
        step[r] = inside(r) ? s.src_channels : 0;
      }
      const std::ptrdiff_t ahead =
          (offset(next, 0, 1, s.h, s.w) - offset(at, 0, 1, s.h, s.w)) * s.src_channels + next_c - c;
      transform_columns(s, row, step, first, columns, rows, s.c - c, ahead, task.staging);
    }
  }

  // Clears the products of points that tiles at the edges lack: the way back reads all.
  static HWY_NOINLINE void clear_missing(const WinogradTask& task) {
    const auto clear = [&](int first, int last, int point) {
      for (std::ptrdiff_t i = std::ptrdiff_t{first} * kFilterVectors; i < last * kFilterVectors; ++i)
        std::fill_n(task.m + i * kProducts + point * kLanes, kLanes, 0.0F);
    };
    for (int point = 0; point < kPoints * kPoints; ++point) {
      const auto [first, last] = with_point(task, point / kPoints, point % kPoints);
      clear(0, first, point);
      clear(last, task.tiles, point);
    }
  }

  static void transform_input(const WinogradTask& task) {
    const WinogradShape& s = task.shape;
    const std::ptrdiff_t point = v_stride(s.c, task.tiles), row = v_row(s.c);
    clear_missing(task);
    walk(task, s.c, [&](const Segment& at, int i, int c, const Segment& next, int next_c) {
      transform_segment_columns(task, at, c, next, next_c);
      const int* slot = task.order.slot + i;
      if constexpr (kPlanes)
        transform_lines(task.staging, slot, at.count, columns_of(s, at.tile_w + at.count - 1), task.v + c, row, point);
      else
        for (int t = 0; t < at.count; ++t)
          transform_rows(task.staging + t * m * kPoints * kLanes, columns_of(s, at.tile_w + t),
                         task.v + slot[t] * row + c, point);
    });
  }

  static int filters_of(const WinogradTask& task, int panel) {
    return std::min(task.panel, task.shape.k - panel * task.panel);
  }

  static void multiply(const WinogradTask& task, int panel, int begin, int end) {
    const WinogradShape& s = task.shape;
    const auto vectors = static_cast<int>(padded(filters_of(task, panel)) / kLanes);
    const std::ptrdiff_t panel_stride = std::ptrdiff_t{vectors} * kLanes, row = v_row(s.c);
    const int lines = std::max(1, task.panel / kLineFloats);  // of a panel, per channel
    // Weights in the order of use: channels kDepth at a time, then points; behind them stands the next panel.
    const float* first_weights = task.weights + std::ptrdiff_t{panel} * task.panel * s.c * kPoints * kPoints;
    const int chunks = (s.c + kDepth - 1) / kDepth;
    const auto weights = [&](int step) {
      const std::ptrdiff_t point = step / chunks, c = std::ptrdiff_t{step % chunks} * kDepth;
      return first_weights + (point * s.c + c) * panel_stride;
    };
    // Memory is too far away to ask for them one step ahead.
    const bool far = s.c * padded(s.k) * kPoints * kPoints > kCachedWeights;
    const float *b = weights(begin * chunks), *next = weights(begin * chunks + 1);
    for (int point = begin; point < end; ++point) {
      const auto [first, last] = with_point(task, point / kPoints, point % kPoints);
      const int tiles = last - first, groups = (tiles + kTileRows - 1) / kTileRows;  // of nearly equal size
      const int slices = (lines + groups - 1) / std::max(1, groups);                 // fetched by each row group
      const float* v = task.v + point * v_stride(s.c, task.tiles);
      float* out = task.m + point * kLanes;
      for (int chunk = 0; chunk < chunks; ++chunk) {
        const int c = chunk * kDepth, step = point * chunks + chunk;
        const std::ptrdiff_t depth = std::min(kDepth, s.c - c);
        const float* after = weights(step + 2);
        for (int group = 0; group < groups; ++group) {
          const std::ptrdiff_t slice = depth * kLineFloats;
          const int t = first + tiles * group / groups, rows = first + tiles * (group + 1) / groups - t;
          const int fetched = group * slices < lines ? slices : 0;
          const Rows a = {
              v + t * row + c,  row, next + group * slices * slice, after + group * slices * slice, slice, fetched,
              far ? fetched : 0};
          float* to = out + t * kFilterVectors * kProducts;
          if (rows == kTileRows && vectors == kFilterVectors)
            multiply_tile<kTileRows, kFilterVectors>(a, b, panel_stride, depth, c > 0, to, kFilterVectors * kProducts,
                                                     kProducts);
          else
            multiply_edge<kTileRows, kFilterVectors>(rows, vectors, a, b, panel_stride, depth, c > 0, to,
                                                     kFilterVectors * kProducts, kProducts);
        }
        b = next;
        next = after;
      }
    }
  }

  // m of one tile and kLanes filters, transformed back: calls store(row, columns) for every second row from kOdd on.
  // Half a tile meets in registers, a whole one would not fit.
  template <int kOdd>
  static HWY_INLINE void transform_output(const float* from, auto&& store) {
    const F32 d;
    Vf half[m / 2][kPoints];
    HWY_UNROLL(6)
    for (int j = 0; j < kPoints; ++j) {
      Vf in[kPoints], out[m / 2];
      HWY_UNROLL(6)
      for (int i = 0; i < kPoints; ++i) in[i] = hn::Load(d, from + (i * kPoints + j) * kLanes);
      T::template output_half<kOdd>(in, out);
      HWY_UNROLL(2)
      for (int i = 0; i < m / 2; ++i) half[i][j] = out[i];
    }
    HWY_UNROLL(2)
    for (int i = 0; i < m / 2; ++i) {
      Vf even[m / 2], odd[m / 2], y[m];
      T::template output_half<0>(half[i], even);
      T::template output_half<1>(half[i], odd);
      HWY_UNROLL(2)
      for (int j = 0; j < m / 2; ++j) y[2 * j] = even[j], y[2 * j + 1] = odd[j];
      store(2 * i + kOdd, y);
    }
  }

  // Into pixels, of which `rows` x `columns` exist from `dst` on, with `filters` filters.
  static HWY_INLINE void finish_pixels(const WinogradShape& s, const float* from, const float* bias,
                                       std::ptrdiff_t filters, int rows, int columns, float* dst) {
    const F32 d;
    const Vf offset = load_first(d, bias, filters);
    const auto store = [&](int i, const Vf(&y)[m]) HWY_ATTR {
      if (i >= rows) return;
      HWY_UNROLL(4)
      for (int j = 0; j < m; ++j) {
        if (j >= columns) continue;
        float* to = dst + (std::ptrdiff_t{i} * s.q + j) * s.dst_channels;
        __builtin_prefetch(to + 2 * m * s.dst_channels, 1, 2);
        finish(d, hn::Add(y[j], offset), s.accumulate, s.activation, to, filters);
      }
    };
    transform_output<0>(from, store);
    transform_output<1>(from, store);
  }

  // Of `count` neighbouring tiles into staging[row of the tiles][column][filter].
  static HWY_INLINE void stage_pixels(const float* from, const int* slot, int count, const float* bias,
                                      std::ptrdiff_t filters, float* staging) {
    const F32 d;
    const Vf offset = load_first(d, bias, filters);
    for (int t = 0; t < count; ++t, staging += m * kLanes) {
      const float* products = from + slot[t] * kFilterVectors * kProducts;
      const auto store = [&](int i, const Vf(&y)[m]) HWY_ATTR {
        HWY_UNROLL(4)
        for (int j = 0; j < m; ++j) hn::Store(hn::Add(y[j], offset), d, staging + (i * kLine + j) * kLanes);
      };
      transform_output<0>(products, store);
      transform_output<1>(products, store);
    }
  }

  // What was staged, turned into `rows` x `columns` floats of each plane; `ahead` are those that will be written next.
  // A whole row of tiles at a time: planes often lie a multiple of 4 KiB apart, where pieces of single tiles would
  // fight for the same sets of the L1 cache.
  static HWY_INLINE void finish_planes(const WinogradShape& s, const float* staging, std::ptrdiff_t filters, int rows,
                                       int columns, std::ptrdiff_t ahead, float* dst) {
    const F32 d;
    const std::ptrdiff_t plane = std::ptrdiff_t{s.p} * s.q;
    // Where nothing is added to dst, the last vector may overlap the one before: no mask, and vectors stay whole.
    const bool overlap = columns >= kLanes && !s.accumulate;
    for (int f = 0; f < std::min<std::ptrdiff_t>(kLanes, filters); f += 4)
      for (int i = 0; i < rows; ++i)
        for (int x = 0; x < columns; x += kLanes) {
          const int at = overlap ? std::min(x, columns - kLanes) : x;
          Vf out[4];
          load_turned(d, staging + (i * kLine + at) * kLanes + f, kLanes, out);
          HWY_UNROLL(4)
          for (int j = 0; j < 4; ++j) {
            if (f + j >= filters) break;
            float* to = dst + (f + j) * plane + std::ptrdiff_t{i} * s.q;
            __builtin_prefetch(to + ahead + x, 1, 2);
            finish(d, out[j], s.accumulate, s.activation, to + at, columns - at);
          }
        }
    if (!is_long(s.activation)) return;
    for (std::ptrdiff_t f = 0; f < std::min<std::ptrdiff_t>(kLanes, filters); ++f)
      for (int i = 0; i < rows; ++i)
        activate_row(s.activation, dst + f * plane + std::ptrdiff_t{i} * s.q, static_cast<std::size_t>(columns));
  }

  static void finish_panel(const WinogradTask& task, int panel) {
    const WinogradShape& s = task.shape;
    const int k_begin = panel * task.panel, filters = filters_of(task, panel);
    const float* bias = task.bias + k_begin;
    const auto planes = [&](const Segment& at, int t, int k, const Segment& next, int next_k) {
      const int p = at.tile_h * m, q = at.tile_w * m, rows = rows_of(s, at.tile_h);
      const std::ptrdiff_t plane = std::ptrdiff_t{s.p} * s.q;
      float* dst = task.dst + (at.n * s.dst_channels + k_begin + k) * plane + std::ptrdiff_t{p} * s.q + q;
      const std::ptrdiff_t ahead =
          offset(next, next_k, s.dst_channels, s.p, s.q) - offset(at, k, s.dst_channels, s.p, s.q);
      stage_pixels(task.m + k / kLanes * kProducts, task.order.slot + t, at.count, bias + k, filters - k, task.staging);
      finish_planes(s, task.staging, filters - k, rows, std::min(at.count * m, s.q - q), ahead, dst);
    };
    if constexpr (kPlanes) return walk(task, filters, planes);
    for (int t = 0; t < task.tiles; ++t) {
      const Segment at = segment(task, t);
      const int p = at.tile_h * m, q = at.tile_w * m;
      const int rows = rows_of(s, at.tile_h), columns = columns_of(s, at.tile_w);
      float* dst = task.dst + ((at.n * s.p + p) * s.q + q) * s.dst_channels + k_begin;
      for (int k = 0; k < filters; k += kLanes)
        finish_pixels(s, task.m + (task.order.slot[t] * kFilterVectors + k / kLanes) * kProducts, bias + k, filters - k,
                      rows, columns, dst + k);
      if (!is_long(s.activation)) continue;
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j)
          activate_row(s.activation, dst + (std::ptrdiff_t{i} * s.q + j) * s.dst_channels,
                       static_cast<std::size_t>(filters));
    }
  }

  static std::size_t v_floats(int c, int tiles) {
    return static_cast<std::size_t>(kPoints * kPoints * v_stride(c, tiles));
  }
  static std::size_t m_floats(int tiles) { return static_cast<std::size_t>(tiles * kFilterVectors * kProducts); }

 public:
  static constexpr WinogradForm form() {
    constexpr std::size_t staged = kLine * kPoints * kLanes;
    return {kSegmentTiles, kPanel,           kLanes,    &transform_filters<m>, &v_floats, &m_floats,
            staged,        &transform_input, &multiply, &finish_panel};
  }
};

}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
