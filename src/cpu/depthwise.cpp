// cpu.depthwise: groups == c, any multiplier k / c. Bound by loads, not arithmetic; kernels/depthwise_kernels.cpp says
// how the vectors are arranged.
//
//   NCHW: a band of one channel is copied to zero-padded phase planes that stay in L1, then 4 rows at a time convolved.
//   NHWC: the source is read in place. Where a vector of destination channels is not a vector of source channels (a
//         multiplier, the last channels), rows are first expanded to whole vectors, each once, in a ring of R rows.
#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <string>

#include "cpu/algorithm.hpp"
#include "cpu/cost.hpp"
#include "cpu/kernels/depthwise_kernels.hpp"
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

// Variant::rows: the filter size a kernel is made for, 0 for any.
std::vector<Variant> variants(const Conv2dDesc& d, const CpuInfo& info, int threads) {
  std::vector<Variant> found;
  if (d.groups != d.c || d.c == 1) return found;
  const double bytes = 4.0 * (static_cast<double>(d.src_size()) + static_cast<double>(d.dst_size()));
  const int used = useful_threads(d.flops(), threads);
  for (const Isa isa : info.isas) {
    if (depthwise_kernels(isa) == nullptr) continue;
    const std::string prefix = std::string("cpu.depthwise.") + to_string(isa);
    const auto add = [&](const std::string& tile, int size, double efficiency) {
      const double ms = predicted_ms(info, isa, d.flops(), efficiency, threads);
      found.push_back({prefix + "." + tile, isa, size, 0, std::max(ms, memory_ms(bytes, used))});
    };
    // NHWC with a multiplier expands its source element by element.
    const double expanding = d.layout == Layout::nhwc && d.k != d.c ? 0.4 : 1;
    if (filter_slot(d) >= 0) add(std::to_string(d.r) + "x" + std::to_string(d.s), d.r, 0.45 * expanding);
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
DepthwiseKernels::Plane plane_kernel(const Conv2dDesc& d, const Variant& variant) {
  if (variant.rows == 0 || d.stride_h != d.stride_w) return nullptr;
  return depthwise_kernels(variant.isa)->plane[(variant.rows - 3) / 2][d.stride_h - 1];
}

void execute_planes(const Run& run, DepthwiseKernels::Plane kernel) {
  const Conv2dDesc& d = run.desc;
  const Index p_end = d.p(), q_end = d.q(), multiplier = d.k / d.c;
  constexpr Index band = 32;  // destination rows of a task
  const Index bands = (p_end + band - 1) / band, tasks = Index{d.n} * d.k * bands;
  const int threads = useful_threads(d.flops(), run.threads);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index task = 0; task < tasks; ++task) {
    const Index nk = task / bands, image = nk / d.k, k = nk % d.k, first = task % bands * band;
    kernel({run.src + (image * d.c + k / multiplier) * d.h * d.w, d.h, d.w, d.pad_top, d.pad_left,
            run.weights + k * d.r * d.s, run.bias[k], run.dst + nk * p_end * q_end, first,
            std::min(first + band, p_end), q_end, d.accumulate, d.activation});
  }
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
  const int threads = useful_threads(d.flops(), run.threads);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index task = 0; task < tasks; ++task)
    run_band(run, kernels, shape, offsets, task / bands / d.c, task / bands % d.c,
             static_cast<int>(task % bands) * shape.band,
             run.scratch + shape.table_floats + omp_get_thread_num() * shape.thread_floats);
}

// ---- NHWC

// Per thread: [rows][W][lanes] source rows expanded to whole vectors, then one bias vector.
struct NhwcShape {
  Index lanes, blocks;  // blocks of `lanes` destination channels
  Index chunk;          // destination rows of a task: enough to reuse source rows in L1, few enough to share out
  Index row_floats;     // of an expanded row
  Index expanded_floats, thread_floats;

  NhwcShape(const Conv2dDesc& d, Index vector_lanes)
      : lanes(vector_lanes),
        blocks((d.k + lanes - 1) / lanes),
        chunk(std::min(d.p(), 8)),
        row_floats(d.w * lanes),
        expanded_floats(d.k == d.c && d.k % lanes == 0 ? 0 : std::min<Index>(d.h, source_rows(d)) * row_floats),
        thread_floats(round_up(expanded_floats + lanes, 16)) {}

  Index source_rows(const Conv2dDesc& d) const {
    return (chunk - 1) * d.stride_h + (Index{d.r} - 1) * d.dilation_h + 1;
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

void run_chunk(const Run& run, const DepthwiseKernels& kernels, const NhwcShape& shape, Index image, Index block,
               Index first_p, float* scratch) {
  const Conv2dDesc& d = run.desc;
  const Index p_end = d.p(), q_end = d.q(), k0 = block * shape.lanes, count = std::min(shape.lanes, d.k - k0);
  const Index last_p = std::min(first_p + shape.chunk, p_end);
  DepthwisePixels a{.src = run.src + image * d.h * d.w * d.c + k0,
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
                    .weights = run.weights + block * d.r * d.s * shape.lanes,
                    .bias = run.bias + k0,
                    .dst = run.dst + image * p_end * q_end * d.k + k0,
                    .dst_row_stride = q_end * d.k,
                    .dst_pixel_stride = d.k,
                    .first_p = first_p,
                    .last_p = last_p,
                    .q = q_end,
                    .count = count,
                    .accumulate = d.accumulate,
                    .activation = d.activation};
  if (d.k != d.c || count < shape.lanes) {
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
  const NhwcShape shape(d, kernels.lanes);
  const Index chunks = (d.p() + shape.chunk - 1) / shape.chunk, tasks = d.n * shape.blocks * chunks;
  const int threads = useful_threads(d.flops(), run.threads);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index task = 0; task < tasks; ++task)
    run_chunk(run, kernels, shape, task / chunks / shape.blocks, task / chunks % shape.blocks,
              task % chunks * shape.chunk, run.scratch + omp_get_thread_num() * shape.thread_floats);
}

std::size_t scratch_floats(const Conv2dDesc& d, const Variant& variant, int threads) {
  const Index lanes = depthwise_kernels(variant.isa)->lanes;
  if (d.layout == Layout::nchw) {
    if (plane_kernel(d, variant) != nullptr) return 0;
    const NchwShape shape(d, lanes);
    return static_cast<std::size_t>(shape.table_floats + threads * shape.thread_floats);
  }
  const NhwcShape shape(d, lanes);
  return static_cast<std::size_t>(threads * shape.thread_floats);
}

void execute(const Run& run) noexcept {
  const DepthwiseKernels& kernels = *depthwise_kernels(run.variant.isa);
  const DepthwiseKernels::Plane in_place = plane_kernel(run.desc, run.variant);
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
