#version 430 core
// rdna3_dual_issue: direct convolution in the forms that RDNA3's compilers turn into dual-issued multiply-adds. A work
// group whose size is no multiple of 64 makes radeonsi choose wave32, without which there are none; the BM weights of a
// channel have the same index in all invocations, so they come through scalar registers, and BM x TN independent sums
// with one scalar and one vector operand each leave the register banks free to pair. tests/rdna3 counts the pairs.
#ifndef LOCAL
#define LOCAL 160  // invocations: 96, 160
#endif
#ifndef BM
#define BM 32  // filters a tile, even
#endif
#ifndef TN
#define TN 2  // pixels an invocation, even
#endif
#ifndef PADDED
#define PADDED 1  // 0: no tap lies in the padding
#endif
#define WEIGHTS_SCALAR 1
layout(local_size_x = LOCAL) in;

#include "common.glsl"

void main() {
  FOR_EACH_TILE(BM, LOCAL * TN) {
    Tile tile = make_tile(tile_index, BM);
    int first = tile.pixels * LOCAL * TN + int(gl_LocalInvocationIndex);
    Pixel pixels[TN];
    int at[TN];
    float sums[BM * TN];
    for (int j = 0; j < TN; ++j) {
      pixels[j] = make_pixel(min(first + j * LOCAL, pixel_count() - 1));
      at[j] = src_index(pixels[j].image, tile.group * channels_per_group(), pixels[j].y, pixels[j].x);
    }
    for (int i = 0; i < BM * TN; ++i) sums[i] = 0.0;

    int channels = channels_per_group(), step = channel_step();
#if PACKED
    int filter_index = WEIGHTS_OFFSET + tile.block * R * S * channels * BM;
#endif
    for (int tap = 0; tap < conv.r * conv.s; ++tap) {
      int r = tap / S;
      int dy = r * DILATION_H, dx = (tap - r * S) * DILATION_W;
      // A tap in the padding reads the chunk's first element of the channel instead, and a mask makes it zero: no branch
      // in the loop below, and an AND, unlike a selection, pairs with a multiply-add.
      uint mask[TN], index[TN];
      for (int j = 0; j < TN; ++j) {
        bool inside = PADDED == 0 || (uint(pixels[j].y + dy) < uint(conv.h) && uint(pixels[j].x + dx) < uint(conv.w));
        mask[j] = inside ? 0xFFFFFFFFu : 0u;
        index[j] = uint(inside ? at[j] + (dy * conv.w + dx) * column_step()
                               : src_index(0, tile.group * channels, 0, 0));
      }
      uint plane = 0u;  // of the channel; the same for all invocations, so its arithmetic costs no vector instruction
      for (int c = 0; c < channels; ++c) {
        float values[TN];
        for (int j = 0; j < TN; ++j) {
          values[j] = src[index[j] + plane];
          if (PADDED == 1) values[j] = uintBitsToFloat(floatBitsToUint(values[j]) & mask[j]);
        }
        plane += uint(step);
        float w[BM];
#if PACKED
        for (int i = 0; i < BM; ++i) w[i] = weights[filter_index + i];
        filter_index += BM;
#else
        for (int i = 0; i < BM; ++i) w[i] = filter1(tile, tap, c, i);
#endif
        // Along the diagonals of 2x2 squares: neighbours then differ in both operands, which lie in different banks.
        for (int i = 0; i < BM; i += 2)
          for (int j = 0; j < TN; j += 2)
            for (int n = 0; n < 4; ++n) {
              int y = i + n % 2, x = j + (n + n / 2) % 2;
              sums[y * TN + x] = fma(w[y], values[x], sums[y * TN + x]);
            }
      }
    }

    for (int j = 0; j < TN; ++j) {
      if (first + j * LOCAL >= pixel_count()) continue;
      int to = dst_index(first + j * LOCAL, tile.k), plane = NHWC == 1 ? 1 : conv.p * conv.q;
      for (int i = 0; i < BM; ++i)
        if (tile.k + i < tile.k_end) store(to + i * plane, sums[i * TN + j], bias[tile.k + i]);
    }
  }
}
