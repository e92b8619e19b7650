#version 430 core
// winograd_src: V = B^T d B. One invocation a tile and channel; patches overlap by two, which the caches absorb.
#include "winograd.glsl"

layout(std430, binding = 0) readonly restrict buffer Src { float src[]; };
layout(std430, binding = 2) writeonly restrict buffer V { float v[]; };

void transform(inout float d[IN]) {
#if OUT == 4
  const float small = 0.70710678118654752, large = 1.41421356237309505;
  float first = fma(-2.5, d[2], d[0] + d[4]), last = fma(-2.5, d[3], d[1] + d[5]);
  float even1 = fma(-2.0, d[2], d[4]), odd1 = small * fma(-2.0, d[1], d[3]);
  float even2 = fma(-0.5, d[2], d[4]), odd2 = large * fma(-0.5, d[1], d[3]);
  d = float[IN](first, even1 + odd1, even1 - odd1, even2 + odd2, even2 - odd2, last);
#else
  d = float[IN](d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]);
#endif
}

void main() {
  int tile = my_tile(), channel = my_channel();
  if (tile >= conv.tiles_padded || channel >= conv.c_padded) return;
  Place place = place_of(tile);
  int y = place.y - conv.pad_top, x = place.x - conv.pad_left;
  bool live = tile < conv.tile_count && channel < conv.c;  // padding of V is zeros
#if NHWC
  int base = conv.src_offset + place.image * conv.h * conv.w * conv.c + channel, step = conv.c;
#else
  int base = conv.src_offset + (place.image * conv.c + channel) * conv.h * conv.w, step = 1;
#endif
  float d[IN][IN];  // [column][row]
  for (int s = 0; s < IN; ++s) {
    for (int r = 0; r < IN; ++r) {
      bool inside = live && uint(y + r) < uint(conv.h) && uint(x + s) < uint(conv.w);
      d[s][r] = 0.0;
      if (inside) d[s][r] = src[base + ((y + r) * conv.w + x + s) * step];
    }
    transform(d[s]);
  }
  int plane = conv.c_padded * conv.tiles_padded, at = channel * conv.tiles_padded + tile;
  for (int r = 0; r < IN; ++r) {
    float row[IN];
    for (int s = 0; s < IN; ++s) row[s] = d[s][r];
    transform(row);
    for (int s = 0; s < IN; ++s) v[at + (r * IN + s) * plane] = row[s];
  }
}
