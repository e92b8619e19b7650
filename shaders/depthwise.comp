#version 430 core
// depthwise: one channel a group. An invocation sums a strip of ROWS destination rows, so that a loaded src element
// serves every row it touches; memory bandwidth is the limit. Neighbouring invocations take what neighbours in memory:
//
//   NCHW             one column each, COLUMNS of a filter, BM filters; or, with VECTOR, four columns each: loads of
//                    VECTOR floats (1, 2, 4: rows of src and dst start at multiples of that) that cover the window;
//                    needs PAD_LEFT
//   NHWC             WIDTH columns and one filter each, BM filters of a strip
//   NHWC, SRC_VEC4   WIDTH columns and four filters each; needs DST_VEC4, one filter a channel
//
// The rows TOP .. BOTTOM-1 and columns LEFT .. RIGHT-1 of every strip's window are known to lie inside src.
// weights, PACKED: [block][tap][BM], blocks counted over all filters.
#pragma optionNV(unroll all)
#ifndef R
#define R 3
#endif
#ifndef S
#define S 3
#endif
#ifndef STRIDE_H
#define STRIDE_H 1
#endif
#ifndef STRIDE_W
#define STRIDE_W 1
#endif
#ifndef DILATION_H
#define DILATION_H 1
#endif
#ifndef DILATION_W
#define DILATION_W 1
#endif
#ifndef BM
#define BM 1  // filters a tile
#endif
#ifndef ROWS
#define ROWS 4  // destination rows an invocation
#endif
#ifdef VECTOR
#define WIDTH 4
#endif
#ifndef WIDTH
#define WIDTH 1  // destination columns an invocation
#endif
#ifndef LOADS_FIRST
#define LOADS_FIRST 0  // 1: a strip's window is loaded whole before the first multiply-add
#endif
#ifndef TOP
#define TOP 0
#define BOTTOM 0
#define LEFT 0
#define RIGHT 0
#endif
#ifndef MULTIPLIER
#define MULTIPLIER filters_per_group()  // filters a channel
#endif
#define LOCAL 128
#if PACKED && SRC_VEC4
#define WEIGHTS_SCALAR 0  // four filters' of a tap are one load
layout(std430, binding = 4) readonly restrict buffer BiasVector { vec4 bias_vector[]; };
#else
#define WEIGHTS_SCALAR 1
#endif
layout(local_size_x = LOCAL) in;

#include "common.glsl"

#if SRC_VEC4
#define FILTERS 4  // an invocation
#else
#define FILTERS 1
#endif
#if SRC_VEC4 || defined(VECTOR)
#define VALUE vec4
#else
#define VALUE float
#endif
#ifdef VECTOR
#define SUMS ROWS
#if VECTOR == 4
layout(std430, binding = 0) readonly restrict buffer SrcVector { vec4 src_vector[]; };
layout(std430, binding = 2) restrict buffer DstVector { vec4 dst_vector[]; };
#define VECTOR_TYPE vec4
#elif VECTOR == 2
layout(std430, binding = 0) readonly restrict buffer SrcVector { vec2 src_vector[]; };
layout(std430, binding = 2) restrict buffer DstVector { vec2 dst_vector[]; };
#define VECTOR_TYPE vec2
#endif
#else
#define SUMS (ROWS * WIDTH)
#endif
#define COLUMNS (LOCAL / (BM / FILTERS))  // a tile, each of WIDTH
#define SOURCE_ROWS ((ROWS - 1) * STRIDE_H + (R - 1) * DILATION_H + 1)

#ifndef STRIPS
#define STRIPS ceil_div(conv.p, ROWS)  // of an image
#define COLUMNS_A_ROW ceil_div(conv.q, WIDTH)
#endif

#if PACKED
int weight_at(int k, int tap) { return WEIGHTS_OFFSET + (k / BM * R * S + tap) * BM + k % BM; }
#else
int weight_at(int k, int tap) { return k * R * S + tap; }
#endif

bool row_inside(int y, int line) { return (line >= TOP && line < BOTTOM) || uint(y + line) < uint(conv.h); }

// One src row of the window. Element 0 stands in for what lies outside: loads without branches.
#ifdef VECTOR
// By tap: four columns of it.
#define SPAN S
#define PAD_UP ((PAD_LEFT + VECTOR - 1) / VECTOR * VECTOR)
#define FIRST (PAD_UP - PAD_LEFT)  // of the window in the aligned loads
#define LOADS ((FIRST + 3 * STRIDE_W + (S - 1) * DILATION_W) / VECTOR + 1)
void load_line(int at, int x, bool inside, out VALUE values[SPAN]) {
  float line[LOADS * VECTOR];
  for (int i = 0; i < LOADS; ++i) {
    int column = x - FIRST + VECTOR * i;
    bool live = inside && uint(column) < uint(conv.w);
#if VECTOR == 1
    float value = src[live ? at + column : 0];
    line[i] = live ? value : 0.0;
#else
    VECTOR_TYPE loaded = src_vector[live ? (at + column) / VECTOR : 0];
    for (int j = 0; j < VECTOR; ++j) line[VECTOR * i + j] = live ? loaded[j] : 0.0;
#endif
  }
  for (int s = 0; s < S; ++s)
    for (int j = 0; j < 4; ++j) values[s][j] = line[FIRST + s * DILATION_W + j * STRIDE_W];
}
#else
// By column.
#define SPAN ((WIDTH - 1) * STRIDE_W + (S - 1) * DILATION_W + 1)
void load_line(int at, int x, bool inside, out VALUE values[SPAN]) {
  for (int c = 0; c < SPAN; ++c) {
    bool read = false;
    for (int s = 0; s < S; ++s)
      for (int i = 0; i < WIDTH; ++i) read = read || c == s * DILATION_W + i * STRIDE_W;
    values[c] = VALUE(0.0);
    if (!read) continue;
    bool live = inside && ((c >= LEFT && c < RIGHT) || uint(x + c) < uint(conv.w));
    int index = live ? at + (x + c) * column_step() : 0;
#if SRC_VEC4
    VALUE value = src4[index >> 2];
#else
    VALUE value = src[index];
#endif
    values[c] = live ? value : VALUE(0.0);
  }
}
#endif

#ifdef VECTOR
// As many of four columns as the row still has.
void store_columns(int to, int left, vec4 sum, vec4 b) {
#if VECTOR == 1
  for (int j = 0; j < 4; ++j)
    if (j < left) store(to + j, sum[j], b[j]);
#else
  for (int j = 0; j < 4; j += VECTOR)
    if (j < left) {
      VECTOR_TYPE x = VECTOR_TYPE(0.0);
      for (int n = 0; n < VECTOR; ++n) x[n] = sum[j + n] + b[j + n];
      if (ACCUMULATE == 1) x += dst_vector[(to + j) / VECTOR];
      for (int n = 0; n < VECTOR; ++n) x[n] = activate(x[n]);
      dst_vector[(to + j) / VECTOR] = x;
    }
#endif
}
#endif

// Filters k .. k + FILTERS - 1 of one strip, counted over n, strips, columns.
void compute(int k, int strip) {
  int row = strip / COLUMNS_A_ROW, q = (strip - row * COLUMNS_A_ROW) * WIDTH;
  int image = row / STRIPS;
  int p = (row - image * STRIPS) * ROWS;
  int y = p * STRIDE_H - conv.pad_top, x = q * STRIDE_W - conv.pad_left;
  int at = src_index(image, k / MULTIPLIER, y, 0), line_step = conv.w * column_step();

  VALUE w[R * S], b;
#if !WEIGHTS_SCALAR
  for (int tap = 0; tap < R * S; ++tap) w[tap] = weights4[weight_at(k, tap) >> 2];
  b = bias_vector[k >> 2];
#elif FILTERS == 4
  for (int j = 0; j < 4; ++j) {
    for (int tap = 0; tap < R * S; ++tap) w[tap][j] = weights[weight_at(k + j, tap)];
    b[j] = bias[k + j];
  }
#else
  for (int tap = 0; tap < R * S; ++tap) w[tap] = VALUE(weights[weight_at(k, tap)]);
  b = VALUE(bias[k]);
#endif
  VALUE sums[SUMS];
  for (int i = 0; i < SUMS; ++i) sums[i] = VALUE(0.0);
#if LOADS_FIRST
  VALUE lines[SOURCE_ROWS][SPAN];
  for (int line = 0; line < SOURCE_ROWS; ++line) load_line(at + line * line_step, x, row_inside(y, line), lines[line]);
#endif
  for (int line = 0; line < SOURCE_ROWS; ++line) {
#if LOADS_FIRST
    VALUE values[SPAN] = lines[line];
#else
    VALUE values[SPAN];
    load_line(at + line * line_step, x, row_inside(y, line), values);
#endif
    for (int i = 0; i < ROWS; ++i) {
      int offset = line - i * STRIDE_H;  // of this line in the window of row i
      if (offset >= 0 && offset % DILATION_H == 0 && offset / DILATION_H < R)
        for (int s = 0; s < S; ++s) {
          VALUE tap = w[offset / DILATION_H * S + s];
#ifdef VECTOR
          sums[i] = fma(tap, values[s], sums[i]);
#else
          for (int c = 0; c < WIDTH; ++c)
            sums[i * WIDTH + c] = fma(tap, values[s * DILATION_W + c * STRIDE_W], sums[i * WIDTH + c]);
#endif
        }
    }
  }
  int to = dst_index((image * conv.p + p) * conv.q + q, k);
  int step = NHWC == 1 ? conv.q * conv.k : conv.q;
  for (int i = 0; i < ROWS; ++i)
    if (p + i < conv.p) {
#ifdef VECTOR
      store_columns(to + i * step, conv.q - q, sums[i], b);
#else
      for (int c = 0; c < WIDTH; ++c)
        if (WIDTH == 1 || q + c < conv.q) {
#if DST_VEC4
          store4(to + i * step + c * conv.k, sums[i * WIDTH + c], b);
#else
          store(to + i * step + c * conv.k, sums[i * WIDTH + c], b);
#endif
        }
#endif
    }
}

void main() {
#if PACKED
  int begin = conv.first_block, blocks = conv.block_end - conv.first_block;
  int index = conv.first_tile + int(gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x);
  int end = conv.end_tile, step = end;
#else
  int begin = 0, blocks = ceil_div(conv.k, BM);
  int index = int(gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x);
  int end = blocks * ceil_div(conv.n * STRIPS * COLUMNS_A_ROW, COLUMNS);
  int step = int(gl_NumWorkGroups.x * gl_NumWorkGroups.y);
#endif
  int lane = int(gl_LocalInvocationIndex);
  for (; index < end; index += step) {
    int column_block = index / blocks;
    int in_block = NHWC == 1 ? lane % (BM / FILTERS) * FILTERS : lane / COLUMNS;
    int k = (begin + index - column_block * blocks) * BM + in_block;
    int strip = column_block * COLUMNS + (NHWC == 1 ? lane / (BM / FILTERS) : lane % COLUMNS);
    if (k < conv.k && strip < conv.n * STRIPS * COLUMNS_A_ROW) compute(k, strip);
  }
}
