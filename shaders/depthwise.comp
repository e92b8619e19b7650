#version 430 core
// depthwise: one channel a group. An invocation sums one filter over a strip of ROWS destination rows in one column, so
// a loaded src element serves every row it touches; memory bandwidth is the limit. Neighbouring invocations take
// neighbouring columns (NCHW, BM 1) or filters (NHWC, BM 32): whatever is contiguous.
//
// weights, PACKED: [block][tap][BM], blocks counted over all filters.
#ifndef R
#define R 3
#endif
#ifndef S
#define S 3
#endif
#ifndef STRIDE_H
#define STRIDE_H 1
#endif
#ifndef DILATION_H
#define DILATION_H 1
#endif
#ifndef BM
#define BM 1  // filters a tile
#endif
#ifndef ROWS
#define ROWS 4  // destination rows an invocation
#endif
#define LOCAL 64
#define COLUMNS (LOCAL / BM)
#define WEIGHTS_SCALAR 1
layout(local_size_x = LOCAL) in;

#include "common.glsl"

#define SOURCE_ROWS ((ROWS - 1) * STRIDE_H + (R - 1) * DILATION_H + 1)

int strips() { return ceil_div(conv.p, ROWS); }

float weight(int k, int tap) {
#if PACKED
  return weights[WEIGHTS_OFFSET + (k / BM * R * S + tap) * BM + k % BM];
#else
  return weights[k * R * S + tap];
#endif
}

void compute(int k, int strip) {
  int row = strip / conv.q, q = strip - row * conv.q;
  int image = row / strips();
  int p = (row - image * strips()) * ROWS;
  int y = p * STRIDE_H - conv.pad_top, x = q * STRIDE_W - conv.pad_left;
  int c = k / filters_per_group();

  float w[R * S];
  for (int tap = 0; tap < R * S; ++tap) w[tap] = weight(k, tap);
  float sums[ROWS];
  for (int i = 0; i < ROWS; ++i) sums[i] = 0.0;
  for (int line = 0; line < SOURCE_ROWS; ++line) {
    float values[S];
    for (int s = 0; s < S; ++s) {
      values[s] = 0.0;
      if (uint(y + line) < uint(conv.h) && uint(x + s * DILATION_W) < uint(conv.w))
        values[s] = src[src_index(image, c, y + line, x + s * DILATION_W)];
    }
    for (int i = 0; i < ROWS; ++i) {
      int offset = line - i * STRIDE_H;  // of this line in the window of row i
      if (offset >= 0 && offset % DILATION_H == 0 && offset / DILATION_H < R)
        for (int s = 0; s < S; ++s) sums[i] = fma(w[offset / DILATION_H * S + s], values[s], sums[i]);
    }
  }
  for (int i = 0; i < ROWS; ++i)
    if (p + i < conv.p) store(dst_index((image * conv.p + p + i) * conv.q + q, k), sums[i], bias[k]);
}

void main() {
#if PACKED
  int begin = conv.first_block, blocks = conv.block_end - conv.first_block;
  int index = conv.first_tile + int(gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x);
  int end = conv.end_tile, step = end;
#else
  int begin = 0, blocks = ceil_div(conv.k, BM);
  int index = int(gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x);
  int end = blocks * ceil_div(conv.n * strips() * conv.q, COLUMNS), step = int(gl_NumWorkGroups.x * gl_NumWorkGroups.y);
#endif
  int lane = int(gl_LocalInvocationIndex);
  for (; index < end; index += step) {
    int column_block = index / blocks;
    int k = (begin + index - column_block * blocks) * BM + lane % BM;
    int strip = column_block * COLUMNS + lane / BM;
    if (k < conv.k && strip < conv.n * strips() * conv.q) compute(k, strip);
  }
}
