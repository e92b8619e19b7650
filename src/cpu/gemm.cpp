// cpu.gemm: convolution as matrix multiplication with im2col fused into the blocking; runs every descriptor. Names:
//   cpu.gemm.<isa>.<rows>x<vectors>    lanes along pixels, <rows> filters x <vectors> vectors of pixels; NCHW
//   cpu.gemm.<isa>.<pixels>x<vectors>k lanes along k, <pixels> pixels x <vectors> vectors of filters; both layouts
#include "cpu/cost.hpp"
#include "cpu/gemm_shape.hpp"

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
  static constexpr TileSize narrow[] = {{6, 2, false}, {4, 3, false}, {6, 2, true}};
  return isa == Isa::avx512 || isa == Isa::neon ? std::span<const TileSize>(wide) : narrow;
}

// Share of a tile's slots that do useful work when `total` items are dealt in steps of `step`, at most `most` a tile.
double fill(Index total, Index step) {
  return static_cast<double>(total) / static_cast<double>(ceil_div(total, step) * step);
}

double efficiency(const Shape& s, const TileSize& tile, int lanes) {
  const auto depth = static_cast<double>(s.r * s.s * s.group_c);
  if (tile.channel) {
    const double stores = s.nhwc ? 8 : 40;  // cycles per row of a tile; NCHW stores are transposed
    return 0.95 * fill(s.group_k, lanes) * depth / (depth + stores);
  }
  // Packing costs about 6 cycles for a vector that group_k multiply-adds use.
  const auto k = static_cast<double>(s.group_k);
  return 0.95 * fill(s.p * s.q, lanes) * k / (k + 6) * depth / (depth + 8);
}

std::vector<Variant> variants(const Conv2dDesc& desc, const CpuInfo& info, int threads) {
  std::vector<Variant> found;
  const bool empty = desc.n == 0;
  const Shape shape(desc);
  for (const Isa isa : info.isas) {
    const GemmKernels* kernels = gemm_kernels(isa);
    if (kernels == nullptr) continue;
    for (const TileSize& tile : tiles(isa)) {
      if (shape.nhwc && !tile.channel) continue;
      Variant v = {std::string("cpu.gemm.") + to_string(isa) + "." + std::to_string(tile.rows) + "x" +
                       std::to_string(tile.vectors) + (tile.channel ? "k" : ""),
                   isa, tile.rows, tile.vectors, 0};
      if (!empty) v.cost_ms = predicted_ms(info, isa, desc.flops(), efficiency(shape, tile, kernels->lanes), threads);
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
  const Shape shape(desc);
  return (is_channel(variant) ? channel_scratch(shape, variant) : pixel_scratch(shape, variant)) *
         static_cast<std::size_t>(threads);
}

void execute(const Run& run) noexcept { is_channel(run.variant) ? execute_channel(run) : execute_pixel(run); }

}  // namespace

const Algorithm gemm = {variants, pack, scratch_floats, execute};

}  // namespace convrt::cpu
