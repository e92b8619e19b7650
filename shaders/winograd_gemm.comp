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
#ifndef SHARES
#define SHARES 0  // 1: work groups may share the depth of tiles (share_depth.glsl)
#endif
#pragma optionNV(unroll all)  // the loop over steps stays rolled: its bound is a uniform

#define ROWS (BM / TM)
#define COLUMNS (BN / TN)
#include "winograd.glsl"
#include "work_group.glsl"

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

#if SHARES
#include "share_depth.glsl"
#endif

// A tile: the product of a filter block and a tile block at one point.
struct Product {
  uint filter_block, tile_block, point;
};

int tile_count() { return conv.k_padded / BM * conv.tile_blocks * POINTS; }
int tile_steps() { return conv.c_padded / BK; }

// Filter blocks run fastest: they share a block of V. Then points, so that V is read in the order it lies in memory;
// or tile blocks, where U is too large for the cache and a point's share of it is not.
Product make_product(int index) {
  uint filter_blocks = uint(conv.k_padded / BM), tile_blocks = uint(conv.tile_blocks);
  uint rest = uint(index) / filter_blocks, filter_block = uint(index) - rest * filter_blocks;
  if (conv.point_major == 1) return Product(filter_block, rest % tile_blocks, rest / tile_blocks);
  return Product(filter_block, rest / uint(POINTS), rest % uint(POINTS));
}

void multiply_steps(int tile, int begin, int end) {
  Product product = make_product(tile);
  uint local = gl_LocalInvocationIndex, channel = uint(begin * BK);
  uint row = uint(grid_row(COLUMNS)), column = uint(grid_column(COLUMNS));
  for (int i = 0; i < PASSES_A; ++i)
    at_a[i] = ((product.point * uint(conv.k_padded / BM) + product.filter_block) * uint(conv.c_padded) + channel) *
                  uint(BM / 4) +
              local + uint(i * LOCAL);
  for (int i = 0; i < PASSES_B; ++i) {
    uint e = local + uint(i * LOCAL);
    at_b[i] = ((product.tile_block * uint(conv.c_padded) + channel + e / uint(BN / 4)) * uint(POINTS) + product.point) *
                  uint(BN / 4) +
              e % uint(BN / 4);
  }
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN; ++j) sums[i][j] = 0.0;

  fetch();
  PUT(a0, b0)
  sync_tiles();
  for (int step = begin + 1; step <= end; step += 2) {
    if (step < end) fetch();
    MULTIPLY(a0, b0)
    if (step < end) PUT(a1, b1)
    sync_tiles();
    if (step == end) break;
    if (step + 1 < end) fetch();
    MULTIPLY(a1, b1)
    if (step + 1 < end) PUT(a0, b0)
    sync_tiles();
  }
}

void store_tile(int tile) {
  Product product = make_product(tile);
  uint row = uint(grid_row(COLUMNS)), column = uint(grid_column(COLUMNS));
  // One index and constants from here on: cheaper than an index a row.
  uint to = ((product.tile_block * uint(conv.k_padded) + product.filter_block * uint(BM) + row * 4u) * uint(POINTS) +
             product.point) *
                uint(BN / 4) +
            column;
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN / 4; ++j)
      m[to + uint((i / 4 * ROWS * 4 + i % 4) * POINTS * (BN / 4) + j * COLUMNS)] =
          vec4(sums[i][4 * j], sums[i][4 * j + 1], sums[i][4 * j + 2], sums[i][4 * j + 3]);
}

void main() {
#if SHARES
  multiply_tiles();
#else
  if (group_index() >= tile_count()) return;
  multiply_steps(group_index(), 0, tile_steps());
  store_tile(group_index());
#endif
}
