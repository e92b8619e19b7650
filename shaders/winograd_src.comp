#version 430 core
// winograd_src: V = B^T d B. One invocation a tile and channel; patches overlap by two, which the caches absorb.
#pragma optionNV(unroll all)
#ifndef SRC_VEC4
#define SRC_VEC4 0  // 1: NCHW, OUT 4, pad_left 1 and rows of whole vec4: the middle of a patch row is one load
#endif
#include "winograd.glsl"

layout(std430, binding = 0) readonly restrict buffer Src { float src[]; };
#if SRC_VEC4
layout(std430, binding = 0) readonly restrict buffer Src4 { vec4 src4[]; };
#endif
layout(std430, binding = 2) writeonly restrict buffer V { float v[]; };

void transform(inout float d[IN]) {
#if OUT == 4
  const float small = 0.70710678118654752, large = 1.41421356237309505;
  float first = fma(-2.5, d[2], d[0] + d[4]), last = fma(-2.5, d[3], d[1] + d[5]);
  float even1 = fma(-2.0, d[2], d[4]), odd1 = small * fma(-2.0, d[1], d[3]);
  float even2 = fma(-0.5, d[2], d[4]), odd2 = large * fma(-0.5, d[1], d[3]);
  d = float[IN](first, even1 + odd1, even1 - odd1, even2 + odd2, even2 - odd2, last);
#else
  d = float[IN](d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]);
#endif
}

// The patch, [row][column]. Element 0 stands in for what lies outside: loads without branches.
void load(Lane lane, out float d[IN][IN]) {
  Place place = place_of(lane.tile);
  int y = place.y - conv.pad_top, x = place.x - conv.pad_left;
  bool live = lane.channel < conv.c;  // channels that pad are zeros
#if NHWC
  int base = conv.src_offset + place.image * conv.h * conv.w * conv.c + lane.channel, step = conv.c;
#else
  int base = conv.src_offset + (place.image * conv.c + lane.channel) * conv.h * conv.w, step = 1;
#endif
  for (int r = 0; r < IN; ++r) {
    bool row_live = live && uint(y + r) < uint(conv.h);
    int row = base + (y + r) * conv.w * step;
#if SRC_VEC4
    bool left = row_live && uint(x) < uint(conv.w), right = row_live && uint(x + 5) < uint(conv.w);
    bool middle = row_live && uint(x + 1) < uint(conv.w);
    float l = src[left ? row + x : 0], e = src[right ? row + x + 5 : 0];
    vec4 m = src4[middle ? (row + x + 1) >> 2 : 0];
    d[r] = float[IN](left ? l : 0.0, middle ? m.x : 0.0, middle ? m.y : 0.0, middle ? m.z : 0.0, middle ? m.w : 0.0,
                     right ? e : 0.0);
#else
    for (int s = 0; s < IN; ++s) {
      bool inside = row_live && uint(x + s) < uint(conv.w);
      float value = src[inside ? row + (x + s) * step : 0];
      d[r][s] = inside ? value : 0.0;
    }
#endif
  }
}

void main() {
  Lane lane = lane_of(conv.c_padded, int(gl_LocalInvocationIndex), false);
  if (lane.tile >= conv.tile_count || lane.channel >= conv.c_padded) return;
  float d[IN][IN];
  load(lane, d);
  for (int r = 0; r < IN; ++r) transform(d[r]);
  int at = matrix_index(lane.tile, lane.channel, conv.c_padded);
  for (int s = 0; s < IN; ++s) {
    float column[IN];
    for (int r = 0; r < IN; ++r) column[r] = d[r][s];
    transform(column);
    for (int r = 0; r < IN; ++r) v[at + (r * IN + s) * BN] = column[r];
  }
}
