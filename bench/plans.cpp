#include "plans.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iomanip>
#include <ostream>
#include <string>
#include <vector>

#include "contender.hpp"
#include "core/access.hpp"
#include "cpu/aligned.hpp"
#include "progress.hpp"
#include "statistics.hpp"

namespace convrt::bench {
namespace {

template <class Action>
double ms_of(const Action& action) {
  const auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

struct Cost {
  std::string kernel;
  std::size_t packed_bytes = 0;
  double plan_ms = 0, copy_ms = 0;
  double limit_ms() const { return kPlanCopies * copy_ms + kPlanExtraMs; }
};

Cost measure(const Device& device, const Conv2dDesc& desc, std::span<const float> weights, const PlanOptions& options,
             int samples) {
  Cost cost;
  std::vector<double> plan_ms, copy_ms;
  std::vector<char> from;
  for (int i = 0; i <= samples; ++i) {
    const double plan = ms_of([&] {
      const Conv2dPlan made(device, desc, weights, {}, options);
      cost.kernel = made.kernel();
      cost.packed_bytes = core::Access::prepared(made)->packed_bytes();
    });
    from.resize(cost.packed_bytes, 1);
    const double copy = ms_of([&] {
      const cpu::AlignedFloats to(cost.packed_bytes / sizeof(float));
      std::memcpy(to.data(), from.data(), cost.packed_bytes);
      benchmark::DoNotOptimize(to.data());
      benchmark::ClobberMemory();
    });
    if (i == 0) continue;
    plan_ms.push_back(plan);
    copy_ms.push_back(copy);
  }
  cost.plan_ms = median(plan_ms);
  cost.copy_ms = median(copy_ms);
  return cost;
}

}  // namespace

void bench_plans(std::ostream& out, const Options& options) {
  const std::vector<Workload> layers = selected_workloads(options);
  const std::vector<Device> devices = selected_devices(options.devices);
  for (const Device& device : devices)
    for (const int threads : options.threads) {
      out << "\nplans on " << device.info().id << ", " << (threads == 0 ? "all" : std::to_string(threads))
          << " threads: medians of " << options.runner.samples << ", ms; limit: " << kPlanCopies << " copies + "
          << kPlanExtraMs << " ms\n"
          << std::left << std::setw(28) << "layer" << std::setw(34) << "kernel" << std::right << std::setw(10) << "MiB"
          << std::setw(10) << "plan" << std::setw(10) << "copy" << std::setw(10) << "limit"
          << "  of limit\n";
      std::vector<double> shares;
      Progress progress("making plans");
      std::size_t done = 0;
      for (const Workload& layer : layers) {
        progress.show(static_cast<double>(done++) / static_cast<double>(layers.size()), layer.name);
        Problem problem(layer);
        for (const Layout layout : selected_layouts(options, layer)) {
          const Cost cost = measure(device, problem.desc(layout), problem.weights(),
                                    {.kernel = options.kernels.front(),
                                     .tune = options.tuned ? Tune::cached : Tune::off,
                                     .accuracy = options.accuracy,
                                     .threads = threads},
                                    options.runner.samples);
          shares.push_back(cost.plan_ms / cost.limit_ms());
          progress.clear();
          out << std::left << std::setw(28) << layer.name + (layout == Layout::nhwc ? " nhwc" : "") << std::setw(34)
              << cost.kernel << std::right << std::fixed << std::setprecision(3) << std::setw(10)
              << static_cast<double>(cost.packed_bytes) / (1 << 20) << std::setw(10) << cost.plan_ms << std::setw(10)
              << cost.copy_ms << std::setw(10) << cost.limit_ms() << std::setprecision(2) << std::setw(10)
              << shares.back() << (shares.back() > 1 ? " over" : "") << '\n';
        }
      }
      const auto over = std::count_if(shares.begin(), shares.end(), [](double share) { return share > 1; });
      out << "of the limit: geomean " << geomean(shares) << ", most " << *std::max_element(shares.begin(), shares.end())
          << ", over it " << over << " of " << shares.size() << std::defaultfloat << '\n';
    }
}

}  // namespace convrt::bench
