// cpu.depthwise: groups == c, any multiplier k / c. Bound by loads, not arithmetic; kernels/depthwise_kernels.cpp says
// how the vectors are arranged.
//
//   NCHW: a band of one channel is copied to zero-padded phase planes that stay in L1, then 4 rows at a time convolved.
//   NHWC: the source is read in place. Where a vector of destination channels is not a vector of source channels (a
//         multiplier, the last channels), rows are first expanded to whole vectors, each once, in a ring of R rows.
#include <algorithm>
#include <cstddef>
#include <string>

#include "cpu/algorithm.hpp"
#include "cpu/cost.hpp"
#include "cpu/kernels/depthwise_kernels.hpp"
#include "cpu/parallel.hpp"
#include "cpu/phase_planes.hpp"

namespace convrt::cpu {
namespace {

using Index = std::ptrdiff_t;

constexpr Index kPointerFloats = sizeof(Index) / sizeof(float);  // of an Index or a pointer
static_assert(sizeof(float*) == sizeof(Index));

constexpr Index round_up(Index value, Index multiple) { return (value + multiple - 1) / multiple * multiple; }

// 0, 1, 2 for filters of 3x3, 5x5, 7x7 that have kernels of their own, otherwise -1.
int filter_slot(const Conv2dDesc& d) {
  const bool dense = d.dilation_h == 1 && d.dilation_w == 1 && d.stride_h <= 2 && d.stride_w <= 2;
  if (!dense || d.r != d.s || d.r < 3 || d.r > 7 || d.r % 2 == 0) return -1;
  return (d.r - 3) / 2;
}

// Threads worth starting: a thread repays its wake-up after a few microseconds, and every kernel here does more than
// 50 GFLOP/s.
int threads_for(const Conv2dDesc& d, int threads) {
  constexpr double flops_per_thread = 3e5;
  return static_cast<int>(std::clamp(d.flops() / flops_per_thread, 1.0, static_cast<double>(threads)));
}

// Variant::rows: the filter size a kernel is made for, 0 for any.
std::vector<Variant> variants(const Conv2dDesc& d, const CpuInfo& info, int threads) {
  std::vector<Variant> found;
  if (d.groups != d.c || d.c == 1) return found;
  const double bytes = 4.0 * (static_cast<double>(d.src_size()) + static_cast<double>(d.dst_size()));
  const int used = threads_for(d, threads);
  for (const Isa isa : info.isas) {
    if (depthwise_kernels(isa) == nullptr) continue;
    const std::string prefix = std::string("cpu.depthwise.") + to_string(isa);
    const auto add = [&](const std::string& tile, int size, double efficiency) {
      const double ms = d.flops() / (peak_gflops(info, isa) * efficiency * used * 1e6);
      found.push_back(
          {prefix + "." + tile, isa, size, 0, std::max(ms, memory_ms(bytes, used)) + (used > 1 ? kForkJoinMs : 0)});
    };
    const double known = d.layout == Layout::nhwc || (isa == Isa::avx512 && d.r == 3) ? 0.8 : 0.5;
    // NHWC with a multiplier expands its source element by element.
    const double expanding = d.layout == Layout::nhwc && d.k != d.c ? 0.4 : 1;
    if (filter_slot(d) >= 0) add(std::to_string(d.r) + "x" + std::to_string(d.s), d.r, known * expanding);
    add("any", 0, 0.2 * expanding);
  }
  return found;
}

// NCHW: KCRS as it is. NHWC: [K/lanes][R][S][lanes], zeros beyond K.
AlignedFloats pack(const Conv2dDesc& d, const Variant& variant, std::span<const float> weights, int) {
  if (d.layout == Layout::nchw) {
    AlignedFloats copy(weights.size());
    std::copy(weights.begin(), weights.end(), copy.data());
    return copy;
  }
  const Index lanes = depthwise_kernels(variant.isa)->lanes, taps = Index{d.r} * d.s;
  const Index blocks = (d.k + lanes - 1) / lanes;
  AlignedFloats packed(static_cast<std::size_t>(blocks * taps * lanes));
  for (Index k = 0; k < blocks * lanes; ++k)
    for (Index tap = 0; tap < taps; ++tap)
      packed.data()[(k / lanes * taps + tap) * lanes + k % lanes] =
          k < d.k ? weights[static_cast<std::size_t>(k * taps + tap)] : 0.0F;
  return packed;
}

// ---- NCHW

// Destination rows per band: the planes of a band should fit in half the L1 cache beside what they become.
int band_rows(const Conv2dDesc& d, Index row_stride) {
  const Index budget = static_cast<Index>(cpu_info().l1_bytes / sizeof(float) / 2);
  int band = kStripRows;
  while (band < d.p() && PhasePlanes(d, band + kStripRows, row_stride).size() <= budget) band += kStripRows;
  return std::min(band, d.p());
}

struct NchwShape {
  Index row_stride;
  int band;
  PhasePlanes planes;
  Index table_floats;   // the tap offsets stand in front of the scratch
  Index thread_floats;  // planes of one thread

  NchwShape(const Conv2dDesc& d, Index lanes)
      : row_stride(round_up(PhasePlanes::columns(d, round_up(d.q(), lanes)), 16)),
        band(band_rows(d, row_stride)),
        planes(d, band, row_stride),
        table_floats(round_up((Index{d.r} + d.s) * kPointerFloats, 16)),
        thread_floats(planes.size()) {}
};

// One band of one channel through every filter of that channel.
void run_band(const Run& run, const DepthwiseKernels& kernels, const NchwShape& shape, const Index* offsets,
              Index image, Index channel, int first_row, float* scratch) {
  const Conv2dDesc& d = run.desc;
  const Index p_end = d.p(), q_end = d.q();
  const int rows = static_cast<int>(std::min<Index>(shape.band, p_end - first_row));
  const int multiplier = d.k / d.c;
  fill_phase_planes(d, shape.planes, run.src + (image * d.c + channel) * d.h * d.w, first_row, kernels.pad_row,
                    scratch);
  const DepthwiseKernels::Strip* strips =
      run.variant.rows == 0 ? kernels.any_strip : kernels.strip[(run.variant.rows - 3) / 2][d.stride_h - 1];
  const int tiles = (rows + kStripRows - 1) / kStripRows;
  for (int m = 0; m < multiplier; ++m) {
    const Index k = channel * multiplier + m;
    float* dst = run.dst + ((image * d.k + k) * p_end + first_row) * q_end;
    for (int tile = 0; tile < tiles; ++tile) {
      const int from = rows * tile / tiles, to = rows * (tile + 1) / tiles;
      strips[to - from - 1]({scratch + from * shape.row_stride, shape.row_stride,
                             shape.planes.phases_w * shape.planes.phase_size(), offsets + d.r, offsets,
                             run.weights + k * d.r * d.s, d.r, d.s, run.bias[k], dst + from * q_end, q_end, q_end,
                             d.accumulate, d.activation});
    }
  }
}

// In place: where the instruction set masks loads and both strides agree.
DepthwiseKernels::Planes planes_kernel(const Conv2dDesc& d, const Variant& variant) {
  if (variant.rows == 0 || d.stride_h != d.stride_w) return nullptr;
  return depthwise_kernels(variant.isa)->planes[(variant.rows - 3) / 2][d.stride_h - 1];
}

// Destination planes are one long list over images and filters, cut evenly among the threads; where planes are few,
// into bands of rows first.
void execute_planes(const Run& run, DepthwiseKernels::Planes kernel) {
  const Conv2dDesc& d = run.desc;
  const Index p_end = d.p(), q_end = d.q(), multiplier = d.k / d.c, planes = Index{d.n} * d.k;
  const int threads = threads_for(d, run.threads);
  const bool from_memory = (d.src_size() + d.dst_size()) * sizeof(float) > cpu_info().l3_bytes;
  const Index bands =
      threads == 1 || planes >= 8 * threads ? 1 : std::min<Index>(p_end, (8 * threads + planes - 1) / planes);
  for_each_task(threads, threads * bands, [&](Index task, int) {
    const Index slice = task / bands, band = task % bands;
    const Index first_p = p_end * band / bands, last_p = p_end * (band + 1) / bands;
    const Index end = planes * (slice + 1) / threads;
    // Weights begin anew with each image.
    for (Index at = planes * slice / threads, next; at < end; at = next) {
      const Index k = at % d.k;
      next = std::min(end, at - k + d.k);
      kernel({.src = run.src + at / multiplier * d.h * d.w,
              .h = d.h,
              .w = d.w,
              .pad_top = d.pad_top,
              .pad_left = d.pad_left,
              .weights = run.weights + k * d.r * d.s,
              .bias = run.bias + k,
              .dst = run.dst + at * p_end * q_end,
              .first_p = first_p,
              .last_p = last_p,
              .p = p_end,
              .q = q_end,
              .count = next - at,
              .multiplier = multiplier,
              .phase = k % multiplier,
              .taps = Index{d.r} * d.s,
              .from_memory = from_memory,
              .accumulate = d.accumulate,
              .activation = d.activation});
    }
  });
}

void execute_strips(const Run& run, const DepthwiseKernels& kernels) {
  const Conv2dDesc& d = run.desc;
  const NchwShape shape(d, kernels.lanes);
  // Written as objects of their own type into raw scratch; implicit-lifetime arrays allow that.
  Index* offsets = reinterpret_cast<Index*>(run.scratch);
  for (int r = 0; r < d.r; ++r) offsets[r] = shape.planes.row_offset(r);
  for (int s = 0; s < d.s; ++s) offsets[d.r + s] = shape.planes.column_offset(s);
  const Index bands = (d.p() + shape.band - 1) / shape.band;
  const Index tasks = Index{d.n} * d.c * bands;
  for_each_task(threads_for(d, run.threads), tasks, [&](Index task, int thread) {
    run_band(run, kernels, shape, offsets, task / bands / d.c, task / bands % d.c,
             static_cast<int>(task % bands) * shape.band,
             run.scratch + shape.table_floats + thread * shape.thread_floats);
  });
}

// ---- NHWC

// A task: a band of rows of neighbouring vectors of destination channels. Source channels stand where the kernels want
// them unless there is a multiplier or the vector is the last, partial one; those vectors are expanded first, a few
// rows at a time. Scratch per thread: [rows][W][lanes] source rows expanded to whole vectors, then one bias vector.
struct NhwcShape {
  Index lanes, blocks;    // vectors of destination channels
  Index in_place;         // the first ones, which need no expansion
  Index at_once;          // vectors of one kernel call
  Index bands, slabs;     // tasks of an image: [bands of rows][slabs of vectors]
  Index expand_rows = 0;  // destination rows per expansion
  Index row_floats;       // of an expanded row
  Index expanded_floats = 0, thread_floats;

  NhwcShape(const Conv2dDesc& d, Index vector_lanes, int threads)
      : lanes(vector_lanes),
        blocks((d.k + lanes - 1) / lanes),
        in_place(d.k == d.c ? d.k / lanes : 0),
        at_once(vectors_at_once(d)),
        slabs(1),
        row_floats(d.w * lanes) {
    // As many tasks as threads. Rows are shared out first: two threads that write neighbouring channels of a pixel take
    // cache lines from each other's prefetchers. Tiles are two rows high.
    while (threads % slabs != 0 || threads / slabs > (d.p() + 1) / 2) ++slabs;
    bands = threads / slabs;
    if (in_place < blocks) {
      expand_rows = std::min(d.p(), 8);
      expanded_floats = std::min<Index>(d.h, source_rows(d)) * row_floats;
    }
    thread_floats = round_up(expanded_floats + lanes, 16);
  }

  // Source rows of one expansion.
  Index source_rows(const Conv2dDesc& d) const {
    return (expand_rows - 1) * d.stride_h + (Index{d.r} - 1) * d.dilation_h + 1;
  }

 private:
  // The more the better for the prefetchers, but the source rows that the next row of tiles shares should stay in L2.
  Index vectors_at_once(const Conv2dDesc& d) const {
    const Index rows = (Index{d.r} - 1) * d.dilation_h + 1 + d.stride_h;
    const Index l2 = static_cast<Index>(cpu_info().l2_bytes / sizeof(float));
    return std::clamp<Index>(l2 / 2 / (rows * d.w * lanes), 4, 64);
  }
};

// Source rows [first, last] of the channels that destination channels [k0, k0 + count) read, as whole vectors.
void expand_rows(const Run& run, const NhwcShape& shape, Index image, Index k0, Index count, Index first, Index last,
                 float* to) {
  const Conv2dDesc& d = run.desc;
  const Index multiplier = d.k / d.c;
  const float* from = run.src + (image * d.h + first) * d.w * d.c;
  for (Index pixel = (last - first + 1) * d.w; pixel > 0; --pixel, from += d.c, to += shape.lanes) {
    for (Index i = 0, c = k0 / multiplier, m = k0 % multiplier; i < count; ++i) {
      to[i] = from[c];
      if (++m == multiplier) m = 0, ++c;
    }
    for (Index i = count; i < shape.lanes; ++i) to[i] = 0;
  }
}

// Rows [first_p, last_p) of `count` destination channels from k0 on; they begin a vector.
void run_vectors(const Run& run, const DepthwiseKernels& kernels, const NhwcShape& shape, Index image, Index k0,
                 Index count, Index first_p, Index last_p, float* scratch) {
  const Conv2dDesc& d = run.desc;
  const Index p_end = d.p(), q_end = d.q();
  DepthwisePixels a{.src = run.src + image * d.h * d.w * d.c + k0,
                    .blocks = (count + shape.lanes - 1) / shape.lanes,
                    .row_stride = Index{d.w} * d.c,
                    .pixel_stride = d.c,
                    .first_h = 0,
                    .h = d.h,
                    .w = d.w,
                    .r = d.r,
                    .s = d.s,
                    .stride_h = d.stride_h,
                    .stride_w = d.stride_w,
                    .dilation_h = d.dilation_h,
                    .dilation_w = d.dilation_w,
                    .pad_top = d.pad_top,
                    .pad_left = d.pad_left,
                    .weights = run.weights + k0 * d.r * d.s,
                    .bias = run.bias + k0,
                    .dst = run.dst + image * p_end * q_end * d.k + k0,
                    .dst_row_stride = q_end * d.k,
                    .dst_pixel_stride = d.k,
                    .first_p = first_p,
                    .last_p = last_p,
                    .q = q_end,
                    .count = std::min(count, shape.lanes),
                    .accumulate = d.accumulate,
                    .activation = d.activation};
  if (k0 >= shape.in_place * shape.lanes) {
    const Index top = first_p * d.stride_h - d.pad_top;
    a.first_h = std::clamp<Index>(top, 0, d.h);
    const Index last_h = std::min<Index>(top + shape.source_rows(d), d.h) - 1;
    expand_rows(run, shape, image, k0, count, a.first_h, last_h, scratch);
    a.src = scratch;
    a.row_stride = shape.row_floats;
    a.pixel_stride = shape.lanes;
    float* bias = scratch + shape.expanded_floats;
    std::fill(std::copy_n(run.bias + k0, count, bias), bias + shape.lanes, 0.0F);
    a.bias = bias;
  }
  (run.variant.rows == 0 ? kernels.any_pixels : kernels.pixels[(run.variant.rows - 3) / 2][d.stride_w - 1])(a);
}

void execute_nhwc(const Run& run, const DepthwiseKernels& kernels) {
  const Conv2dDesc& d = run.desc;
  const int threads = threads_for(d, run.threads);
  const NhwcShape shape(d, kernels.lanes, threads);
  const Index tasks = shape.bands * shape.slabs;
  for_each_task(threads, d.n * tasks, [&](Index task, int thread) {
    const Index image = task / tasks, band = task % tasks / shape.slabs, slab = task % shape.slabs;
    const Index first_p = d.p() * band / shape.bands, last_p = d.p() * (band + 1) / shape.bands;
    const Index end = shape.blocks * (slab + 1) / shape.slabs, in_place = std::min(end, shape.in_place);
    float* scratch = run.scratch + thread * shape.thread_floats;
    Index block = shape.blocks * slab / shape.slabs;
    for (Index next; block < in_place; block = next) {
      next = std::min(block + shape.at_once, in_place);
      run_vectors(run, kernels, shape, image, block * shape.lanes, (next - block) * shape.lanes, first_p, last_p,
                  scratch);
    }
    for (; block < end; ++block)
      for (Index p = first_p; p < last_p; p += shape.expand_rows)
        run_vectors(run, kernels, shape, image, block * shape.lanes, std::min(shape.lanes, d.k - block * shape.lanes),
                    p, std::min(p + shape.expand_rows, last_p), scratch);
  });
}

std::size_t scratch_floats(const Conv2dDesc& d, const Variant& variant, int threads) {
  const Index lanes = depthwise_kernels(variant.isa)->lanes;
  if (d.layout == Layout::nchw) {
    if (planes_kernel(d, variant) != nullptr) return 0;
    const NchwShape shape(d, lanes);
    return static_cast<std::size_t>(shape.table_floats + threads * shape.thread_floats);
  }
  const NhwcShape shape(d, lanes, 1);
  return static_cast<std::size_t>(threads * shape.thread_floats);
}

void execute(const Run& run) noexcept {
  const DepthwiseKernels& kernels = *depthwise_kernels(run.variant.isa);
  const DepthwiseKernels::Planes in_place = planes_kernel(run.desc, run.variant);
  if (run.desc.layout == Layout::nhwc)
    execute_nhwc(run, kernels);
  else if (in_place != nullptr)
    execute_planes(run, in_place);
  else
    execute_strips(run, kernels);
}

}  // namespace

const Algorithm depthwise = {variants, pack, scratch_floats, execute};

}  // namespace convrt::cpu
