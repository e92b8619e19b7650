/// \file
/// The few statistics that the bench reports.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace convrt::bench {

/// The q-quantile (0 to 1) by linear interpolation between order statistics; 0 for no samples.
inline double quantile(std::vector<double> samples, double q) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const double at = q * static_cast<double>(samples.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, samples.size() - 1);
  return samples[low] + (at - static_cast<double>(low)) * (samples[high] - samples[low]);
}

inline double median(std::vector<double> samples) { return quantile(std::move(samples), 0.5); }

/// Geometric mean of positive numbers; 0 for none.
inline double geomean(const std::vector<double>& values) {
  double logs = 0;
  for (const double v : values) logs += std::log(v);
  return values.empty() ? 0 : std::exp(logs / static_cast<double>(values.size()));
}

}  // namespace convrt::bench
