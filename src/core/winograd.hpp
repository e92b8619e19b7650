/// \file
/// The filter side of Winograd's convolution F(m x m, 3x3), in double; both backends transform weights with it when a
/// plan is made. Points: 0, +-1, infinity (m = 2); 0, +-1/sqrt(2), +-sqrt(2), infinity (m = 4), which cost a third of
/// the rounding error of 0, +-1, +-2. The scale that makes the backends' transforms exact inverses is all in G, here.
/// A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
#pragma once

#include <algorithm>
#include <cstddef>

namespace convrt::core {

inline constexpr double kRoot2 = 1.41421356237309504880;

/// What rows (a, b, c) of kCount filters become at each point: y = G times them. Loops over filters, for the compiler
/// to make vectors of.
template <int m, std::size_t kCount>
void transform_filter_rows(const double (&x)[3][kCount], double (&y)[m + 2][kCount]) {
  for (std::size_t k = 0; k < kCount; ++k) {
    const double a = x[0][k], b = x[1][k], c = x[2][k];
    y[0][k] = a;
    if constexpr (m == 2) {
      const double even = 0.5 * (a + c), odd = 0.5 * b;
      y[1][k] = even + odd;
      y[2][k] = even - odd;
    } else {
      const double even1 = -1. / 3 * (2 * a + c), odd1 = kRoot2 / 3 * b;
      const double even2 = 1. / 6 * (a + 2 * c), odd2 = kRoot2 / 6 * b;
      y[1][k] = even1 - odd1;
      y[2][k] = even1 + odd1;
      y[3][k] = even2 + odd2;
      y[4][k] = even2 - odd2;
    }
    y[m + 1][k] = c;
  }
}

/// Points of F(m x m, 3x3).
inline constexpr int winograd_points(int m) { return (m + 2) * (m + 2); }

/// G w G^T of kCount filters w[column][row][filter], rounded once, to[point * stride + filter].
template <int m, std::size_t kCount>
void transform_filters(const double (&w)[3][3][kCount], float* to, std::ptrdiff_t stride) {
  double columns[3][m + 2][kCount], row[3][kCount], y[m + 2][kCount];
  for (std::size_t s = 0; s < 3; ++s) transform_filter_rows<m>(w[s], columns[s]);
  for (std::size_t i = 0; i < m + 2; ++i) {
    for (std::size_t s = 0; s < 3; ++s) std::copy_n(columns[s][i], kCount, row[s]);
    transform_filter_rows<m>(row, y);
    for (std::size_t j = 0; j < m + 2; ++j, to += stride)
      for (std::size_t k = 0; k < kCount; ++k) to[k] = static_cast<float>(y[j][k]);
  }
}

template <std::size_t kCount>
void transform_filters(int m, const double (&w)[3][3][kCount], float* to, std::ptrdiff_t stride) {
  m == 2 ? transform_filters<2>(w, to, stride) : transform_filters<4>(w, to, stride);
}

/// One filter w[3][3].
inline void transform_filter(int m, const float* w, float* to, std::ptrdiff_t stride) {
  double one[3][3][1];
  for (std::size_t r = 0; r < 3; ++r)
    for (std::size_t s = 0; s < 3; ++s) one[s][r][0] = w[3 * r + s];
  transform_filters(m, one, to, stride);
}

}  // namespace convrt::core
