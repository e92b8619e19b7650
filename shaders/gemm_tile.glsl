// Implicit GEMM, C = A * B with A the filters (BM of them a tile), B the src elements under BN pixels, depth = taps
// outside, channels inside: K x RSC times RSC x NPQ. The pieces that lds_64, large_256 and pointwise put together in
// their own ways: staging registers, shared tiles, the multiplication, the epilogue.
//
//   tile_a[BK][BM], tile_b[BK][BN] in shared memory, both as vec4 so that a fragment is one 128-bit read.
//   The LOCAL = BM/TM * BN/TN invocations form a grid: (row, column) owns filters 4*(row + i*BM/TM) + 0..3 and pixels
//   4*(column + j*BN/TN) + 0..3: neighbours read neighbouring vec4s.
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

vec4 sums[TM][TN / 4];  // [filter][pixel / 4]
vec4 stage_a[PASSES_A];
vec4 stage_b[PASSES_B];

int local_index() { return int(gl_LocalInvocationIndex); }

void clear_sums() {
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN / 4; ++j) sums[i][j] = vec4(0.0);
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

void multiply(int buffer_index) {
  int row = local_index() / GRID_COLUMNS, column = local_index() % GRID_COLUMNS;
  for (int depth = 0; depth < BK; ++depth) {
    vec4 b[TN / 4];
    for (int j = 0; j < TN / 4; ++j) b[j] = tile_b[buffer_index][depth * (BN / 4) + column + j * GRID_COLUMNS];
    for (int i = 0; i < TM / 4; ++i) {
      vec4 a = tile_a[buffer_index][depth * (BM / 4) + row + i * GRID_ROWS];
      for (int j = 0; j < TN / 4; ++j) {
        sums[4 * i][j] = fma(vec4(a.x), b[j], sums[4 * i][j]);
        sums[4 * i + 1][j] = fma(vec4(a.y), b[j], sums[4 * i + 1][j]);
        sums[4 * i + 2][j] = fma(vec4(a.z), b[j], sums[4 * i + 2][j]);
        sums[4 * i + 3][j] = fma(vec4(a.w), b[j], sums[4 * i + 3][j]);
      }
    }
  }
}

void store_tile(Tile tile) {
  int row = local_index() / GRID_COLUMNS, column = local_index() % GRID_COLUMNS;
  int end = pixel_count();
  for (int j = 0; j < TN / 4; ++j) {
    int pixel = tile.pixels * BN + 4 * (column + j * GRID_COLUMNS);
#if DST_VEC4 && NHWC == 1
    for (int x = 0; x < 4; ++x) {
      if (pixel + x >= end) continue;
      for (int i = 0; i < TM / 4; ++i) {
        int k = tile.k + 4 * (row + i * GRID_ROWS);
        if (k >= tile.k_end) continue;
        store4(dst_index(pixel + x, k),
               vec4(sums[4 * i][j][x], sums[4 * i + 1][j][x], sums[4 * i + 2][j][x], sums[4 * i + 3][j][x]),
               vec4(bias[k], bias[k + 1], bias[k + 2], bias[k + 3]));
      }
    }
#elif DST_VEC4
    if (pixel >= end) continue;
    int at = dst_index(pixel, tile.k);
    for (int i = 0; i < TM; ++i) {
      int k = 4 * (row + i / 4 * GRID_ROWS) + i % 4;
      if (tile.k + k < tile.k_end) store4(at + k * conv.p * conv.q, sums[i][j], vec4(bias[tile.k + k]));
    }
#else
    for (int x = 0; x < 4; ++x) {
      if (pixel + x >= end) continue;
      int at = dst_index(pixel + x, tile.k), step = NHWC == 1 ? 1 : conv.p * conv.q;
      for (int i = 0; i < TM; ++i) {
        int k = 4 * (row + i / 4 * GRID_ROWS) + i % 4;
        if (tile.k + k < tile.k_end) store(at + k * step, sums[i][j][x], bias[tile.k + k]);
      }
    }
#endif
  }
}
