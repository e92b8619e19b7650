/// \file
/// The nine activations in fp32, once per Highway target; src/core/activation.hpp says what each must return. Include
/// this between "hwy/highway.h" and the kernels of a file (see targets.hpp).
///
/// Bounds, kept by tests/activation_test.cpp on every instruction set: none, relu, clamp are exact; leaky_relu 1 ulp;
/// gelu 8 ulp, the others 4 ulp of the exact value over all floats, subnormal results included. NaN stays NaN, limits
/// hold at the infinities, nothing overflows on the way.

// Toggled rather than guarded once: foreach_target.h includes this again for every target.
#if defined(CONVRT_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONVRT_ACTIVATION_INL_H_
#undef CONVRT_ACTIVATION_INL_H_
#else
#define CONVRT_ACTIVATION_INL_H_
#endif

#include <cstddef>

#include "convrt/conv2d.hpp"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Splits x = n*ln2 + r with integer n; returns r, |r| <= 0.35. The high part of ln2 has 10 bits, so n*high is exact
/// for |n| < 2^14 with and without FMA (W. J. Cody, W. Waite, "Software Manual for the Elementary Functions", 1980).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V reduce_exp(D d, V x, V& n) {
  n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504F)));
  const V high = hn::NegMulAdd(n, hn::Set(d, 0.693359375F), x);
  return hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4F), high);
}

/// exp(r) - 1 for |r| <= 0.41, with small relative error also near 0.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V expm1_reduced(D d, V r) {
  V q = hn::Set(d, 1.990751575e-4F);
  q = hn::MulAdd(q, r, hn::Set(d, 1.394853189e-3F));
  q = hn::MulAdd(q, r, hn::Set(d, 8.333293567e-3F));
  q = hn::MulAdd(q, r, hn::Set(d, 4.166630861e-2F));
  q = hn::MulAdd(q, r, hn::Set(d, 1.666666670e-1F));
  q = hn::MulAdd(q, r, hn::Set(d, 0.5F));
  return hn::MulAdd(hn::Mul(r, r), q, r);
}

/// v * 2^n for integer |n| <= 250, in two factors so that a subnormal result is rounded once.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V scale_by_power(D d, V v, V n) {
  const hn::RebindToSigned<D> di;
  const auto whole = hn::ConvertTo(di, n);
  const auto half = hn::ShiftRight<1>(whole);
  const auto bias = hn::Set(di, 127);
  const V first = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const V second = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(whole, half), bias)));
  return hn::Mul(hn::Mul(v, first), second);
}

/// factor / (1 + exp(-x)). For x < 0 that is factor * e / (1 + e) with e = exp(x), whose power of two is multiplied in
/// last: otherwise a subnormal e would cost its lost bits times the factor.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V logistic(D d, V x, V factor) {
  const V one = hn::Set(d, 1.0F), limit = hn::Set(d, 110.0F);  // exp(-110) is below half the smallest float
  const auto negative = hn::Lt(x, hn::Zero(d));
  const V magnitude = hn::Abs(x);
  V n;
  const V r = reduce_exp(d, hn::Neg(hn::IfThenElse(hn::Gt(magnitude, limit), limit, magnitude)), n);
  const V mantissa = hn::Add(expm1_reduced(d, r), one);
  const V denominator = hn::Add(one, scale_by_power(d, mantissa, n));
  const V numerator = hn::Mul(factor, hn::IfThenElse(negative, mantissa, one));
  return scale_by_power(d, hn::Div(numerator, denominator), hn::IfThenElseZero(negative, n));
}

/// tanh|x| = m / (m + 2) with m = exp(2|x|) - 1; no cancellation near 0, and 1 from 2|x| = 20 on.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V tanh(D d, V x) {
  const V one = hn::Set(d, 1.0F), limit = hn::Set(d, 20.0F);
  V twice = hn::Abs(x);
  twice = hn::Add(twice, twice);
  V n;
  const V r = reduce_exp(d, hn::IfThenElse(hn::Gt(twice, limit), limit, twice), n);
  const V power = scale_by_power(d, one, n);
  const V m = hn::MulAdd(power, expm1_reduced(d, r), hn::Sub(power, one));
  return hn::CopySign(hn::Div(m, hn::Add(m, hn::Set(d, 2.0F))), x);
}

/// x * Phi(x), Phi the normal distribution. With t = |x|, Phi(-t) = exp(-t*t/2) * g(t), where g(t) = erfcx(t/sqrt2)/2
/// is a polynomial in u = 1/(1 + t/4) of relative error 1.4e-8 on [0, 15] (Chebyshev interpolation). t*t is formed from
/// two halves: rounding it to a float would cost the exponential 100 ulp at t = 14.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu(D d, V x) {
  const V one = hn::Set(d, 1.0F), limit = hn::Set(d, 15.0F), half = hn::Set(d, 0.5F);  // 15 Phi(-15) rounds to 0
  const auto negative = hn::Lt(x, hn::Zero(d));
  V t = hn::Abs(x);
  t = hn::IfThenElse(hn::Gt(t, limit), limit, t);
  const hn::RebindToUnsigned<D> du;
  const V t_high = hn::BitCast(d, hn::And(hn::BitCast(du, t), hn::Set(du, 0xFFFFF000U)));
  const V t_low = hn::Sub(t, t_high);
  V n;
  V r = reduce_exp(d, hn::Neg(hn::Mul(half, hn::Mul(t_high, t_high))), n);
  r = hn::NegMulAdd(hn::Mul(half, t_low), hn::Add(t, t_high), r);
  const V u = hn::Div(one, hn::MulAdd(t, hn::Set(d, 0.25F), one));
  V g = hn::Set(d, 1.607147336e-2F);
  g = hn::MulAdd(g, u, hn::Set(d, -6.022585286e-2F));
  g = hn::MulAdd(g, u, hn::Set(d, 4.611993723e-2F));
  g = hn::MulAdd(g, u, hn::Set(d, 3.507515430e-2F));
  g = hn::MulAdd(g, u, hn::Set(d, 7.866203337e-3F));
  g = hn::MulAdd(g, u, hn::Set(d, 8.885935964e-2F));
  g = hn::MulAdd(g, u, hn::Set(d, 7.138857119e-2F));
  g = hn::MulAdd(g, u, hn::Set(d, 9.561157545e-2F));
  g = hn::MulAdd(g, u, hn::Set(d, 9.948556838e-2F));
  g = hn::MulAdd(g, u, hn::Set(d, 9.974801271e-2F));
  const V tail = hn::Mul(hn::Mul(g, u), hn::Add(expm1_reduced(d, r), one));  // Phi(-t) / 2^n
  const V positive = hn::Mul(x, hn::Sub(one, scale_by_power(d, tail, n)));
  const V at_left = hn::IfThenElse(hn::Lt(x, hn::Neg(limit)), hn::Neg(limit), x);
  return hn::IfThenElse(negative, scale_by_power(d, hn::Mul(at_left, tail), n), positive);
}

/// activation(v). The switch is well predicted; long loops may still prefer `activate_row`.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V activate(D d, const Activation& a, V v) {
  const V zero = hn::Zero(d);
  switch (a.kind) {
    case ActivationKind::none: return v;
    case ActivationKind::relu: return hn::IfThenZeroElse(hn::Le(v, zero), v);
    case ActivationKind::clamp: {
      const V low = hn::Set(d, a.alpha), high = hn::Set(d, a.beta);
      return hn::IfThenElse(hn::Lt(v, low), low, hn::IfThenElse(hn::Gt(v, high), high, v));
    }
    case ActivationKind::leaky_relu: return hn::IfThenElse(hn::Gt(v, zero), v, hn::Mul(v, hn::Set(d, a.alpha)));
    case ActivationKind::sigmoid: return logistic(d, v, hn::Set(d, 1.0F));
    case ActivationKind::tanh: return tanh(d, v);
    case ActivationKind::silu: {
      const V low = hn::Set(d, -110.0F);  // as far left the exponential is clamped, so must the factor be
      return logistic(d, v, hn::IfThenElse(hn::Lt(v, low), low, v));
    }
    case ActivationKind::gelu: return gelu(d, v);
    case ActivationKind::hard_swish: {
      const V three = hn::Set(d, 3.0F);
      const V middle = hn::Div(hn::Mul(v, hn::Add(v, three)), hn::Set(d, 6.0F));
      const V left = hn::IfThenElse(hn::Le(v, hn::Neg(three)), hn::Neg(zero), middle);
      return hn::IfThenElse(hn::Ge(v, three), v, left);
    }
  }
  return v;
}

/// Applies the activation to row[0, count) in place; touches nothing beyond.
HWY_NOINLINE inline void activate_row(const Activation& a, float* row, std::size_t count) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(activate(d, a, hn::LoadU(d, row + i)), d, row + i);
  if (i == count) return;
  HWY_ALIGN float tail[hn::MaxLanes(d)] = {};
  for (std::size_t j = i; j < count; ++j) tail[j - i] = row[j];
  hn::Store(activate(d, a, hn::Load(d, tail)), d, tail);
  for (std::size_t j = i; j < count; ++j) row[j] = tail[j - i];
}

}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
