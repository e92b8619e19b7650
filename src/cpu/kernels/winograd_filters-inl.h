/// \file
/// core::transform_filter() for many filters at once, in double with filters in the lanes: what a plan packs. One
/// vector of filters at a time, so that its nine taps and 36 points pass through registers.

#if defined(CONVRT_WINOGRAD_FILTERS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONVRT_WINOGRAD_FILTERS_INL_H_
#undef CONVRT_WINOGRAD_FILTERS_INL_H_
#else
#define CONVRT_WINOGRAD_FILTERS_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "core/winograd.hpp"
#include "cpu/kernels/turn-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {

// y = G (a, b, c), as core::transform_filter_row(), term by term.
template <int m, class V>
HWY_INLINE void transform_filter_row(V a, V b, V c, V (&y)[m + 2]) {
  const hn::DFromV<V> d;
  y[0] = a;
  if constexpr (m == 2) {
    const V half = hn::Set(d, 0.5), even = hn::Mul(half, hn::Add(a, c)), odd = hn::Mul(half, b);
    y[1] = hn::Add(even, odd);
    y[2] = hn::Sub(even, odd);
  } else {
    using core::kRoot2;
    const V even1 = hn::Mul(hn::Set(d, -1. / 3), hn::Add(hn::Add(a, a), c));
    const V odd1 = hn::Mul(hn::Set(d, kRoot2 / 3), b);
    const V even2 = hn::Mul(hn::Set(d, 1. / 6), hn::Add(a, hn::Add(c, c)));
    const V odd2 = hn::Mul(hn::Set(d, kRoot2 / 6), b);
    y[1] = hn::Sub(even1, odd1);
    y[2] = hn::Add(even1, odd1);
    y[3] = hn::Add(even2, odd2);
    y[4] = hn::Sub(even2, odd2);
  }
  y[m + 1] = c;
}

// Of a vector of filters, taps[3r + s] in single precision.
template <int m, class D, class V = hn::Vec<D>, class V32>
HWY_INLINE void transform_filter_vector(D d, const V32 (&taps)[9], float* HWY_RESTRICT to, std::ptrdiff_t stride) {
  const hn::Rebind<float, D> df;
  V columns[3][m + 2];
  for (int s = 0; s < 3; ++s)
    transform_filter_row<m>(hn::PromoteTo(d, taps[s]), hn::PromoteTo(d, taps[3 + s]), hn::PromoteTo(d, taps[6 + s]),
                            columns[s]);
  for (int i = 0; i < m + 2; ++i) {
    V y[m + 2];
    transform_filter_row<m>(columns[0][i], columns[1][i], columns[2][i], y);
    for (int j = 0; j < m + 2; ++j) hn::StoreU(hn::DemoteTo(df, y[j]), df, to + ((m + 2) * i + j) * stride);
  }
}

// As WinogradForm::transform_filters, of kCount filters.
template <int m, std::size_t kCount>
void transform_filters_of(const float* HWY_RESTRICT weights, std::ptrdiff_t step, float* HWY_RESTRICT to,
                          std::ptrdiff_t stride) {
  const hn::CappedTag<float, kCount> df;
  const hn::Half<decltype(df)> half;
  const hn::Rebind<double, decltype(half)> d;
  constexpr std::size_t kLanes = hn::MaxLanes(df);
  for (std::size_t f = 0; f < kCount; f += kLanes, weights += kLanes * step, to += kLanes) {
    hn::Vec<decltype(df)> first[4], second[4], last[4];  // taps 0 to 3, 4 to 7, 5 to 8
    load_turned(df, weights, step, first);
    load_turned(df, weights + 4, step, second);
    load_turned(df, weights + 5, step, last);
    hn::Vec<decltype(half)> lower[9], upper[9];
    for (int tap = 0; tap < 9; ++tap) {
      const auto x = tap < 4 ? first[tap] : tap < 8 ? second[tap - 4] : last[3];
      lower[tap] = hn::LowerHalf(half, x);
      upper[tap] = hn::UpperHalf(half, x);
    }
    transform_filter_vector<m>(d, lower, to, stride);
    transform_filter_vector<m>(d, upper, to + kLanes / 2, stride);
  }
}

template <int m>
void transform_filters(const float* weights, std::ptrdiff_t step, int count, float* to, std::ptrdiff_t stride) {
  if (count == kFilterLine)
    transform_filters_of<m, kFilterLine>(weights, step, to, stride);
  else
    transform_filters_of<m, kFilterQuad>(weights, step, to, stride);
}

}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
