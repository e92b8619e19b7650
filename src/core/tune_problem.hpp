/// \file
/// The tuner as select sees it: for the thread count of a plan.
#pragma once

#include "convrt/tuner.hpp"
#include "core/backend.hpp"

namespace convrt::core {

/// convrt::tune for runs of at most `threads` threads. `desc` is validated.
TuneReport tune_problem(Backend& backend, const Conv2dDesc& desc, int threads, const TuneOptions& options);

/// The kernels that tuning measures: all but the reference, unless it is alone; with `most` above 0 only the first so
/// many of the Winograd kernels and of the others, which Accuracy::strict is limited to.
std::vector<std::string> tune_candidates(const Backend& backend, const Conv2dDesc& desc, int threads,
                                         std::size_t most = 0);

}  // namespace convrt::core
