// The nine activations in fp32: the forms of src/cpu/kernels/activation-inl.h, for the meanings of
// src/core/activation.hpp. Nothing here leans on the driver's exp or tanh, whose accuracy GLSL leaves open; NaN stays
// NaN, tested by bits because drivers may assume that a float equals itself. Subnormal results may be flushed to zero.

#define ACTIVATION_NONE 0
#define ACTIVATION_RELU 1
#define ACTIVATION_CLAMP 2
#define ACTIVATION_LEAKY_RELU 3
#define ACTIVATION_SIGMOID 4
#define ACTIVATION_TANH 5
#define ACTIVATION_SILU 6
#define ACTIVATION_GELU 7
#define ACTIVATION_HARD_SWISH 8

// x = n*ln2 + rest with integer n, |rest| <= 0.35; the high part of ln2 has 10 bits, so n*high is exact (W. J. Cody,
// W. Waite, "Software Manual for the Elementary Functions", 1980).
float reduce_exp(float x, out int n) {
  float whole = floor(fma(x, 1.44269504, 0.5));
  n = int(whole);
  return fma(-whole, -2.12194440e-4, fma(-whole, 0.693359375, x));
}

// exp(x) - 1 for |x| <= 0.41, with small relative error also near 0.
float expm1_reduced(float x) {
  float t = fma(1.990751575e-4, x, 1.394853189e-3);
  t = fma(t, x, 8.333293567e-3);
  t = fma(t, x, 4.166630861e-2);
  t = fma(t, x, 1.666666670e-1);
  t = fma(t, x, 0.5);
  return fma(x * x, t, x);
}

// v * 2^n for |n| <= 250, in two factors so that neither overflows.
float scale_by_power(float v, int n) {
  int part = n >> 1;
  return v * intBitsToFloat((part + 127) << 23) * intBitsToFloat((n - part + 127) << 23);
}

// factor / (1 + exp(-x)).
float logistic(float x, float factor) {
  int n;
  float mantissa = 1.0 + expm1_reduced(reduce_exp(-min(abs(x), 110.0), n));
  float denominator = 1.0 + scale_by_power(mantissa, n);
  return x < 0.0 ? scale_by_power(factor * mantissa / denominator, n) : factor / denominator;
}

// m / (m + 2) with m = exp(2|x|) - 1: no cancellation near 0, and 1 from 2|x| = 20 on.
float hyperbolic_tangent(float x) {
  int n;
  float rest = reduce_exp(min(2.0 * abs(x), 20.0), n);
  float power = scale_by_power(1.0, n);
  float m = fma(power, expm1_reduced(rest), power - 1.0);
  return x < 0.0 ? -m / (m + 2.0) : m / (m + 2.0);
}

// x * Phi(x), Phi the normal distribution: Phi(-t) = exp(-t*t/2) * g(t), g a polynomial in u = 1/(1 + t/4). t*t is
// formed from two halves: rounding it to a float would cost the exponential 100 ulp at t = 14.
float gaussian_linear_unit(float x) {
  float t = min(abs(x), 15.0);
  float t_high = uintBitsToFloat(floatBitsToUint(t) & 0xFFFFF000u);
  float t_low = t - t_high;
  int n;
  float rest = fma(-0.5 * t_low, t + t_high, reduce_exp(-0.5 * (t_high * t_high), n));
  float u = 1.0 / fma(t, 0.25, 1.0);
  float g = fma(1.607147336e-2, u, -6.022585286e-2);
  g = fma(g, u, 4.611993723e-2);
  g = fma(g, u, 3.507515430e-2);
  g = fma(g, u, 7.866203337e-3);
  g = fma(g, u, 8.885935964e-2);
  g = fma(g, u, 7.138857119e-2);
  g = fma(g, u, 9.561157545e-2);
  g = fma(g, u, 9.948556838e-2);
  g = fma(g, u, 9.974801271e-2);
  float tail = g * u * (1.0 + expm1_reduced(rest));
  return x < 0.0 ? scale_by_power(max(x, -15.0) * tail, n) : x * (1.0 - scale_by_power(tail, n));
}

float activate(float x) {
  if ((floatBitsToUint(x) & 0x7FFFFFFFu) > 0x7F800000u) return x;
  switch (ACTIVATION) {
    case ACTIVATION_RELU: return x > 0.0 ? x : 0.0;
    case ACTIVATION_CLAMP: return x < conv.alpha ? conv.alpha : x > conv.beta ? conv.beta : x;
    case ACTIVATION_LEAKY_RELU: return x > 0.0 ? x : x * conv.alpha;
    case ACTIVATION_SIGMOID: return logistic(x, 1.0);
    case ACTIVATION_TANH: return hyperbolic_tangent(x);
    case ACTIVATION_SILU: return logistic(x, max(x, -110.0));
    case ACTIVATION_GELU: return gaussian_linear_unit(x);
    case ACTIVATION_HARD_SWISH: return x <= -3.0 ? -0.0 : x >= 3.0 ? x : x * (x + 3.0) * (1.0 / 6.0);
    default: return x;
  }
}
