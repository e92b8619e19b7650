#include "devices.hpp"

#include <algorithm>
#include <future>
#include <iomanip>
#include <limits>
#include <ostream>

#include "contender.hpp"
#include "convrt/multi_device.hpp"
#include "core/fail.hpp"
#include "core/verify.hpp"
#include "progress.hpp"
#include "series.hpp"
#include "statistics.hpp"

namespace convrt::bench {
namespace {

constexpr int kWarmUp = 8;  // runs until shares have settled

struct Times {
  double resident_ms = 0;  ///< tensors on the devices
  double host_ms = 0;      ///< from and to host memory, one run after another
};

/// One layer: its tensors and what all its results are compared with.
class Layer {
 public:
  Layer(Problem& problem, Layout layout, const Options& options, double series_ms)
      : desc(problem.desc(layout)),
        weights(problem.weights()),
        src(problem.src(layout)),
        plan_options({.kernel = options.kernels.front(),
                      .tune = options.tuned ? Tune::cached : Tune::off,
                      .accuracy = options.accuracy}),
        dst(desc.dst_size(), std::numeric_limits<float>::quiet_NaN()),
        series_ms_(series_ms) {
    if (desc.accumulate)
      core::fail(ErrorCode::invalid_argument, "--devices: ", desc.str(), " adds to dst, and runs would add up");
  }

  Times alone(const Device& device) {
    const Conv2dPlan plan(device, desc, weights, {}, plan_options);
    Buffer from = device.allocate(desc.src_size()), to = device.allocate(desc.dst_size());
    from.upload(src);
    to.upload(nothing());
    Times times;
    times.resident_ms = resident([&] { plan.enqueue(from, to); }, [&] { device.synchronize(); });
    to.download(dst);
    check(plan.kernel(), device.info().id);
    MultiDevicePlan streamed({device}, desc, weights, {},
                             plan_options);  // which overlaps copies, as several devices do
    for (int i = 0; i < kWarmUp; ++i) streamed.run(src, dst);
    times.host_ms = time_each(
        series_ms_, 0, [&] { streamed.run(src, dst); }, [] {});
    check(plan.kernel(), device.info().id + " from host memory");
    return times;
  }

  /// `copies_ms`: upload of src and download of dst by all devices at once, nothing else.
  Times together(const std::vector<Device>& devices, std::vector<Share>& shares, std::vector<int>& images,
                 double& copies_ms) {
    MultiDevicePlan plan(devices, desc, weights, {}, plan_options);
    MultiBuffer from = plan.allocate_src(), to = plan.allocate_dst(from);
    images = from.images();
    from.upload(src);
    to.upload(nothing());
    Times times;
    times.resident_ms = resident([&] { plan.enqueue(from, to); }, [&] { plan.synchronize(); });
    to.download(dst);
    check(plan_options.kernel, "all devices");
    for (int i = 0; i < kWarmUp; ++i) plan.run(src, dst);
    times.host_ms = time_each(
        series_ms_, 0, [&] { plan.run(src, dst); }, [] {});
    check(plan_options.kernel, "all devices from host memory");
    shares = plan.shares();
    copies_ms = time_each(
        series_ms_, 0,
        [&] {
          const auto other = std::async(std::launch::async, [&] { to.download(dst); });
          from.upload(src);
          other.wait();
        },
        [] {});
    return times;
  }

  const Conv2dDesc desc;
  const std::span<const float> weights, src;
  const PlanOptions plan_options;
  std::vector<float> dst;
  std::string wrong;  ///< empty, or the first wrong result

 private:
  // Milliseconds a convolution: queues short enough to wait for, long enough to hide that.
  template <class Enqueue, class Wait>
  double resident(const Enqueue& enqueue, const Wait& wait) const {
    constexpr int kQueue = 8;
    return time_each(
               series_ms_, 0,
               [&] {
                 for (int i = 0; i < kQueue; ++i) enqueue();
                 wait();
               },
               [] {}) /
           kQueue;
  }

  // `kernel`: for its error bound; the wider one where it is not known.
  void check(const std::string& kernel, const std::string& who) {
    const core::VerifyResult result =
        core::verify({.desc = desc,
                      .kernel = kernel.empty() && plan_options.accuracy == Accuracy::normal ? "winograd_f4x4" : kernel,
                      .weights = weights,
                      .bias = {},
                      .src = src},
                     dst, 4096);
    if (!result.ok() && wrong.empty()) wrong = who + ": " + result.str();
    (void)nothing();
  }

  // What a kernel that writes nothing would leave.
  std::span<const float> nothing() {
    std::fill(dst.begin(), dst.end(), std::numeric_limits<float>::quiet_NaN());
    return dst;
  }

  const double series_ms_;
};

}  // namespace

bool bench_devices(std::ostream& out, const Options& options, const DevicesOptions& several) {
  const std::vector<Device> devices = selected_devices(several.ids);
  for (const Device& device : devices)
    out << device.info().id << ": " << device.info().name << ", " << device.info().driver << '\n';
  std::vector<double> resident_gain, host_gain, host_share;
  bool right = true;
  for (const Workload& workload : selected_workloads(options)) {
    Problem problem(workload);
    for (const Layout layout : selected_layouts(options, workload)) {
      Layer layer(problem, layout, options, several.series_ms);
      const Conv2dDesc& d = layer.desc;
      Progress progress(workload.name);
      const auto line = [&](const std::string& what, const Times& times) {
        progress.clear();
        out << "  " << std::left << std::setw(14) << what << std::right << std::fixed << std::setprecision(3)
            << std::setw(10) << times.resident_ms << " ms " << std::setprecision(0) << std::setw(8)
            << d.flops() / times.resident_ms * 1e-6 << " GFLOP/s resident " << std::setprecision(3) << std::setw(10)
            << times.host_ms << " ms " << std::setprecision(0) << std::setw(8) << d.n / times.host_ms * 1e3
            << " images/s " << std::setw(8) << d.flops() / times.host_ms * 1e-6 << " GFLOP/s from host memory\n";
      };
      out << '\n' << workload.name << ' ' << d.str() << '\n';
      Times best = {1e30, 1e30};
      for (const Device& device : devices) {
        progress.show(0, device.info().id);
        const Times times = layer.alone(device);
        best = {std::min(best.resident_ms, times.resident_ms), std::min(best.host_ms, times.host_ms)};
        line(device.info().id, times);
      }
      std::vector<Share> shares;
      std::vector<int> images;
      double copies_ms = 0;
      progress.show(0.7, "all devices");
      const Times all = layer.together(devices, shares, images, copies_ms);
      line("together", all);
      resident_gain.push_back(best.resident_ms / all.resident_ms);
      host_gain.push_back(best.host_ms / all.host_ms);
      const double bound_ms = std::max(copies_ms, all.resident_ms);
      host_share.push_back(bound_ms / all.host_ms);
      out << std::setprecision(2) << "  of the best alone: resident " << resident_gain.back() << ", from host memory "
          << host_gain.back() << "; all copies alone " << std::setprecision(3) << copies_ms << " ms, "
          << std::setprecision(0) << 100 * host_share.back() << " % of the bound by copies and kernels\n  shares:";
      for (std::size_t i = 0; i < shares.size(); ++i)
        out << ' ' << shares[i].device << ' ' << std::setprecision(1) << 100 * shares[i].fraction << " % (" << images[i]
            << " images resident)";
      out << '\n';
      if (!layer.wrong.empty()) out << "  WRONG: " << layer.wrong << '\n';
      right = right && layer.wrong.empty();
      out.flush();
    }
  }
  out << std::setprecision(2) << "\ntogether / best alone, geomean of " << resident_gain.size() << ": resident "
      << geomean(resident_gain) << ", from host memory " << geomean(host_gain) << " (" << geomean(host_share)
      << " of the bound by copies and kernels)\n";
  return right;
}

}  // namespace convrt::bench
