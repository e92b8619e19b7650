#version 430 core
// large_256: implicit GEMM by 256 invocations. The next step's elements are fetched into registers while the current
// tile is multiplied, then put into the other of two shared tiles: one barrier a step, and memory latency hidden behind
// TM*TN*BK multiply-adds an invocation. For layers with many pixels and filters.
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
#define LOCAL 256
#define BUFFERS 2

#include "gemm_tile.glsl"
#include "gather.glsl"

int tap, channel;  // of the next fetch

void first_step() {
  tap = channel = 0;
  select_tap(0);
}

void fetch(Tile tile) {
  if (channel >= channels_per_group()) {
    channel = 0;
    select_tap(++tap);
  }
  fetch_filters(tile, tap, channel);
  fetch_src(channel);
  channel += BK;
}

void main() {
  FOR_EACH_TILE(BM, BN) {
    Tile tile = make_tile(tile_index, BM);
    make_slots(tile);
    clear_sums();
    first_step();
    int steps = R * S * (padded_channels() / BK);
    fetch(tile);
    put_filters(0);
    put_src(0);
    memoryBarrierShared();
    barrier();
    for (int step = 1; step <= steps; step += 2) {  // two at a time: which shared tile is known at compile time
      if (step < steps) fetch(tile);
      multiply(0);
      if (step < steps) {
        put_filters(1);
        put_src(1);
      }
      memoryBarrierShared();
      barrier();
      if (step == steps) break;
      if (step + 1 < steps) fetch(tile);
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
