#include "devices.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>
#include <future>
#include <iomanip>
#include <limits>
#include <memory>
#include <ostream>
#include <semaphore>
#include <utility>

#include "contender.hpp"
#include "convrt/multi_device.hpp"
#include "core/access.hpp"
#include "core/copy_pool.hpp"
#include "core/fail.hpp"
#include "core/lane.hpp"
#include "core/verify.hpp"
#include "progress.hpp"
#include "series.hpp"
#include "statistics.hpp"

namespace convrt::bench {
namespace {

constexpr int kWarmUp = 12;  // runs until teams and shares have settled
constexpr double kQueue_ms = 100;
constexpr int kLongestQueue = 2048;

/// Brings pieces of a tensor to one device and its result back as an executor does, without a convolution between them.
class Copies {
 public:
  Copies(const Device& device, Conv2dDesc desc, std::span<const float> weights, int images) : images_(images) {
    piece_ = std::min(images, core::images_a_submission(desc));  // as MultiDevicePlan cuts them
    image_src_ = desc.src_size() / static_cast<std::size_t>(desc.n);
    image_dst_ = desc.dst_size() / static_cast<std::size_t>(desc.n);
    desc.n = piece_;
    const Conv2dPlan plan(device, desc, weights);
    stream_ = core::Access::backend(device)->open_stream({core::Access::prepared(plan)},
                                                         {.copies_only = true, .depth = kDepth});
    for (int i = 0; i < kDepth && stream_; ++i) memory_.push_back(stream_->allocate());
  }

  void run(std::span<const float> src, std::span<float> dst) {
    if (!stream_) return;  // a device that works on host memory
    const auto pieces = static_cast<std::size_t>((images_ + piece_ - 1) / piece_);
    std::counting_semaphore<kDepth> free(kDepth);
    std::vector<std::promise<std::function<core::StreamTimes()>>> under_way(pieces);
    const auto first = [&](std::size_t i) { return std::min<std::size_t>(i * piece_, images_ - piece_); };
    auto finish = std::async(std::launch::async, [&] {
      std::exception_ptr error;
      for (std::size_t i = 0; i < pieces; ++i) {
        try {
          under_way[i].get_future().get()();
          pool_.copy(memory_[i % kDepth].dst, dst.data() + first(i) * image_dst_);
        } catch (...) {
          if (!error) error = std::current_exception();
        }
        free.release();
      }
      if (error) std::rethrow_exception(error);
    });
    for (std::size_t i = 0; i < pieces; ++i) {
      free.acquire();
      try {
        pool_.copy(src.subspan(first(i) * image_src_, piece_ * image_src_), memory_[i % kDepth].src.data());
        under_way[i].set_value(stream_->submit(memory_[i % kDepth]));
      } catch (...) {
        under_way[i].set_exception(std::current_exception());
      }
    }
    finish.get();
  }

 private:
  static constexpr int kDepth = 4;
  const int images_;
  int piece_ = 1;
  std::size_t image_src_ = 0, image_dst_ = 0;
  std::shared_ptr<core::Stream> stream_;
  std::vector<core::StreamMemory> memory_;
  core::CopyPool pool_;
};

struct Times {
  double resident_ms = 0;  ///< tensors on the devices
  double host_ms = 0;      ///< from and to host memory, one run after another; 0: not timed
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
        end_to_end_(options.end_to_end),
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
    if (!end_to_end_) return times;
    MultiDevicePlan streamed({device}, desc, weights, {},
                             plan_options);  // which overlaps copies, as several devices do
    for (int i = 0; i < kWarmUp; ++i) streamed.run(src, dst);
    times.host_ms = time_each(
        series_ms_, 0, [&] { streamed.run(src, dst); }, [] {});
    check(plan.kernel(), device.info().id + " from host memory");
    return times;
  }

  /// `copies_ms`: all that devices copy, at once and without their convolutions.
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
    shares = plan.shares();
    if (!end_to_end_) return times;
    for (int i = 0; i < kWarmUp; ++i) plan.run(src, dst);
    times.host_ms = time_each(
        series_ms_, 0, [&] { plan.run(src, dst); }, [] {});
    check(plan_options.kernel, "all devices from host memory");
    shares = plan.shares();
    copies_ms = time_copies(devices, images);
    return times;
  }

  const Conv2dDesc desc;
  const std::span<const float> weights, src;
  const PlanOptions plan_options;
  std::vector<float> dst;
  std::string wrong;  ///< empty, or the first wrong result

 private:
  // Milliseconds a convolution, in queues long enough to hide the wait for their end.
  template <class Enqueue, class Wait>
  double resident(const Enqueue& enqueue, const Wait& wait) const {
    const auto queue = [&](int runs) {
      for (int i = 0; i < runs; ++i) enqueue();
      wait();
    };
    queue(8);
    const auto start = std::chrono::steady_clock::now();
    queue(8);
    const int runs = std::clamp(static_cast<int>(8 * kQueue_ms / ms_since(start)), 8, kLongestQueue);
    return time_each(
               series_ms_, 0, [&] { queue(runs); }, [] {}) /
           runs;
  }

  double time_copies(const std::vector<Device>& devices, const std::vector<int>& images) {
    std::vector<std::unique_ptr<Copies>> all;
    std::vector<std::pair<std::size_t, std::size_t>> from;  // first float of each in src and dst
    std::size_t image = 0;
    const auto n = static_cast<std::size_t>(desc.n);
    for (std::size_t i = 0; i < devices.size(); image += static_cast<std::size_t>(images[i++])) {
      if (images[i] == 0) continue;
      all.push_back(std::make_unique<Copies>(devices[i], desc, weights, images[i]));
      from.emplace_back(image * (desc.src_size() / n), image * (desc.dst_size() / n));
    }
    return time_each(
        series_ms_, 0,
        [&] {
          std::vector<std::future<void>> each;
          for (std::size_t i = 0; i < all.size(); ++i)
            each.push_back(std::async(std::launch::async, [&, i] {
              all[i]->run(src.subspan(from[i].first), std::span(dst).subspan(from[i].second));
            }));
          for (std::future<void>& one : each) one.get();
        },
        [] {});
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

  const bool end_to_end_;
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
            << d.flops() / times.resident_ms * 1e-6 << " GFLOP/s resident";
        if (options.end_to_end)
          out << ' ' << std::setprecision(3) << std::setw(10) << times.host_ms << " ms " << std::setprecision(0)
              << std::setw(8) << d.n / times.host_ms * 1e3 << " images/s " << std::setw(8)
              << d.flops() / times.host_ms * 1e-6 << " GFLOP/s from host memory";
        out << '\n';
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
      out << std::setprecision(2) << "  of the best alone: resident " << resident_gain.back();
      if (options.end_to_end) {
        host_gain.push_back(best.host_ms / all.host_ms);
        const double bound_ms = std::max(copies_ms, all.resident_ms);
        host_share.push_back(bound_ms / all.host_ms);
        out << ", from host memory " << host_gain.back() << "; copies alone " << std::setprecision(3) << copies_ms
            << " ms, " << std::setprecision(0) << 100 * host_share.back() << " % of the bound by copies and kernels";
      }
      out << "\n  shares:";
      for (std::size_t i = 0; i < shares.size(); ++i) {
        out << ' ' << shares[i].device << ' ' << images[i] << " images resident";
        if (options.end_to_end)
          out << ", " << std::setprecision(1) << 100 * shares[i].fraction << " % from host memory";
        out << (i + 1 < shares.size() ? ";" : "\n");
      }
      if (!layer.wrong.empty()) out << "  WRONG: " << layer.wrong << '\n';
      right = right && layer.wrong.empty();
      out.flush();
    }
  }
  out << std::setprecision(2) << "\ntogether / best alone, geomean of " << resident_gain.size() << ": resident "
      << geomean(resident_gain);
  if (options.end_to_end)
    out << ", from host memory " << geomean(host_gain) << " (" << geomean(host_share)
        << " of the bound by copies and kernels)";
  out << '\n';
  return right;
}

}  // namespace convrt::bench
