// cpu.gemm with lanes along k. A tile is a few neighbouring pixels of one destination row times a few vectors of
// filters; source elements are broadcast from the image where it stands, or where that is slow (gemm_source.hpp) from
// what a chunk of tiles reads of it, turned. Taps that fall into the padding are left out: a tap that only some pixels
// of the tile meet is summed by a narrower kernel into the same tile.
#include "cpu/cost.hpp"
#include "cpu/gemm_source.hpp"
#include "cpu/parallel.hpp"

namespace convrt::cpu::gemm_detail {
namespace {

// A weight block stays in the cache while the tiles of a chunk pass, since sources are needed far less often. In NHWC
// weight blocks write neighbouring memory, a piece of each pixel at a time: a chunk is what the L2 cache keeps until
// all pieces are there, and threads take pixels rather than pieces of them, or each would fetch the other's lines.
// In NCHW it is images whose source the next weight block shall not fetch from memory again.
constexpr Index kChunkFloats = 64 * 1024, kChunkSourceFloats = 512 * 1024;  // of the destination, of the source

// In NCHW, pixels of one weight block until they are turned into rows of its planes, whole vectors of them at a time.
constexpr Index kStagedPixels = 64;

struct Blocking {
  Blocking(const Shape& s, const Variant& v, const GemmKernels& k)
      : lanes(k.lanes),
        vectors(ceil_div(s.group_k, k.lanes)),
        blocks(vectors, ceil_div(vectors, v.vectors)),
        row_tiles(s.q, ceil_div(s.q, v.rows)),
        columns(s.groups * blocks.parts),
        turned(s, v.rows, k.lanes),
        spans(turned.used ? s.n : 1),
        line_tiles(turned.used && turned.by_rows ? row_tiles.parts : 1),
        chunks(lines(s, row_tiles, turned)),
        tile_step(Index{v.vectors} * k.lanes),
        tile_floats((s.nhwc ? v.rows : kStagedPixels) * tile_step) {}

  static Split lines(const Shape& s, const Split& row_tiles, const TurnedSource& turned) {
    if (turned.used) {
      const Index most = s.nhwc ? std::max<Index>(1, kChunkFloats / (row_tiles.count(0) * s.k)) : turned.lines;
      return {turned.lines, ceil_div(turned.lines, std::min(most, turned.lines_of_chunk()))};
    }
    const Index tiles = s.n * s.p * row_tiles.parts;
    return {tiles, s.nhwc ? std::clamp<Index>(s.n * s.p * s.q * s.k / kChunkFloats, 1, tiles)
                          : std::clamp<Index>(s.n * s.c * s.h * s.w / kChunkSourceFloats, 1, s.n)};
  }

  Index lanes, vectors;
  Split blocks, row_tiles;  // of the vectors of a group, of the pixels of a row
  Index columns;            // weight blocks of all groups
  TurnedSource turned;
  Index spans, line_tiles;  // images, or all as one; tiles that no chunk divides
  Split chunks;             // of the lines of a span
  Index tile_step, tile_floats;
};

// Tiles that one call of a kernel takes at most: what a second pass (activate_row) finds in the L1 cache.
constexpr Index kStripTiles = 16;

// A strip of neighbouring tiles: pixels [q, q + tiles * pixels) of row p of image n, times one block of filters of
// group g. More than one tile only where they are inside.
struct Strip {
  Index n, p, q, tiles, pixels;
  bool inside;   // every pixel meets all filter columns
  Index staged;  // pixels that stand before it in the scratch
  Index g, first_vector, vectors;
  Shape::Range rows;  // of the filter, that meet the source
  Source source;
};

// Scratch of a thread: tiles, bias, runs, and behind them what is turned.
Index turned_at(const Shape& s, const Blocking& b) {
  const Index runs = s.r * s.s * static_cast<Index>(sizeof(TapRun) / sizeof(float));
  return ceil_div(b.tile_floats + b.tile_step + runs, 16) * 16;
}

Index thread_floats(const Shape& s, const Blocking& b) {
  return turned_at(s, b) + (b.turned.used ? ceil_div(b.turned.floats(b.chunks.count(0)), 16) * 16 : 0);
}

class ChannelGemm {
 public:
  ChannelGemm(const Run& run, const GemmKernels& kernels)
      : run_(run),
        kernels_(kernels),
        s_(channel_shape(run.desc, kernels.lanes)),
        b_(s_, run.variant, kernels),
        source_(run, s_, b_.turned, kernels),
        finish_(run.desc.activation),
        scratch_step_(thread_floats(s_, b_)),
        turned_at_(turned_at(s_, b_)),
        span_tiles_(b_.chunks.begin(b_.chunks.parts) * b_.line_tiles) {}

  Index units() const { return b_.columns * b_.spans * span_tiles_; }

  // Chunk by chunk, all tiles of one weight block first.
  void work(Share share, int thread) const {
    float* scratch = run_.scratch + queue_floats(run_.threads) + thread * scratch_step_;
    Source turned = {};
    Index turned_first = -1, turned_g = -1;
    for (Index begin = 0, end = 0; share.next(begin, end);)
      while (begin < end) {
        const Index span = begin / (b_.columns * span_tiles_), in_span = begin % (b_.columns * span_tiles_);
        const Index chunk = b_.chunks.part_of(in_span / (b_.columns * b_.line_tiles));
        const Index count = b_.chunks.count(chunk) * b_.line_tiles, before = b_.chunks.begin(chunk) * b_.line_tiles;
        const Index at = in_span - before * b_.columns, first = span * span_tiles_ + before;
        const Index column = at / count, tile = at % count, tiles = std::min(count - tile, end - begin);
        if (const Index g = column / b_.blocks.parts; b_.turned.used && (first != turned_first || g != turned_g)) {
          turned = source_.turned(pixels(first, count), g, scratch + turned_at_);
          turned_first = first, turned_g = g;
        }
        work(column, first + tile, tiles, turned, scratch);
        begin += tiles;
      }
  }

 private:
  // Of `count` tiles of one image from `first` on.
  Pixels pixels(Index first, Index count) const {
    const Index parts = b_.row_tiles.parts, last = first + count - 1, row = first / parts;
    Pixels found = {row / s_.p, row % s_.p, last / parts % s_.p + 1, 0, s_.q};
    if (!b_.turned.by_rows) {
      found.q_first = b_.row_tiles.begin(first % parts);
      found.q_last = b_.row_tiles.begin(last % parts + 1);
    }
    return found;
  }

  // `count` tiles from `first` on, counted over n, p, tiles of a row, times one weight block.
  void work(Index column, Index first, Index count, const Source& turned, float* scratch) const {
    const Index block = column % b_.blocks.parts;
    Index tile = first % b_.row_tiles.parts;
    const Index row = first / b_.row_tiles.parts;
    Strip t = {};
    t.n = row / s_.p;
    t.p = row % s_.p;
    t.g = column / b_.blocks.parts;
    t.rows = s_.filter_rows(t.p);
    t.first_vector = b_.blocks.begin(block);
    t.vectors = b_.blocks.count(block);
    t.source = b_.turned.used ? turned : source_.in_place(t.n, t.g);
    for (;;) {
      t.q = b_.row_tiles.begin(tile);
      t.pixels = b_.row_tiles.count(tile);
      measure(t, tile, count);
      compute(t, scratch);
      count -= t.tiles;
      tile += t.tiles;
      if (!s_.nhwc) {
        t.staged += t.tiles * t.pixels;
        const bool image_ends = t.p == s_.p - 1 && tile == b_.row_tiles.parts;
        if (count == 0 || image_ends || t.staged + b_.row_tiles.count(0) > kStagedPixels) store_staged(t, scratch);
      }
      if (count == 0) return;
      if (tile < b_.row_tiles.parts) continue;
      tile = 0;
      if (++t.p == s_.p) {
        t.p = 0;
        t.source = source_.in_place(++t.n, t.g);  // chunks of what is turned end before
      }
      t.rows = s_.filter_rows(t.p);
    }
  }

  bool direct(const Strip& t) const { return s_.nhwc && filters(t) == t.vectors * b_.lanes; }

  // Sets t.inside, and t.tiles to how many of `count` tiles, of which `t` and `tile` are the first, make a strip. No
  // divisions: tiles of a 1x1 convolution take but 400 cycles.
  void measure(Strip& t, Index tile, Index count) const {
    const Index first = t.q * s_.stride_w - s_.pad_left, tile_columns = t.pixels * s_.stride_w;
    const Index last = first + tile_columns - s_.stride_w + (s_.s - 1) * s_.dilation_w;
    t.inside = first >= 0 && last < s_.w;
    t.tiles = 1;
    if (!t.inside || (s_.nhwc && !direct(t))) return;
    const Index equal = (tile < b_.row_tiles.extra ? b_.row_tiles.extra : b_.row_tiles.parts) - tile;
    Index most = std::min({count, equal, kStripTiles});
    if (!s_.nhwc) most = std::min(most, (kStagedPixels - t.staged) / t.pixels);
    while (t.tiles < most && last + t.tiles * tile_columns < s_.w) ++t.tiles;
  }

  // Pixels [first, last) of the tile whose source column for filter column s lies inside the image.
  Shape::Range pixels_of(const Strip& t, Index s) const {
    const Index w = t.q * s_.stride_w - s_.pad_left + s * s_.dilation_w;
    return {std::max<Index>(0, ceil_div(-w, s_.stride_w)), std::min(t.pixels, ceil_div(s_.w - w, s_.stride_w))};
  }

  // Sums filter columns [s_begin, s_end), which pixels [range) of the tile all meet, into `out`.
  void sum(const Strip& t, Index s_begin, Index s_end, Shape::Range range, float* out, Index out_step,
           const Epilogue& epilogue, float* scratch) const {
    // Where all channels of neighbouring pixels are neighbours, those of neighbouring filter columns are one run.
    const bool adjacent = s_.dilation_w == 1 && t.source.depth_step == 1 && t.source.w_step == s_.group_c;
    const Index merged = adjacent ? std::max<Index>(1, s_end - s_begin) : 1;
    const Index width = t.vectors * b_.lanes, taps = s_.r * s_.s;
    const float* weights = run_.weights + (t.g * b_.vectors + t.first_vector) * b_.lanes * taps * s_.group_c;
    auto* runs = reinterpret_cast<TapRun*>(scratch);
    Index count = 0;
    for (Index r = t.rows.first; r < t.rows.last; ++r)
      for (Index s = s_begin; s < s_end; s += merged) {
        const Index h = t.p * s_.stride_h - s_.pad_top + r * s_.dilation_h;
        const Index w = (t.q + range.first) * s_.stride_w - s_.pad_left + s * s_.dilation_w;
        runs[count++] = {
            t.source.first + (h - t.source.h_first) * t.source.h_step + (w - t.source.w_first) * t.source.w_step,
            weights + (r * s_.s + s) * s_.group_c * width};
      }
    kernels_.channel[range.last - range.first][t.vectors]({t.tiles, runs, count, merged * s_.group_c,
                                                           s_.stride_w * t.source.w_step, t.source.depth_step,
                                                           out + range.first * out_step, out_step, epilogue});
  }

  void compute(const Strip& t, float* scratch) const {
    float* tile = scratch + t.staged * b_.tile_step;
    float* padded_bias = scratch + b_.tile_floats;
    float* runs = padded_bias + b_.tile_step;
    const Index width = t.vectors * b_.lanes, k = first_filter(t), k_count = filters(t);

    const bool direct = this->direct(t);
    float* out = direct ? first_output(t) : tile;
    const Index out_step = direct ? s_.k : b_.tile_step;
    const float* bias = run_.bias + k;
    if (k_count < width) bias = std::copy_n(bias, k_count, padded_bias) - k_count;

    bool accumulate = run_.desc.accumulate;
    if (accumulate && !direct) load(t, tile);

    const Shape::Range all = {0, t.pixels};
    // Filter columns that every pixel meets are neighbours; they come last and carry the epilogue.
    Index s_begin = 0, s_end = t.inside ? s_.s : 0;
    for (Index s = 0; s < s_.s && !t.inside && !t.rows.empty(); ++s) {
      const Shape::Range range = pixels_of(t, s);
      if (range.first == 0 && range.last == t.pixels) {
        if (s_end == 0) s_begin = s;
        s_end = s + 1;
      } else if (!range.empty()) {
        if (!accumulate)
          for (Index x = 0; x < t.pixels; ++x) std::fill_n(out + x * out_step, width, 0.0F);
        accumulate = true;
        const Finish none({});
        sum(t, s, s + 1, range, out, out_step, {kZeros, true, none.low, none.high}, runs);
      }
    }
    sum(t, s_begin, s_end, all, out, out_step, {bias, accumulate, finish_.low, finish_.high}, runs);

    if (finish_.row_pass)
      for (Index x = 0; x < t.tiles * t.pixels; ++x)
        kernels_.activate_row(run_.desc.activation, out + x * out_step, static_cast<std::size_t>(k_count));
    if (s_.nhwc && !direct)
      for (Index x = 0; x < t.pixels; ++x) std::copy_n(tile + x * b_.tile_step, k_count, first_output(t) + x * s_.k);
  }

  Index first_filter(const Strip& t) const { return t.g * s_.group_k + t.first_vector * b_.lanes; }
  Index filters(const Strip& t) const { return std::min(t.vectors * b_.lanes, s_.group_k - t.first_vector * b_.lanes); }

  float* first_output(const Strip& t) const {
    const Index pixel = t.p * s_.q + t.q, plane = s_.p * s_.q, k = first_filter(t);
    return run_.dst + (s_.nhwc ? (t.n * plane + pixel) * s_.k + k : (t.n * s_.k + k) * plane + pixel);
  }

  // Destination to a tile that cannot lie in the destination itself.
  void load(const Strip& t, float* tile) const {
    const float* dst = first_output(t);
    if (s_.nhwc)
      for (Index x = 0; x < t.pixels; ++x) std::copy_n(dst + x * s_.k, filters(t), tile + x * b_.tile_step);
    else
      kernels_.transpose({dst, s_.p * s_.q, tile, b_.tile_step, filters(t), t.tiles * t.pixels});
  }

  // To the planes what is staged, the pixels of `t` last.
  void store_staged(Strip& t, const float* scratch) const {
    kernels_.transpose_near(
        {scratch, b_.tile_step, first_output(t) + t.tiles * t.pixels - t.staged, s_.p * s_.q, t.staged, filters(t)});
    t.staged = 0;
  }

  const Run& run_;
  const GemmKernels& kernels_;
  Shape s_;
  Blocking b_;
  SourceReader source_;
  Finish finish_;
  Index scratch_step_, turned_at_, span_tiles_;
};

}  // namespace

AlignedFloats pack_channel(const Conv2dDesc& d, const Variant& variant, std::span<const float> weights, int threads) {
  const GemmKernels& kernels = *gemm_kernels(variant.isa);
  const Index lanes = kernels.lanes, group_k = d.k / d.groups, group_c = d.c / d.groups;
  const Index taps = Index{d.r} * d.s, depth = taps * group_c;
  const Index vectors = ceil_div(group_k, lanes);
  const Split blocks(vectors, ceil_div(vectors, variant.vectors));
  AlignedFloats packed(static_cast<std::size_t>(d.groups * vectors * lanes * depth));
  for_each_task(threads, d.groups * blocks.parts, [&](Index unit, int) {
    const Index block = unit % blocks.parts, g = unit / blocks.parts, begin = blocks.begin(block);
    const Index width = blocks.count(block) * lanes;
    const Index count = std::min(width, group_k - begin * lanes);
    const float* from = weights.data() + (g * group_k + begin * lanes) * depth;
    float* to = packed.data() + (g * vectors + begin) * lanes * depth;
    if (count < width)
      for (Index row = 0; row < depth; ++row) std::fill(to + row * width + count, to + (row + 1) * width, 0.0F);
    pack_block(kernels, from, count, width, group_c, taps, to);
  });
  return packed;
}

std::size_t channel_scratch(const Shape& shape, const Variant& variant) {
  return static_cast<std::size_t>(thread_floats(shape, Blocking(shape, variant, *gemm_kernels(variant.isa))));
}

void execute_channel(const Run& run) noexcept {
  const ChannelGemm gemm(run, *gemm_kernels(run.variant.isa));
  for_each_share(run.scratch, useful_threads(run.desc.flops(), run.threads), gemm.units(),
                 [&](Share share, int thread) { gemm.work(share, thread); });
}

}  // namespace convrt::cpu::gemm_detail
