/// \file
/// Transposing small blocks in registers, once per Highway target: planes into vectors of channels and back.

#if defined(CONVRT_TURN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONVRT_TURN_INL_H_
#undef CONVRT_TURN_INL_H_
#else
#define CONVRT_TURN_INL_H_
#endif

#include <cstddef>

#include "cpu/kernels/targets.hpp"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {
#if CONVRT_TARGET

namespace hn = hwy::HWY_NAMESPACE;

template <class D, class V = hn::Vec<D>>
HWY_INLINE V lower_pairs(D d, V a, V b) {  // a0 a1 b0 b1 of every 128-bit block
  const hn::Repartition<double, D> wide;
  return hn::BitCast(d, hn::InterleaveLower(wide, hn::BitCast(wide, a), hn::BitCast(wide, b)));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V upper_pairs(D d, V a, V b) {  // a2 a3 b2 b3 of every 128-bit block
  const hn::Repartition<double, D> wide;
  return hn::BitCast(d, hn::InterleaveUpper(wide, hn::BitCast(wide, a), hn::BitCast(wide, b)));
}

/// 4x4 transposes in every 128-bit block: y[j] block b = element j of x[0..3] block b.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void turn(D d, const V (&x)[4], V (&y)[4]) {
  const V lower01 = hn::InterleaveLower(d, x[0], x[1]), upper01 = hn::InterleaveUpper(d, x[0], x[1]);
  const V lower23 = hn::InterleaveLower(d, x[2], x[3]), upper23 = hn::InterleaveUpper(d, x[2], x[3]);
  y[0] = lower_pairs(d, lower01, lower23);
  y[1] = upper_pairs(d, lower01, lower23);
  y[2] = lower_pairs(d, upper01, upper23);
  y[3] = upper_pairs(d, upper01, upper23);
}

/// Block b of four floats from from + b * step.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* from, std::ptrdiff_t step) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(d, from);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, load_blocks(half, from + hn::MaxLanes(half) / 4 * step, step), load_blocks(half, from, step));
  }
}

/// y[j] lane i = from[i * step + j]: four neighbouring floats of every row become four vectors.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void load_turned(D d, const float* from, std::ptrdiff_t step, V (&y)[4]) {
  V x[4];
  HWY_UNROLL(4)
  for (int j = 0; j < 4; ++j) x[j] = load_blocks(d, from + j * step, 4 * step);
  turn(d, x, y);
}

#endif  // CONVRT_TARGET
}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
