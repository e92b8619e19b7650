/// \file
/// Which kernel runs a problem: option > CONVRT_KERNEL > user's tune cache > shipped tuning > heuristic.
#pragma once

#include <string>
#include <vector>

#include "core/backend.hpp"

namespace convrt::core {

/// Winograd rounds worse than direct summation; every such kernel says so in its name.
bool allowed(const std::string& kernel, Accuracy accuracy);

/// True if `prefix` names `kernel` or whole leading components of it: "cpu.gemm" for "cpu.gemm.avx2.6x2".
bool names(std::string_view prefix, std::string_view kernel);

/// The kernels to try to prepare, best first, never empty: where a name is forced, those under it. `desc` is validated.
/// Throws Error{invalid_argument} for an unknown name, {unsupported} for a name that exists but is excluded here.
std::vector<std::string> select_kernels(Backend& backend, const Conv2dDesc& desc, const PlanOptions& options);

}  // namespace convrt::core
