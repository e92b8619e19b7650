// B of the implicit GEMM for any filter size, stride, dilation and padding, without a division per element: what a
// pixel needs is worked out once, what a tap needs once a tap, and a step costs one addition a pixel.
//
// NCHW: an invocation stages a quad of pixels for PASSES_B channels. NHWC: four channels of PASSES_B pixels.
// POINTWISE: one tap without padding, so that every address of a pixel is inside. WHOLE_STEPS: the channels of a group
// are a multiple of BK.
#ifndef POINTWISE
#define POINTWISE 0
#endif
#ifndef WHOLE_STEPS
#define WHOLE_STEPS 0
#endif
#define SLOTS (PASSES_B > 4 ? PASSES_B : 4)
#define OUTSIDE (-0x40000000)  // stays negative whatever a channel adds

struct Slot {
  int at;    // index of tap (0, 0) at the first channel that this invocation stages
  int y, x;  // source position of tap (0, 0)
};
Slot slots[SLOTS];
int load_at[SLOTS];  // the same of the next step; OUTSIDE in the padding
int tap, channel;    // of the next step

int staged_channel() { return NHWC == 1 ? local_index() % QUADS_BK * 4 : local_index() / QUADS_BN; }

Slot make_slot(Tile tile, int index) {
#if POINTWISE
  index = min(index, pixel_count() - 1);  // what is past the last pixel is never stored
#endif
  Slot slot = Slot(OUTSIDE, OUTSIDE, 0);
  if (index < pixel_count()) {
    Pixel pixel = make_pixel(index);
    int first = tile.group * channels_per_group() + staged_channel();
#if POINTWISE && SRC_VEC4
    if (NHWC == 0) return Slot(src_index(pixel.image, first, 0, pixel.at), 0, 0);  // no stride: no division by rows
#endif
    slot = Slot(src_index(pixel.image, first, pixel.y, pixel.x), pixel.y, pixel.x);
  }
  return slot;
}

void select_tap() {
#if POINTWISE
  for (int i = 0; i < SLOTS; ++i) load_at[i] = slots[i].at + channel * channel_step();
#else
  int r = tap / S;
  int dy = r * DILATION_H, dx = (tap - r * S) * DILATION_W;
  int step = (dy * conv.w + dx) * column_step() + channel * channel_step();
  for (int i = 0; i < (NHWC == 1 ? PASSES_B : 4); ++i) {
    bool inside = uint(slots[i].y + dy) < uint(conv.h) && uint(slots[i].x + dx) < uint(conv.w);
    load_at[i] = inside ? slots[i].at + step : OUTSIDE;
  }
#endif
}

void begin_src(Tile tile, int step) {
  int first = tile.pixels * BN;
  if (NHWC == 1) {
    for (int i = 0; i < PASSES_B; ++i)
      slots[i] = make_slot(tile, first + local_index() / QUADS_BK + i * (LOCAL / QUADS_BK));
  } else {
    for (int i = 0; i < 4; ++i) slots[i] = make_slot(tile, first + quad_pixel(local_index() % QUADS_BN, i));
  }
#if POINTWISE
  tap = 0;
#else
  tap = step / (padded_channels() / BK);
#endif
  channel = step * BK - tap * padded_channels();
  select_tap();
}

// c: counted within the group.
bool loads(int at, int c) { return (POINTWISE == 1 || at >= 0) && (WHOLE_STEPS == 1 || c < channels_per_group()); }

#if SRC_VEC4
vec4 load4(int at, int c) {
  vec4 x = vec4(0.0);
  if (loads(at, c)) x = src4[at >> 2];
  return x;
}
#else
float load(int at, int c) {
  float x = 0.0;
  if (loads(at, c)) x = src[at];
  return x;
}
#endif

void fetch_src() {
#if !POINTWISE
  if (channel >= channels_per_group()) {
    channel = 0;
    ++tap;
    select_tap();
  }
#endif
  for (int pass = 0; pass < PASSES_B; ++pass) {
    if (NHWC == 1) {
      int at = load_at[pass], c = channel + staged_channel();
#if SRC_VEC4
      stage_b[pass] = load4(at, c);
#else
      stage_b[pass] = vec4(load(at, c), load(at + 1, c + 1), load(at + 2, c + 2), load(at + 3, c + 3));
#endif
    } else {
      int c = channel + staged_channel() + pass * (LOCAL / QUADS_BN), to = pass * (LOCAL / QUADS_BN) * channel_step();
#if SRC_VEC4
      stage_b[pass] = load4(load_at[0] + to, c);
#else
      stage_b[pass] = vec4(load(load_at[0] + to, c), load(load_at[1] + to, c), load(load_at[2] + to, c),
                           load(load_at[3] + to, c));
#endif
    }
  }
  channel += BK;
  for (int i = 0; i < SLOTS; ++i) load_at[i] += BK * channel_step();
}
