// cpu.gemm: convolution as matrix multiplication with im2col fused into the blocking; runs every descriptor. Names:
//   cpu.gemm.<isa>.<rows>x<vectors>    lanes along pixels, <rows> filters x <vectors> vectors of pixels; NCHW
//   cpu.gemm.<isa>.<pixels>x<vectors>k lanes along k, <pixels> pixels x <vectors> vectors of filters; both layouts
#include "cpu/cost.hpp"
#include "cpu/gemm_source.hpp"
#include "cpu/parallel.hpp"

namespace convrt::cpu {
namespace {

using namespace gemm_detail;

struct TileSize {
  int rows, vectors;
  bool channel;
};

bool is_channel(const Variant& v) { return v.name.back() == 'k'; }

std::span<const TileSize> tiles(Isa isa) {
  static constexpr TileSize wide[] = {{14, 2, false}, {8, 3, false}, {14, 2, true}, {6, 4, true}};
  static constexpr TileSize narrow[] = {{6, 2, false}, {4, 3, false}, {6, 2, true}, {4, 3, true}};
  static constexpr TileSize neon[] = {{10, 2, false}, {6, 3, false}, {10, 2, true}, {5, 4, true}};
  if (isa == Isa::neon) return neon;
  return isa == Isa::avx512 ? std::span<const TileSize>(wide) : narrow;
}

// Predicted clock cycles of one core, all threads' work together. The constants are measured on Zen 4
// (bench/NOTES.md, "CPU gemm"); elsewhere they serve to order the tiles.
class Cycles {
 public:
  Cycles(const Shape& s, const Variant& v, const CpuInfo& info, int lanes)
      : s_(s),
        rows_(v.rows),
        vectors_(v.vectors),
        lanes_(lanes),
        l2_bytes_(static_cast<double>(info.l2_bytes)),
        pipes_(peak_gflops(info, v.isa) / (peak_gflops(info, Isa::scalar) * lanes)) {}

  double channel() const {
    const Index vectors = ceil_div(s_.group_k, lanes_);
    const Split blocks(vectors, ceil_div(vectors, vectors_)), tiles(s_.q, ceil_div(s_.q, rows_));
    const TurnedSource turned(s_, rows_, lanes_);
    // Fourteen pixels a multiple of 4 KiB apart do not fit into one 8-way set of the L1 cache.
    const bool conflict = rows_ > 8 && s_.nhwc && !turned.used && s_.stride_w * s_.c % 1024 == 0 && s_.q > 8;
    const bool in_planes = !s_.nhwc && !turned.used;
    // There each step of a 1x1 reduction meets another page.
    const bool pages = in_planes && s_.r * s_.s == 1 && s_.h * s_.w > 1024;
    const double depth = real_taps() * as_double(s_.group_c) * (conflict ? 1.25 : pages ? 1.12 : 1);
    // A step's few neighbouring elements are a line, or with a stride two, of their own. Small planes follow each other
    // within what the hardware guesses.
    const bool far = in_planes && s_.r * s_.s == 1 && s_.h * s_.w > 512;
    const double fetch = in_planes && s_.r * s_.s == 1 && s_.stride_w > 1 ? 10.5 : far ? 7.7 : 0;
    const double stall = pipes_ > 1 ? 0.1 : 0;        // of three vectors of weights for few pixels: they leave L1
    const double element_cycles = s_.nhwc ? 0 : 0.6;  // transposed stores
    double cycles = 0;
    for_both_sizes(blocks, [&](Index vec, Index vec_count) {
      const double bytes = as_double(vec * lanes_) * 4, block_bytes = bytes * as_double(s_.r * s_.s * s_.group_c);
      // Cores with two multiply-add pipes read twice as much a cycle from L2.
      const double stream = bytes / (pipes_ * (block_bytes > 0.75 * l2_bytes_ ? 14 : 16));
      for_both_sizes(tiles, [&](Index px, Index px_count) {
        const double tile =
            25 + 15 * as_double(s_.r * s_.s) + as_double(px * vec) * (4 + as_double(lanes_) * element_cycles);
        cycles += as_double(vec_count * px_count) *
                  (depth * std::max({step(px, vec) + (vec > 2 ? stall : 0), stream, fetch}) + tile);
      });
    });
    cycles *= as_double(s_.p);
    if (turned.used) {
      const Index lines = turned.lines_of_chunk();
      cycles += (s_.nhwc ? 0.2 : 0.5) * as_double(ceil_div(turned.lines, lines) * turned.floats(lines));
    }
    return cycles * as_double(s_.groups * s_.n);
  }

  double pixel() const {
    const Index taps = s_.r * s_.s, pixels = s_.p * s_.q, vectors = ceil_div(pixels, lanes_);
    const Split blocks(s_.group_k, ceil_div(s_.group_k, rows_));
    const double depth = as_double(taps * s_.group_c), panels = as_double(ceil_div(vectors, vectors_));
    const double pieces = as_double(vectors_ * lanes_) / as_double(s_.q) + 1;  // of destination rows in a panel
    const bool in_place = reads_in_place(s_, lanes_);
    double cycles = in_place ? 0 : depth * as_double(vectors) * 4 + panels * as_double(taps) * pieces * 40;
    const double misses = in_place ? 1.04 : lanes_ < 16 ? 1 : 1.08;    // a narrow panel stays in L1 for longer
    const Index full = vectors / vectors_, last = vectors % vectors_;  // panels; vectors of the last one
    for_both_sizes(blocks, [&](Index rows, Index count) {
      const double steps = as_double(full) * step(rows, vectors_) + (last > 0 ? step(rows, last) : 0);
      cycles += as_double(count) * (depth * steps * misses + 4 * as_double(vectors * rows) + panels * 80);
    });
    return cycles * as_double(s_.groups * s_.n);
  }

 private:
  static double as_double(Index i) { return static_cast<double>(i); }

  static void for_both_sizes(const Split& split, auto visit) {
    if (split.extra > 0) visit(split.size + 1, split.extra);
    if (split.size > 0) visit(split.size, split.parts - split.extra);
  }

  // One step of the reduction of a register tile: bound by multiply-adds, by their latency or by loads.
  double step(Index rows, Index vectors) const {
    const double loads = pipes_ > 1 ? as_double(rows + vectors) / 2 : as_double(rows) / 2 + as_double(vectors);
    constexpr double kLatency = 4.4;  // of the multiply-add that the next step's continues, 4 in theory
    return std::max({as_double(rows * vectors) / pipes_, loads, kLatency}) + 0.1 * as_double(rows);
  }

  // Taps of an average pixel that do not fall into the padding.
  double real_taps() const {
    Index down = 0, across = 0;
    for (Index p = 0; p < s_.p; ++p) down += std::max<Index>(0, s_.filter_rows(p).last - s_.filter_rows(p).first);
    for (Index s = 0; s < s_.s; ++s) {
      const Index w = s * s_.dilation_w - s_.pad_left;
      across += std::max<Index>(
          0, std::min(s_.q, ceil_div(s_.w - w, s_.stride_w)) - std::max<Index>(0, ceil_div(-w, s_.stride_w)));
    }
    return as_double(down) / as_double(s_.p) * as_double(across) / as_double(s_.q);
  }

  const Shape& s_;
  Index rows_, vectors_, lanes_;
  double l2_bytes_, pipes_;
};

double cost_ms(const Conv2dDesc& desc, const Variant& v, const CpuInfo& info, int threads) {
  const int lanes = gemm_kernels(v.isa)->lanes;
  const Shape shape = is_channel(v) ? channel_shape(desc, lanes) : Shape(desc);
  const Cycles model(shape, v, info, lanes);
  const double cycles = is_channel(v) ? model.channel() : model.pixel();
  const double flops_per_cycle = 2 * peak_gflops(info, v.isa) / peak_gflops(info, Isa::scalar);
  return predicted_ms(info, v.isa, desc.flops(), desc.flops() / (cycles * flops_per_cycle), threads);
}

std::vector<Variant> variants(const Conv2dDesc& desc, const CpuInfo& info, int threads) {
  std::vector<Variant> found;
  const bool empty = desc.n == 0;
  for (const Isa isa : info.isas) {
    if (gemm_kernels(isa) == nullptr) continue;
    for (const TileSize& tile : tiles(isa)) {
      if (desc.layout == Layout::nhwc && !tile.channel) continue;
      Variant v = {std::string("cpu.gemm.") + to_string(isa) + "." + std::to_string(tile.rows) + "x" +
                       std::to_string(tile.vectors) + (tile.channel ? "k" : ""),
                   isa, tile.rows, tile.vectors, 0};
      if (!empty) v.cost_ms = cost_ms(desc, v, info, threads);
      found.push_back(std::move(v));
    }
  }
  return found;
}

AlignedFloats pack(const Conv2dDesc& desc, const Variant& variant, std::span<const float> weights, int threads) {
  return is_channel(variant) ? pack_channel(desc, variant, weights, threads)
                             : pack_pixel(desc, variant, weights, threads);
}

std::size_t scratch_floats(const Conv2dDesc& desc, const Variant& variant, int threads) {
  const Index lanes = gemm_kernels(variant.isa)->lanes;
  return queue_floats(threads) + (is_channel(variant) ? channel_scratch(channel_shape(desc, lanes), variant)
                                                      : pixel_scratch(Shape(desc), variant)) *
                                     static_cast<std::size_t>(threads);
}

void execute(const Run& run) noexcept { is_channel(run.variant) ? execute_channel(run) : execute_pixel(run); }

}  // namespace

void gemm_detail::pack_block(const GemmKernels& kernels, const float* from, Index filters, Index step, Index channels,
                             Index taps, float* to) {
  alignas(64) float turned[6 * 1024];
  // Channels at a time: not much more than a cache line of each filter, which often lie a multiple of 4 KiB apart.
  const Index most = std::clamp<Index>(std::ssize(turned) / (taps * filters), 1, 16);
  for (Index c = 0; c < channels; c += most) {
    const Index count = std::min(most, channels - c);
    const float* source = from + c * taps;
    // The hardware does not guess such short rows.
    for (Index i = 0, next = std::min(most, channels - c - count) * taps; i < filters; ++i)
      for (Index j = 0; j < next; j += 16) __builtin_prefetch(source + (i * channels + count) * taps + j, 0, 2);
    if (taps == 1) {
      kernels.transpose({source, channels, to + c * step, step, filters, count});
    } else if (count * taps * filters <= std::ssize(turned)) {
      kernels.transpose_near({source, channels * taps, turned, filters, filters, count * taps});
      for (Index i = 0; i < count * taps; ++i)
        std::copy_n(turned + i * filters, filters, to + (i % taps * channels + c + i / taps) * step);
    } else {
      for (Index i = 0; i < filters; ++i)
        for (Index j = 0; j < count * taps; ++j)
          to[(j % taps * channels + c + j / taps) * step + i] = source[i * channels * taps + j];
    }
  }
}

const Algorithm gemm = {variants, pack, scratch_floats, execute};

}  // namespace convrt::cpu
