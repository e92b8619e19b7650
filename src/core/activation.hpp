/// \file
/// The nine activations in double precision: the oracle's form. The fp32 forms (src/cpu/kernels/activation-inl.h,
/// shaders/activation.glsl) are tested against this one. Limits at -infinity are the mathematical ones (silu, gelu and
/// hard_swish tend to -0), and NaN stays NaN everywhere.
#pragma once

#include <cmath>

#include "convrt/conv2d.hpp"

namespace convrt::core {

inline double activate(const Activation& a, double x) {
  if (std::isnan(x)) return x;
  const bool negative_infinity = std::isinf(x) && x < 0;
  switch (a.kind) {
    case ActivationKind::none: return x;
    case ActivationKind::relu: return x > 0 ? x : 0;
    case ActivationKind::clamp: return x < a.alpha ? a.alpha : x > a.beta ? a.beta : x;
    case ActivationKind::leaky_relu: return x > 0 ? x : x * a.alpha;
    case ActivationKind::sigmoid: return 1 / (1 + std::exp(-x));
    case ActivationKind::tanh: return std::tanh(x);
    case ActivationKind::silu: return negative_infinity ? -0.0 : x / (1 + std::exp(-x));
    case ActivationKind::gelu: return negative_infinity ? -0.0 : 0.5 * x * std::erfc(-x * std::sqrt(0.5));
    case ActivationKind::hard_swish: return x <= -3 ? -0.0 : x >= 3 ? x : x * (x + 3) / 6;
  }
  return x;
}

}  // namespace convrt::core
