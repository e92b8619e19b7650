#version 430 core
// flattened: implicit GEMM whose depth counts taps and channels in one, [R][S][CHANNELS], through a table of offsets in
// shared memory: for the first layer of a network, where steps that hold one tap would be mostly padding.
#ifndef R
#define R 3
#endif
#ifndef S
#define S 3
#endif
#ifndef CHANNELS
#define CHANNELS 3  // channels a group
#endif
#ifndef BM
#define BM 64  // filters a tile
#endif
#ifndef BN
#define BN 128  // pixels a tile
#endif
#ifndef BK
#define BK 8  // rows of the depth a step
#endif
#ifndef TM
#define TM 8  // filters an invocation
#endif
#ifndef TN
#define TN 8  // pixels an invocation
#endif
#ifndef LOCAL
#define LOCAL 128  // invocations: BM/TM * BN/TN
#endif
#define FLATTENED
#define ALONG_ROWS false  // so that a warp reads one entry of the table

#include "gemm_steps.glsl"

#define DEPTH ((R * S * CHANNELS + BK - 1) / BK * BK)
#define FAR 0x20000000  // a row that lies inside no image

// What a row of the depth adds to a pixel's index, row and column.
shared ivec3 rows[DEPTH];
Pixel pixels[4];
int pixel_at[4], row_of_depth;

void begin_src(Tile tile, int step) {
  for (int e = local_index(); e < DEPTH; e += LOCAL) {
    int tap = e / CHANNELS, r = tap / S;
    int dy = r * DILATION_H, dx = (tap - r * S) * DILATION_W;
    rows[e] = ivec3((dy * conv.w + dx) * column_step() + (e - tap * CHANNELS) * channel_step(),
                    e < R * S * CHANNELS ? dy : FAR, dx);
  }
  for (int i = 0; i < 4; ++i) {
    int index = tile.pixels * BN + quad_pixel(staged_quad(), i);
    pixels[i] = make_pixel(min(index, pixel_count() - 1));  // what is past the last pixel is never stored
    pixel_at[i] = src_index(pixels[i].image, tile.group * CHANNELS, pixels[i].y, pixels[i].x);
  }
  row_of_depth = step * BK + staged_row();
  sync_tiles();
}

bool inside[PASSES_B][4];  // what is staged; zeros are put in where it is used, as gather.glsl does

void fetch_src() {
  for (int pass = 0; pass < PASSES_B; ++pass) {
    ivec3 row = rows[row_of_depth + pass * ROWS_A_PASS];
    for (int i = 0; i < 4; ++i) {
      inside[pass][i] = uint(pixels[i].y + row.y) < uint(conv.h) && uint(pixels[i].x + row.z) < uint(conv.w);
      stage_b[pass][i] = src[inside[pass][i] ? pixel_at[i] + row.x : 0];
    }
  }
  row_of_depth += BK;
}

vec4 staged_src(int pass) {
  vec4 x = stage_b[pass];
  for (int i = 0; i < 4; ++i)
    if (!inside[pass][i]) x[i] = 0.0;
  return x;
}

void main() { multiply_tiles(); }
