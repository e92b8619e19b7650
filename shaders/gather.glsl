// B of the implicit GEMM for any filter size, stride, dilation and padding, without a division per element: what a
// pixel needs is worked out once, what a tap needs once a tap, and a step costs one addition a pixel.
//
// POINTWISE: one tap without padding, so that every address of a pixel is inside.
#ifndef POINTWISE
#define POINTWISE 0
#endif
// What a tap needs to know of each pixel is worked out once a tile and shared; held in 12 registers it made tiles of 8x4
// sums up to 1.7 times slower (bench/NOTES.md). With one tap it is looked at once.
#ifndef ONE_TAP
#define ONE_TAP POINTWISE  // 1: R and S are 1
#endif
#define OUTSIDE (-0x40000000)  // stays negative whatever a channel adds

struct Slot {
  int at;    // index of tap (0, 0) at the first channel: of the group, with one tap of those that this invocation stages
  int y, x;  // source position of tap (0, 0)
};
#if ONE_TAP
Slot slots[4];  // of the pixels that this invocation stages
#else
shared Slot slots[BN];  // of the tile's pixels
#endif
int load_at[4];   // of the next step, each staged pixel; OUTSIDE in the padding
int tap, channel;  // of the next step

Slot make_slot(Tile tile, int index, int first_channel) {
#if POINTWISE
  index = min(index, pixel_count() - 1);  // what is past the last pixel is never stored
#endif
  Slot slot = Slot(OUTSIDE, OUTSIDE, 0);
  if (index < pixel_count()) {
    Pixel pixel = make_pixel(index);
    int first = tile.group * channels_per_group() + first_channel;
#if POINTWISE && SRC_VEC4
    return Slot(src_index(pixel.image, first, 0, pixel.at), 0, 0);  // no stride: no division by rows
#endif
    slot = Slot(src_index(pixel.image, first, pixel.y, pixel.x), pixel.y, pixel.x);
  }
  return slot;
}

void select_tap() {
#if POINTWISE
  for (int i = 0; i < 4; ++i) load_at[i] = slots[i].at + channel * channel_step();
#else
  int r = tap / S;
  int dy = r * DILATION_H, dx = (tap - r * S) * DILATION_W;
  int step = (dy * conv.w + dx) * column_step() + channel * channel_step();
#if !ONE_TAP
  step += staged_row() * channel_step();
#endif
  for (int i = 0; i < 4; ++i) {
#if ONE_TAP
    Slot slot = slots[i];
#else
    Slot slot = slots[quad_pixel(staged_quad(), i)];
#endif
    bool inside = uint(slot.y + dy) < uint(conv.h) && uint(slot.x + dx) < uint(conv.w);
    load_at[i] = inside ? slot.at + step : OUTSIDE;
  }
#endif
}

void begin_src(Tile tile, int step) {
  int first = tile.pixels * BN;
#if ONE_TAP
  for (int i = 0; i < 4; ++i) slots[i] = make_slot(tile, first + quad_pixel(staged_quad(), i), staged_row());
#else
  for (int e = local_index(); e < BN; e += LOCAL) slots[e] = make_slot(tile, first + e, 0);
  sync_tiles();
#endif
#if POINTWISE
  tap = 0;
#else
  tap = step / (padded_channels() / BK);
#endif
  channel = step * BK - tap * padded_channels();
  select_tap();
}

// What lies outside is loaded from anywhere inside, and becomes zero in staged_src(): a choice made here would wait for
// what is loaded, with all multiply-adds of the step before it (bench/NOTES.md). c: counted within the group.
bool loads(int at, int c) { return (POINTWISE == 1 || at >= 0) && (WHOLE_STEPS == 1 || c < channels_per_group()); }
int load_index(int at, int c) {
  if (WHOLE_STEPS == 1) return POINTWISE == 1 ? at : max(at, 0);
  return loads(at, c) ? at : 0;
}

void fetch_src() {
#if !POINTWISE
  if (channel >= channels_per_group()) {
    channel = 0;
    ++tap;
    select_tap();
  }
#endif
  for (int pass = 0; pass < PASSES_B; ++pass) {
    int c = channel + staged_row() + pass * ROWS_A_PASS, to = pass * ROWS_A_PASS * channel_step();
#if SRC_VEC4
    stage_b[pass] = src4[load_index(load_at[0] + to, c) >> 2];
#else
    for (int i = 0; i < 4; ++i) stage_b[pass][i] = src[load_index(load_at[i] + to, c)];
#endif
  }
  channel += BK;
  for (int i = 0; i < 4; ++i) load_at[i] += BK * channel_step();
}

// load_at and channel are one step ahead by now, of the same tap.
vec4 staged_src(int pass) {
  vec4 x = stage_b[pass];
  if (POINTWISE == 1 && WHOLE_STEPS == 1) return x;
  int c = channel - BK + staged_row() + pass * ROWS_A_PASS;
  for (int i = 0; i < 4; ++i)
    if (!loads(load_at[SRC_VEC4 == 1 ? 0 : i], c)) x[i] = 0.0;
  return x;
}
