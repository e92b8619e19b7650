#version 430 core
// winograd_gemm: M[point] = U[point]^T * V[point] for every point: BM filters x BN tiles a work group. All extents are
// whole blocks, so nothing is tested inside the loops.
#ifndef BK
#define BK 8  // channels a step
#endif
#ifndef TM
#define TM 8  // filters an invocation
#endif
#ifndef TN
#define TN 8  // Winograd tiles an invocation
#endif
#ifndef LOCAL
#define LOCAL 256  // invocations, BM/TM * BN/TN (a literal: GLSL 4.30 takes no expression for local_size_x)
#endif
#pragma optionNV(unroll all)  // the loop over steps stays rolled: its bound is a uniform

#define ROWS (BM / TM)
#define COLUMNS (BN / TN)
#include "winograd.glsl"

layout(std430, binding = 0) readonly restrict buffer V { vec4 v[]; };   // [tile block][C][point][BN/4]
layout(std430, binding = 1) readonly restrict buffer U { vec4 u[]; };   // [point][filter block][C][BM/4]
layout(std430, binding = 2) writeonly restrict buffer M { vec4 m[]; };  // [tile block][K][point][BN/4]

#define PASSES_A (BM * BK / 4 / LOCAL)
#define PASSES_B (BN * BK / 4 / LOCAL)

// Two pairs of tiles, each an array of its own and each read at [constant][constant][invocation]: a shared load is then
// one register plus an immediate. (One array indexed by step parity costs an integer addition a load.)
shared vec4 a0[BK][TM / 4][ROWS], a1[BK][TM / 4][ROWS];
shared vec4 b0[BK][TN / 4][COLUMNS], b1[BK][TN / 4][COLUMNS];

float sums[TM][TN];
vec4 stage_a[PASSES_A], stage_b[PASSES_B];
uint at_a[PASSES_A], at_b[PASSES_B];

void fetch() {
  for (int i = 0; i < PASSES_A; ++i) {
    stage_a[i] = u[at_a[i]];
    at_a[i] += uint(BM / 4 * BK);
  }
  for (int i = 0; i < PASSES_B; ++i) {
    stage_b[i] = v[at_b[i]];
    at_b[i] += uint(BN / 4 * BK * POINTS);
  }
}

#define PUT(a, b)                                                                        \
  for (int i = 0; i < PASSES_A; ++i) {                                                   \
    uint e = local + uint(i * LOCAL);                                                    \
    a[e / uint(BM / 4)][e % uint(BM / 4) / uint(ROWS)][e % uint(ROWS)] = stage_a[i];     \
  }                                                                                      \
  for (int i = 0; i < PASSES_B; ++i) {                                                   \
    uint e = local + uint(i * LOCAL);                                                    \
    b[e / uint(BN / 4)][e % uint(BN / 4) / uint(COLUMNS)][e % uint(COLUMNS)] = stage_b[i]; \
  }

// Row by row, columns alternately forwards and backwards: neighbouring multiply-adds then share an operand, which the
// hardware's operand cache keeps.
#define MULTIPLY(a, b)                                                               \
  for (int k = 0; k < BK; ++k) {                                                     \
    float x[TM], y[TN];                                                              \
    for (int i = 0; i < TM; ++i) x[i] = a[k][i / 4][row][i % 4];                     \
    for (int j = 0; j < TN; ++j) y[j] = b[k][j / 4][column][j % 4];                  \
    for (int i = 0; i < TM; ++i)                                                     \
      for (int jj = 0; jj < TN; ++jj) {                                              \
        int j = i % 2 == 0 ? jj : TN - 1 - jj;                                       \
        sums[i][j] = fma(x[i], y[j], sums[i][j]);                                    \
      }                                                                              \
  }

void main() {
  uint local = gl_LocalInvocationIndex;
  uint row = local / uint(COLUMNS), column = local % uint(COLUMNS);
  // Filter blocks run fastest: they share a block of V. Then points, so that V is read in the order it lies in memory;
  // or tile blocks, where U is too large for the cache and a point's share of it is not.
  uint filter_blocks = uint(conv.k_padded / BM), tile_blocks = uint(conv.tile_blocks);
  uint group = uint(group_index()), rest = group / filter_blocks, filter_block = group - rest * filter_blocks;
  if (rest >= tile_blocks * uint(POINTS)) return;
  uint point = conv.point_major == 1 ? rest / tile_blocks : rest % uint(POINTS);
  uint tile_block = conv.point_major == 1 ? rest - point * tile_blocks : rest / uint(POINTS);
  for (int i = 0; i < PASSES_A; ++i)
    at_a[i] = (point * filter_blocks + filter_block) * uint(conv.c_padded * (BM / 4)) + local + uint(i * LOCAL);
  for (int i = 0; i < PASSES_B; ++i) {
    uint e = local + uint(i * LOCAL);
    at_b[i] = ((tile_block * uint(conv.c_padded) + e / uint(BN / 4)) * uint(POINTS) + point) * uint(BN / 4) +
              e % uint(BN / 4);
  }
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN; ++j) sums[i][j] = 0.0;

  // One index and constants from here on: cheaper than an index a row.
  uint to = ((tile_block * uint(conv.k_padded) + filter_block * uint(BM) + row * 4u) * uint(POINTS) + point) *
                uint(BN / 4) +
            column;

  int steps = conv.c_padded / BK;
  fetch();
  PUT(a0, b0)
  memoryBarrierShared();
  barrier();
  for (int step = 0; step < steps; step += 2) {
    if (step + 1 < steps) fetch();
    MULTIPLY(a0, b0)
    if (step + 1 < steps) PUT(a1, b1)
    memoryBarrierShared();
    barrier();
    if (step + 1 >= steps) break;
    if (step + 2 < steps) fetch();
    MULTIPLY(a1, b1)
    if (step + 2 < steps) PUT(a0, b0)
    memoryBarrierShared();
    barrier();
  }
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN / 4; ++j)
      m[to + uint((i / 4 * ROWS * 4 + i % 4) * POINTS * (BN / 4) + j * COLUMNS)] =
          vec4(sums[i][4 * j], sums[i][4 * j + 1], sums[i][4 * j + 2], sums[i][4 * j + 3]);
}
