// B of the implicit GEMM for any filter size, stride, dilation and padding, without a division per element: what a
// pixel needs is worked out once, what a tap needs once a tap, and a channel costs one addition.
//
// NCHW: an invocation stages four neighbouring pixels of PASSES_B channels. NHWC: four channels of PASSES_B pixels.
#define SLOTS (PASSES_B > 4 ? PASSES_B : 4)

struct Slot {
  int at;    // index of tap (0, 0), channel 0 of the group
  int y, x;  // source position of tap (0, 0)
};
Slot slots[SLOTS];
int tap_at[SLOTS];  // index of the current tap, channel 0 of the group; -1 where it lies in the padding

#define QUADS_BN (BN / 4)
#define QUADS_BK (BK / 4)

Slot make_slot(Tile tile, int index) {
  Slot slot = Slot(0, -0x40000000, 0);  // past the last pixel: no tap is inside
  if (index < pixel_count()) {
    Pixel pixel = make_pixel(index);
    slot = Slot(src_index(pixel.image, tile.group * channels_per_group(), pixel.y, pixel.x), pixel.y, pixel.x);
  }
  return slot;
}

void make_slots(Tile tile) {
  int first = tile.pixels * BN;
  if (NHWC == 1) {
    for (int i = 0; i < PASSES_B; ++i)
      slots[i] = make_slot(tile, first + local_index() / QUADS_BK + i * (LOCAL / QUADS_BK));
  } else {
    for (int i = 0; i < 4; ++i) slots[i] = make_slot(tile, first + local_index() % QUADS_BN * 4 + i);
  }
}

void select_tap(int tap) {
  int r = tap / S;
  int dy = r * DILATION_H, dx = (tap - r * S) * DILATION_W;
  int step = (dy * conv.w + dx) * column_step();
  for (int i = 0; i < (NHWC == 1 ? PASSES_B : 4); ++i) {
    bool inside = uint(slots[i].y + dy) < uint(conv.h) && uint(slots[i].x + dx) < uint(conv.w);
    tap_at[i] = inside ? slots[i].at + step : -1;
  }
}

#if SRC_VEC4
vec4 load_channels(int at, int c) { return at >= 0 && c < channels_per_group() ? src4[(at + c) >> 2] : vec4(0.0); }
#else
float load(int at, int c) {
  float value = 0.0;
  if (at >= 0 && c < channels_per_group()) value = src[at + c * channel_step()];
  return value;
}
vec4 load_channels(int at, int c) { return vec4(load(at, c), load(at, c + 1), load(at, c + 2), load(at, c + 3)); }
#endif

// src elements of the current tap for the channels c .. c+BK-1 of the group.
void fetch_src(int c) {
  for (int pass = 0; pass < PASSES_B; ++pass) {
#if SRC_VEC4
    stage_b[pass] = load_channels(tap_at[pass], c + local_index() % QUADS_BK * 4);
#else
    if (NHWC == 1) {
      stage_b[pass] = load_channels(tap_at[pass], c + local_index() % QUADS_BK * 4);
    } else {
      int channel = c + local_index() / QUADS_BN + pass * (LOCAL / QUADS_BN);
      stage_b[pass] = vec4(load(tap_at[0], channel), load(tap_at[1], channel), load(tap_at[2], channel),
                           load(tap_at[3], channel));
    }
#endif
  }
}

void put_src(int buffer_index) {
  for (int pass = 0; pass < PASSES_B; ++pass) {
    if (NHWC == 1) {
      int pixel = local_index() / QUADS_BK + pass * (LOCAL / QUADS_BK), channel = local_index() % QUADS_BK * 4;
      for (int i = 0; i < 4; ++i)
        tile_b[buffer_index][(channel + i) * QUADS_BN + pixel / 4][pixel % 4] = stage_b[pass][i];
    } else {
      tile_b[buffer_index][local_index() + pass * LOCAL] = stage_b[pass];
    }
  }
}
