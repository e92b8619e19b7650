#version 430 core
// pointwise_split: 1x1 filters without padding, where work groups share the depth of a tile: for layers with few tiles.
#ifndef BM
#define BM 64  // filters a tile
#endif
#ifndef BN
#define BN 64  // pixels a tile
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
#define LOCAL 64  // invocations: BM/TM * BN/TN
#endif
#define R 1
#define S 1
#define POINTWISE 1

#include "gemm_steps.glsl"
#include "gather.glsl"

void main() { multiply_tiles(); }
