// How gl.depthwise and gl.depthwise_nhwc cut a convolution; see shaders/depthwise.comp.
#include <algorithm>

#include "gl/variant_table.hpp"

namespace convrt::gl {
namespace {

constexpr int kDepthwiseInvocations = 128;
constexpr int kNhwcFilters = 32;      // a tile
constexpr int kDepthwiseLines = 16;   // source rows of a strip: they are unrolled
constexpr int kDepthwiseWindow = 24;  // floats of a source row that an invocation holds
constexpr int kLoadsFirst = 96;       // floats of a strip that it holds at once

// Source elements that a strip of outputs reads, along an axis.
std::int64_t window(int outputs, int stride, int filter, int dilation) {
  return std::int64_t{outputs - 1} * stride + std::int64_t{filter - 1} * dilation + 1;
}

int depthwise_rows(const Conv2dDesc& d, const TileSizes& t) {
  return std::min(t[0], (kDepthwiseLines - 1 - (d.r - 1) * d.dilation_h) / d.stride_h + 1);
}
bool is_depthwise(const Conv2dDesc& d) {
  return d.groups == d.c && d.r <= 7 && d.s <= 7 && std::int64_t{d.r - 1} * d.dilation_h < kDepthwiseLines;
}
// NHWC: four channels at a time.
bool channel_vectors(const Conv2dDesc& d) { return d.layout == Layout::nhwc && d.k == d.c && d.c % 4 == 0; }
// NCHW: floats a load and store, as rows are aligned; 0 for one column an invocation: where a window of four would not
// fit registers, and, with several filters a tile, where rows are not whole vec4. (Which is faster there is the
// tuner's.)
int column_vector(const Conv2dDesc& d, const TileSizes& t) {
  if (d.layout == Layout::nhwc) return 0;
  const int vector = d.w % 4 == 0 && d.q() % 4 == 0 ? 4 : d.w % 2 == 0 && d.q() % 2 == 0 ? 2 : 1;
  if (vector < 4 && t[1] > 1) return 0;
  const std::int64_t held = window(4, d.stride_w, d.s, d.dilation_w) - 1 + 2 * vector;  // loads cover both ends
  return held <= kDepthwiseWindow ? vector : 0;
}

Defines defines(const Conv2dDesc& d, const TileSizes& t, int filters, const Defines& more) {
  Defines all = common_defines(d);
  all.insert(all.end(), {{"BM", std::to_string(filters)},
                         {"ROWS", std::to_string(depthwise_rows(d, t))},
                         {"MULTIPLIER", std::to_string(d.k / d.c)}});
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

// Strips along an axis, and of the elements that a strip's window spans those that lie inside src in every strip: from
// `first` on and before `last`.
struct Strips {
  int count, first, last;
  Strips(int outputs, int per_strip, int length, int filter, int stride, int dilation, int pad) {
    count = static_cast<int>(ceil_div(outputs, per_strip));
    const std::int64_t end = std::int64_t{length} + pad - std::int64_t{count - 1} * per_strip * stride;
    last = static_cast<int>(std::clamp<std::int64_t>(end, 0, window(per_strip, stride, filter, dilation)));
    first = std::clamp(pad, 0, last);
  }
};

}  // namespace

Defines depthwise_extents(const Conv2dDesc& d, const Blocking& b) {
  const Strips y(d.p(), b.rows, d.h, d.r, d.stride_h, d.dilation_h, d.pad_top);
  const Strips x(d.q(), b.columns, d.w, d.s, d.stride_w, d.dilation_w, d.pad_left);
  return {{"STRIPS", std::to_string(y.count)}, {"COLUMNS_A_ROW", std::to_string(x.count)},
          {"TOP", std::to_string(y.first)},    {"BOTTOM", std::to_string(y.last)},
          {"LEFT", std::to_string(x.first)},   {"RIGHT", std::to_string(x.last)}};
}

std::string depthwise_suffix(const TileSizes& t) { return sizes({t[0], t[1]}); }

// --- any layout: tile = {rows, filters a tile in NCHW}

bool depthwise_fits(const Conv2dDesc& d) { return is_depthwise(d) && !channel_vectors(d); }
Blocking depthwise_blocking(const Conv2dDesc& d, const TileSizes& t) {
  const int filters = d.layout == Layout::nhwc ? kNhwcFilters : t[1];
  return {.filters = filters,
          .pixels = kDepthwiseInvocations / filters,
          .rows = depthwise_rows(d, t),
          .columns = column_vector(d, t) > 0 ? 4 : 1,
          .grouped = false,
          .invocations = kDepthwiseInvocations};
}
Defines depthwise_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo&) {
  const int vector = column_vector(d, t), filters = depthwise_blocking(d, t).filters;
  if (vector == 0) return defines(d, t, filters, {});
  return defines(d, t, filters, {{"VECTOR", std::to_string(vector)}, {"PAD_LEFT", std::to_string(d.pad_left)}});
}

// --- NHWC by several columns: tile = {rows, columns, channels an invocation: 1 or 4}

std::string depthwise_nhwc_suffix(const TileSizes& t) { return sizes({t[0], t[1], t[2]}); }
bool depthwise_nhwc_fits(const Conv2dDesc& d) { return is_depthwise(d) && channel_vectors(d); }
Blocking depthwise_nhwc_blocking(const Conv2dDesc& d, const TileSizes& t) {
  return {.filters = kNhwcFilters,
          .pixels = kDepthwiseInvocations / (kNhwcFilters / t[2]),
          .rows = depthwise_rows(d, t),
          .columns = t[1],
          .grouped = false,
          .invocations = kDepthwiseInvocations};
}
Defines depthwise_nhwc_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo&) {
  Defines more = {{"WIDTH", std::to_string(t[1])}};
  const std::int64_t lines = window(depthwise_rows(d, t), d.stride_h, d.r, d.dilation_h);
  if (t[2] == 4)
    more.insert(more.end(), {{"SRC_VEC4", "1"}, {"DST_VEC4", "1"}});
  else if (lines * window(t[1], d.stride_w, d.s, d.dilation_w) <= kLoadsFirst)
    more.emplace_back("LOADS_FIRST", "1");
  return defines(d, t, kNhwcFilters, more);
}

}  // namespace convrt::gl
