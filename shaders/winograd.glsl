// What the three steps of Winograd's convolution share (Lavin and Gray, "Fast Algorithms for Convolutional Neural
// Networks", 2015): 3x3 filters, stride 1, OUT x OUT outputs from an IN x IN patch.
//
//   winograd_src   V = B^T d B of each tile's patch d
//   winograd_gemm  M[point] = U[point]^T V[point]
//   winograd_dst   dst = activation(A^T m A + bias + dst)
//
// Tiles are counted within a chunk and cut into blocks of BN, filters into blocks of BM. A block of the matrices is
// what a work group touches together, so each lies together in memory:
//
//   V[tile block][C][point][BN]    U[point][filter block][C][BM]    M[tile block][K][point][BN]
//
// C is padded with zeros to c_padded, K to whole blocks; tiles past tile_count hold anything. Points: 0, +-1, infinity
// (OUT 2); 0, +-1/sqrt(2), +-sqrt(2), infinity (OUT 4; a third of the rounding error of 0, +-1, +-2). U is made on the
// host.
#ifndef OUT
#define OUT 4
#endif
#define IN (OUT + 2)
#define POINTS (IN * IN)

#ifndef NHWC
#define NHWC 0
#endif
#ifndef BM
#define BM 128  // filters a block
#endif
#ifndef BN
#define BN 128  // tiles a block
#endif

layout(std140, binding = 3) uniform Conv {
  int c, h, w, k, p, q, pad_top, pad_left;
  int tiles_x, tiles_y;                // a whole image
  int first_tile, tile_count;          // of this chunk, counted over the images bound
  int tile_blocks, c_padded, k_padded;
  int src_offset, dst_offset;          // floats to add to an index: a binding may start inside its memory
  int activation;
  float alpha, beta;
  int src_tile_shift, dst_tile_shift;  // log2 of the tiles a work group of winograd_src and winograd_dst
  int point_major;                     // winograd_gemm: 1 if tile blocks run faster than points
  int whole, share, extra;             // winograd_gemm: how work groups share the depth (share_depth.glsl)
} conv;

#ifndef LOCAL
#define LOCAL 64
#endif
layout(local_size_x = LOCAL) in;

// Work groups are counted over x and y, since a device limits each.
int group_index() { return int(gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x); }

// A work group of a transform takes 2^TILE_SHIFT tiles of LOCAL >> TILE_SHIFT channels. Channels of the same tiles come
// one after the other: groups that run together then stay within few pages on both sides.
#ifndef TILE_SHIFT
#define TILE_SHIFT conv.src_tile_shift
#endif
struct Lane {
  int tile, channel;
};
// Lane `index` of this group, counted along tiles or, with `by_channel`, along channels.
Lane lane_of(int channels, int index, bool by_channel) {
  int a_group = LOCAL >> TILE_SHIFT, tiles = 1 << TILE_SHIFT;
  int groups = (channels + a_group - 1) / a_group, block = group_index() / groups;
  int first_tile = block << TILE_SHIFT, first_channel = (group_index() - block * groups) * a_group;
  if (by_channel) return Lane(first_tile + index / a_group, first_channel + index % a_group);
  return Lane(first_tile + (index & (tiles - 1)), first_channel + (index >> TILE_SHIFT));
}

// Index of point 0 in V or M, whose `channels` are c_padded or k_padded; the next point is BN further.
int matrix_index(int tile, int channel, int channels) {
  return ((tile / BN * channels + channel) * POINTS) * BN + tile % BN;
}

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
