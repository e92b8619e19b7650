#version 430 core
// pointwise: 1x1 filters without padding: a plain GEMM, weights[K][C] * src[C][pixels], where a stride only changes the
// address of a pixel. Neither taps nor bounds; four pixels (NCHW, stride 1) or four channels (NHWC) a load where they
// are aligned (SRC_VEC4).
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
#define R 1
#define S 1
#define POINTWISE 1

#include "gemm_tile.glsl"
#include "gather.glsl"

void main() { multiply_tiles(); }
