/// \file
/// Which kernel runs a problem: option > CONVRT_KERNEL > user's tune cache > shipped tuning > heuristic.
#pragma once

#include <string>

#include "core/backend.hpp"

namespace convrt::core {

/// Winograd rounds worse than direct summation; every such kernel says so in its name.
bool allowed(const std::string& kernel, Accuracy accuracy);

/// True if `prefix` names `kernel` or whole leading components of it: "cpu.gemm" for "cpu.gemm.avx2.6x2".
bool names(std::string_view prefix, std::string_view kernel);

/// The kernel to prepare. `desc` is validated. Throws Error{invalid_argument} for an unknown name, {unsupported} for a
/// name that exists but is excluded here.
std::string select_kernel(Backend& backend, const Conv2dDesc& desc, const PlanOptions& options);

}  // namespace convrt::core
