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
    if (filter_slot(d) >= 0) add(std::to_string(d.r) + "x" + std::to_string(d.s), d.r, 0.4);
    add("any", 0, 0.2);
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

void execute_nchw(const Run& run, const DepthwiseKernels& kernels) {
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

// Per thread: [span][W][lanes] ring of expanded source rows (row h in slot h % span), then one bias vector.
struct NhwcShape {
  Index lanes, blocks;  // blocks of `lanes` destination channels
  Index span;           // source rows that one destination row may read
  Index row_floats;     // of the ring
  Index thread_floats, table_floats;

  NhwcShape(const Conv2dDesc& d, Index vector_lanes)
      : lanes(vector_lanes),
        blocks((d.k + lanes - 1) / lanes),
        span(std::min<Index>(d.h, (Index{d.r} - 1) * d.dilation_h + 1)),
        row_floats(d.w * lanes),
        thread_floats((d.k == d.c && d.k % lanes == 0 ? 0 : span * row_floats) + round_up(lanes, 16)),
        table_floats(round_up(Index{d.r} * kPointerFloats, 16)) {}
};

// The expanded rows of one (image, channel block) that a thread holds.
struct Ring {
  Index image = -1, block = -1;
  Index next_h = 0;  // rows below are present, as far as they can be needed again
};

void expand_rows(const Run& run, const NhwcShape& shape, Ring& ring, Index image, Index block, Index first, Index last,
                 float* scratch) {
  const Conv2dDesc& d = run.desc;
  if (ring.image != image || ring.block != block) ring = {image, block, 0};
  const Index k0 = block * shape.lanes, count = std::min(shape.lanes, d.k - k0), multiplier = d.k / d.c;
  for (Index h = std::max(first, ring.next_h); h <= last; ++h) {
    const float* from = run.src + (image * d.h + h) * d.w * d.c;
    float* to = scratch + h % shape.span * shape.row_floats;
    for (Index w = 0; w < d.w; ++w, from += d.c, to += shape.lanes) {
      if (multiplier == 1) {
        std::copy_n(from + k0, count, to);
      } else {
        for (Index i = 0, c = k0 / multiplier, m = k0 % multiplier; i < count; ++i) {
          to[i] = from[c];
          if (++m == multiplier) m = 0, ++c;
        }
      }
      std::fill(to + count, to + shape.lanes, 0.0F);
    }
  }
  ring.next_h = std::max(ring.next_h, last + 1);
}

void run_row(const Run& run, const DepthwiseKernels& kernels, const NhwcShape& shape, Ring& ring, Index image,
             Index block, Index p, float* scratch) {
  const Conv2dDesc& d = run.desc;
  const Index k0 = block * shape.lanes, count = std::min(shape.lanes, d.k - k0);
  const bool in_place = d.k == d.c && count == shape.lanes;
  const auto rows = reinterpret_cast<const float**>(scratch);
  float* ring_rows = scratch + shape.table_floats;
  float* bias = ring_rows + shape.thread_floats - round_up(shape.lanes, 16);
  std::copy_n(run.bias + k0, count, bias);
  std::fill(bias + count, bias + shape.lanes, 0.0F);

  const Index top = p * d.stride_h - d.pad_top;
  const Index first = std::max<Index>(top, 0), last = std::min<Index>(top + (Index{d.r} - 1) * d.dilation_h, d.h - 1);
  if (!in_place) expand_rows(run, shape, ring, image, block, first, last, ring_rows);
  for (Index r = 0; r < d.r; ++r) {
    const Index h = top + r * d.dilation_h;
    const float* in_src = run.src + (image * d.h + h) * d.w * d.c + k0;
    rows[r] = h < 0 || h >= d.h ? nullptr : in_place ? in_src : ring_rows + h % shape.span * shape.row_floats;
  }
  const auto row = run.variant.rows == 0 ? kernels.any_row : kernels.row[(run.variant.rows - 3) / 2][d.stride_w - 1];
  row({rows, in_place ? d.c : shape.lanes, d.w, d.r, d.s, d.stride_w, d.dilation_w, d.pad_left,
       run.weights + block * d.r * d.s * shape.lanes, bias, run.dst + (image * d.p() + p) * d.q() * d.k + k0, d.k,
       d.q(), static_cast<std::size_t>(count), d.accumulate, d.activation});
}

void execute_nhwc(const Run& run, const DepthwiseKernels& kernels) {
  const Conv2dDesc& d = run.desc;
  const NhwcShape shape(d, kernels.lanes);
  const Index p_end = d.p(), tasks = d.n * shape.blocks * p_end;
  const int threads = useful_threads(d.flops(), run.threads);
#pragma omp parallel num_threads(threads)
  {
    Ring ring;
    float* scratch = run.scratch + omp_get_thread_num() * (shape.table_floats + shape.thread_floats);
    // Rows innermost: the R source rows that consecutive destination rows share stay in L1, and the ring serves.
#pragma omp for schedule(static)
    for (Index task = 0; task < tasks; ++task)
      run_row(run, kernels, shape, ring, task / p_end / shape.blocks, task / p_end % shape.blocks, task % p_end,
              scratch);
  }
}

std::size_t scratch_floats(const Conv2dDesc& d, const Variant& variant, int threads) {
  const Index lanes = depthwise_kernels(variant.isa)->lanes;
  if (d.layout == Layout::nchw) {
    const NchwShape shape(d, lanes);
    return static_cast<std::size_t>(shape.table_floats + threads * shape.thread_floats);
  }
  const NhwcShape shape(d, lanes);
  return static_cast<std::size_t>(threads * (shape.table_floats + shape.thread_floats));
}

void execute(const Run& run) noexcept {
  const DepthwiseKernels& kernels = *depthwise_kernels(run.variant.isa);
  if (run.desc.layout == Layout::nchw)
    execute_nchw(run, kernels);
  else
    execute_nhwc(run, kernels);
}

}  // namespace

const Algorithm depthwise = {variants, pack, scratch_floats, execute};

}  // namespace convrt::cpu
