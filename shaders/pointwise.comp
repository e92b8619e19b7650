#version 430 core
// pointwise: 1x1 filters without padding: a plain GEMM, weights[K][C] * src[C][pixels], where a stride only changes the
// address of a pixel. Neither taps nor bounds inside an image; four pixels a load where they are aligned (SRC_VEC4: NCHW,
// stride 1).
#ifndef BM
#define BM 128  // filters a tile
#endif
#ifndef BN
#define BN 128  // pixels a tile
#endif
#ifndef BK
#define BK 8  // channels a step
#endif
#ifndef TM
#define TM 8  // filters an invocation
#endif
#ifndef TN
#define TN 8  // pixels an invocation
#endif
#ifndef LOCAL
#define LOCAL 256  // invocations: BM/TM * BN/TN
#endif
#define R 1
#define S 1

#include "gemm_tile.glsl"

// Both of two tiles in one array, addressed from the step's number: on NVIDIA a tenth faster here than the pairs and the
// running addresses of gemm_steps.glsl, which in turn suit gathers (bench/NOTES.md).
shared vec4 tile_a[2][VECS_A];
shared vec4 tile_b[2][SIZE_B];

void fetch_filters(Tile tile, int c) {
  for (int pass = 0; pass < PASSES_A; ++pass) {
    int e = local_index() + pass * LOCAL;
    stage_a[pass] = filters4(tile, 0, c + e / (BM / 4), e % (BM / 4) * 4);
  }
}

void put_filters(int pair) {
  for (int pass = 0; pass < PASSES_A; ++pass) tile_a[pair][local_index() + pass * LOCAL] = stage_a[pass];
}

// Always called with a literal, so that every shared read is one register plus an immediate. Row by row, pixels
// alternately forwards and backwards: neighbouring multiply-adds share an operand, which NVIDIA's operand cache keeps.
void multiply(int pair) {
  int row = grid_row(GRID_COLUMNS), column = grid_column(GRID_COLUMNS);
  for (int d = 0; d < BK; ++d) {
    float x[TM], y[TN];
    for (int i = 0; i < TM; ++i) x[i] = tile_a[pair][d * (BM / 4) + i / 4 * GRID_ROWS + row][i % 4];
    for (int j = 0; j < TN; ++j) y[j] = tile_b[pair][d * QUAD_LINE + j / 4 * GRID_COLUMNS + column][j % 4];
    for (int i = 0; i < TM; ++i)
      for (int jj = 0; jj < TN; ++jj) {
        int j = i % 2 == 0 ? jj : TN - 1 - jj;
        sums[i][j] = fma(x[i], y[j], sums[i][j]);
      }
  }
}

int pixel_at[4];  // index of each staged pixel's channel 0 of the group; -1 past the last pixel

int find_pixel(Tile tile, int index) {
  if (index >= pixel_count()) return -1;
  Pixel pixel = make_pixel(index);
  return src_index(pixel.image, tile.group * channels_per_group(), pixel.y, pixel.x);
}

void find_pixels(Tile tile) {
  for (int i = 0; i < 4; ++i) pixel_at[i] = find_pixel(tile, tile.pixels * BN + quad_pixel(staged_quad(), i));
}

// Zeros are chosen right where elements are loaded: unlike in gather.glsl, loading without a condition and choosing
// them later took this walk 9 % longer (bench/NOTES.md).
#if !SRC_VEC4
float load(int at, int c) {
  float value = 0.0;
  if (at >= 0 && c < channels_per_group()) value = src[at + c * channel_step()];
  return value;
}
#endif

void fetch_src(int c) {
  for (int pass = 0; pass < PASSES_B; ++pass) {
    int channel = c + staged_row() + pass * ROWS_A_PASS;
#if SRC_VEC4
    int at = pixel_at[0];
    stage_b[pass] = vec4(0.0);
    if (at >= 0 && channel < channels_per_group()) stage_b[pass] = src4[(at + channel * channel_step()) >> 2];
#else
    stage_b[pass] = vec4(load(pixel_at[0], channel), load(pixel_at[1], channel), load(pixel_at[2], channel),
                         load(pixel_at[3], channel));
#endif
  }
}

void put_src(int pair) {
  for (int pass = 0; pass < PASSES_B; ++pass) tile_b[pair][staged_place(pass)] = stage_b[pass];
}

void fetch(Tile tile, int step) {
  fetch_filters(tile, step * BK);
  fetch_src(step * BK);
}

int depth() { return padded_channels(); }

void multiply_steps_of(Tile tile, int begin, int end) {
  find_pixels(tile);
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN; ++j) sums[i][j] = 0.0;
  fetch(tile, begin);
  put_filters(0);
  put_src(0);
  sync_tiles();
  for (int step = begin + 1; step <= end; step += 2) {  // two at a time: which shared tile is known at compile time
    if (step < end) fetch(tile, step);
    multiply(0);
    if (step < end) {
      put_filters(1);
      put_src(1);
    }
    sync_tiles();
    if (step == end) break;
    if (step + 1 < end) fetch(tile, step + 1);
    multiply(1);
    if (step + 1 < end) {
      put_filters(0);
      put_src(0);
    }
    sync_tiles();
  }
}

void main() { multiply_tiles(); }
