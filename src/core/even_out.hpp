/// \file
/// Devices of one name are one product: what sets them apart by little is the noise of a short measurement.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>

namespace convrt::core {

/// Gives devices of one product the first one's rate where theirs is within half of it. `products`: equal numbers for
/// equal products; 0 is like no other.
inline void even_out(std::span<double> rates, std::span<const std::size_t> products) {
  constexpr double kAlike = 0.5;
  for (std::size_t i = 0; i < rates.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (products[i] != 0 && products[i] == products[j] && std::abs(rates[i] - rates[j]) <= kAlike * rates[j])
        rates[i] = rates[j];
}

}  // namespace convrt::core
