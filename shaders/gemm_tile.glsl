// Implicit GEMM, C = A * B with A the filters (BM of them a tile), B the src elements under BN pixels, depth = taps
// outside, channels inside: K x RSC times RSC x NPQ. What every GEMM variant shares: the sums of an invocation, its
// staging registers, the epilogue. How a tile walks along its depth is the business of gemm_steps.glsl and pointwise.comp.
//
//   The LOCAL = BM/TM * BN/TN invocations form a grid (work_group.glsl): (row, column) owns filters 4*(row + i*BM/TM) + 0..3
//   and the pixels of the quads column + j*BN/TN: neighbours read neighbouring vec4s.
#ifndef UNROLL
#define UNROLL 0  // 1: ask NVIDIA's compiler to unroll; loops over taps and steps stay, their lengths are parameters
#endif
#if UNROLL
#pragma optionNV(unroll all)
#endif

#ifndef WHOLE_STEPS
#define WHOLE_STEPS 0  // 1: the channels of a group are a multiple of BK
#endif

#define GRID_ROWS (BM / TM)
#define GRID_COLUMNS (BN / TN)
layout(local_size_x = LOCAL) in;

// Which pixels a quad holds: four neighbours, or with SPREAD every (BN/4)th. Scalar loads and stores of the invocations
// of a warp then touch neighbouring floats instead of every fourth.
#if PACKED
#if !NHWC && !SRC_VEC4 && !DST_VEC4
#define SPREAD 1
#endif
#endif
#ifndef SPREAD
#define SPREAD 0
#endif
#include "common.glsl"
#include "work_group.glsl"

#define VECS_A (BM * BK / 4)
#define VECS_B (BN * BK / 4)
#define PASSES_A (VECS_A / LOCAL)
#define PASSES_B (VECS_B / LOCAL)
#define QUADS_BN (BN / 4)

// B in shared memory: rows of BN pixels. In either layout an invocation stages a quad of pixels of one row, and of every
// ROWS_A_PASS-th from it on: one 128-bit store, and rows as the multiply-adds want them (bench/NOTES.md). Neighbouring
// invocations take what are neighbours in memory: quads of a row in NCHW, rows of a quad in NHWC, where a row has a vec4
// more than it needs so that they store into different banks.
#ifndef ALONG_ROWS
#define ALONG_ROWS (NHWC == 1)  // neighbouring invocations stage rows of a quad
#endif
#if PACKED
#define QUAD_LINE (QUADS_BN + (ALONG_ROWS ? 1 : 0))
#else
#define QUAD_LINE QUADS_BN
#endif
#define SIZE_B (BK * QUAD_LINE)
#define ROWS_A_PASS (LOCAL / QUADS_BN)

float sums[TM][TN];
vec4 stage_a[PASSES_A];
vec4 stage_b[PASSES_B];

// What this invocation stages. Unsigned: divisions by powers of two are then shifts.
int staged_row() {
  uint local = gl_LocalInvocationIndex;
  return int(ALONG_ROWS ? local % uint(ROWS_A_PASS) : local / uint(QUADS_BN));
}
int staged_quad() {
  uint local = gl_LocalInvocationIndex;
  return int(ALONG_ROWS ? local / uint(ROWS_A_PASS) : local % uint(QUADS_BN));
}
int staged_place(int pass) {
  if (!ALONG_ROWS) return local_index() + pass * LOCAL;
  return (staged_row() + pass * ROWS_A_PASS) * QUAD_LINE + staged_quad();
}
int quad_pixel(int quad, int i) { return SPREAD == 1 ? quad + i * QUADS_BN : 4 * quad + i; }

#if DST_VEC4
// Pixels pixel .. pixel+3 of the filters of this invocation's row; j is their quad.
void store_quad(Tile tile, int row, int quad, int j) {
  int pixel = tile.pixels * BN + 4 * quad;
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
void store_quad(Tile tile, int row, int quad, int j) {
  int step = NHWC == 1 ? 1 : conv.p * conv.q;
  for (int x = 0; x < 4; ++x) {
    int pixel = tile.pixels * BN + quad_pixel(quad, x);
    if (pixel >= pixel_count()) continue;
    int at = dst_index(pixel, tile.k);
    for (int i = 0; i < TM; ++i) {
      int k = 4 * (row + i / 4 * GRID_ROWS) + i % 4;
      if (tile.k + k < tile.k_end) store(at + k * step, sums[i][4 * j + x], bias[tile.k + k]);
    }
  }
}
#endif

void store_sums(Tile tile) {
  int row = grid_row(GRID_COLUMNS), column = grid_column(GRID_COLUMNS);
  for (int j = 0; j < TN / 4; ++j) store_quad(tile, row, column + j * GRID_COLUMNS, j);
}

// How a variant walks along a tile's depth (gemm_steps.glsl, pointwise.comp).
int depth();                                             // rows of A and B, a multiple of BK
void multiply_steps_of(Tile tile, int begin, int end);  // sums = those steps of BK rows; ends with a barrier

// SHARES: work groups may share the depth of tiles; 0 where the registers that this takes would cost a resident group.
#ifndef SHARES
#define SHARES PACKED
#endif
#if SHARES
#include "share_depth.glsl"

int tile_count() { return conv.end_tile - conv.first_tile; }
int tile_steps() { return depth() / BK; }
void multiply_steps(int tile, int begin, int end) { multiply_steps_of(make_tile(conv.first_tile + tile, BM), begin, end); }
void store_tile(int tile) { store_sums(make_tile(conv.first_tile + tile, BM)); }
#else
void multiply_tiles() {
  FOR_EACH_TILE(BM, BN) {
    Tile tile = make_tile(tile_index, BM);
    multiply_steps_of(tile, 0, depth() / BK);
    store_sums(tile);
  }
}
#endif
