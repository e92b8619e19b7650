/// \file
/// The filter side of Winograd's convolution F(m x m, 3x3), in double; both backends transform weights with it when a
/// plan is made. Points: 0, +-1, infinity (m = 2); 0, +-1/sqrt(2), +-sqrt(2), infinity (m = 4), which cost a third of
/// the rounding error of 0, +-1, +-2. The scale that makes the backends' transforms exact inverses is all in G, here.
/// A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
#pragma once

#include <array>
#include <cstddef>

namespace convrt::core {

using WinogradRow = std::array<double, 3>;
inline constexpr double kRoot2 = 1.41421356237309504880;

// Rows of G: what a filter row becomes at each point.
inline constexpr std::array<WinogradRow, 4> kWinogradFilter2 = {
    {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}}};
inline constexpr std::array<WinogradRow, 6> kWinogradFilter4 = {{{1, 0, 0},
                                                                 {-2. / 3, -kRoot2 / 3, -1. / 3},
                                                                 {-2. / 3, kRoot2 / 3, -1. / 3},
                                                                 {1. / 6, kRoot2 / 6, 1. / 3},
                                                                 {1. / 6, -kRoot2 / 6, 1. / 3},
                                                                 {0, 0, 1}}};

/// Points of F(m x m, 3x3).
inline constexpr int winograd_points(int m) { return (m + 2) * (m + 2); }

/// G w G^T of one filter w[3][3], rounded once, to[point * stride].
template <std::size_t kPoints>
void transform_filter(const std::array<WinogradRow, kPoints>& g, const float* w, float* to, std::ptrdiff_t stride) {
  std::array<WinogradRow, kPoints> half;
  for (std::size_t i = 0; i < kPoints; ++i)
    for (std::size_t s = 0; s < 3; ++s) half[i][s] = g[i][0] * w[s] + g[i][1] * w[3 + s] + g[i][2] * w[6 + s];
  for (std::size_t i = 0; i < kPoints; ++i)
    for (std::size_t j = 0; j < kPoints; ++j, to += stride)
      *to = static_cast<float>(half[i][0] * g[j][0] + half[i][1] * g[j][1] + half[i][2] * g[j][2]);
}

inline void transform_filter(int m, const float* w, float* to, std::ptrdiff_t stride) {
  if (m == 2)
    transform_filter(kWinogradFilter2, w, to, stride);
  else
    transform_filter(kWinogradFilter4, w, to, stride);
}

}  // namespace convrt::core
