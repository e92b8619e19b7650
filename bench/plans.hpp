/// \file
/// convrt_bench --plans: what a plan costs, beside a memcpy of the bytes that it packs.
#pragma once

#include <iosfwd>

#include "session.hpp"

namespace convrt::bench {

/// The most that making a plan should take: so many times the memcpy, and a little more (milliseconds).
inline constexpr double kPlanCopies = 3, kPlanExtraMs = 0.05;

/// Prints a table for every layer, CPU thread count and layout of the options: medians of plans and of copies made in
/// turn, both into fresh memory. The first of each is not counted.
void bench_plans(std::ostream& out, const Options& options);

}  // namespace convrt::bench
