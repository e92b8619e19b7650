// cpu.winograd_f4x4.* and cpu.winograd_f2x2.*: 3x3 convolution with 4 and 2.25 times fewer products, fused per block
// of tiles: patches transformed (v) -> one matrix product per point (m) -> transformed back into dst. Only one block's
// v and m per thread ever exist.
//
// Error: |dst - exact| <= kappa * 2^-24 * the largest sum |w||x| over the outputs of the tile and one pixel around it:
// an output leaks into its tile's neighbours, also as NaN or infinity. kappa is 64 for F(4x4) and 8 for F(2x2), there
// 32 where all channels hold the same numbers, so that rounding errors add up. tests/winograd_test.cpp holds all three.
// Integers are exact under F(2x2), which adds quarters of them: 81 c max|w| max|x| < 2^22 suffices.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <thread>

#include "core/winograd.hpp"
#include "cpu/algorithm.hpp"
#include "cpu/cost.hpp"
#include "cpu/kernels/winograd_kernels.hpp"
#include "cpu/parallel.hpp"

namespace convrt::cpu {
namespace {

// Smaller layers spend their time in the transforms.
constexpr int kMinChannels = 16;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

const WinogradForm& form_of(const Conv2dDesc& desc, Isa isa, int m) {
  const WinogradKernels& kernels = *winograd_kernels(isa);
  if (desc.layout == Layout::nchw) return m == 2 ? kernels.f2x2_nchw : kernels.f4x4_nchw;
  return m == 2 ? kernels.f2x2_nhwc : kernels.f4x4_nhwc;
}

WinogradShape shape_of(const Conv2dDesc& d, int m) {
  WinogradShape s;
  s.c = d.c / d.groups;
  s.k = d.k / d.groups;
  s.src_channels = d.c;
  s.dst_channels = d.k;
  s.h = d.h;
  s.w = d.w;
  s.p = d.p();
  s.q = d.q();
  s.pad_top = d.pad_top;
  s.pad_left = d.pad_left;
  s.tiles_h = static_cast<int>(ceil_div(s.p, m));
  s.tiles_w = static_cast<int>(ceil_div(s.q, m));
  s.accumulate = d.accumulate;
  s.activation = d.activation;
  return s;
}

std::int64_t tile_count(const WinogradShape& s, int n) { return std::int64_t{n} * s.tiles_h * s.tiles_w; }

// How the work is cut: groups x blocks of tiles x ranges of weight panels, every piece on its own. Where a cut falls
// changes no sum, so results do not depend on the number of threads.
struct Cut {
  std::int64_t step = 1;     // tiles
  std::int64_t steps = 0;    // of all tiles
  std::int64_t blocks = 1;   // of nearly equal numbers of steps
  int splits = 1;            // of the panels; each transforms the block's patches again
  double multiply_adds = 0;  // of the busiest thread; transforms count as 15 per point and channel (measured)
  double weights_read = 0;   // by the busiest thread, floats
  double cost = 0;           // of it, in multiply-adds
};

// A weight that a thread reads once more, from L3 or from memory, in multiply-adds: they wait for it in part
// (measured).
constexpr double kCachedWeight = 2, kWeight = 8;

Cut cut_work(const WinogradForm& form, const WinogradShape& s, std::int64_t tiles, int m, int groups, int panel,
             int threads) {
  const int panels = static_cast<int>(ceil_div(s.k, panel));
  // Of an average tile: those at the edges that stick out lack as many as they lack rows and columns.
  const double points = static_cast<double>(s.p + 2 * s.tiles_h) / s.tiles_h * (s.q + 2 * s.tiles_w) / s.tiles_w;
  // Blocks of whole segments share most columns; finer ones are for teams that whole segments would leave unequal.
  const std::int64_t segment = s.tiles_w <= form.segment_tiles ? s.tiles_w : std::gcd(s.tiles_w, form.segment_tiles);
  Cut best;
  for (const std::int64_t step : {segment, std::int64_t{1}})
    for (int splits = 1; splits <= std::min(panels, threads); ++splits)
      for (const bool even : {false, true}) {
        Cut cut = {.step = step, .steps = ceil_div(tiles, step), .splits = splits};
        const std::int64_t least_blocks = ceil_div(cut.steps, kWinogradTiles / step);
        const std::int64_t pieces_per_block = std::int64_t{splits} * groups;
        cut.blocks =
            even ? ceil_div(least_blocks * pieces_per_block, threads) * threads / pieces_per_block : least_blocks;
        if (cut.blocks < least_blocks || cut.blocks > cut.steps) continue;
        const std::int64_t pieces = ceil_div(cut.blocks * pieces_per_block, threads);  // of the busiest thread
        const auto busy_tiles =
            static_cast<double>(std::min(ceil_div(cut.steps * pieces, cut.blocks) * step, tiles * pieces_per_block));
        const double filters = std::min<double>(s.k, static_cast<double>(ceil_div(panels, splits)) * panel);
        cut.multiply_adds = busy_tiles * points * (s.c * filters + 15 * (s.c + filters));
        cut.weights_read = static_cast<double>(pieces) * core::winograd_points(m) * s.c * filters;
        cut.cost = cut.multiply_adds + kWeight * cut.weights_read;
        if (best.cost == 0 || cut.cost < best.cost) best = cut;
      }
  return best;
}

// Half a register tile of filters takes this many times as long as half the time of a whole one.
constexpr double kHalfPanel = 1.08;

// What reading a weight again costs a machine, in multiply-adds.
double weight_cost(const Conv2dDesc& desc, int m, const CpuInfo& info) {
  const double packed = core::winograd_points(m) * static_cast<double>(desc.weights_size()) / 9 * sizeof(float);
  return packed < 0.6 * static_cast<double>(info.l3_bytes) && !has_slow_l3(info) ? kCachedWeight : kWeight;
}

// Filters of a panel: as many as a register tile has, or half as many where a large team can then divide the filters so
// finely that a thread's weights stay in its L2, and could not before; or that a thread reads so many fewer of them.
int best_panel(const WinogradForm& form, const WinogradShape& s, std::int64_t tiles, int m, int groups, int threads,
               std::size_t l2_bytes, double weight) {
  constexpr int kLeastHalf = 2 * kFilterLine;  // narrower, sums would wait for one another
  const int half = form.panel / 2;
  if (half < kLeastHalf || threads <= 2) return form.panel;
  const auto stays = [&](const Cut& cut) {
    return cut.weights_read * sizeof(float) <= 0.6 * static_cast<double>(l2_bytes);
  };
  const Cut whole = cut_work(form, s, tiles, m, groups, form.panel, threads);
  const Cut halved = cut_work(form, s, tiles, m, groups, half, threads);
  if (stays(whole)) return form.panel;
  if (stays(halved)) weight = kWeight;  // of those that do not
  const auto cost = [&](const Cut& cut, double panel) { return panel * cut.multiply_adds + weight * cut.weights_read; };
  return cost(halved, kHalfPanel) < cost(whole, 1) ? half : form.panel;
}

std::vector<Variant> variants(const Conv2dDesc& desc, const CpuInfo& info, int threads) {
  std::vector<Variant> found;
  if (desc.r != 3 || desc.s != 3 || desc.stride_h != 1 || desc.stride_w != 1 || desc.dilation_h != 1 ||
      desc.dilation_w != 1 || desc.c / desc.groups < kMinChannels || desc.k / desc.groups < kMinChannels)
    return found;
  for (const Isa isa : info.isas) {
    if (winograd_kernels(isa) == nullptr) continue;
    for (const int m : {4, 2}) {
      Variant variant;
      variant.name = std::string(m == 4 ? "cpu.winograd_f4x4." : "cpu.winograd_f2x2.") + to_string(isa);
      variant.isa = isa;
      variant.rows = m;
      const WinogradForm& form = form_of(desc, isa, m);
      const WinogradShape s = shape_of(desc, m);
      const std::int64_t tiles = tile_count(s, desc.n);
      const int team = useful_threads(desc.flops(), threads);
      const double weight = weight_cost(desc, m, info);
      const int panel = best_panel(form, s, tiles, m, desc.groups, team, info.l2_bytes, weight);
      variant.vectors = panel / form.filter_step;  // of a weight panel
      const Cut cut = cut_work(form, s, tiles, m, desc.groups, panel, team);
      variant.cost_ms = predicted_ms(info, isa, 2 * (cut.multiply_adds + weight * cut.weights_read), 0.93, 1) +
                        (team > 1 ? kForkJoinMs : 0);
      found.push_back(std::move(variant));
    }
  }
  return found;
}

int panel_of(const WinogradForm& form, const Variant& variant) { return variant.vectors * form.filter_step; }

// `count` filters, `step` floats apart, of which only `exist` are there; the others count as zeros.
void pack_filters(const WinogradForm& form, const float* weights, std::ptrdiff_t step, int count, std::ptrdiff_t exist,
                  float* to, std::ptrdiff_t point_floats) {
  if (exist >= count) return form.transform_filters(weights, step, count, to, point_floats);
  float padded[kFilterLine * 9] = {};
  for (std::ptrdiff_t f = 0; f < exist; ++f) std::copy_n(weights + f * step, 9, padded + 9 * f);
  form.transform_filters(padded, 9, count, to, point_floats);
}

// Channels whose filters are transformed before any is stored: for a point they are neighbours, for all they fit L2.
constexpr std::ptrdiff_t kPackedChannels = 8;

AlignedFloats pack(const Conv2dDesc& desc, const Variant& variant, std::span<const float> weights, int threads) {
  const int m = variant.rows;
  const WinogradForm& form = form_of(desc, variant.isa, m);
  const std::ptrdiff_t c_end = desc.c / desc.groups, k_end = desc.k / desc.groups;
  const std::ptrdiff_t padded_k = ceil_div(k_end, form.filter_step) * form.filter_step;
  const std::ptrdiff_t panel = panel_of(form, variant);
  const std::ptrdiff_t panels = ceil_div(k_end, panel), parts = ceil_div(c_end, kPackedChannels);
  const int points = core::winograd_points(m);
  AlignedFloats packed(static_cast<std::size_t>(desc.groups * padded_k * c_end * points));
  // Points of a panel often lie a multiple of 4 KiB apart, in one set of the L1 cache: they are staged a line more than
  // a power of two apart.
  const std::ptrdiff_t stage_step = kPackedChannels * panel + kFilterLine;
  const AlignedFloats stages(static_cast<std::size_t>(threads * points * stage_step));
  const auto pack_part = [&](std::ptrdiff_t task, float* stage) {
    const std::ptrdiff_t group = task / parts / panels, first = task / parts % panels * panel;
    const std::ptrdiff_t width = std::min<std::ptrdiff_t>(panel, padded_k - first);
    const std::ptrdiff_t begin = task % parts * kPackedChannels, end = std::min(c_end, begin + kPackedChannels);
    for (std::ptrdiff_t i = 0, count = 0; i < width; i += count) {
      count = width - i >= kFilterLine ? kFilterLine : kFilterQuad;
      const std::ptrdiff_t k = first + i;
      for (std::ptrdiff_t c = begin; c < end; ++c)
        pack_filters(form, weights.data() + ((group * k_end + k) * c_end + c) * 9, c_end * 9, static_cast<int>(count),
                     k_end - k, stage + (c - begin) * width + i, stage_step);
    }
    float* to = packed.data() + (group * padded_k + first) * c_end * points + begin * width;
    for (int point = 0; point < points; ++point)
      std::copy_n(stage + point * stage_step, (end - begin) * width, to + point * c_end * width);
  };
  for_each_task(threads, desc.groups * panels * parts, [&](std::ptrdiff_t task, int thread) {
    pack_part(task, stages.data() + thread * points * stage_step);
  });
  return packed;
}

// Floats per thread, each part a whole number of cache lines.
struct Scratch {
  std::size_t v, m, staging;
  Scratch(const WinogradForm& form, const WinogradShape& s, std::int64_t tiles) {
    const auto lines = [](std::size_t floats) { return (floats + 15) / 16 * 16; };
    const auto most = static_cast<int>(std::min<std::int64_t>(kWinogradTiles, tiles));
    v = lines(form.v_floats(s.c, most));
    m = lines(form.m_floats(most));
    staging = lines(form.staging_floats);
  }
  std::size_t all() const { return v + m + staging; }
};

std::size_t scratch_floats(const Conv2dDesc& desc, const Variant& variant, int threads) {
  const WinogradShape s = shape_of(desc, variant.rows);
  const Scratch scratch(form_of(desc, variant.isa, variant.rows), s, tile_count(s, desc.n));
  return queue_floats(threads) + scratch.all() * static_cast<std::size_t>(threads);
}

// One execution by a team. Pieces are shared out evenly; threads that have done theirs help others with the points of
// the panel they are at. A piece itself is too large to hand over: on a slow core one takes as long as two on a fast
// one.
class TeamRun {
 public:
  TeamRun(const Run& run, const WinogradForm& form, int threads)
      : run_(run),
        form_(form),
        s_(shape_of(run.desc, run.variant.rows)),
        tiles_(tile_count(s_, run.desc.n)),
        points_(core::winograd_points(run.variant.rows)),
        panel_(panel_of(form, run.variant)),
        panels_(static_cast<int>(ceil_div(s_.k, panel_))),
        cut_(cut_work(form, s_, tiles_, run.variant.rows, run.desc.groups, panel_, threads)),
        pieces_(cut_.blocks * cut_.splits * run.desc.groups),
        scratch_(form, s_, tiles_),
        queues_(make_queues(run.scratch, threads)) {}

  // Units of a thread's queue: the points of one panel of one piece, numbered over the thread's pieces and their
  // panels: 2^32 of them are hundreds of gigabytes of dst.
  void work(int thread, int team) const {
    WorkQueue& queue = queues_[thread];
    const std::uint32_t part = team == 1 ? 1 : 4;
    const std::int64_t first = first_piece(thread, team), last = first_piece(thread + 1, team);
    std::int64_t transformed = -1;
    for (std::int64_t piece = first; piece < last; ++piece) {
      const WinogradTask task = task_of(piece, thread);
      // Pieces of one block follow each other and share its v.
      if (const std::int64_t block = piece / cut_.splits; block != transformed) {
        form_.transform_input(task);
        transformed = block;
      }
      const auto split = static_cast<int>(piece % cut_.splits);
      for (int panel = panels_ * split / cut_.splits; panel < panels_ * (split + 1) / cut_.splits; ++panel) {
        const auto unit = static_cast<std::uint32_t>(((piece - first) * panels_ + panel) * points_);
        queue.post({unit, unit + static_cast<std::uint32_t>(points_)});
        for (WorkQueue::Units taken; (taken = queue.take_front(part)).count() > 0;) multiply(task, queue, taken);
        while (!queue.all_finished()) std::this_thread::yield();
        form_.finish(task, panel);
      }
    }
    queue.close();
  }

  // Until all are done.
  void help(int thread, int team) const {
    const auto closed = [](const WorkQueue& queue) { return queue.closed(); };
    while (!std::all_of(queues_, queues_ + team, closed))
      if (!help_fullest(thread, team)) std::this_thread::yield();
  }

 private:
  std::int64_t first_piece(int thread, int team) const { return pieces_ * thread / team; }

  WinogradTask task_of(std::int64_t piece, int owner) const {
    const std::int64_t block = piece / cut_.splits;  // over groups, too
    const std::ptrdiff_t group = block / cut_.blocks, at = block % cut_.blocks;
    const std::int64_t first = cut_.steps * at / cut_.blocks * cut_.step;
    const std::int64_t last = std::min(cut_.steps * (at + 1) / cut_.blocks * cut_.step, tiles_);
    const int tiles = static_cast<int>(last - first);
    const std::ptrdiff_t group_weights =
        std::ptrdiff_t{points_} * s_.c * ceil_div(s_.k, form_.filter_step) * form_.filter_step;
    const bool planes = run_.desc.layout == Layout::nchw;
    float* scratch = run_.scratch + queue_floats(run_.threads) + static_cast<std::size_t>(owner) * scratch_.all();
    return {s_,
            first,
            tiles,
            WinogradOrder(s_, run_.variant.rows, first, tiles),
            panel_,
            run_.weights + group * group_weights,
            run_.bias + group * s_.k,
            run_.src + group * s_.c * (planes ? std::ptrdiff_t{s_.h} * s_.w : 1),
            run_.dst + group * s_.k * (planes ? std::ptrdiff_t{s_.p} * s_.q : 1),
            scratch,
            scratch + scratch_.v,
            scratch + scratch_.v + scratch_.m};
  }

  void multiply(const WinogradTask& task, WorkQueue& queue, WorkQueue::Units units) const {
    const auto points = static_cast<std::uint32_t>(points_);
    const auto begin = static_cast<int>(units.begin % points);
    form_.multiply(task, static_cast<int>(units.begin / points % static_cast<std::uint32_t>(panels_)), begin,
                   begin + static_cast<int>(units.count()));
    queue.finish(units.count());
  }

  // Points of whoever has most left of a panel, one after the other.
  bool help_fullest(int thread, int team) const {
    // A last point is not worth it: v comes from another core's cache, and must go back when it is filled again.
    constexpr std::uint32_t kEnough = 1;
    WorkQueue* queue = fullest(queues_, team, thread, kEnough);
    if (queue == nullptr) return false;
    const auto owner = static_cast<int>(queue - queues_);
    constexpr std::uint32_t kOneOf = 64;  // points that a panel has at most
    std::optional<WinogradTask> task;
    std::int64_t piece = -1;
    while (queue->left() > kEnough) {
      const WorkQueue::Units taken = queue->take_back(kOneOf);
      if (taken.count() == 0) break;
      const std::int64_t of = first_piece(owner, team) + taken.begin / points_ / panels_;
      if (of != piece) task.emplace(task_of(of, owner));
      piece = of;
      multiply(*task, *queue, taken);
    }
    return task.has_value();
  }

  const Run& run_;
  const WinogradForm& form_;
  WinogradShape s_;
  std::int64_t tiles_;
  int points_, panel_, panels_;
  Cut cut_;
  std::int64_t pieces_;
  Scratch scratch_;
  WorkQueue* queues_;
};

void execute(const Run& run) noexcept {
  const int threads = useful_threads(run.desc.flops(), run.threads);
  const TeamRun team_run(run, form_of(run.desc, run.variant.isa, run.variant.rows), threads);
  for_each_thread(threads, [&](int thread, int team) {
    team_run.work(thread, team);
    team_run.help(thread, team);
  });
}

}  // namespace

const Algorithm winograd = {variants, pack, scratch_floats, execute};

}  // namespace convrt::cpu
