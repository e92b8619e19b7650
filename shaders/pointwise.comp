#version 430 core
// pointwise: 1x1 filters, stride 1, no padding: a plain GEMM, weights[K][C] * src[C][pixels]. Neither taps nor bounds
// inside an image; four pixels (NCHW) or four channels (NHWC) a load where they are aligned (SRC_VEC4).
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
#define BUFFERS 2
#define R 1
#define S 1

#include "gemm_tile.glsl"

#define QUADS_BN (BN / 4)
#define QUADS_BK (BK / 4)
#define SLOTS (PASSES_B > 4 ? PASSES_B : 4)

// Index of a pixel's channel 0 of the group; -1 past the last pixel. NCHW: four neighbouring pixels, NHWC: PASSES_B.
int pixel_at[SLOTS];

int find_pixel(Tile tile, int index) {
  if (index >= pixel_count()) return -1;
  int plane = conv.h * conv.w, image = index / plane;
  int at = index - image * plane, c = tile.group * channels_per_group();
  return SRC_OFFSET + (NHWC == 1 ? index * conv.c + c : (image * conv.c + c) * plane + at);
}

void find_pixels(Tile tile) {
  int first = tile.pixels * BN;
  if (NHWC == 1) {
    for (int i = 0; i < PASSES_B; ++i)
      pixel_at[i] = find_pixel(tile, first + local_index() / QUADS_BK + i * (LOCAL / QUADS_BK));
  } else {
    for (int i = 0; i < 4; ++i) pixel_at[i] = find_pixel(tile, first + local_index() % QUADS_BN * 4 + i);
  }
}

#if !SRC_VEC4
float load(int at, int c) {
  float value = 0.0;
  if (at >= 0 && c < channels_per_group()) value = src[at + c * channel_step()];
  return value;
}
#endif

void fetch_src(int c) {
  for (int pass = 0; pass < PASSES_B; ++pass) {
    int channel = NHWC == 1 ? c + local_index() % QUADS_BK * 4 : c + local_index() / QUADS_BN + pass * (LOCAL / QUADS_BN);
#if SRC_VEC4
    int at = NHWC == 1 ? pixel_at[pass] : pixel_at[0];
    stage_b[pass] = vec4(0.0);
    if (at >= 0 && channel < channels_per_group()) stage_b[pass] = src4[(at + channel * channel_step()) >> 2];
#else
    if (NHWC == 1) {
      int at = pixel_at[pass];
      stage_b[pass] = vec4(load(at, channel), load(at, channel + 1), load(at, channel + 2), load(at, channel + 3));
    } else {
      stage_b[pass] = vec4(load(pixel_at[0], channel), load(pixel_at[1], channel), load(pixel_at[2], channel),
                           load(pixel_at[3], channel));
    }
#endif
  }
}

void put_src(int buffer_index) {
  for (int pass = 0; pass < PASSES_B; ++pass) {
    if (NHWC == 1) {
      int pixel = local_index() / QUADS_BK + pass * (LOCAL / QUADS_BK), channel = local_index() % QUADS_BK * 4;
      for (int i = 0; i < 4; ++i)
        tile_b[buffer_index][(channel + i) * QUADS_BN + pixel / 4][pixel % 4] = stage_b[pass][i];
    } else {
      tile_b[buffer_index][local_index() + pass * LOCAL] = stage_b[pass];
    }
  }
}

void fetch(Tile tile, int step) {
  fetch_filters(tile, 0, step * BK);
  fetch_src(step * BK);
}

void main() {
  FOR_EACH_TILE(BM, BN) {
    Tile tile = make_tile(tile_index, BM);
    find_pixels(tile);
    clear_sums();
    int steps = padded_channels() / BK;
    fetch(tile, 0);
    put_filters(0);
    put_src(0);
    memoryBarrierShared();
    barrier();
    for (int step = 1; step <= steps; step += 2) {  // two at a time: which shared tile is known at compile time
      if (step < steps) fetch(tile, step);
      multiply(0);
      if (step < steps) {
        put_filters(1);
        put_src(1);
      }
      memoryBarrierShared();
      barrier();
      if (step == steps) break;
      if (step + 1 < steps) fetch(tile, step + 1);
      multiply(1);
      if (step + 1 < steps) {
        put_filters(0);
        put_src(0);
      }
      memoryBarrierShared();
      barrier();
    }
    store_tile(tile);
  }
}
