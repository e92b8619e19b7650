// Register tiles of cpu.gemm. Tile sizes follow from the registers: rows x vectors accumulators, `vectors` operands and
// one broadcast must fit into 32 (AVX-512, NEON) or 16 (AVX2, SSE4), and enough accumulators must be in flight to hide
// the FMA latency. All loops over a tile are unrolled completely, else the compiler keeps the accumulators in memory.
#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/kernels/gemm_kernels.cpp"
#include "cpu/kernels/targets.hpp"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on
#include "cpu/kernels/activation-inl.h"
#include "cpu/kernels/gemm_kernels.hpp"
#include "cpu/kernels/rows-inl.h"
#include "cpu/kernels/turn-inl.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {
#if CONVRT_TARGET

namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D kD;
constexpr std::ptrdiff_t kLanes = hn::MaxLanes(D());

// Adding the bias may be all there is to do; clamping would cost short tiles a twentieth of their time.
HWY_INLINE bool only_bias(const Epilogue& e) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  return !e.accumulate && e.low == -infinity && e.high == infinity;
}

// `e` is a local copy: behind a reference every store would force its fields to be loaded again.
template <bool kOnlyBias>
HWY_INLINE V finish(V sum, V bias, const Epilogue& e, const float* out) {
  V v = hn::Add(sum, bias);
  if (kOnlyBias) return v;
  if (e.accumulate) v = hn::Add(v, hn::LoadU(kD, out));
  const V low = hn::Set(kD, e.low), high = hn::Set(kD, e.high);
  return hn::IfThenElse(hn::Le(v, low), low, hn::IfThenElse(hn::Gt(v, high), high, v));
}

// Without a fused multiply-add a product needs the register of an operand, which is loaded anew for each row.
template <int kSums>
constexpr bool kReload = (HWY_TARGET == HWY_SSE4) && (kSums == 12);

// Kernels take several tiles at once: to be called, and to be set up, costs a tile of short depth a tenth of its time.
template <int kRows, int kVectors, bool kOnlyBias>
HWY_INLINE void multiply(const PixelTiles& t) {
  const float* HWY_RESTRICT bias = t.epilogue.bias;
  const float* HWY_RESTRICT weights = t.a;
  float* HWY_RESTRICT out = t.out;
  const std::ptrdiff_t b_step = t.b_step, out_step = t.out_step;
  HWY_UNROLL(1)
  for (std::ptrdiff_t tile = t.tiles; tile > 0; --tile, weights += t.a_step, bias += kRows) {
    V sum[kRows][kVectors];
    HWY_UNROLL(16)
    for (int m = 0; m < kRows; ++m) HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) sum[m][v] = hn::Zero(kD);
    const float* HWY_RESTRICT a = weights;
    const float* HWY_RESTRICT b = t.b;
    HWY_UNROLL(1)
    for (std::ptrdiff_t i = t.depth; i > 0; --i, a += kRows, b += b_step) {
      V pixels[kVectors];
      HWY_UNROLL(4)
      for (int v = 0; v < kVectors; ++v) pixels[v] = hn::LoadU(kD, b + v * kLanes);
      HWY_UNROLL(16)
      for (int m = 0; m < kRows; ++m) {
        if (kReload<kRows * kVectors>) pixels[kVectors - 1] = hn::LoadU(kD, (b = opaque(b)) + (kVectors - 1) * kLanes);
        const V weight = hn::Set(kD, a[m]);
        HWY_UNROLL(4)
        for (int v = 0; v < kVectors; ++v) sum[m][v] = hn::MulAdd(weight, pixels[v], sum[m][v]);
      }
    }
    const Epilogue e = *opaque(&t.epilogue);  // else bounds and bias would stay in registers that the tile needs
    HWY_UNROLL(16)
    for (int m = 0; m < kRows; ++m, out += out_step) {
      const V added = hn::Set(kD, bias[m]);
      HWY_UNROLL(4)
      for (int v = 0; v < kVectors; ++v)
        hn::StoreU(finish<kOnlyBias>(sum[m][v], added, e, out + v * kLanes), kD, out + v * kLanes);
    }
  }
}

template <int kPixels, int kVectors, bool kOnlyBias>
HWY_INLINE void multiply(const ChannelTiles& t) {
  float* HWY_RESTRICT out = t.out;
  const std::ptrdiff_t step = t.pixel_step, depth_step = t.depth_step, out_step = t.out_step;
  HWY_UNROLL(1)
  for (std::ptrdiff_t tile = 0; tile < t.tiles; ++tile) {
    V sum[kPixels][kVectors];
    HWY_UNROLL(16)
    for (int x = 0; x < kPixels; ++x) HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) sum[x][v] = hn::Zero(kD);
    for (std::ptrdiff_t run = 0; run < t.run_count; ++run) {
      // One base pointer for three pixels: base, base + step and base + 2*step are single x86 addresses, and fourteen
      // pointers, which the compiler would make of what it can see through, do not fit into the registers.
      constexpr int kBases = (kPixels + 2) / 3;
      const float* base[kBases];
      HWY_UNROLL(8)
      for (int g = 0; g < kBases; ++g) base[g] = opaque(t.runs[run].src + (tile * kPixels + 3 * g) * step);
      const float* HWY_RESTRICT w = t.runs[run].weights;
      HWY_UNROLL(1)
      for (std::ptrdiff_t i = t.depth; i > 0; --i) {
        V weight[kVectors];
        HWY_UNROLL(4)
        for (int v = 0; v < kVectors; ++v) weight[v] = hn::LoadU(kD, w + v * kLanes);
        HWY_UNROLL(16)
        for (int x = 0; x < kPixels; ++x) {
          if (kReload<kPixels * kVectors>)
            weight[kVectors - 1] = hn::LoadU(kD, (w = opaque(w)) + (kVectors - 1) * kLanes);
          const V pixel = hn::Set(kD, base[x / 3][(x % 3) * step]);
          HWY_UNROLL(4)
          for (int v = 0; v < kVectors; ++v) sum[x][v] = hn::MulAdd(pixel, weight[v], sum[x][v]);
        }
        w += kVectors * kLanes;
        HWY_UNROLL(8)
        for (int g = 0; g < kBases; ++g) base[g] = opaque(base[g] + depth_step);
      }
    }
    const Epilogue e = *opaque(&t.epilogue);
    HWY_UNROLL(16)
    for (int x = 0; x < kPixels; ++x, out += out_step) {
      HWY_UNROLL(4)
      for (int v = 0; v < kVectors; ++v) {
        const V added = hn::LoadU(kD, e.bias + v * kLanes);
        hn::StoreU(finish<kOnlyBias>(sum[x][v], added, e, out + v * kLanes), kD, out + v * kLanes);
      }
    }
  }
}

// The kernel: a choice between the tiles would make the compiler keep all sums on the stack.
template <int kRows, int kVectors, class Tiles>
void tiles(const Tiles& t) {
  only_bias(t.epilogue) ? multiply<kRows, kVectors, true>(t) : multiply<kRows, kVectors, false>(t);
}

// Whole vectors while the source lasts, then single elements.
template <int kVectors, int kStride>
void copy_vectors(const PanelCopy& c) {
  const std::ptrdiff_t needed = kVectors * kLanes * kStride, readable = c.src_end - c.src;
  std::ptrdiff_t whole = readable < needed ? 0 : (readable - needed) / c.src_step + 1;
  if (whole > c.depth) whole = c.depth;
  const float* HWY_RESTRICT src = c.src;
  float* HWY_RESTRICT panel = c.panel;
  for (std::ptrdiff_t i = 0; i < whole; ++i, src += c.src_step, panel += c.panel_step) {
    HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      V even, odd;
      if constexpr (kStride == 1)
        even = hn::LoadU(kD, src + v * kLanes);
      else
        hn::LoadInterleaved2(kD, src + v * kLanes * 2, even, odd);
      hn::StoreU(even, kD, panel + v * kLanes);
    }
  }
  for (std::ptrdiff_t i = whole; i < c.depth; ++i, src += c.src_step, panel += c.panel_step)
    for (std::ptrdiff_t x = 0; x < c.len; ++x) panel[x] = src[x * kStride];
}

void copy(const PanelCopy& c) {
  const std::ptrdiff_t vectors = (c.len + kLanes - 1) / kLanes;
  if (c.stride > 2 || vectors > 4) {
    const float* src = c.src;
    float* panel = c.panel;
    for (std::ptrdiff_t i = 0; i < c.depth; ++i, src += c.src_step, panel += c.panel_step)
      for (std::ptrdiff_t x = 0; x < c.len; ++x) panel[x] = src[x * c.stride];
    return;
  }
  using Copy = void (*)(const PanelCopy&);
  constexpr Copy copies[4][2] = {{copy_vectors<1, 1>, copy_vectors<1, 2>},
                                 {copy_vectors<2, 1>, copy_vectors<2, 2>},
                                 {copy_vectors<3, 1>, copy_vectors<3, 2>},
                                 {copy_vectors<4, 1>, copy_vectors<4, 2>}};
  copies[vectors - 1][c.stride - 1](c);
}

// Blocks of 4 x 4; the last block of a row or column overlaps its neighbour, so there are no tails to mask.
void transpose(const Transpose& t) {
  if (t.rows < 4 || t.columns < 4) {
    for (std::ptrdiff_t r = 0; r < t.rows; ++r)
      for (std::ptrdiff_t c = 0; c < t.columns; ++c) t.to[c * t.to_step + r] = t.from[r * t.from_step + c];
    return;
  }
  const hn::Full128<float> d;
  const std::ptrdiff_t from_step = t.from_step, to_step = t.to_step;
  for (std::ptrdiff_t r = 0; r < t.rows; r += 4)
    for (std::ptrdiff_t c = 0; c < t.columns; c += 4) {
      const std::ptrdiff_t row = r + 4 <= t.rows ? r : t.rows - 4, column = c + 4 <= t.columns ? c : t.columns - 4;
      const float* HWY_RESTRICT from = t.from + row * from_step + column;
      float* HWY_RESTRICT to = t.to + column * to_step + row;
      const auto r0 = hn::LoadU(d, from), r1 = hn::LoadU(d, from + from_step);
      const auto r2 = hn::LoadU(d, from + 2 * from_step), r3 = hn::LoadU(d, from + 3 * from_step);
      const auto low01 = hn::InterleaveLower(d, r0, r1), low23 = hn::InterleaveLower(d, r2, r3);
      const auto high01 = hn::InterleaveUpper(d, r0, r1), high23 = hn::InterleaveUpper(d, r2, r3);
      hn::StoreU(hn::ConcatLowerLower(d, low23, low01), d, to);
      hn::StoreU(hn::ConcatUpperUpper(d, low23, low01), d, to + to_step);
      hn::StoreU(hn::ConcatLowerLower(d, high23, high01), d, to + 2 * to_step);
      hn::StoreU(hn::ConcatUpperUpper(d, high23, high01), d, to + 3 * to_step);
    }
}

void transpose_near(const Transpose& t) {
  if (t.rows < kLanes || t.columns < 4) return transpose(t);
  for (std::ptrdiff_t r = 0; r < t.rows; r += kLanes)
    for (std::ptrdiff_t c = 0; c < t.columns; c += 4) {
      const std::ptrdiff_t row = std::min(r, t.rows - kLanes), column = std::min(c, t.columns - 4);
      V turned[4];
      load_turned(kD, t.from + row * t.from_step + column, t.from_step, turned);
      HWY_UNROLL(4)
      for (int j = 0; j < 4; ++j) hn::StoreU(turned[j], kD, t.to + (column + j) * t.to_step + row);
    }
}

// Fills column `kVectors` of the tables for 1..kRows rows.
template <int kVectors, int kRows>
constexpr void add_tiles(GemmKernels& k) {
  if constexpr (kRows > 0) {
    k.pixel[kRows][kVectors] = tiles<kRows, kVectors>;
    k.channel[kRows][kVectors] = tiles<kRows, kVectors>;
    add_tiles<kVectors, kRows - 1>(k);
  }
}

constexpr GemmKernels make_kernels() {
  GemmKernels k = {};
  k.lanes = static_cast<int>(kLanes);
  k.copy = copy;
  k.transpose = transpose;
  k.transpose_near = transpose_near;
  k.activate_row = activate_row;
#if HWY_TARGET == HWY_AVX3
  add_tiles<1, 14>(k);
  add_tiles<2, 14>(k);
  add_tiles<3, 8>(k);
  add_tiles<4, 6>(k);
#elif HWY_TARGET == HWY_NEON
  // Compilers load neighbouring weights as vectors and multiply by lane, which takes more of the 32 registers.
  add_tiles<1, 10>(k);
  add_tiles<2, 10>(k);
  add_tiles<3, 6>(k);
  add_tiles<4, 5>(k);
#else
  add_tiles<1, 6>(k);
  add_tiles<2, 6>(k);
  add_tiles<3, 4>(k);
#endif
  return k;
}

}  // namespace

constexpr GemmKernels kGemmKernels = make_kernels();

#endif
}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace convrt::cpu {
const GemmKernels* gemm_kernels(Isa isa) { CONVRT_FIND_TARGET(isa, kGemmKernels); }
}  // namespace convrt::cpu
#endif
