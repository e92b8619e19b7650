/// \file
/// What a 2-D convolution is: sizes, geometry, layout, epilogue. Describing costs nothing; see plan.hpp to run one.
///
/// Letters, the same in C++, GLSL, tests and bench:
///   N images, C source channels, H x W source size; K filters, R x S filter size; P x Q destination size.
///
///   dst[n][k][p][q] = activation(bias[k] + (accumulate ? dst[n][k][p][q] : 0)
///                       + sum over c < C/groups, r < R, s < S of
///                           weights[k][c][r][s] * src[n][g*C/groups + c][p*stride_h - pad_top + r*dilation_h]
///                                                                       [q*stride_w - pad_left + s*dilation_w])
/// where g = k / (K/groups) and source elements outside the image are zero. This is cross-correlation, as in every
/// deep-learning framework: the filter is not flipped.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "convrt/error.hpp"
#include "convrt/export.h"

namespace convrt {

/// Memory order of src and dst. Weights are always KCRS: `weights[K][C/groups][R][S]`.
enum class Layout {
  nchw,  ///< `src[N][C][H][W]`, `dst[N][K][P][Q]`
  nhwc   ///< `src[N][H][W][C]`, `dst[N][P][Q][K]`
};

/// Applied to every destination element, in fp32. README.md ("Activations") states each one's error bound and what it
/// makes of NaN, infinity and -0.
enum class ActivationKind {
  none,        ///< x
  relu,        ///< x > 0 ? x : 0; NaN stays NaN
  clamp,       ///< min(max(x, alpha), beta); NaN stays NaN
  leaky_relu,  ///< x > 0 ? x : alpha * x
  sigmoid,     ///< 1 / (1 + exp(-x))
  tanh,        ///< tanh(x)
  silu,        ///< x * sigmoid(x)
  gelu,        ///< x * (1 + erf(x / sqrt(2))) / 2, the exact form, not the tanh approximation
  hard_swish   ///< x * min(max(x + 3, 0), 6) / 6
};

struct Activation {
  ActivationKind kind = ActivationKind::none;
  float alpha = 0;  ///< leaky_relu: the slope below 0; clamp: the lower bound; otherwise ignored
  float beta = 0;   ///< clamp: the upper bound; otherwise ignored
  bool operator==(const Activation&) const = default;
};

/// One convolution. A plain value: fill the fields, call `validate()` (a plan does), hand it on.
struct CONVRT_API Conv2dDesc {
  int n = 1, c = 0, h = 0, w = 0;  ///< source: images, channels, height, width; n = 0 is an empty success
  int k = 0, r = 0, s = 0;         ///< filters: count, height, width
  int stride_h = 1, stride_w = 1;
  int dilation_h = 1, dilation_w = 1;  ///< 1 = dense
  int pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  int groups = 1;  ///< divides c and k; groups = c is a depthwise convolution, with multiplier k / c
  Layout layout = Layout::nchw;
  bool accumulate = false;  ///< add what dst holds before the activation (the residual add of a ResNet block)
  Activation activation = {};

  int p() const;  ///< destination height; throws Error{invalid_argument} where the fields give none
  int q() const;  ///< destination width; likewise

  std::size_t src_size() const;      ///< floats in src, N*C*H*W; throws Error{invalid_argument} on overflow
  std::size_t weights_size() const;  ///< floats in weights, K*(C/groups)*R*S; likewise
  std::size_t dst_size() const;      ///< floats in dst, N*K*P*Q; likewise
  double flops() const;              ///< 2*N*K*P*Q*(C/groups)*R*S, padded taps included

  /// Throws Error{invalid_argument} that names the field, its value and the rule it breaks.
  void validate() const;

  /// The problem string, for example "n1c64h56w56k64r3s3ph1pw1". Grammar (no spaces):
  ///
  ///     problem    := field { field } { "+" option }
  ///     field      := name integer      each name at most once, in any order:
  ///                   n c h w  k r s    sizes
  ///                   sh sw  dh dw      strides, dilations                       (default 1)
  ///                   ph pw             padding on both sides of an axis         (default 0)
  ///                   pt pb pl pr       top, bottom, left, right where they differ
  ///                   g                 groups                                   (default 1)
  ///     option     := "nchw" | "nhwc" | "acc" | activation [ ":" alpha [ ":" beta ] ]
  ///     activation := "none" | "relu" | "clamp" | "leaky_relu" | "sigmoid" | "tanh" | "silu" | "gelu" | "hard_swish"
  ///
  /// `str()` prints the seven sizes and whatever differs from its default; floats print so that they read back exactly.
  std::string str() const;

  /// The inverse of `str()`: parse(d.str()) == d for every d (unless alpha or beta is NaN). Checks the grammar, not the
  /// sizes (see `validate`). Throws Error{invalid_argument} that names the position and what was expected there.
  static Conv2dDesc parse(std::string_view text);

  bool operator==(const Conv2dDesc&) const = default;
};

}  // namespace convrt
