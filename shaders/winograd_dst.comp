#version 430 core
// winograd_dst: dst = activation(A^T m A + bias + dst). One invocation a tile and filter.
//
// Rows of tiles that are whole vec4 are stored at once (DST_VEC4). Otherwise outputs go through shared memory, so that
// neighbouring invocations store neighbours: columns of a row in NCHW, filters in NHWC.
#pragma optionNV(unroll all)
#ifndef ACTIVATION
#define ACTIVATION conv.activation
#endif
#ifndef ACCUMULATE
#define ACCUMULATE 0
#endif
#ifndef DST_VEC4
#define DST_VEC4 0  // 1: NCHW, OUT 4 and whole rows of tiles: four outputs a store
#endif
#ifndef NHWC
#define NHWC 0
#endif
#if NHWC
#define LOCAL 256  // 16 tiles of 16 filters
#endif
#define TILE_SHIFT conv.dst_tile_shift
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

// Outputs [row][column] of a tile, bias included.
void outputs(Lane lane, out float y[OUT][OUT]) {
  int at = matrix_index(lane.tile, lane.channel, conv.k_padded);
  float half_done[IN][OUT];  // [column][row]
  for (int s = 0; s < IN; ++s) {
    float column[IN];
    for (int r = 0; r < IN; ++r) column[r] = m[at + (r * IN + s) * BN];
    transform(column, half_done[s]);
  }
  float b = bias[lane.channel];
  for (int r = 0; r < OUT; ++r) {
    float row[IN];
    for (int s = 0; s < IN; ++s) row[s] = half_done[s][r];
    transform(row, y[r]);
    for (int s = 0; s < OUT; ++s) y[r][s] += b;
  }
}

bool exists(Lane lane) { return lane.tile < conv.tile_count && lane.channel < conv.k; }

// Index of a tile's first output.
int dst_index(Lane lane, Place place) {
#if NHWC
  return conv.dst_offset + ((place.image * conv.p + place.y) * conv.q + place.x) * conv.k + lane.channel;
#else
  return conv.dst_offset + ((place.image * conv.k + lane.channel) * conv.p + place.y) * conv.q + place.x;
#endif
}

#if DST_VEC4
void main() {
  Lane lane = lane_of(conv.k, int(gl_LocalInvocationIndex), false);
  if (!exists(lane)) return;
  float y[OUT][OUT];
  outputs(lane, y);
  Place place = place_of(lane.tile);
  int to = dst_index(lane, place) >> 2;
  for (int r = 0; r < OUT; ++r) {
    if (place.y + r >= conv.p) break;
    vec4 x = vec4(y[r][0], y[r][1], y[r][2], y[r][3]);
    int at = to + r * (conv.q >> 2);
    if (ACCUMULATE == 1) x += dst4[at];
    dst4[at] = vec4(activate(x.x), activate(x.y), activate(x.z), activate(x.w));
  }
}
#else
void put(int at, float x) {
  if (ACCUMULATE == 1) x += dst[at];
  dst[at] = activate(x);
}

#if NHWC
#define PITCH (LOCAL + LOCAL / 16)  // 16 tiles of 16 filters, each 17 apart: no two of 32 neighbouring lanes meet in a bank
#else
#define PITCH (LOCAL * OUT + OUT)
#endif
#define ROWS_AT_ONCE (NHWC == 1 ? OUT * OUT : OUT)
shared float turned[ROWS_AT_ONCE][PITCH];

void main() {
  int local = int(gl_LocalInvocationIndex);
  Lane lane = lane_of(conv.k, local, false);
  if (exists(lane)) {
    float y[OUT][OUT];
    outputs(lane, y);
    for (int r = 0; r < OUT; ++r)
      for (int s = 0; s < OUT; ++s) {
#if NHWC
        turned[r * OUT + s][local % 16 * 17 + local / 16] = y[r][s];
#else
        turned[r][local * OUT + s] = y[r][s];
#endif
      }
  }
  memoryBarrierShared();
  barrier();
#if NHWC
  lane = lane_of(conv.k, local, true);
  if (!exists(lane)) return;
  Place place = place_of(lane.tile);
  int to = dst_index(lane, place);
  for (int r = 0; r < OUT; ++r)
    for (int s = 0; s < OUT; ++s)
      if (place.y + r < conv.p && place.x + s < conv.q)
        put(to + (r * conv.q + s) * conv.k, turned[r * OUT + s][local / 16 * 17 + local % 16]);
#else
  for (int i = 0; i < OUT; ++i) {
    int at = i * LOCAL + local, s = at % OUT;
    lane = lane_of(conv.k, at / OUT, false);
    if (!exists(lane)) continue;
    Place place = place_of(lane.tile);
    if (place.x + s >= conv.q) continue;
    int to = dst_index(lane, place) + s;
    for (int r = 0; r < OUT; ++r)
      if (place.y + r < conv.p) put(to + r * conv.q, turned[r][at]);
  }
#endif
}
#endif
