// How large_256, medium_128, lds_64, flattened and pointwise_split walk along the depth of a tile, whole or a part of it.
// Which src element stands where in B is the business of gather.glsl and flattened.comp: begin_src() and fetch_src().
//
//   A step is BK deep: a[BK][BM], b[BK][BN] in shared memory, both as vec4 so that a fragment is one 128-bit read, twice:
//   the next step's elements are fetched into registers while the current one is multiplied, then put into the other
//   pair: one barrier a step, and memory latency hidden behind TM*TN*BK multiply-adds an invocation.
//
//   ROLLED: for layers that a processor is done with after a few work groups. There the time that it takes to fetch the
//   kernel's text for the first time counts (on NVIDIA 2.4 us for 1,024 multiply-adds, bench/NOTES.md), so the text is
//   ROLLED rows of one step, walked by loops.
#ifndef ROLLED
#define ROLLED 0  // rows of a step that the text holds; 0: all, of two steps
#endif
#include "gemm_tile.glsl"

// A by rows of BM filters; B as gemm_tile.glsl says.
#if ROLLED
shared vec4 a[2][VECS_A], b[2][SIZE_B];
#define TEXT_ROWS ROLLED
#define ROUNDS (conv.n > 0 ? BK / ROLLED : 0)  // what no compiler knows, so that none writes the rounds out
#else
// Two pairs of tiles, each an array of its own and each read at an invocation's place plus a constant: a shared load is
// then one register plus an immediate.
shared vec4 a0[VECS_A], a1[VECS_A], b0[SIZE_B], b1[SIZE_B];
#define TEXT_ROWS BK
#define ROUNDS 1
#endif

// Rows of A and B; a step never crosses a tap.
#ifdef FLATTENED
int depth() { return ceil_div(R * S * CHANNELS, BK) * BK; }
#else
int depth() { return R * S * padded_channels(); }
#endif

void begin_src(Tile tile, int step);  // the next fetch_src() is of this step
void fetch_src();                     // a step's elements into stage_b
vec4 staged_src(int pass);            // them, zero where they lie outside

#if PACKED
int filters_at;  // of the next fetch, vec4s

void begin_filters(Tile tile, int step) {
  filters_at = ((WEIGHTS_OFFSET + tile.block * depth() * BM) >> 2) + step * VECS_A + local_index();
}
void fetch_filters(Tile tile) {
  for (int pass = 0; pass < PASSES_A; ++pass) stage_a[pass] = weights4[filters_at + pass * LOCAL];
  filters_at += VECS_A;
}
#else
int filters_row;  // of the next fetch

void begin_filters(Tile tile, int step) { filters_row = step * BK; }
void fetch_filters(Tile tile) {
#ifdef FLATTENED
  int channels = CHANNELS;
#else
  int channels = padded_channels();
#endif
  for (int pass = 0; pass < PASSES_A; ++pass) {
    int e = local_index() + pass * LOCAL, row = filters_row + e / (BM / 4), tap = row / channels;
    stage_a[pass] = tap < R * S ? filters4(tile, tap, row - tap * channels, e % (BM / 4) * 4) : vec4(0.0);
  }
  filters_row += BK;
}
#endif

void fetch(Tile tile) {
  fetch_filters(tile);
  fetch_src();
}

#define PUT_A(a) \
  for (int pass = 0; pass < PASSES_A; ++pass) a[local_index() + pass * LOCAL] = stage_a[pass];
#define PUT_B(b) \
  for (int pass = 0; pass < PASSES_B; ++pass) b[staged_place(pass)] = staged_src(pass);

// Row by row, pixels alternately forwards and backwards: neighbouring multiply-adds share an operand, which NVIDIA's
// operand cache keeps. The pixels of four rows are read at once: 1 % faster than row by row.
#define MULTIPLY(a, b)                                                                               \
  for (int first = 0; first < ROUNDS; ++first)                                                       \
    for (int d = 0; d < TEXT_ROWS; d += 4) {                                                         \
      vec4 y[TN];                                                                                    \
      for (int j = 0; j < TN; ++j)                                                                   \
        y[j] = b[(first * TEXT_ROWS + d + j % 4) * QUAD_LINE + j / 4 * GRID_COLUMNS + column];       \
      for (int e = 0; e < 4; ++e) {                                                                  \
        float x[TM];                                                                                 \
        for (int i = 0; i < TM; ++i)                                                                 \
          x[i] = a[(first * TEXT_ROWS + d + e) * (BM / 4) + i / 4 * GRID_ROWS + row][i % 4];         \
        for (int i = 0; i < TM; ++i)                                                                 \
          for (int jj = 0; jj < TN; ++jj) {                                                          \
            int j = i % 2 == 0 ? jj : TN - 1 - jj;                                                   \
            sums[i][j] = fma(x[i], y[j / 4 * 4 + e][j % 4], sums[i][j]);                             \
          }                                                                                          \
      }                                                                                              \
    }

// sums = the steps begin .. end-1 of the tile.
void multiply_steps_of(Tile tile, int begin, int end) {
  int row = grid_row(GRID_COLUMNS), column = grid_column(GRID_COLUMNS);
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN; ++j) sums[i][j] = 0.0;
  begin_filters(tile, begin);
  begin_src(tile, begin);
  fetch(tile);
#if ROLLED
  PUT_A(a[0])
  PUT_B(b[0])
  sync_tiles();
  int pair = 0;
  for (int step = begin + 1; step <= end; ++step) {
    if (step < end) fetch(tile);
    MULTIPLY(a[pair], b[pair])
    pair = 1 - pair;
    if (step < end) {
      PUT_A(a[pair])
      PUT_B(b[pair])
    }
    sync_tiles();
  }
#else
  PUT_A(a0)
  PUT_B(b0)
  sync_tiles();
  for (int step = begin + 1; step <= end; step += 2) {  // two at a time: which pair is known at compile time
    if (step < end) fetch(tile);
    MULTIPLY(a0, b0)
    if (step < end) {
      PUT_A(a1)
      PUT_B(b1)
    }
    sync_tiles();
    if (step == end) break;
    if (step + 1 < end) fetch(tile);
    MULTIPLY(a1, b1)
    if (step + 1 < end) {
      PUT_A(a0)
      PUT_B(b0)
    }
    sync_tiles();
  }
#endif
}
