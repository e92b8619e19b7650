/// \file
/// The products of Winograd: for every point an ordinary small matrix product, with operands already in panels.

#if defined(CONVRT_WINOGRAD_MULTIPLY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONVRT_WINOGRAD_MULTIPLY_INL_H_
#undef CONVRT_WINOGRAD_MULTIPLY_INL_H_
#else
#define CONVRT_WINOGRAD_MULTIPLY_INL_H_
#endif

#include <cstddef>

#include "cpu/kernels/winograd_tile-inl.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {

// Register tiles: kTileRows x kFilterVectors accumulators, a row of vectors of weights and one broadcast.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON  // 32 registers
constexpr int kTileRows = 6, kFilterVectors = 4;
#elif HWY_TARGET == HWY_AVX2  // 16
constexpr int kTileRows = 6, kFilterVectors = 2;
#else                         // 16, and a product without FMA needs one more
constexpr int kTileRows = 4, kFilterVectors = 2;
#endif

// Channels summed on their own: their `b` stays in L1 while all rows of `a` pass, and rounding errors that all have
// one sign (equal channels) add up over kDepth + c / kDepth terms instead of c.
constexpr int kDepth = 128;

constexpr int kLineFloats = 16;  // of a cache line

/// The broadcast operand: rows of transformed patches, and the weights to fetch meanwhile.
struct Rows {
  const float* p;
  std::ptrdiff_t row_stride;
  const float* ahead;  // weights needed next, a cache line of each slice a step
  const float* far;    // those after them, into L2
  std::ptrdiff_t slice_stride;
  int slices, far_slices;
  HWY_INLINE float at(int i, std::ptrdiff_t c) const { return p[i * row_stride + c]; }
  HWY_INLINE void prefetch(std::ptrdiff_t c) const {
    for (int i = 0; i < slices; ++i) hwy::Prefetch(ahead + i * slice_stride + c * kLineFloats);
    for (int i = 0; i < far_slices; ++i) __builtin_prefetch(far + i * slice_stride + c * kLineFloats, 0, 2);
  }
};

/// Vector (i, j) of out (+)= sum over c < depth of a.at(i, c) * vector j of b[c]. b and out are vector-aligned.
template <int kRows, int kVectors>
HWY_INLINE void multiply_tile(Rows a, const float* HWY_RESTRICT b, std::ptrdiff_t b_stride, std::ptrdiff_t depth,
                              bool add, float* HWY_RESTRICT out, std::ptrdiff_t out_row, std::ptrdiff_t out_vector) {
  static_assert(kRows <= 16 && kVectors <= 4);  // what the unroll pragmas cover: arrays must become registers
  const F32 d;
  Vf sum[kRows][kVectors];
  HWY_UNROLL(16)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::Zero(d);
  }
  for (std::ptrdiff_t c = 0; c < depth; ++c) {
    a.prefetch(c);
    Vf column[kVectors];
    HWY_UNROLL(4)
    for (int j = 0; j < kVectors; ++j) column[j] = hn::Load(d, b + c * b_stride + j * kLanes);
    HWY_UNROLL(16)
    for (int i = 0; i < kRows; ++i) {
      const Vf scalar = hn::Set(d, a.at(i, c));
      HWY_UNROLL(4)
      for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::MulAdd(scalar, column[j], sum[i][j]);
    }
  }
  if (add) {
    HWY_UNROLL(16)
    for (int i = 0; i < kRows; ++i) {
      HWY_UNROLL(4)
      for (int j = 0; j < kVectors; ++j)
        sum[i][j] = hn::Add(sum[i][j], hn::Load(d, out + i * out_row + j * out_vector));
    }
  }
  HWY_UNROLL(16)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (int j = 0; j < kVectors; ++j) hn::Store(sum[i][j], d, out + i * out_row + j * out_vector);
  }
}

/// The same with the number of rows and vectors known only now.
template <int kRows, int kVectors>
HWY_INLINE void multiply_edge(int rows, int vectors, Rows a, const float* b, std::ptrdiff_t b_stride,
                              std::ptrdiff_t depth, bool add, float* out, std::ptrdiff_t out_row,
                              std::ptrdiff_t out_vector) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      multiply_edge<kRows - 1, kVectors>(rows, vectors, a, b, b_stride, depth, add, out, out_row, out_vector);
      return;
    }
  }
  if constexpr (kVectors > 1) {
    if (vectors < kVectors) {
      multiply_edge<kRows, kVectors - 1>(rows, vectors, a, b, b_stride, depth, add, out, out_row, out_vector);
      return;
    }
  }
  multiply_tile<kRows, kVectors>(a, b, b_stride, depth, add, out, out_row, out_vector);
}

}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
