/// \file
/// The filter side of Winograd's convolution F(m x m, 3x3), in double; weights are transformed with it when a plan is
/// made (on the CPU with vectors of it, cpu/kernels/winograd_filters-inl.h). Points: 0, +-1, infinity (m = 2); 0,
/// +-1/sqrt(2), +-sqrt(2), infinity (m = 4), which cost a third of the rounding error of 0, +-1, +-2. The scale that
/// makes the backends' transforms exact inverses is all in G, here. A. Lavin, S. Gray, "Fast Algorithms for
/// Convolutional Neural Networks", 2015.
#pragma once

#include <cstddef>

namespace convrt::core {

inline constexpr double kRoot2 = 1.41421356237309504880;

/// y = G (a, b, c).
template <int m>
void transform_filter_row(double a, double b, double c, double (&y)[m + 2]) {
  y[0] = a;
  if constexpr (m == 2) {
    const double even = 0.5 * (a + c), odd = 0.5 * b;
    y[1] = even + odd;
    y[2] = even - odd;
  } else {
    const double even1 = -1. / 3 * (2 * a + c), odd1 = kRoot2 / 3 * b;
    const double even2 = 1. / 6 * (a + 2 * c), odd2 = kRoot2 / 6 * b;
    y[1] = even1 - odd1;
    y[2] = even1 + odd1;
    y[3] = even2 + odd2;
    y[4] = even2 - odd2;
  }
  y[m + 1] = c;
}

/// Points of F(m x m, 3x3).
inline constexpr int winograd_points(int m) { return (m + 2) * (m + 2); }

/// G w G^T of the filter w[3][3], rounded once, to[point * stride].
template <int m>
void transform_filter(const float* w, float* to, std::ptrdiff_t stride) {
  double columns[3][m + 2], y[m + 2];
  for (int s = 0; s < 3; ++s) transform_filter_row<m>(w[s], w[3 + s], w[6 + s], columns[s]);
  for (int i = 0; i < m + 2; ++i) {
    transform_filter_row<m>(columns[0][i], columns[1][i], columns[2][i], y);
    for (int j = 0; j < m + 2; ++j, to += stride) *to = static_cast<float>(y[j]);
  }
}

inline void transform_filter(int m, const float* w, float* to, std::ptrdiff_t stride) {
  m == 2 ? transform_filter<2>(w, to, stride) : transform_filter<4>(w, to, stride);
}

}  // namespace convrt::core
