#include "async.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <iomanip>
#include <limits>
#include <optional>
#include <ostream>
#include <set>
#include <thread>

#include "contender.hpp"
#include "convrt/executor.hpp"
#include "core/access.hpp"
#include "core/copy_pool.hpp"
#include "series.hpp"

namespace convrt::bench {
namespace {

/// One layer on one device.
class Stream {
 public:
  Stream(const Device& device, const std::shared_ptr<Problem>& problem, Layout layout, const Options& options,
         const AsyncOptions& async)
      : async_(async),
        desc_(problem->desc(layout)),
        src_(problem->src(layout)),
        weights_(problem->weights()),
        plan_(device, desc_, weights_, {},
              {.kernel = options.kernels.front(),
               .tune = options.tuned ? Tune::cached : Tune::off,
               .accuracy = options.accuracy}),
        expected_(desc_.dst_size(), std::numeric_limits<float>::quiet_NaN()) {
    plan_.run(src_, expected_);
    const core::VerifyResult check = core::verify(
        {.desc = desc_, .kernel = plan_.kernel(), .weights = weights_, .bias = {}, .src = src_}, expected_, 4096);
    if (!check.ok()) wrong_ = check.str();
  }

  bool print(std::ostream& out) {
    out << std::fixed << std::setprecision(3) << '\n'
        << plan_.device().info().id << ", " << desc_.str() << ", " << plan_.kernel() << ": " << std::setprecision(1)
        << static_cast<double>(desc_.src_size()) * 4e-6 << " MB in, " << static_cast<double>(desc_.dst_size()) * 4e-6
        << " MB out\n";
    if (!wrong_.empty()) {
      out << "  WRONG: " << wrong_ << '\n';
      return false;
    }
    const double sync = time_each(
        async_.series_ms, async_.items, [&] { plan_.run(src_, expected_); }, [] {});
    const double kernel = time_kernel(), bus = time_bus(), host = bus > 0 ? time_host() : 0;
    const double bound = std::max({kernel, bus, host});
    const auto line = [&](const std::string& what, double ms) {
      out << "  " << std::left << std::setw(38) << what << std::right << std::setprecision(3) << std::setw(9) << ms
          << " ms";
    };
    line("kernel alone", kernel);
    out << '\n';
    if (bus > 0) {
      line("upload and download at once, alone", bus);
      out << '\n';
      line("host's copies at once, alone", host);
      out << '\n';
    }
    line("synchronous run", sync);
    print_rates(out, sync);
    out << '\n';
    bool right = true;
    for (const int depth : async_.depths)
      for (const bool slots : {false, true}) {
        ExecutorStats stats;
        const double ms = time_executor(depth, slots, stats, right);
        line("executor, depth " + std::to_string(depth) + (slots ? ", slots" : ""), ms);
        print_rates(out, ms);
        const double least = slots ? std::max(kernel, bus) : bound;  // slots need no copies by the host
        out << std::setprecision(1) << std::setw(7) << 100 * least / ms << " % of the bound, busy "
            << 100 * stats.device_busy_share << " %" << (right ? "" : "  WRONG") << '\n';
        out.flush();
      }
    return right;
  }

 private:
  void print_rates(std::ostream& out, double ms) const {
    out << std::setprecision(0) << std::setw(9) << desc_.n / ms * 1e3 << " images/s " << std::setw(8)
        << desc_.flops() / ms * 1e-6 << " GFLOP/s";
  }

  // A queue of runs on the device's memory.
  double time_kernel() {
    Buffer src = plan_.device().allocate(desc_.src_size()), dst = plan_.device().allocate(desc_.dst_size());
    src.upload(src_);
    const int queue = 8;
    const auto wait = [&] { plan_.device().synchronize(); };
    const auto runs = [&] {
      for (int i = 0; i < queue; ++i) plan_.enqueue(src, dst);
      wait();
    };
    return time_each(async_.series_ms, 0, runs, wait) / queue;
  }

  // The stream without its convolutions, on memory that stays as it is. 0 where nothing is copied.
  double time_bus() {
    const auto stream = core::Access::backend(plan_.device())
                            ->open_stream({core::Access::prepared(plan_)}, {.timed = false, .copies_only = true});
    if (!stream) return 0;
    std::vector<core::StreamMemory> memory;
    for (int i = 0; i < 6; ++i) memory.push_back(stream->allocate());
    std::deque<std::function<core::StreamTimes()>> pending;
    std::size_t next = 0;
    const auto finish_one = [&] {
      pending.front()();
      pending.pop_front();
    };
    return time_each(
        async_.series_ms, async_.items,
        [&] {
          if (pending.size() == memory.size()) finish_one();
          pending.push_back(stream->submit(memory[next++ % memory.size()]));
        },
        [&] {
          while (!pending.empty()) finish_one();
        });
  }

  // What an executor's submitter and its other thread copy, at once.
  double time_host() {
    const auto stream = core::Access::backend(plan_.device())->open_stream({core::Access::prepared(plan_)}, {});
    core::StreamMemory memory = stream->allocate();
    core::CopyPool pool;
    std::vector<float> out(desc_.dst_size());
    return time_each(
        async_.series_ms, async_.items,
        [&] {
          std::jthread other([&] { pool.copy(memory.dst, out.data()); });
          pool.copy(src_, memory.src.data());
        },
        [] {});
  }

  double time_executor(int depth, bool slots, ExecutorStats& stats, bool& right) {
    Executor executor(plan_, depth);
    std::vector<std::vector<float>> dst(static_cast<std::size_t>(depth) + 1, std::vector<float>(desc_.dst_size()));
    std::deque<Ticket> tickets;
    std::size_t next = 0;
    const auto finish_one = [&] {
      const auto found = (tickets.front().wait(), tickets.front().dst());
      // The corners of each result; all of the last ones below.
      right = right && found.front() == expected_.front() && found.back() == expected_.back();
      tickets.pop_front();
    };
    const auto finish = [&] {
      while (!tickets.empty()) {
        const Ticket ticket = tickets.front();
        finish_one();
        right = right && std::memcmp(ticket.dst().data(), expected_.data(), expected_.size() * sizeof(float)) == 0;
      }
    };
    const auto call = [&] {
      if (slots) {
        // A user would produce the image in place; here memory is filled where it is new. Its address does not tell:
        // the executor may have freed it in between.
        if (tickets.size() == static_cast<std::size_t>(depth)) finish_one();
        Slot slot = executor.acquire();
        const std::span<float> to = slot.src();
        if (to.front() != src_.front() || to.back() != src_.back()) std::copy(src_.begin(), src_.end(), to.begin());
        tickets.push_back(executor.submit(std::move(slot)));
        return;
      }
      if (tickets.size() == dst.size()) finish_one();
      tickets.push_back(executor.submit(src_, dst[next++ % dst.size()]));
    };
    const double ms = time_each(async_.series_ms, async_.items, call, finish);
    stats = executor.stats();
    return ms;
  }

  const AsyncOptions async_;
  const Conv2dDesc desc_;
  const std::span<const float> src_, weights_;
  const Conv2dPlan plan_;
  std::vector<float> expected_;
  std::string wrong_;
};

}  // namespace

bool bench_async(std::ostream& out, const Options& options, const AsyncOptions& async) {
  bool right = true;
  for (const Workload& workload : selected_workloads(options)) {
    const auto problem = std::make_shared<Problem>(workload);
    for (const Device& device : selected_devices(options.devices))
      for (const Layout layout : selected_layouts(options, workload))
        right = Stream(device, problem, layout, options, async).print(out) && right;
  }
  return right;
}

}  // namespace convrt::bench
