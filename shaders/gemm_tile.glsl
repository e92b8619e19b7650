// Implicit GEMM, C = A * B with A the filters (BM of them a tile), B the src elements under BN pixels, depth = taps
// outside, channels inside: K x RSC times RSC x NPQ. The pieces that lds_64, large_256 and pointwise put together in
// their own ways: staging registers, shared tiles, the multiplication, the epilogue.
//
//   tile_a[BK][BM], tile_b[BK][BN] in shared memory, both as vec4 so that a fragment is one 128-bit read.
//   The LOCAL = BM/TM * BN/TN invocations form a grid: (row, column) owns filters 4*(row + i*BM/TM) + 0..3 and pixels
//   4*(column + j*BN/TN) + 0..3: neighbours read neighbouring vec4s.
#ifndef UNROLL
#define UNROLL 0  // 1: ask NVIDIA's compiler to unroll; loops over taps and steps stay, their lengths are parameters
#endif
#if UNROLL
#pragma optionNV(unroll all)
#endif

#define GRID_ROWS (BM / TM)
#define GRID_COLUMNS (BN / TN)
layout(local_size_x = LOCAL) in;

#include "common.glsl"

#define VECS_A (BM * BK / 4)
#define VECS_B (BN * BK / 4)
#define PASSES_A (VECS_A / LOCAL)
#define PASSES_B (VECS_B / LOCAL)

shared vec4 tile_a[BUFFERS][VECS_A];
shared vec4 tile_b[BUFFERS][VECS_B];

float sums[TM][TN];
vec4 stage_a[PASSES_A];
vec4 stage_b[PASSES_B];

int local_index() { return int(gl_LocalInvocationIndex); }

void clear_sums() {
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN; ++j) sums[i][j] = 0.0;
}

void fetch_filters(Tile tile, int tap, int c) {
  for (int pass = 0; pass < PASSES_A; ++pass) {
    int e = local_index() + pass * LOCAL;
    stage_a[pass] = filters4(tile, tap, c + e / (BM / 4), e % (BM / 4) * 4);
  }
}

void put_filters(int buffer_index) {
  for (int pass = 0; pass < PASSES_A; ++pass) tile_a[buffer_index][local_index() + pass * LOCAL] = stage_a[pass];
}

// Always called with a literal, so that every shared read is one register plus an immediate. Row by row, pixels
// alternately forwards and backwards: neighbouring multiply-adds share an operand, which NVIDIA's operand cache keeps.
void multiply(int buffer_index) {
  int row = local_index() / GRID_COLUMNS, column = local_index() % GRID_COLUMNS;
  for (int depth = 0; depth < BK; ++depth) {
    float a[TM], b[TN];
    for (int i = 0; i < TM; ++i) a[i] = tile_a[buffer_index][depth * (BM / 4) + i / 4 * GRID_ROWS + row][i % 4];
    for (int j = 0; j < TN; ++j) b[j] = tile_b[buffer_index][depth * (BN / 4) + j / 4 * GRID_COLUMNS + column][j % 4];
    for (int i = 0; i < TM; ++i)
      for (int jj = 0; jj < TN; ++jj) {
        int j = i % 2 == 0 ? jj : TN - 1 - jj;
        sums[i][j] = fma(a[i], b[j], sums[i][j]);
      }
  }
}

#if DST_VEC4
// Pixels pixel .. pixel+3 of the filters of this invocation's row; j is their fragment.
void store_quad(Tile tile, int row, int pixel, int j) {
  if (NHWC == 1) {
    for (int x = 0; x < 4; ++x) {
      if (pixel + x >= pixel_count()) continue;
      for (int i = 0; i < TM; i += 4) {
        int k = tile.k + 4 * row + i * GRID_ROWS, e = 4 * j + x;
        if (k >= tile.k_end) continue;
        store4(dst_index(pixel + x, k), vec4(sums[i][e], sums[i + 1][e], sums[i + 2][e], sums[i + 3][e]),
               vec4(bias[k], bias[k + 1], bias[k + 2], bias[k + 3]));
      }
    }
  } else if (pixel < pixel_count()) {
    int at = dst_index(pixel, tile.k), e = 4 * j;
    for (int i = 0; i < TM; ++i) {
      int k = 4 * (row + i / 4 * GRID_ROWS) + i % 4;
      if (tile.k + k >= tile.k_end) continue;
      store4(at + k * conv.p * conv.q, vec4(sums[i][e], sums[i][e + 1], sums[i][e + 2], sums[i][e + 3]),
             vec4(bias[tile.k + k]));
    }
  }
}
#else
void store_quad(Tile tile, int row, int pixel, int j) {
  for (int x = 0; x < 4; ++x) {
    if (pixel + x >= pixel_count()) continue;
    int at = dst_index(pixel + x, tile.k), step = NHWC == 1 ? 1 : conv.p * conv.q;
    for (int i = 0; i < TM; ++i) {
      int k = 4 * (row + i / 4 * GRID_ROWS) + i % 4;
      if (tile.k + k < tile.k_end) store(at + k * step, sums[i][4 * j + x], bias[tile.k + k]);
    }
  }
}
#endif

void store_tile(Tile tile) {
  int row = local_index() / GRID_COLUMNS, column = local_index() % GRID_COLUMNS;
  for (int j = 0; j < TN / 4; ++j)
    store_quad(tile, row, tile.pixels * BN + 4 * (column + j * GRID_COLUMNS), j);
}
