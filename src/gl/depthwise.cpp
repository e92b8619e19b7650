// How gl.depthwise and gl.depthwise_nhwc cut a convolution; see shaders/depthwise.comp.
#include <algorithm>

#include "gl/variant_table.hpp"

namespace convrt::gl {
namespace {

constexpr int kDepthwiseInvocations = 128;
constexpr int kNhwcFilters = 32;      // a tile
constexpr int kDepthwiseLines = 16;   // source rows of a strip: they are unrolled
constexpr int kDepthwiseWindow = 24;  // floats of a source row that an invocation holds

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
  const std::int64_t window = 2LL * vector + 3LL * d.stride_w + std::int64_t{d.s - 1} * d.dilation_w;
  return window <= kDepthwiseWindow ? vector : 0;
}

Defines defines(const Conv2dDesc& d, const TileSizes& t, int filters, const Defines& more) {
  Defines all = common_defines(d);
  all.insert(all.end(), {{"BM", std::to_string(filters)}, {"ROWS", std::to_string(depthwise_rows(d, t))}});
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace

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
  const int vector = column_vector(d, t);
  if (vector == 0) return defines(d, t, depthwise_blocking(d, t).filters, {});
  return defines(d, t, depthwise_blocking(d, t).filters,
                 {{"WIDTH", "4"}, {"VECTOR", std::to_string(vector)}, {"PAD_LEFT", std::to_string(d.pad_left)}});
}

// --- NHWC by four channels: tile = {rows, columns an invocation}

bool depthwise_nhwc_fits(const Conv2dDesc& d) { return is_depthwise(d) && channel_vectors(d); }
Blocking depthwise_nhwc_blocking(const Conv2dDesc& d, const TileSizes& t) {
  return {.filters = kNhwcFilters,
          .pixels = kDepthwiseInvocations / (kNhwcFilters / 4),
          .rows = depthwise_rows(d, t),
          .columns = t[1],
          .grouped = false,
          .invocations = kDepthwiseInvocations};
}
Defines depthwise_nhwc_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo&) {
  return defines(d, t, kNhwcFilters, {{"SRC_VEC4", "1"}, {"DST_VEC4", "1"}, {"WIDTH", std::to_string(t[1])}});
}

}  // namespace convrt::gl
