/// \file
/// convrt_bench --tune: the tuner on every selected layer, with progress and a ranking.
#pragma once

#include <iosfwd>

#include "session.hpp"

namespace convrt::bench {

/// Runs convrt::tune on every layer, device and layout of the options.
void tune_layers(std::ostream& out, const Options& options, double budget_ms);

}  // namespace convrt::bench
