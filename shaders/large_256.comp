#version 430 core
// large_256: implicit GEMM by 256 invocations (medium_128: by 128, four work groups a processor of NVIDIA's instead of
// two, which hide one another's prologues and epilogues where the depth is short). For layers with many pixels and
// filters.
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

#include "gemm_steps.glsl"
#include "gather.glsl"

void main() { multiply_tiles(); }
