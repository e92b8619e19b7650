#version 430 core
// basic_64: direct convolution. One invocation computes BM filters at one pixel, holding the sums in registers, so every
// src element it loads is used BM times. No shared memory, no constraint: valid for every convolution, and the best
// choice only for very small ones.
#ifndef BM
#define BM 8  // filters an invocation: 4, 8, 16
#endif
#define PIXELS 64
layout(local_size_x = PIXELS) in;

#include "common.glsl"

void store_filters(Tile tile, int index, int k, vec4 sum) {
  for (int i = 0; i < 4; ++i)
    if (tile.k + k + i < tile.k_end) store(dst_index(index, tile.k + k + i), sum[i], bias[tile.k + k + i]);
}

void compute(Tile tile, int index) {
  Pixel pixel = make_pixel(index);
  vec4 sum[BM / 4];
  for (int i = 0; i < BM / 4; ++i) sum[i] = vec4(0.0);
  for (int r = 0; r < R; ++r) {
    int y = pixel.y + r * DILATION_H;
    if (y < 0 || y >= conv.h) continue;
    for (int s = 0; s < S; ++s) {
      int x = pixel.x + s * DILATION_W;
      if (x < 0 || x >= conv.w) continue;
      int at = src_index(pixel.image, tile.group * channels_per_group(), y, x);
      for (int c = 0; c < channels_per_group(); ++c) {
        vec4 value = vec4(src[at + c * channel_step()]);
        for (int i = 0; i < BM / 4; ++i) sum[i] = fma(filters4(tile, r * S + s, c, 4 * i), value, sum[i]);
      }
    }
  }
  for (int i = 0; i < BM / 4; ++i) store_filters(tile, index, 4 * i, sum[i]);
}

void main() {
  FOR_EACH_TILE(BM, PIXELS) {
    Tile tile = make_tile(tile_index, BM);
    int index = tile.pixels * PIXELS + int(gl_LocalInvocationIndex);
    if (index < pixel_count()) compute(tile, index);
  }
}
