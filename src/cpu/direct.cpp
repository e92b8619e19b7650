// cpu.direct: convolution without im2col, for few channels per group (the first layer of a network, grouped
// convolutions). A band of the source is copied once, zero-padded, so that a filter tap is one offset; the kernels
// (kernels/direct_kernels.cpp) walk a list of such offsets.
//
//   NCHW             one task: a band of one group's planes, all filters of the group
//   NHWC             one task: a band of one group's pixels, all filters of the group
//   NHWC, "lookup"   one task: a band of the channels that one vector of filters reads, several small groups at once
#include <algorithm>
#include <cstddef>
#include <string>

#include "cpu/algorithm.hpp"
#include "cpu/cost.hpp"
#include "cpu/kernels/direct_kernels.hpp"
#include "cpu/parallel.hpp"
#include "cpu/phase_planes.hpp"

namespace convrt::cpu {
namespace {

using Index = std::ptrdiff_t;

constexpr Index kIndexFloats = sizeof(Index) / sizeof(float);
constexpr int kMostGroupChannels = 64;  // beyond, the copied band outgrows the caches and cpu.gemm packs better

constexpr Index round_up(Index value, Index multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr Index ceil_div(Index value, Index by) { return (value + by - 1) / by; }

// Variant::rows and ::vectors are the register tile: filters x vectors of pixels (NCHW), pixels x vectors of filters
// (NHWC); vectors = 0 is the lookup kernel.
bool is_lookup(const Conv2dDesc& d, const Variant& variant) { return d.layout == Layout::nhwc && variant.vectors == 0; }

const DirectKernels::PixelsTile& lookup_tile(const Conv2dDesc& d, const DirectKernels& kernels) {
  return d.s == 3 && d.dilation_w == 1 && d.stride_w <= 2 ? kernels.lookup_columns[d.stride_w - 1] : kernels.lookup;
}

// NCHW: whether to convolve a band as one run of pixels, the padding columns between rows included, or row by row with
// the last vector of a row partly used. Whichever wastes less; a run needs a second pass over its sums (about 5 %).
bool is_flat(const Conv2dDesc& d, Index lanes) {
  return PhasePlanes::columns(d, d.q()) * 21 < round_up(d.q(), lanes) * 20;
}

// ---- Which kernels, and how long they take

struct Candidate {
  std::string tile;
  int rows, vectors;
  double used;  // fraction of computed lanes that are real
  double efficiency;
};

std::vector<Candidate> planes_candidates(const Conv2dDesc& d, const DirectKernels& kernels) {
  std::vector<Candidate> found;
  const int group_k = d.k / d.groups;
  // Lanes that hold a pixel: rounding up to vectors happens once a plane or once a row.
  const Index p = d.p(), q = d.q(), lanes = kernels.lanes;
  const Index computed =
      is_flat(d, lanes) ? round_up((p - 1) * PhasePlanes::columns(d, q) + q, lanes) : p * round_up(q, lanes);
  const double pixels = static_cast<double>(p * q) / static_cast<double>(computed);
  for (const DirectKernels::PlanesTile& tile : kernels.planes) {
    if (tile.filters >= 2 * group_k && tile.filters > 1) continue;
    const double used = group_k / static_cast<double>(round_up(group_k, tile.filters));
    found.push_back({std::to_string(tile.filters) + "x" + std::to_string(tile.vectors), tile.filters, tile.vectors,
                     used * pixels,
                     tile.filters >= 6   ? 0.93
                     : tile.filters >= 4 ? 0.85
                                         : 0.45});
  }
  return found;
}

std::vector<Candidate> pixels_candidates(const Conv2dDesc& d, const DirectKernels& kernels) {
  std::vector<Candidate> found;
  const int group_k = d.k / d.groups, group_c = d.c / d.groups, lanes = kernels.lanes;
  if (d.groups == 1 || 2 * group_k >= lanes) {
    const Index vectors = ceil_div(group_k, lanes);
    const DirectKernels::PixelsTile& tile = kernels.pixels[std::min<Index>(vectors, kernels.max_vectors) - 1];
    found.push_back({std::to_string(tile.pixels) + "x" + std::to_string(tile.vectors), tile.pixels, tile.vectors,
                     group_k / static_cast<double>(vectors * lanes),
                     tile.vectors == 1 && tile.pixels < 8 ? 0.75 : 0.92});
  }
  if (d.groups > 1 && lanes % group_k == 0 && group_c <= group_k)
    found.push_back({"lookup", kernels.lookup.pixels, 0, d.k / static_cast<double>(round_up(d.k, lanes)),
                     &lookup_tile(d, kernels) == &kernels.lookup ? 0.55 : 0.85});
  return found;
}

std::vector<Variant> variants(const Conv2dDesc& d, const CpuInfo& info, int threads) {
  std::vector<Variant> found;
  if (d.c / d.groups > kMostGroupChannels) return found;
  if (d.groups == d.c && d.k == d.c && d.c > 1) return found;  // cpu.depthwise shares loads between taps
  // The padded copy and finishing the sums: measured as about 0.2 ns an element in NCHW, half that in NHWC.
  const double bytes =
      (d.layout == Layout::nchw ? 4.0 : 2.0) * (static_cast<double>(d.src_size()) + static_cast<double>(d.dst_size()));
  for (const Isa isa : info.isas) {
    const DirectKernels* kernels = direct_kernels(isa);
    if (kernels == nullptr) continue;
    for (const Candidate& c :
         d.layout == Layout::nchw ? planes_candidates(d, *kernels) : pixels_candidates(d, *kernels)) {
      const double ms = predicted_ms(info, isa, d.flops() / c.used, c.efficiency, threads) +
                        memory_ms(bytes, useful_threads(d.flops(), threads));
      found.push_back({std::string("cpu.direct.") + to_string(isa) + "." + c.tile, isa, c.rows, c.vectors, ms});
    }
  }
  return found;
}

// ---- Weights

// Filters of a block that stand side by side in packed weights: MR (NCHW), up to max_vectors vectors (NHWC), one vector
// (lookup).
struct Blocks {
  Index per_slice;  // blocks in one slice: a group, or for lookup one vector of filters
  Index filters;    // filters that a full block holds
  Index slices;
  Index slice_k;  // filters of one slice
  Index slice_c;  // channels that it reads
  Index lanes;

  Blocks(const Conv2dDesc& d, const Variant& variant) : lanes(direct_kernels(variant.isa)->lanes) {
    if (is_lookup(d, variant)) {
      filters = slice_k = slice_c = lanes;
      slices = ceil_div(d.k, lanes);
    } else {
      filters = d.layout == Layout::nchw ? variant.rows : variant.vectors * lanes;
      slices = d.groups;
      slice_k = d.k / d.groups;
      slice_c = d.c / d.groups;
    }
    per_slice = ceil_div(slice_k, filters);
  }

  // Filters stored side by side in block b of a slice: the last NHWC block is cut to whole vectors.
  Index width(const Conv2dDesc& d, Index b) const {
    return d.layout == Layout::nchw ? filters : std::min(filters, round_up(slice_k - b * filters, lanes));
  }
  // Floats of a slice per tap.
  Index slice_width(const Conv2dDesc& d) const { return (per_slice - 1) * filters + width(d, per_slice - 1); }
};

// [slice][block][tap = (c, r, s)][filters of the block], zeros beyond the slice's last filter.
// lookup: [block of lanes][r][c of the group][s][lane].
AlignedFloats pack(const Conv2dDesc& d, const Variant& variant, std::span<const float> weights, int) {
  const Blocks blocks(d, variant);
  const Index window = Index{d.r} * d.s, group_c = d.c / d.groups, taps = group_c * window;
  const bool lookup = is_lookup(d, variant);
  AlignedFloats packed(static_cast<std::size_t>(blocks.slices * blocks.slice_width(d) * taps));
  float* to = packed.data();
  for (Index slice = 0; slice < blocks.slices; ++slice)
    for (Index b = 0; b < blocks.per_slice; ++b)
      for (Index tap = 0; tap < taps; ++tap) {
        const Index row = tap / (group_c * d.s), c = tap / d.s % group_c, column = tap % d.s;
        const Index from = lookup ? c * window + row * d.s + column : tap;
        const Index first = b * blocks.filters;
        for (Index i = 0; i < blocks.width(d, b); ++i) {
          const Index k = slice * blocks.slice_k + first + i;
          // NOLINTNEXTLINE(clang-analyzer-core.NullDereference): every extent is at least 1, so packed is not empty
          *to++ = first + i < blocks.slice_k && k < d.k ? weights[static_cast<std::size_t>(k * taps + from)] : 0.0F;
        }
      }
  return packed;
}

// ---- Geometry of bands

// Destination rows of a band: what a task copies and sums should stay in L1, but bands of few rows copy the rows that
// neighbours share too often. `row_floats` are needed per source row, `sum_floats` per destination row.
Index band_rows(const Conv2dDesc& d, Index row_floats, Index sum_floats, Index slices, int threads) {
  const Index l1 = static_cast<Index>(cpu_info().l1_bytes / sizeof(float));
  const Index l2 = static_cast<Index>(cpu_info().l2_bytes / sizeof(float));
  const Index halo = (Index{d.r} - 1) * d.dilation_h + 1 - d.stride_h, per_row = d.stride_h * row_floats + sum_floats;
  const auto fitting = [&](Index budget) { return (budget - halo * row_floats) / per_row; };
  Index rows = std::clamp<Index>(fitting(l1), 8, std::max<Index>(8, fitting(l2 / 2)));
  // Several threads: four tasks for each, so that they end together.
  const Index bands = threads == 1 ? 1 : ceil_div(Index{4} * threads, std::max<Index>(1, d.n * slices));
  rows = std::min(rows, std::max<Index>(1, d.p() / bands));
  return std::min<Index>(rows, d.p());
}

// Scratch: [tap offsets][padded bias][lookup table] then per thread [padded source][sums].
struct Shape {
  Blocks blocks;
  Index tap_count, taps_floats, bias_floats, lookup_floats;
  Index pitch = 0, padded_columns = 0;  // NHWC: floats of a pixel, pixels of a row
  Index row_stride = 0;                 // NCHW: of a phase plane
  bool flat = false;                    // NCHW: a band is one run of pixels, else row by row
  Index band;
  Index source_floats, sums_stride = 0, thread_floats;

  Shape(const Conv2dDesc& d, const Variant& variant, int threads) : blocks(d, variant) {
    const bool nchw = d.layout == Layout::nchw, lookup = is_lookup(d, variant);
    const Index group_c = d.c / d.groups, window = Index{d.r} * d.s;
    tap_count = lookup ? window : group_c * window;
    taps_floats = round_up(tap_count * kIndexFloats, 16);
    bias_floats = round_up(blocks.slices * blocks.slice_width(d), 16);
    lookup_floats = lookup ? round_up(group_c * blocks.lanes, 16) : 0;
    constexpr Index slack = 16;  // a vector may read this far beyond
    if (nchw) {
      flat = is_flat(d, blocks.lanes);
      row_stride = PhasePlanes::columns(d, flat ? d.q() : round_up(d.q(), blocks.lanes));
      const Index phases = PhasePlanes(d, 1, row_stride).phases_w;
      band = band_rows(d, group_c * phases * row_stride, flat ? variant.rows * row_stride : 0, blocks.slices, threads);
      source_floats = round_up(
          group_c * PhasePlanes(d, static_cast<int>(band), row_stride).size() + (variant.vectors + 1) * blocks.lanes,
          16);
      sums_stride = flat ? round_up(band * row_stride, 16) + slack : 0;
      thread_floats = source_floats + variant.rows * sums_stride;
    } else {
      pitch = lookup ? blocks.lanes : blocks.slice_c;
      padded_columns = (Index{d.q()} - 1) * d.stride_w + (Index{d.s} - 1) * d.dilation_w + 1;
      band = band_rows(d, padded_columns * pitch, 0, blocks.slices, threads);
      const Index beyond = lookup ? lookup_tile(d, *direct_kernels(variant.isa)).pixels * d.stride_w * pitch : slack;
      source_floats = round_up(source_rows(d, band) * padded_columns * pitch + beyond, 16);
      thread_floats = source_floats;
    }
  }

  static Index source_rows(const Conv2dDesc& d, Index band) {
    return (band - 1) * d.stride_h + (Index{d.r} - 1) * d.dilation_h + 1;
  }
  Index table_floats() const { return taps_floats + bias_floats + lookup_floats; }
};

std::size_t scratch_floats(const Conv2dDesc& d, const Variant& variant, int threads) {
  // Bands are longest, and so scratch per thread largest, where one thread runs.
  const Shape shape(d, variant, 1);
  return queue_floats(threads) + static_cast<std::size_t>(shape.table_floats() + threads * shape.thread_floats);
}

// What all tasks read.
struct Tables {
  const Index* taps;
  const float* bias;
  const std::int32_t* lookup;
};

// ---- NCHW

void planes_task(const Run& run, const Shape& shape, const DirectKernels& kernels, const Tables& tables, Index image,
                 Index group, Index first_p, float* scratch) {
  const Conv2dDesc& d = run.desc;
  const Blocks& blocks = shape.blocks;
  const Index group_c = blocks.slice_c, p_end = d.p(), q = d.q();
  const Index rows = std::min(shape.band, p_end - first_p);
  const bool joined = shape.row_stride == q;  // nothing stands between rows: they are one
  const PhasePlanes planes(d, static_cast<int>(shape.band), shape.row_stride);
  const float* src = run.src + (image * d.c + group * group_c) * d.h * d.w;
  for (Index c = 0; c < group_c; ++c)
    fill_phase_planes(d, planes, src + c * d.h * d.w, first_p, kernels.pad_row, scratch + c * planes.size());

  const auto* tile = std::find_if(std::begin(kernels.planes), std::end(kernels.planes),
                                  [&](const auto& t) { return t.filters == run.variant.rows; });
  const float* weights = run.weights + group * blocks.slice_width(d) * shape.tap_count;
  for (Index b = 0; b < blocks.per_slice; ++b, weights += blocks.filters * shape.tap_count) {
    const Index first = b * blocks.filters, k = group * blocks.slice_k + first;
    tile->run({.src = scratch,
               .taps = tables.taps,
               .tap_count = shape.tap_count,
               .weights = weights,
               .bias = tables.bias + group * blocks.slice_width(d) + first,
               .filters = static_cast<int>(std::min(blocks.filters, blocks.slice_k - first)),
               .sums = shape.flat ? scratch + shape.source_floats : nullptr,
               .sums_stride = shape.sums_stride,
               .row_stride = shape.row_stride,
               .rows = joined ? 1 : rows,
               .q = joined ? rows * q : q,
               .dst = run.dst + ((image * d.k + k) * p_end + first_p) * q,
               .dst_plane = p_end * q,
               .accumulate = d.accumulate,
               .activation = d.activation});
  }
}

// ---- NHWC

void pixels_task(const Run& run, const Shape& shape, const DirectKernels& kernels, const Tables& tables, Index image,
                 Index slice, Index first_p, float* scratch) {
  const Conv2dDesc& d = run.desc;
  const Blocks& blocks = shape.blocks;
  const bool lookup = is_lookup(d, run.variant);
  const Index group_c = d.c / d.groups, p_end = d.p(), q = d.q(), rows = std::min(shape.band, p_end - first_p);
  const Index first_c = lookup ? slice * blocks.lanes / (d.k / d.groups) * group_c : slice * blocks.slice_c;
  const Index row_floats = shape.padded_columns * shape.pitch;
  for (Index row = 0; row < Shape::source_rows(d, rows); ++row) {
    const Index h = first_p * d.stride_h - d.pad_top + row;
    const float* from = h >= 0 && h < d.h ? run.src + (image * d.h + h) * d.w * d.c + first_c : nullptr;
    kernels.pad_pixels(from, d.w, d.c, std::min(shape.pitch, d.c - first_c), d.pad_left, shape.padded_columns,
                       shape.pitch, scratch + row * row_floats);
  }

  const Index slice_width = blocks.slice_width(d), taps = group_c * d.r * d.s;
  for (Index b = 0; b < blocks.per_slice; ++b) {
    const Index first = b * blocks.filters, k = slice * blocks.slice_k + first;
    const auto& tile = lookup ? lookup_tile(d, kernels) : kernels.pixels[blocks.width(d, b) / blocks.lanes - 1];
    tile.run({.src = scratch,
              .row_step = d.stride_h * row_floats,
              .pixel_step = d.stride_w * shape.pitch,
              .taps = tables.taps,
              .tap_count = shape.tap_count,
              .weights = run.weights + (slice * slice_width + first) * taps,
              .bias = tables.bias + slice * slice_width + first,
              .lookup = tables.lookup,
              .group_c = group_c,
              .s = d.s,
              .rows = rows,
              .q = q,
              .dst = run.dst + (image * p_end + first_p) * q * d.k + k,
              .dst_pixel = d.k,
              .count = std::min({blocks.filters, blocks.slice_k - first, d.k - k}),
              .accumulate = d.accumulate,
              .activation = d.activation});
  }
}

// Raw scratch holds the tables; arrays of implicit-lifetime types begin to live in it.
Tables fill_tables(const Run& run, const Shape& shape, float* scratch) {
  const Conv2dDesc& d = run.desc;
  const Blocks& blocks = shape.blocks;
  const bool nchw = d.layout == Layout::nchw, lookup = is_lookup(d, run.variant);
  const Index group_c = d.c / d.groups, group_k = d.k / d.groups;
  Index* taps = reinterpret_cast<Index*>(scratch);
  const PhasePlanes planes(d, static_cast<int>(shape.band), nchw ? shape.row_stride : 1);
  for (Index c = 0, at = 0; c < (lookup ? 1 : group_c); ++c)
    for (Index r = 0; r < d.r; ++r)
      for (Index s = 0; s < d.s; ++s)
        taps[at++] = nchw ? c * planes.size() + planes.tap(r, s)
                          : (r * d.dilation_h * shape.padded_columns + s * d.dilation_w) * shape.pitch + c;

  float* bias = scratch + shape.taps_floats;
  for (Index slice = 0, at = 0; slice < blocks.slices; ++slice)
    for (Index i = 0; i < blocks.slice_width(d); ++i, ++at) {
      const Index k = slice * blocks.slice_k + i;
      bias[at] = i < blocks.slice_k && k < d.k ? run.bias[k] : 0.0F;
    }

  // Lane i of a vector of filters belongs to its group i / group_k, whose channel c stands group_c apart from the
  // next's.
  auto* channel = reinterpret_cast<std::int32_t*>(bias + shape.bias_floats);
  for (Index c = 0; c < group_c && lookup; ++c)
    for (Index i = 0; i < blocks.lanes; ++i)
      channel[c * blocks.lanes + i] = static_cast<std::int32_t>(i / group_k * group_c + c);
  return {taps, bias, channel};
}

void execute(const Run& run) noexcept {
  const Conv2dDesc& d = run.desc;
  const DirectKernels& kernels = *direct_kernels(run.variant.isa);
  const int threads = useful_threads(d.flops(), run.threads);
  const Shape shape(d, run.variant, threads);
  float* table_scratch = run.scratch + queue_floats(run.threads);
  const Tables tables = fill_tables(run, shape, table_scratch);
  const Index bands = ceil_div(d.p(), shape.band), slices = shape.blocks.slices, tasks = d.n * slices * bands;
  const auto run_task = [&](Index task, int thread) {
    // NHWC: slices stand side by side in a row of pixels, whose lines should still be in cache for the next one.
    const bool nchw = d.layout == Layout::nchw;
    const Index image = task / bands / slices, slice = nchw ? task / bands % slices : task % slices;
    const Index first_p = (nchw ? task % bands : task / slices % bands) * shape.band;
    float* scratch = table_scratch + shape.table_floats() + thread * shape.thread_floats;
    if (nchw)
      planes_task(run, shape, kernels, tables, image, slice, first_p, scratch);
    else
      pixels_task(run, shape, kernels, tables, image, slice, first_p, scratch);
  };
  constexpr double kSoon = 1e6;  // flops of a thread
  if (d.flops() < kSoon * threads) return for_each_task(threads, tasks, run_task);
  for_each_share(run.scratch, threads, tasks, [&](Share share, int thread) {
    for (Index begin = 0, end = 0; share.next(begin, end);)
      for (Index task = begin; task < end; ++task) run_task(task, thread);
  });
}

}  // namespace

const Algorithm direct = {variants, pack, scratch_floats, execute};

}  // namespace convrt::cpu
