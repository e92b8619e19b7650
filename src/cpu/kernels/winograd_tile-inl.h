/// \file
/// The one-dimensional transforms of F(2,3) and F(4,3) (A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural
/// Networks", 2015).
///
/// F(2,3) uses the points 0, 1, -1, infinity; F(4,3) uses 0, +-1/sqrt2, +-sqrt2, infinity. The usual +-1, +-2 amplify
/// rounding 3.7 times as much in the worst case. Squares of our points are 1/2 and 2, so all constants but the points
/// themselves are exact.

#if defined(CONVRT_WINOGRAD_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONVRT_WINOGRAD_TILE_INL_H_
#undef CONVRT_WINOGRAD_TILE_INL_H_
#else
#define CONVRT_WINOGRAD_TILE_INL_H_
#endif

#include <cstddef>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using Vf = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));  // our targets have fixed widths

/// shorten: a tile of r < m outputs needs only the first r + 2 points. Its outputs depend on r + 2 inputs; the others
/// can be chosen so that the remaining points vanish.
template <int m>
struct Tile;

template <>
struct Tile<2> {
  static constexpr int kPoints = 4;  // a

  /// Here only infinity is left out, whose own input meets no other point.
  static HWY_INLINE void shorten(int, Vf (&)[4]) {}

  /// B^T x
  static HWY_INLINE void input(const Vf (&x)[4], Vf (&y)[4]) {
    y[0] = hn::Sub(x[0], x[2]);
    y[1] = hn::Add(x[1], x[2]);
    y[2] = hn::Sub(x[2], x[1]);
    y[3] = hn::Sub(x[3], x[1]);
  }

  /// Row 0 or 1 of A^T x.
  template <int kOdd>
  static HWY_INLINE void output_half(const Vf (&x)[4], Vf (&y)[1]) {
    y[0] = kOdd ? hn::Add(hn::Sub(x[1], x[2]), x[3]) : hn::Add(hn::Add(x[0], x[1]), x[2]);
  }
};

template <>
struct Tile<4> {
  static constexpr int kPoints = 6;
  static constexpr float kSmall = 0.707106781F, kLarge = 1.41421356F;  // the points

  static HWY_INLINE void shorten(int outputs, Vf (&x)[6]) {
    const F32 d;
    const Vf half = hn::Set(d, 0.5F);
    if (outputs == 1) x[3] = hn::Mul(half, x[1]);
    if (outputs <= 2) x[4] = hn::MulAdd(hn::Set(d, kLarge), hn::NegMulAdd(half, x[1], x[3]), hn::Mul(half, x[2]));
  }

  static HWY_INLINE void input(const Vf (&x)[6], Vf (&y)[6]) {
    const F32 d;
    const Vf small = hn::Set(d, kSmall), large = hn::Set(d, kLarge);
    const Vf two = hn::Set(d, 2.0F), half = hn::Set(d, 0.5F), sum = hn::Set(d, 2.5F);
    const Vf even2 = hn::NegMulAdd(two, x[2], x[4]), odd2 = hn::NegMulAdd(two, x[1], x[3]);
    const Vf even1 = hn::NegMulAdd(half, x[2], x[4]), odd1 = hn::NegMulAdd(half, x[1], x[3]);
    y[0] = hn::Add(hn::NegMulAdd(sum, x[2], x[4]), x[0]);
    y[1] = hn::MulAdd(small, odd2, even2);
    y[2] = hn::NegMulAdd(small, odd2, even2);
    y[3] = hn::MulAdd(large, odd1, even1);
    y[4] = hn::NegMulAdd(large, odd1, even1);
    y[5] = hn::Add(hn::NegMulAdd(sum, x[3], x[5]), x[1]);
  }

  /// Rows 0 and 2, or 1 and 3, of A^T x.
  template <int kOdd>
  static HWY_INLINE void output_half(const Vf (&x)[6], Vf (&y)[2]) {
    const F32 d;
    const Vf two = hn::Set(d, 2.0F), half = hn::Set(d, 0.5F);
    if constexpr (kOdd) {
      const Vf odd1 = hn::Mul(hn::Set(d, kSmall), hn::Sub(x[1], x[2]));
      const Vf odd2 = hn::Mul(hn::Set(d, kLarge), hn::Sub(x[3], x[4]));
      y[0] = hn::Add(odd1, odd2);
      y[1] = hn::Add(hn::MulAdd(two, odd2, hn::Mul(half, odd1)), x[5]);
    } else {
      const Vf even1 = hn::Add(x[1], x[2]), even2 = hn::Add(x[3], x[4]);
      y[0] = hn::Add(x[0], hn::Add(even1, even2));
      y[1] = hn::MulAdd(two, even2, hn::Mul(half, even1));
    }
  }
};

}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
