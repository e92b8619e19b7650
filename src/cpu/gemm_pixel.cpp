// cpu.gemm with lanes along pixels (NCHW). The destination of one image and group is a K x PQ matrix; a panel is a few
// vectors of its columns. A thread packs the panel's im2col rows, [R][S][C/groups][pixels], into its own scratch and
// sweeps the weight blocks over it, so nothing but the panel is ever unfolded and no thread waits for another.
#include "cpu/cost.hpp"
#include "cpu/gemm_shape.hpp"
#include "cpu/parallel.hpp"

namespace convrt::cpu::gemm_detail {
namespace {

// Depth of a panel in rows: what fits half the L2 cache, next to the weights that stream through.
constexpr Index kPanelFloats = 96 * 1024;

// Tiles that one call of a kernel takes at most.
constexpr Index kStripTiles = 8;

struct Blocking {
  Blocking(const Shape& s, const Variant& v, const GemmKernels& k)
      : lanes(k.lanes),
        panel_pixels(Index{v.vectors} * k.lanes),
        // A copy writes whole vectors. What it spills within a panel row the next copy overwrites, but a copy that does
        // not start at column 0 may spill into the next panel row, unless there is room between them.
        panel_step(panel_pixels + (s.p > 1 || s.pad_left > 0 ? k.lanes : 0)),
        depth(s.r * s.s * s.group_c),
        panel_depth(std::min(depth, kPanelFloats / panel_step)),
        blocks(s.group_k, ceil_div(s.group_k, v.rows)),
        panels(ceil_div(s.p * s.q, panel_pixels)),
        in_place(reads_in_place(s, k.lanes)) {}
  Index lanes, panel_pixels, panel_step, depth, panel_depth;
  Split blocks;  // of the filters of a group
  Index panels;
  bool in_place;  // the planes of the source serve as im2col rows
};

// One panel: `count` pixels from `pixel` on in the flattened P x Q plane of image n, group g.
struct Panel {
  Index n, g, pixel, count;
};

// Packs panel rows [begin, end) of the depth, which counts (r, s, c) with c fastest.
void pack_panel(const Run& run, const Shape& s, const Blocking& b, const GemmKernels& kernels, const Panel& panel,
                Index begin, Index end, float* rows) {
  const Index plane = s.h * s.w;
  const float* src_end = run.src + s.n * s.c * plane;
  for (Index at = begin; at < end;) {
    const Index tap = at / s.group_c, c = at % s.group_c, depth = std::min(s.group_c - c, end - at);
    const float* channel = run.src + (panel.n * s.c + panel.g * s.group_c + c) * plane;
    const Index h_tap = tap / s.s * s.dilation_h - s.pad_top, w_tap = tap % s.s * s.dilation_w - s.pad_left;
    float* to = rows + (at - begin) * b.panel_step;
    const auto zero = [&](Index column, Index len) {
      if (len <= 0) return;
      for (Index i = 0; i < depth; ++i) std::fill_n(to + i * b.panel_step + column, len, 0.0F);
    };
    // A panel covers pieces of one or more destination rows.
    for (Index column = 0; column < panel.count;) {
      const Index p = (panel.pixel + column) / s.q, q = (panel.pixel + column) % s.q;
      const Index len = std::min(s.q - q, panel.count - column);
      const Index h = p * s.stride_h + h_tap, w = q * s.stride_w + w_tap;
      Index first = std::clamp<Index>(ceil_div(-w, s.stride_w), 0, len);
      Index last = std::clamp<Index>(ceil_div(s.w - w, s.stride_w), first, len);
      if (h < 0 || h >= s.h) first = last = 0;
      zero(column, first);
      if (first < last)
        kernels.copy({to + column + first, b.panel_step, channel + h * s.w + w + first * s.stride_w, plane, src_end,
                      depth, last - first, s.stride_w});
      zero(column + last, len - last);
      column += len;
    }
    at += depth;
  }
}

class PixelGemm {
 public:
  PixelGemm(const Run& run, const GemmKernels& kernels)
      : run_(run),
        kernels_(kernels),
        shape_(run.desc),
        blocking_(shape_, run.variant, kernels),
        finish_(run.desc.activation),
        scratch_step_(static_cast<Index>(pixel_scratch(shape_, run.variant))) {}

  Index units() const { return shape_.n * shape_.groups * blocking_.panels * blocking_.blocks.parts; }

  // Weight blocks of one panel follow each other, so a panel is packed once by each thread that has some of them.
  void work(Share share, int thread) const {
    float* scratch = run_.scratch + queue_floats(run_.threads) + thread * scratch_step_;
    Index packed = -1;
    for (Index begin = 0, end = 0; share.next(begin, end);)
      while (begin < end) {
        const Index at = begin / blocking_.blocks.parts, first = begin % blocking_.blocks.parts;
        const Index last = std::min(blocking_.blocks.parts, first + (end - begin));
        const Index image = at / blocking_.panels, pixel = at % blocking_.panels * blocking_.panel_pixels;
        const Panel panel = {image / shape_.groups, image % shape_.groups, pixel,
                             std::min(blocking_.panel_pixels, shape_.p * shape_.q - pixel)};
        sweep(panel, first, last, at == packed, scratch);
        packed = at;
        begin += last - first;
      }
  }

 private:
  // Weight blocks [first, last) over one panel, in depth chunks that keep the panel in cache. `packed`: the thread has
  // just had other weight blocks of this panel.
  void sweep(const Panel& panel, Index first, Index last, bool packed, float* scratch) const {
    // Filter rows that no pixel of the panel meets are skipped.
    const Shape::Range top = shape_.filter_rows(panel.pixel / shape_.q);
    const Shape::Range bottom = shape_.filter_rows((panel.pixel + panel.count - 1) / shape_.q);
    const Index row_depth = shape_.s * shape_.group_c;
    const Index begin = std::min(top.first, bottom.first) * row_depth;
    const Index end = std::max(begin, std::max(top.last, bottom.last) * row_depth);
    // Only a panel of whole vectors: the last row of the source ends where the buffer does.
    if (blocking_.in_place && panel.count % blocking_.lanes == 0) {
      const float* rows = run_.src + (panel.n * shape_.c + panel.g * shape_.group_c) * shape_.w + panel.pixel;
      const Split ahead(end, last - first);
      for (Index block = first, count = 0; block < last; block += count) {
        count = strip_blocks(block, last);
        // Every row of a panel lies in a page of its own, where the hardware does not guess what follows.
        for (Index c = ahead.begin(block - first); c < ahead.begin(block - first + count); ++c)
          for (Index x = 0; x < blocking_.panel_pixels; x += 16)
            __builtin_prefetch(rows + c * shape_.w + blocking_.panel_pixels + x, 0, 2);
        multiply(panel, block, count, begin, end, true, true, {rows, shape_.w}, scratch);
      }
      return;
    }
    Index at = begin;
    do {
      const Index chunk_end = std::min(end, at + blocking_.panel_depth);
      if (!packed || end - begin > blocking_.panel_depth)
        pack_panel(run_, shape_, blocking_, kernels_, panel, at, chunk_end, scratch);
      // A tile of its own takes what is not stored where it belongs, kZeros is the bias of one tile only.
      const bool single = chunk_end < end || panel.count % blocking_.lanes != 0;
      for (Index block = first, count = 0; block < last; block += count) {
        count = single ? 1 : strip_blocks(block, last);
        multiply(panel, block, count, at, chunk_end, at == begin, chunk_end == end, {scratch, blocking_.panel_step},
                 scratch);
      }
      at = chunk_end;
    } while (at < end);
  }

  struct Rows {
    const float* first;
    Index step;
  };

  // How many weight blocks before `last` make one call of a kernel: as many rows in each.
  Index strip_blocks(Index block, Index last) const {
    const Split& blocks = blocking_.blocks;
    const Index equal = (block < blocks.extra ? blocks.extra : blocks.parts) - block;
    return std::min({equal, last - block, kStripTiles});
  }

  // `count` weight blocks from `block` on, all of as many rows. More than one only for whole vectors and the last
  // chunk of the depth.
  void multiply(const Panel& panel, Index block, Index count, Index begin, Index end, bool is_first, bool is_last,
                Rows im2col, float* scratch) const {
    const Index rows = blocking_.blocks.count(block);
    const Index k = panel.g * shape_.group_k + blocking_.blocks.begin(block);
    const Index vectors = ceil_div(panel.count, blocking_.lanes);
    const Index out_step = shape_.p * shape_.q;
    float* out = run_.dst + (panel.n * shape_.k + k) * out_step + panel.pixel;

    const bool whole = panel.count == vectors * blocking_.lanes, accumulate = run_.desc.accumulate || !is_first;
    float* tile = whole ? out : scratch + blocking_.panel_depth * blocking_.panel_step;
    const Index tile_step = whole ? out_step : blocking_.panel_pixels;
    if (!whole && accumulate)
      for (Index m = 0; m < rows; ++m) std::copy_n(out + m * out_step, panel.count, tile + m * tile_step);
    const Finish finish = is_last ? finish_ : Finish({});
    kernels_.pixel[rows][vectors]({count,
                                   run_.weights + k * blocking_.depth + begin * rows,
                                   rows * blocking_.depth,
                                   im2col.first,
                                   im2col.step,
                                   end - begin,
                                   tile,
                                   tile_step,
                                   {is_last ? run_.bias + k : kZeros, accumulate, finish.low, finish.high}});
    for (Index m = 0; m < count * rows; ++m) {
      if (finish.row_pass)
        kernels_.activate_row(run_.desc.activation, tile + m * tile_step, static_cast<std::size_t>(panel.count));
      if (!whole) std::copy_n(tile + m * tile_step, panel.count, out + m * out_step);
    }
  }

  const Run& run_;
  const GemmKernels& kernels_;
  Shape shape_;
  Blocking blocking_;
  Finish finish_;
  Index scratch_step_;
};

}  // namespace

AlignedFloats pack_pixel(const Conv2dDesc& d, const Variant& variant, std::span<const float> weights, int threads) {
  const Index group_k = d.k / d.groups, group_c = d.c / d.groups, taps = Index{d.r} * d.s, depth = taps * group_c;
  const Split blocks(group_k, ceil_div(group_k, variant.rows));
  AlignedFloats packed(weights.size());
  for_each_task(threads, d.groups * blocks.parts, [&](Index unit, int) {
    const Index block = unit % blocks.parts, rows = blocks.count(block);
    const Index k = unit / blocks.parts * group_k + blocks.begin(block);
    pack_block(*gemm_kernels(variant.isa), weights.data() + k * depth, rows, rows, group_c, taps,
               packed.data() + k * depth);
  });
  return packed;
}

std::size_t pixel_scratch(const Shape& shape, const Variant& variant) {
  const Blocking b(shape, variant, *gemm_kernels(variant.isa));
  const Index tile = variant.rows * b.panel_pixels, spill = b.lanes;  // behind the last row of a panel
  return static_cast<std::size_t>(ceil_div(b.panel_depth * b.panel_step + tile + spill, 16) * 16);
}

void execute_pixel(const Run& run) noexcept {
  const PixelGemm gemm(run, *gemm_kernels(run.variant.isa));
  for_each_share(run.scratch, useful_threads(run.desc.flops(), run.threads), gemm.units(),
                 [&](Share share, int thread) { gemm.work(share, thread); });
}

}  // namespace convrt::cpu::gemm_detail
