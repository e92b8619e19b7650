// How gl.depthwise cuts a convolution; see shaders/depthwise.comp.
#include <algorithm>

#include "gl/variant_table.hpp"

namespace convrt::gl {
namespace {

constexpr int kDepthwiseInvocations = 128;
constexpr int kDepthwiseLines = 16;   // source rows of a strip: they are unrolled
constexpr int kDepthwiseWindow = 24;  // floats of a source row that an invocation holds

int depthwise_rows(const Conv2dDesc& d, const TileSizes& t) {
  return std::min(t[0], (kDepthwiseLines - 1 - (d.r - 1) * d.dilation_h) / d.stride_h + 1);
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

}  // namespace

bool depthwise_fits(const Conv2dDesc& d) {
  return d.groups == d.c && d.r <= 7 && d.s <= 7 && std::int64_t{d.r - 1} * d.dilation_h < kDepthwiseLines;
}
std::string depthwise_suffix(const TileSizes& t) { return sizes({t[0], t[1]}); }
Blocking depthwise_blocking(const Conv2dDesc& d, const TileSizes& t) {
  const int filters = d.layout == Layout::nhwc ? 32 : t[1];
  return {.filters = filters,
          .pixels = kDepthwiseInvocations / (channel_vectors(d) ? filters / 4 : filters),
          .rows = depthwise_rows(d, t),
          .columns = column_vector(d, t) > 0 ? 4 : 1,
          .grouped = false,
          .invocations = kDepthwiseInvocations};
}
Defines depthwise_defines(const Conv2dDesc& d, const TileSizes& t, const GlInfo&) {
  Defines defines = common_defines(d);
  defines.insert(defines.end(), {{"BM", std::to_string(depthwise_blocking(d, t).filters)},
                                 {"ROWS", std::to_string(depthwise_rows(d, t))}});
  if (channel_vectors(d)) defines.insert(defines.end(), {{"SRC_VEC4", "1"}, {"DST_VEC4", "1"}});
  if (const int vector = column_vector(d, t); vector > 0)
    defines.insert(defines.end(),
                   {{"WIDTH", "4"}, {"VECTOR", std::to_string(vector)}, {"PAD_LEFT", std::to_string(d.pad_left)}});
  return defines;
}

}  // namespace convrt::gl
