#version 430 core
// lds_64: implicit GEMM by 64 invocations over small shared tiles. Many small work groups: for problems with too few
// pixels or filters to fill the device with the tiles of large_256.
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

#include "gemm_steps.glsl"
#include "gather.glsl"

void main() { multiply_tiles(); }
