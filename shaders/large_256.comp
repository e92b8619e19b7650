#version 430 core
// large_256: implicit GEMM by 256 invocations. The next step's elements are fetched into registers while the current
// tile is multiplied, then put into the other of two shared tiles: one barrier a step, and memory latency hidden behind
// TM*TN*BK multiply-adds an invocation. For layers with many pixels and filters.
#ifndef BM
#define BM 64  // filters a tile
#endif
#ifndef BN
#define BN 64  // pixels a tile
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
#define LOCAL 256
#define BUFFERS 2
#ifndef UNROLL
#define UNROLL 0  // 1: ask NVIDIA's compiler to unroll all loops of constant length
#endif
#if UNROLL
#pragma optionNV(unroll all)
#endif

#include "gemm_tile.glsl"
#include "gather.glsl"

void main() {
  FOR_EACH_TILE(BM, BN) {
    Tile tile = make_tile(tile_index, BM);
    make_slots(tile);
    clear_sums();
    int tap = 0, c = 0, steps = R * S * (padded_channels() / BK);
    select_tap(0);
    fetch_filters(tile, 0, 0);
    fetch_src(0);
    put_filters(0);
    put_src(0);
    memoryBarrierShared();
    barrier();
    for (int step = 1; step <= steps; ++step) {
      bool more = step < steps;
      if (more) {
        c += BK;
        if (c >= channels_per_group()) {
          c = 0;
          select_tap(++tap);
        }
        fetch_filters(tile, tap, c);
        fetch_src(c);
      }
      multiply((step - 1) & 1);
      if (more) {
        put_filters(step & 1);
        put_src(step & 1);
      }
      memoryBarrierShared();
      barrier();
    }
    store_tile(tile);
  }
}
