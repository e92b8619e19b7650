/// \file
/// How often and how fast plans have run, over all processes: kept where CONVRT_HISTORY is set to anything but 0. Shown
/// by convrt_info, and the tuner tries first what was fast before.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "convrt/conv2d.hpp"
#include "core/backend.hpp"

namespace convrt::core {

struct HistoryRecord {
  std::string device, driver, problem, kernel;
  std::uint64_t runs = 0, enqueued = 0;  ///< timed; and put into the device's queue, where nobody takes a time
  double total_ms = 0, best_ms = 0;      ///< of the runs, the kernel alone (RunStats::device_ms); 0 for none
};

/// Everything on record that is saved, the most recently saved last.
std::vector<HistoryRecord> history();

/// The runs of one plan; saved when it goes. Counting is lock-free.
class PlanHistory {
 public:
  /// nullptr unless CONVRT_HISTORY asks for a history.
  static std::unique_ptr<PlanHistory> open(const Backend& backend, const Conv2dDesc& desc, const std::string& kernel);
  explicit PlanHistory(HistoryRecord names) : names_(std::move(names)) {}
  PlanHistory(const PlanHistory&) = delete;
  PlanHistory& operator=(const PlanHistory&) = delete;
  ~PlanHistory();

  void count(double ms) noexcept;
  void count_enqueue() noexcept { ++enqueued_; }

 private:
  const HistoryRecord names_;
  std::atomic<std::uint64_t> runs_ = 0, enqueued_ = 0, total_ns_ = 0, best_ns_ = UINT64_MAX;
};

}  // namespace convrt::core
