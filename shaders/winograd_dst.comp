#version 430 core
// winograd_dst: dst = activation(A^T m A + bias + dst). One invocation a tile and filter.
#ifndef ACTIVATION
#define ACTIVATION conv.activation
#endif
#ifndef ACCUMULATE
#define ACCUMULATE 0
#endif
#ifndef DST_VEC4
#define DST_VEC4 0  // 1: NCHW, OUT 4 and whole rows of tiles: four outputs a store
#endif
#include "winograd.glsl"

layout(std430, binding = 0) readonly restrict buffer M { float m[]; };
#if DST_VEC4
layout(std430, binding = 2) restrict buffer Dst { vec4 dst4[]; };
#else
layout(std430, binding = 2) restrict buffer Dst { float dst[]; };
#endif
layout(std430, binding = 4) readonly restrict buffer Bias { float bias[]; };

#include "activation.glsl"

void transform(float x[IN], out float y[OUT]) {
#if OUT == 4
  const float small = 0.70710678118654752, large = 1.41421356237309505;
  float sum1 = x[1] + x[2], difference1 = x[1] - x[2], sum2 = x[3] + x[4], difference2 = x[3] - x[4];
  y[0] = x[0] + sum1 + sum2;
  y[1] = fma(small, difference1, large * difference2);
  y[2] = fma(0.5, sum1, 2.0 * sum2);
  y[3] = fma(0.5 * small, difference1, fma(2.0 * large, difference2, x[5]));
#else
  y[0] = x[0] + x[1] + x[2];
  y[1] = x[1] - x[2] + x[3];
#endif
}

void main() {
  int tile = my_tile(), filter_index = my_channel();
  if (tile >= conv.tile_count || filter_index >= conv.k) return;
  int plane = conv.k_padded * conv.tiles_padded, at = filter_index * conv.tiles_padded + tile;
  float half_done[IN][OUT];  // [column][row]
  for (int s = 0; s < IN; ++s) {
    float column[IN];
    for (int r = 0; r < IN; ++r) column[r] = m[at + (r * IN + s) * plane];
    transform(column, half_done[s]);
  }
  Place place = place_of(tile);
#if NHWC
  int base = conv.dst_offset + place.image * conv.p * conv.q * conv.k + filter_index, step = conv.k;
#else
  int base = conv.dst_offset + (place.image * conv.k + filter_index) * conv.p * conv.q, step = 1;
#endif
  float b = bias[filter_index];
  for (int r = 0; r < OUT; ++r) {
    if (place.y + r >= conv.p) break;
    float row[IN], y[OUT];
    for (int s = 0; s < IN; ++s) row[s] = half_done[s][r];
    transform(row, y);
    int to = base + ((place.y + r) * conv.q + place.x) * step;
#if DST_VEC4
    vec4 x = vec4(y[0], y[1], y[2], y[3]) + b;
    if (ACCUMULATE == 1) x += dst4[to >> 2];
    dst4[to >> 2] = vec4(activate(x.x), activate(x.y), activate(x.z), activate(x.w));
#else
    for (int s = 0; s < OUT; ++s) {
      if (place.x + s >= conv.q) break;
      float x = y[s] + b;
      if (ACCUMULATE == 1) x += dst[to + s * step];
      dst[to + s * step] = activate(x);
    }
#endif
  }
}
