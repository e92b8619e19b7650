/// \file
/// A chain of plans without a stream: each plan's dst is the next one's src, one run after another.
#pragma once

#include <span>
#include <vector>

#include "convrt/device.hpp"
#include "convrt/plan.hpp"
#include "core/ticket.hpp"

namespace convrt::core {

/// Throws Error{invalid_argument} unless the plans are on one device and each reads what the one before writes.
void check_chain(const std::vector<Conv2dPlan>& plans);

/// Runs a checked chain, with memory of its own between the plans. One run at a time.
class ChainRunner {
 public:
  explicit ChainRunner(const std::vector<Conv2dPlan>& plans);

  struct Interval {
    Clock::time_point start, end;  ///< of the computation alone, as far as the backend tells
  };
  /// Blocks. Throws what the plans throw.
  Interval compute(std::span<const float> src, std::span<float> dst, RunStats& stats);

 private:
  RunStats run_plans(std::span<const float> src, std::span<float> dst);
  Interval run_on_device(std::span<const float> src, std::span<float> dst);

  const std::vector<Conv2dPlan> plans_;
  std::vector<std::vector<float>> between_;  ///< host memory: each plan's dst but the last's
  std::vector<Buffer> buffers_;              ///< device memory: src, then each plan's dst
};

}  // namespace convrt::core
