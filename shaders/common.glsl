// What every variant shares: parameters, buffers, the order of tiles, weights, epilogue. shaders/README.md explains the
// defines; each has a default that works for every convolution, so a variant compiles alone.
//
//   src[N][C][H][W] or [N][H][W][C];  dst[N][K][P][Q] or [N][P][Q][K];  bias[K]
//   weights, PACKED 1: [block][tap][c][BM]: a block holds BM filters of one group, a tap is one (r, s), both padded with
//   zeros (c to C_PADDED); PACKED 0: [K][C/groups][R][S]
#ifndef PACKED
#define PACKED 0  // 1: the library's launch, which deals out tiles; 0: the public custom-shader contract
#endif

layout(std140, binding = 3) uniform Conv {
  int n, c, h, w, k, r, s, p, q;
  int stride_h, stride_w, pad_top, pad_left, pad_bottom, pad_right, dilation_h, dilation_w;
  int groups, data_layout, activation;
  float alpha, beta;
#if PACKED
  int first_tile, end_tile;    // tiles of this dispatch
  int first_block, block_end;  // filter blocks of this chunk; a tile is a pixel block times one of these
  int src_offset, weights_offset, dst_offset;  // floats to add to an index: a binding may start inside its memory
  int whole, share, extra;     // how work groups share the depth of tiles (share_depth.glsl)
#endif
} conv;

#ifndef R
#define R conv.r
#endif
#ifndef S
#define S conv.s
#endif
#ifndef STRIDE_H
#define STRIDE_H conv.stride_h
#endif
#ifndef STRIDE_W
#define STRIDE_W conv.stride_w
#endif
#ifndef DILATION_H
#define DILATION_H conv.dilation_h
#endif
#ifndef DILATION_W
#define DILATION_W conv.dilation_w
#endif
#ifndef GROUPS
#define GROUPS conv.groups
#endif
#ifndef NHWC
#define NHWC conv.data_layout  // 0: NCHW
#endif
#ifndef ACTIVATION
#define ACTIVATION conv.activation
#endif
#ifndef ACCUMULATE
#define ACCUMULATE 0  // 1: dst = activation(conv + bias + dst)
#endif
#ifndef SRC_VEC4
#define SRC_VEC4 0  // 1: what the variant loads four at a time starts at a multiple of four floats
#endif
#ifndef DST_VEC4
#define DST_VEC4 0  // 1: likewise for its stores
#endif

#if SRC_VEC4
layout(std430, binding = 0) readonly restrict buffer Src { vec4 src4[]; };
#else
layout(std430, binding = 0) readonly restrict buffer Src { float src[]; };
#endif
#if PACKED && !WEIGHTS_SCALAR
layout(std430, binding = 1) readonly restrict buffer Weights { vec4 weights4[]; };
#else
layout(std430, binding = 1) readonly restrict buffer Weights { float weights[]; };
#endif
#if DST_VEC4
layout(std430, binding = 2) restrict buffer Dst { vec4 dst4[]; };
#else
layout(std430, binding = 2) restrict buffer Dst { float dst[]; };
#endif
layout(std430, binding = 4) readonly restrict buffer Bias { float bias[]; };

#include "activation.glsl"

#if PACKED
#define SRC_OFFSET conv.src_offset
#define WEIGHTS_OFFSET conv.weights_offset
#define DST_OFFSET conv.dst_offset
#else
#define SRC_OFFSET 0
#define WEIGHTS_OFFSET 0
#define DST_OFFSET 0
#endif

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Which part of the convolution a work group computes.
struct Tile {
  int group;   // of channels
  int block;   // of filters, counted over all groups
  int k;       // first filter of the block, counted over all groups
  int k_end;   // end of the block's group
  int pixels;  // index of the pixel block
};

int filters_per_group() { return conv.k / GROUPS; }
int channels_per_group() { return conv.c / GROUPS; }
int pixel_count() { return conv.n * conv.p * conv.q; }

// Filter blocks run fastest: groups that are in flight together then share the same src.
Tile make_tile(int index, int filters_a_block) {
  int blocks_a_group = ceil_div(filters_per_group(), filters_a_block);
#if PACKED
  int begin = conv.first_block, blocks = conv.block_end - conv.first_block;
#else
  int begin = 0, blocks = blocks_a_group * conv.groups;
#endif
  Tile tile;
  tile.pixels = index / blocks;
  tile.block = begin + index - tile.pixels * blocks;
  tile.group = GROUPS == 1 ? 0 : tile.block / blocks_a_group;
  tile.k = tile.group * filters_per_group() + (tile.block - tile.group * blocks_a_group) * filters_a_block;
  tile.k_end = (tile.group + 1) * filters_per_group();
  return tile;
}

// main() of every variant. The library starts one work group a tile; a custom launch may be of any size, so groups
// stride over the tiles there.
#if PACKED
#define FOR_EACH_TILE(filters_a_block, pixels_a_block)                                                     \
  int tile_index = conv.first_tile + int(gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x);        \
  if (tile_index < conv.end_tile)
#else
#define FOR_EACH_TILE(filters_a_block, pixels_a_block)                                                     \
  int tiles = ceil_div(filters_per_group(), filters_a_block) * conv.groups * ceil_div(pixel_count(), pixels_a_block); \
  for (int tile_index = int(gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x); tile_index < tiles; \
       tile_index += int(gl_NumWorkGroups.x * gl_NumWorkGroups.y))
#endif

// Where a destination pixel (counted over n, p, q) reads and writes.
struct Pixel {
  int image, y, x;  // n and the source position of tap (0, 0); y, x may lie outside
  int at;           // p*Q + q
};

Pixel make_pixel(int index) {
  int plane = conv.p * conv.q;
  Pixel pixel;
  pixel.image = index / plane;
  pixel.at = index - pixel.image * plane;
  int row = pixel.at / conv.q;
  pixel.y = row * STRIDE_H - conv.pad_top;
  pixel.x = (pixel.at - row * conv.q) * STRIDE_W - conv.pad_left;
  return pixel;
}

// Index into src of channel c at (y, x), which must lie inside.
int src_index(int image, int c, int y, int x) {
  int at = NHWC == 1 ? ((image * conv.h + y) * conv.w + x) * conv.c + c : ((image * conv.c + c) * conv.h + y) * conv.w + x;
  return SRC_OFFSET + at;
}
int channel_step() { return NHWC == 1 ? 1 : conv.h * conv.w; }
int column_step() { return NHWC == 1 ? conv.c : 1; }

// Index into dst of filter k at the pixel `index`.
int dst_index(int index, int k) {
  if (NHWC == 1) return DST_OFFSET + index * conv.k + k;
  int plane = conv.p * conv.q;
  int image = index / plane;
  return DST_OFFSET + (image * conv.k + k) * plane + index - image * plane;
}

#if DST_VEC4
// Four neighbours in memory; `b` is their bias.
void store4(int index, vec4 sum, vec4 b) {
  vec4 x = sum + b;
  if (ACCUMULATE == 1) x += dst4[index >> 2];
  dst4[index >> 2] = vec4(activate(x.x), activate(x.y), activate(x.z), activate(x.w));
}
#else
void store(int index, float sum, float b) {
  float x = sum + b;
  if (ACCUMULATE == 1) x += dst[index];
  dst[index] = activate(x);
}
#endif

// Filters k .. k+3 of the block (k counted within it, a multiple of 4) at one tap and channel of the group.
#ifdef BM
#ifndef BK
#define BK 1
#endif
int padded_channels() { return ceil_div(channels_per_group(), BK) * BK; }

#if PACKED && !WEIGHTS_SCALAR
vec4 filters4(Tile tile, int tap, int c, int k) {
  return weights4[(WEIGHTS_OFFSET + ((tile.block * R * S + tap) * padded_channels() + c) * BM + k) >> 2];
}
#elif !PACKED
float filter1(Tile tile, int tap, int c, int k) {
  bool inside = tile.k + k < tile.k_end && c < channels_per_group();
  return inside ? weights[((tile.k + k) * channels_per_group() + c) * R * S + tap] : 0.0;
}
vec4 filters4(Tile tile, int tap, int c, int k) {
  return vec4(filter1(tile, tap, c, k), filter1(tile, tap, c, k + 1), filter1(tile, tap, c, k + 2),
              filter1(tile, tap, c, k + 3));
}
#endif
#endif
