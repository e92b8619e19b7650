// What the three steps of Winograd's convolution share (Lavin and Gray, "Fast Algorithms for Convolutional Neural
// Networks", 2015): 3x3 filters, stride 1, OUT x OUT outputs from an IN x IN patch.
//
//   winograd_src   V[point][C][T] = B^T d B of each tile's patch d
//   winograd_gemm  M[point][K][T] = U[point][C][K]^T * V[point]
//   winograd_dst   dst = activation(A^T m A + bias + dst)
//
// T counts tiles of one chunk; C, K, T are padded to whole GEMM tiles. Points: 0, +-1, infinity (OUT 2);
// 0, +-1/sqrt(2), +-sqrt(2), infinity (OUT 4; a third of the rounding error of 0, +-1, +-2). U is made on the host.
#ifndef OUT
#define OUT 4
#endif
#define IN (OUT + 2)

layout(std140, binding = 3) uniform Conv {
  int c, h, w, k, p, q, pad_top, pad_left;
  int tiles_x, tiles_y;                        // a whole image
  int first_tile, tile_count;                  // of this chunk, counted over the images bound
  int tiles_padded, c_padded, k_padded;        // extents of V, U and M
  int src_offset, dst_offset;                  // floats to add to an index: a binding may start inside its memory
  int activation;
  float alpha, beta;
} conv;

#ifndef NHWC
#define NHWC 0
#endif

#ifndef LOCAL
#define LOCAL 64
#endif
layout(local_size_x = LOCAL) in;

// How a work group of a transform is laid out: neighbours read and write neighbouring memory on both sides of it.
#if NHWC
#define TILES_A_GROUP 8
#define CHANNELS_A_GROUP 8
#else
#define TILES_A_GROUP 64
#define CHANNELS_A_GROUP 1
#endif

int my_tile() { return int(gl_WorkGroupID.x) * TILES_A_GROUP + int(gl_LocalInvocationIndex) % TILES_A_GROUP; }
int my_channel() { return int(gl_WorkGroupID.y) * CHANNELS_A_GROUP + int(gl_LocalInvocationIndex) / TILES_A_GROUP; }

struct Place {
  int image, y, x;  // first output row and column of a tile
};

Place place_of(int tile) {
  int index = conv.first_tile + tile, tiles = conv.tiles_x * conv.tiles_y;
  Place place;
  place.image = index / tiles;
  index -= place.image * tiles;
  place.y = index / conv.tiles_x * OUT;
  place.x = (index - index / conv.tiles_x * conv.tiles_x) * OUT;
  return place;
}
