/// \file
/// One device of a MultiDevicePlan: its plans, its executor, and how fast it is.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "convrt/device.hpp"
#include "convrt/executor.hpp"
#include "convrt/plan.hpp"
#include "core/split.hpp"
#include "core/worker.hpp"

namespace convrt::core {

/// What all parts are cut from. Weights stay at hand: a part of other filters or rows needs a plan of its own.
struct Whole {
  Conv2dDesc desc;
  std::vector<float> weights, bias;
  PlanOptions options;
  int devices = 1;
};

/// Images of one submission where a batch from host memory goes through an executor. It depends on the whole problem
/// alone, so that one executor serves every share.
int images_a_submission(const Conv2dDesc& whole);

/// One device with what it needs to compute parts. Used by its own thread, and between runs by the coordinator.
class Lane {
 public:
  Lane(Device device, const Whole& whole) : device_(std::move(device)), whole_(whole) {}

  const Device& device() const { return device_; }
  const std::string& id() const { return device_.info().id; }
  bool is_cpu() const;
  /// Whether it has memory of its own, to and from which the host copies.
  bool copies() const;
  /// Whether a kernel of this name would be this device's.
  bool named(const std::string& kernel) const;

  /// Makes the plan that parts derive from and measures its rates: with one image, and with more where that is too
  /// short to tell a device's speed from what it takes to start.
  void calibrate();
  /// Computes `part` of src into its place in dst. dst is touched only if that succeeds, or may be overwritten later.
  RunStats compute(const Part& part, std::span<const float> src, std::span<float> dst);
  /// The plan for so many images that lie on the device. Thread-safe.
  const Conv2dPlan& resident(int images);

  double gflops = 0;           ///< measured, copies included; 0 before the first success
  double resident_gflops = 0;  ///< the same without copies
  bool alive = true;
  double fraction = 0;  ///< of the latest run
  Worker worker;

 private:
  bool streamed(int images) const;
  RunStats stream(int images, std::span<const float> src, std::span<float> dst);
  const Conv2dPlan& plan_for(Part part);
  Conv2dPlan make_plan(const Part& part) const;

  const Device device_;
  const Whole& whole_;
  std::optional<Conv2dPlan> base_;
  std::map<Part, Conv2dPlan> plans_;
  std::mutex resident_mutex_;
  std::map<int, Conv2dPlan> resident_;
  std::optional<Executor> executor_;  ///< of images_a_submission()
  std::vector<float> src_, dst_;
};

}  // namespace convrt::core
