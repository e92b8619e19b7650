#include "core/chain.hpp"

#include <algorithm>
#include <chrono>

#include "core/access.hpp"
#include "core/fail.hpp"

namespace convrt::core {

void check_chain(const std::vector<Conv2dPlan>& plans) {
  if (plans.empty()) fail(ErrorCode::invalid_argument, "Executor: expected at least one plan, found an empty chain");
  for (std::size_t i = 1; i < plans.size(); ++i) {
    const Conv2dDesc &from = plans[i - 1].desc(), &to = plans[i].desc();
    if (Access::backend(plans[i].device()) != Access::backend(plans[0].device()))
      fail(ErrorCode::invalid_argument, "Executor: a chain runs on one device, but plan 0 is on ",
           plans[0].device().info().id, " and plan ", i, " on ", plans[i].device().info().id);
    if (from.n != to.n || from.k != to.c || from.p() != to.h || from.q() != to.w || from.layout != to.layout)
      fail(ErrorCode::invalid_argument, "Executor: plan ", i, " (", to.str(), ") must read what plan ", i - 1, " (",
           from.str(), ") writes: n", from.n, "c", from.k, "h", from.p(), "w", from.q(), " in the same layout");
    if (from.accumulate)
      fail(ErrorCode::invalid_argument, "Executor: only the last plan of a chain may accumulate, found it in plan ",
           i - 1, " (", from.str(), ")");
  }
}

ChainRunner::ChainRunner(const std::vector<Conv2dPlan>& plans) : plans_(plans) {
  if (plans_.size() == 1 || plans_.back().desc().dst_size() == 0) return;  // Conv2dPlan::run brings its own staging
  const bool host_memory = Access::backend(plans_[0].device())->host_memory();
  if (!host_memory) buffers_.push_back(plans_[0].device().allocate(plans_[0].desc().src_size()));
  for (std::size_t i = 0; i < plans_.size(); ++i) {
    if (!host_memory)
      buffers_.push_back(plans_[i].device().allocate(plans_[i].desc().dst_size()));
    else if (i + 1 < plans_.size())
      between_.emplace_back(plans_[i].desc().dst_size());
  }
}

ChainRunner::Interval ChainRunner::compute(std::span<const float> src, std::span<float> dst, RunStats& stats) {
  if (!buffers_.empty()) {
    const Interval interval = run_on_device(src, dst);
    stats.device_ms = milliseconds(interval.end - interval.start);
    return interval;
  }
  const auto start = Clock::now();
  if (dst.empty()) return {start, start};  // n = 0
  stats = run_plans(src, dst);
  const auto end = Clock::now();
  const auto device = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double, std::milli>(std::max(0.0, stats.device_ms)));
  return {std::max(start, end - device), end};
}

RunStats ChainRunner::run_plans(std::span<const float> src, std::span<float> dst) {
  RunStats total;
  for (std::size_t i = 0; i < plans_.size(); ++i) {
    const bool last = i + 1 == plans_.size();
    const std::span<const float> from = i == 0 ? src : between_[i - 1];
    total.device_ms += plans_[i].run(from, last ? dst : between_[i]).device_ms;
  }
  return total;
}

ChainRunner::Interval ChainRunner::run_on_device(std::span<const float> src, std::span<float> dst) {
  buffers_.front().upload(src);
  if (plans_.back().desc().accumulate) buffers_.back().upload(dst);
  const auto start = Clock::now();
  for (std::size_t i = 0; i < plans_.size(); ++i) plans_[i].enqueue(buffers_[i], buffers_[i + 1]);
  plans_[0].device().synchronize();
  const auto end = Clock::now();
  buffers_.back().download(dst);
  return {start, end};
}

}  // namespace convrt::core
