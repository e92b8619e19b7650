#version 430 core
// few_channels: at most four channels a group, as in the first layer of a network. A GEMM tile would be mostly padding
// there, so this is a direct convolution: all weights of BM filters stand in shared memory, an invocation sums BM
// filters at TN pixels, and every weight it reads from there is used TN times.
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
#define BM 16  // filters a tile
#endif
#ifndef TN
#define TN 4  // pixels an invocation
#endif
#define LOCAL 128
layout(local_size_x = LOCAL) in;

#include "common.glsl"

#define VECS (R * S * CHANNELS * BM / 4)
shared vec4 filters[VECS];  // [R][S][CHANNELS][BM]

void load_filters(Tile tile) {
  for (int e = int(gl_LocalInvocationIndex); e < VECS; e += LOCAL) {
    int depth = e / (BM / 4);
    filters[e] = filters4(tile, depth / CHANNELS, depth % CHANNELS, e % (BM / 4) * 4);
  }
}

void store_pixel(Tile tile, int index, vec4 sums[BM / 4]) {
#if DST_VEC4  // NHWC
  for (int i = 0; i < BM / 4; ++i) {
    int k = tile.k + 4 * i;
    if (k < tile.k_end) store4(dst_index(index, k), sums[i], vec4(bias[k], bias[k + 1], bias[k + 2], bias[k + 3]));
  }
#else
  int at = dst_index(index, tile.k), step = NHWC == 1 ? 1 : conv.p * conv.q;
  for (int i = 0; i < BM / 4; ++i)
    for (int j = 0; j < 4; ++j) {
      int k = 4 * i + j;
      if (tile.k + k < tile.k_end) store(at + k * step, sums[i][j], bias[tile.k + k]);
    }
#endif
}

void main() {
  FOR_EACH_TILE(BM, LOCAL * TN) {
    Tile tile = make_tile(tile_index, BM);
    load_filters(tile);
    memoryBarrierShared();
    barrier();

    int first = tile.pixels * LOCAL * TN + int(gl_LocalInvocationIndex);
    Pixel pixels[TN];
    int at[TN];
    vec4 sums[TN][BM / 4];
    for (int j = 0; j < TN; ++j) {
      pixels[j] = make_pixel(min(first + j * LOCAL, pixel_count() - 1));
      at[j] = src_index(pixels[j].image, tile.group * CHANNELS, pixels[j].y, pixels[j].x);
      for (int i = 0; i < BM / 4; ++i) sums[j][i] = vec4(0.0);
    }
    // Bounds from the parameter block, not R and S: unrolled, these loops would be larger than instruction caches.
    for (int r = 0; r < conv.r; ++r)
      for (int s = 0; s < conv.s; ++s) {
        int dy = r * DILATION_H, dx = s * DILATION_W, tap = (r * S + s) * CHANNELS;
        for (int c = 0; c < CHANNELS; ++c) {
          float values[TN];
          for (int j = 0; j < TN; ++j) {
            values[j] = 0.0;
            if (uint(pixels[j].y + dy) < uint(conv.h) && uint(pixels[j].x + dx) < uint(conv.w))
              values[j] = src[at[j] + (dy * conv.w + dx) * column_step() + c * channel_step()];
          }
          for (int i = 0; i < BM / 4; ++i) {
            vec4 a = filters[(tap + c) * (BM / 4) + i];
            for (int j = 0; j < TN; ++j) sums[j][i] = fma(a, vec4(values[j]), sums[j][i]);
          }
        }
      }
    for (int j = 0; j < TN; ++j)
      if (first + j * LOCAL < pixel_count()) store_pixel(tile, first + j * LOCAL, sums[j]);
    barrier();
  }
}
