#version 430 core
// lds_64: implicit GEMM by 64 invocations over one small shared tile. Many small work groups, few registers: for
// problems with too few pixels or filters to fill the device with the tiles of large_256.
#ifndef BM
#define BM 32  // filters a tile
#endif
#ifndef BN
#define BN 32  // pixels a tile
#endif
#ifndef BK
#define BK 16  // channels a step
#endif
#ifndef TM
#define TM 4  // filters an invocation
#endif
#ifndef TN
#define TN 4  // pixels an invocation
#endif
#define LOCAL 64
#define BUFFERS 1

#include "gemm_tile.glsl"
#include "gather.glsl"

void main() {
  FOR_EACH_TILE(BM, BN) {
    Tile tile = make_tile(tile_index, BM);
    make_slots(tile);
    clear_sums();
    for (int tap = 0; tap < R * S; ++tap) {
      select_tap(tap);
      for (int c = 0; c < channels_per_group(); c += BK) {
        fetch_filters(tile, tap, c);
        fetch_src(c);
        put_filters(0);
        put_src(0);
        memoryBarrierShared();
        barrier();
        multiply(0);
        barrier();
      }
    }
    store_tile(tile);
  }
}
