// Work groups that share the depth of tiles, for GEMMs whose tiles are too few to fill the device or whose last round
// leaves processors idle ("Stream-K", Osama et al. 2023, https://arxiv.org/abs/2301.03598, with whole tiles before it).
//
//   The first conv.whole tiles of a dispatch have a work group each. The steps of all other tiles stand in one row that
//   is cut into stretches, one a work group, of conv.share steps or (the first conv.extra) one more. A stretch may end
//   one tile, hold others whole and begin the next. Of a tile that several stretches touch, each work group stores its
//   sums; the one that arrives last adds all of them, always in the same order, so the bits never depend on who is last.
//   Nobody ever waits.
//
// The including file says what a tile is, counted within the dispatch:
int tile_count();
int tile_steps();                                      // of each
void multiply_steps(int tile, int begin, int end);     // sums[TM][TN] = those steps; ends with a barrier
void store_tile(int tile);                             // sums, finished, to where they belong

layout(std430, binding = 5) coherent restrict buffer Partial { vec4 partial_sums[]; };  // [stretch][2][TM*TN/4][LOCAL]
layout(std430, binding = 6) coherent restrict buffer Arrived { uint arrived[]; };  // [shared tile]: 0 before and after a run
shared uint arrived_before;

// What a work group has left to do.
struct Stretch {
  int index;  // -1: a whole tile
  int tile, from, left;  // `left` steps, the first of them step `from` of `tile`
};
shared Stretch stretch;  // read again after a tile rather than held in registers, of which the steps have none to spare

int stretch_begin(int index) { return index * conv.share + min(index, conv.extra); }
int stretch_with(int step) {
  int in_longer = conv.extra * (conv.share + 1);
  return step < in_longer ? step / (conv.share + 1) : conv.extra + (step - in_longer) / conv.share;
}

Stretch make_stretch(int group) {
  if (group < conv.whole) return Stretch(-1, group, 0, tile_steps());
  int index = group - conv.whole, begin = stretch_begin(index), tile = begin / tile_steps();
  return Stretch(index, conv.whole + tile, begin - tile * tile_steps(), conv.share + (index < conv.extra ? 1 : 0));
}

// Where a stretch's sums of a tile are: it holds at most the end of one shared tile and the beginning of another.
int partial_at(int index, int first_step) {
  int second = stretch_begin(index) < first_step ? 1 : 0;
  return (2 * index + second) * (TM * TN / 4) * LOCAL + local_index();
}

// Of a tile of which this work group has a part: whether it is the last. Then sums are the tile's.
bool add_parts(int index, int tile) {
  int shared_tile = tile - conv.whole, first_step = shared_tile * tile_steps();
  int first = stretch_with(first_step), last = stretch_with(first_step + tile_steps() - 1);
  int at = partial_at(index, first_step);
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN; j += 4)
      partial_sums[at + (i * TN + j) / 4 * LOCAL] = vec4(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]);
  memoryBarrierBuffer();
  barrier();
  if (local_index() == 0) arrived_before = atomicAdd(arrived[shared_tile], 1u);
  sync_tiles();
  if (arrived_before != uint(last - first)) return false;
  memoryBarrierBuffer();
  if (local_index() == 0) arrived[shared_tile] = 0u;
  for (int i = 0; i < TM; ++i)
    for (int j = 0; j < TN; ++j) sums[i][j] = 0.0;
  for (int part = first; part <= last; ++part) {
    at = partial_at(part, first_step);
    for (int i = 0; i < TM; ++i)
      for (int j = 0; j < TN; j += 4) {
        vec4 x = partial_sums[at + (i * TN + j) / 4 * LOCAL];
        for (int e = 0; e < 4; ++e) sums[i][j + e] += x[e];
      }
  }
  return true;
}

// What main() of such a GEMM does. barrier() only where the whole work group comes by.
void multiply_tiles() {
  Stretch mine = make_stretch(int(gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x));
  if (mine.tile >= tile_count()) return;  // a launch may be rounded up
  for (;;) {
    if (local_index() == 0) stretch = mine;
    sync_tiles();
    multiply_steps(stretch.tile, stretch.from, min(stretch.from + stretch.left, tile_steps()));
    mine = stretch;
    int done = min(mine.from + mine.left, tile_steps()) - mine.from;
    if (done == tile_steps() || add_parts(mine.index, mine.tile)) store_tile(mine.tile);
    if (done == mine.left) return;
    mine = Stretch(mine.index, mine.tile + 1, 0, mine.left - done);
    sync_tiles();
  }
}
