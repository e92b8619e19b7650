// One thread per device computes its part; a coordinator deals out the parts, one run at a time.
#include "convrt/multi_device.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <condition_variable>
#include <future>
#include <limits>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "core/access.hpp"
#include "core/cache_file.hpp"
#include "core/fail.hpp"
#include "core/log.hpp"
#include "core/overlap.hpp"
#include "core/select.hpp"
#include "core/split.hpp"
#include "core/ticket.hpp"
#include "core/trace.hpp"
#include "core/worker.hpp"

namespace convrt {
namespace core {
namespace {

constexpr double kWorthwhileGain = 0.1;      // a CPU that adds less than this stays with the copies it does anyway
constexpr double kWorthwhileResident = 0.5;  // of tensors that stay where they are no trial can take its share away
constexpr double kRebalance = 1.08;          // new plans cost time: only for a predicted gain above this
constexpr double kAlike = 0.5;               // devices of one name are taken for equal within this
constexpr double kCoarse = 1.15;  // an axis is too small where rounding to whole elements costs more than this

// The first runs have the CPU take part, the next do not; then the better way, and the other one in so many runs.
constexpr std::pair<std::size_t, std::size_t> kTrials = {3, 7};
constexpr std::size_t kTrialEvery = 256;
constexpr double kGain = 0.95;  // of the time without the CPU
// Long enough to tell what a device does, short enough to wait for; and the host memory that it may take.
constexpr double kCalibration_ms = 2;
constexpr double kBetter = 0.98, kGlance_ms = 5, kSettled_ms = 60, kGpuSettled_ms = 300, kMost_ms = 2000;
constexpr int kQueue = 4;
constexpr std::size_t kCalibration_bytes = std::size_t{256} << 20;
// An executor's submissions: enough of them to overlap, each large enough for the bus to reach its speed.
constexpr int kDepth = 4;
constexpr std::size_t kChunks = 16;
constexpr std::pair<std::size_t, std::size_t> kChunk_bytes = {std::size_t{4} << 20, std::size_t{32} << 20};

/// What all parts are cut from. Weights stay at hand: a part of other filters or rows needs a plan of its own.
struct Whole {
  Conv2dDesc desc;
  std::vector<float> weights, bias;
  PlanOptions options;
  int devices = 1;
};

std::string str(const Part& part) {
  const char* const what = part.axis == Axis::n ? "images " : part.axis == Axis::k ? "filters " : "rows ";
  return what + std::to_string(part.begin) + " to " + std::to_string(part.end - 1);
}

/// One device with what it needs to compute parts. Used by its own thread, and between runs by the coordinator.
class Lane {
 public:
  Lane(Device device, const Whole& whole) : device_(std::move(device)), whole_(whole) {}

  const std::string& id() const { return device_.info().id; }
  bool is_cpu() const { return Access::backend(device_)->family() == "cpu"; }

  /// Whether a kernel of this name would be this device's.
  bool named(const std::string& kernel) const { return names(Access::backend(device_)->family(), kernel); }

  /// Makes the plan that parts derive from and measures its rates: with one image, and with more where that is too
  /// short to tell a device's speed from what it takes to start.
  void calibrate() {
    PlanOptions options = whole_.options;
    if (!named(options.kernel)) options.kernel.clear();
    Conv2dDesc share = whole_.desc;  // about what this device will get: that is what its kernel is chosen for
    share.n = (whole_.desc.n + whole_.devices - 1) / whole_.devices;
    base_.emplace(device_, share, whole_.weights, whole_.bias, options);
    const auto most = static_cast<int>(std::clamp<std::size_t>(kCalibration_bytes / image_bytes(), 1,
                                                               static_cast<std::size_t>(std::max(whole_.desc.n, 1))));
    const double settled_ms = Access::backend(device_)->host_memory() ? kSettled_ms : kGpuSettled_ms;
    for (int images = 1;;) {
      const Conv2dPlan plan = base_->reshaped(images, whole_.desc.h, whole_.desc.w);
      src_.assign(plan.desc().src_size(), 0);
      dst_.assign(plan.desc().dst_size(), 0);
      Buffer src = device_.allocate(src_.size()), dst = device_.allocate(dst_.size());
      src.upload(src_);
      dst.upload(dst_);
      const auto resident = [&](int runs) {
        for (int i = 0; i < runs; ++i) plan.enqueue(src, dst);
        device_.synchronize();
      };
      const double ms = best_ms(images == 1 ? settled_ms : kGlance_ms, [&] { resident(1); });
      if (images == most || ms >= kCalibration_ms) {
        resident_gflops = kQueue * rate(plan.desc(), best_ms(settled_ms, [&] { resident(kQueue); }));
        gflops = rate(plan.desc(), best_ms(kSettled_ms, [&] {
                        if (streamed(images))
                          stream(images, src_, dst_);
                        else
                          plan.run(src_, dst_);
                      }));
        log(LogLevel::info, id(), ": ", plan.desc().str(), " at ", number_text(std::round(resident_gflops)),
            " GFLOP/s on its own memory, ", number_text(std::round(gflops)), " from the host's");
        break;
      }
      images = static_cast<int>(
          std::min(std::max(2.0, kCalibration_ms / std::max(ms, 1e-6)) * images, static_cast<double>(most)));
    }
    src_ = {};
    dst_ = {};
  }

  /// Computes `part` of src into its place in dst. dst is touched only if that succeeds, or may be overwritten later.
  RunStats compute(const Part& part, std::span<const float> src, std::span<float> dst) {
    const bool streams = part.axis == Axis::n && streamed(part.size());
    const Conv2dPlan* const plan = streams ? nullptr : &plan_for(part);
    const auto start = Clock::now();
    const Box from = src_box(whole_.desc, part), to = dst_box(whole_.desc, part);
    const std::span<const float> in =
        from.blocks == 1 ? src.subspan(from.offset, from.length) : gather(src, from, src_);
    // Where the kernel adds to dst, a failure half-way must leave it as it was for whoever takes over.
    const bool staged = to.blocks != 1 || whole_.desc.accumulate;
    const std::span<float> out = staged ? gather(dst, to, dst_) : dst.subspan(to.offset, to.length);
    RunStats stats = streams ? stream(part.size(), in, out) : plan->run(in, out);
    if (staged)
      for (std::size_t i = 0; i < to.blocks; ++i)
        std::copy_n(out.begin() + static_cast<std::ptrdiff_t>(i * to.length), to.length,
                    dst.begin() + static_cast<std::ptrdiff_t>(to.offset + i * to.stride));
    stats.total_ms = milliseconds(Clock::now() - start);
    return stats;
  }

  /// The plan for so many images that lie on the device. Thread-safe.
  const Conv2dPlan& resident(int images) {
    if (!base_) fail(ErrorCode::device_lost, "device ", id(), " has dropped out of ", whole_.desc.str());
    const std::scoped_lock lock(resident_mutex_);
    const auto found = resident_.find(images);
    if (found != resident_.end()) return found->second;
    return resident_.emplace(images, base_->reshaped(images, whole_.desc.h, whole_.desc.w)).first->second;
  }
  const Device& device() const { return device_; }

  double gflops = 0;           ///< measured, copies included; 0 before the first success
  double resident_gflops = 0;  ///< the same without copies
  bool alive = true;
  double fraction = 0;  ///< of the latest run
  Worker worker;

 private:
  static std::span<float> gather(std::span<const float> whole, const Box& box, std::vector<float>& into) {
    into.resize(box.size());
    for (std::size_t i = 0; i < box.blocks; ++i)
      std::copy_n(whole.begin() + static_cast<std::ptrdiff_t>(box.offset + i * box.stride), box.length,
                  into.begin() + static_cast<std::ptrdiff_t>(i * box.length));
    return into;
  }

  // Of runs until none was better for a while: an idle GPU's clocks take some to rise, and CPU threads to wake.
  template <class Run>
  static double best_ms(double settled_ms, const Run& run) {
    double ms = std::numeric_limits<double>::infinity();
    const auto begin = Clock::now();
    auto better = begin;
    do {
      const auto start = Clock::now();
      run();
      const auto end = Clock::now();
      if (milliseconds(end - start) < kBetter * ms) better = end;
      ms = std::min(ms, milliseconds(end - start));
    } while (milliseconds(Clock::now() - better) < settled_ms && milliseconds(Clock::now() - begin) < kMost_ms);
    return ms;
  }

  static double rate(const Conv2dDesc& desc, double ms) { return desc.flops() / std::max(ms, 1e-6) * 1e-6; }

  // Of an image and its result; not 0 where there are none.
  std::size_t image_bytes() const {
    const Conv2dDesc& d = whole_.desc;
    const std::size_t bytes = (d.src_size() + d.dst_size()) * sizeof(float);
    return std::max<std::size_t>(bytes / static_cast<std::size_t>(std::max(d.n, 1)), 1);
  }

  // Images of one submission. It depends on the whole problem alone: an executor serves every share.
  int chunk() const {
    const std::size_t bytes = std::clamp(image_bytes() * static_cast<std::size_t>(whole_.desc.n) / kChunks,
                                         kChunk_bytes.first, kChunk_bytes.second);
    return static_cast<int>((bytes + image_bytes() - 1) / image_bytes());
  }

  // Whether so many images from host memory go through an executor, which copies some while it computes others.
  bool streamed(int images) const {
    return !Access::backend(device_)->host_memory() && !whole_.desc.accumulate && images > chunk();
  }

  // The last submission ends with the last image and computes some of the one before once more.
  RunStats stream(int images, std::span<const float> src, std::span<float> dst) {
    if (!executor_) executor_.emplace(base_->reshaped(chunk(), whole_.desc.h, whole_.desc.w), kDepth);
    const auto count = static_cast<std::size_t>(images), size = static_cast<std::size_t>(chunk());
    const std::size_t image_src = src.size() / count, image_dst = dst.size() / count;
    std::vector<Ticket> tickets;
    std::exception_ptr error;
    try {
      for (std::size_t at = 0; at < count; at += size) {
        const std::size_t begin = std::min(at, count - size);
        tickets.push_back(executor_->submit(src.subspan(begin * image_src, size * image_src),
                                            dst.subspan(begin * image_dst, size * image_dst)));
      }
    } catch (...) {
      error = std::current_exception();
    }
    RunStats stats;
    for (const Ticket& ticket : tickets) {
      try {
        stats.device_ms += ticket.wait().device_ms;
      } catch (...) {
        if (!error) error = std::current_exception();  // the others still use the caller's memory
      }
    }
    if (error) std::rethrow_exception(error);
    return stats;
  }

  const Conv2dPlan& plan_for(Part part) {
    if (part.axis == Axis::n) part = {Axis::n, 0, part.size()};
    if (const auto found = plans_.find(part); found != plans_.end()) return found->second;
    if (plans_.size() >= 8) plans_.clear();  // shares have wandered
    return plans_.emplace(part, make_plan(part)).first->second;
  }

  Conv2dPlan make_plan(const Part& part) const {
    const Conv2dDesc& whole = whole_.desc;
    const Conv2dDesc desc = part_desc(whole, part);
    if (part.axis == Axis::n) return base_->reshaped(desc.n, desc.h, desc.w);
    std::span<const float> weights = whole_.weights, bias = whole_.bias;
    if (part.axis == Axis::k) {
      const std::size_t filter = whole_.weights.size() / static_cast<std::size_t>(whole.k);
      weights = weights.subspan(filter * static_cast<std::size_t>(part.begin), desc.weights_size());
      if (!bias.empty()) bias = bias.subspan(static_cast<std::size_t>(part.begin), static_cast<std::size_t>(desc.k));
    }
    // The kernel that the whole problem got, where it can do the part; tuning for a passing share would not pay.
    PlanOptions options = whole_.options;
    options.tune = options.tune == Tune::off ? Tune::off : Tune::cached;
    const std::vector<std::string> able = device_.kernels(desc);
    options.kernel = std::find(able.begin(), able.end(), base_->kernel()) != able.end() ? base_->kernel() : "";
    return {device_, desc, weights, bias, options};
  }

  const Device device_;
  const Whole& whole_;
  std::optional<Conv2dPlan> base_;
  std::map<Part, Conv2dPlan> plans_;
  std::mutex resident_mutex_;
  std::map<int, Conv2dPlan> resident_;
  std::optional<Executor> executor_;  ///< of chunk() images
  std::vector<float> src_, dst_;
};

}  // namespace

class MultiDeviceState {
 public:
  MultiDeviceState(const std::vector<Device>& devices, Whole whole);
  ~MultiDeviceState() {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  Ticket submit(std::span<const float> src, std::span<float> dst);
  std::vector<Share> shares() const;

  MultiBuffer allocate_src();
  MultiBuffer allocate_dst(const MultiBuffer& src);
  void enqueue(const MultiBuffer& src, MultiBuffer& dst);
  void synchronize();

 private:
  MultiBuffer allocate(const std::vector<int>& images, std::size_t image_floats) const;
  void check(const MultiBuffer& buffer, std::size_t floats, const char* what) const;
  struct Job {
    Lane* lane;
    Part part;
    RunStats stats = {};
    std::optional<Error> error = {};
  };
  void execute(TicketState& ticket, std::span<const float> src, std::span<float> dst) noexcept;
  RunStats run(std::span<const float> src, std::span<float> dst);
  std::vector<double> rates(double Lane::*gflops = &Lane::gflops, double worthwhile = kWorthwhileGain) const;
  bool cpu_takes_part();
  std::vector<Part> deal(const std::vector<double>& rates);
  template <class Work>
  static void on_every_lane(std::span<Job> jobs, const Work& work);
  bool drop_failed(const std::vector<Job>& jobs, const char* during);

  const Whole whole_;
  const std::shared_ptr<Trace> trace_ = Trace::open();
  const int trace_group_ = trace_ ? trace_->add_group("devices together, " + whole_.desc.str()) : 0;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<Part> parts_;  ///< of the latest run, one per lane
  std::size_t runs_ = 0;
  std::array<double, 2> run_ms_ =
      {};  ///< without and with the CPU, what the best runs took and slowly what later ones do; 0: not tried
  std::optional<Error> last_error_;
  mutable std::mutex mutex_;  ///< guards stopping_, and what others than the coordinator read of the lanes
  bool stopping_ = false;
  Worker coordinator_;  ///< last: its thread ends before what it uses goes
};

MultiDeviceState::MultiDeviceState(const std::vector<Device>& devices, Whole whole) : whole_(std::move(whole)) {
  std::set<const Backend*> seen;
  if (devices.empty()) fail(ErrorCode::invalid_argument, "MultiDevicePlan: expected at least one device, found none");
  std::vector<Job> jobs;
  for (const Device& device : devices) {
    if (!seen.insert(Access::backend(device).get()).second)
      fail(ErrorCode::invalid_argument, "MultiDevicePlan: device ", device.info().id, " is listed twice");
    lanes_.push_back(std::make_unique<Lane>(device, whole_));
    jobs.push_back({lanes_.back().get(), {}});
  }
  const std::string& kernel = whole_.options.kernel;
  if (!kernel.empty() && std::none_of(lanes_.begin(), lanes_.end(), [&](auto& lane) { return lane->named(kernel); }))
    fail(ErrorCode::invalid_argument, "MultiDevicePlan: PlanOptions::kernel \"", kernel, "\" names no kernel of ",
         lanes_.size() == 1 ? "device " : "any listed device, the first being ", lanes_[0]->id());
  // All at once, as in use: devices that share a bus slow each other down. But the CPU after them: with all cores busy
  // nothing would be left to tell the others what to do, and their rates would come out too low to leave it out.
  for (const bool cpu : {false, true}) {
    const auto of_kind =
        std::stable_partition(jobs.begin(), jobs.end(), [&](const Job& job) { return job.lane->is_cpu() == cpu; });
    on_every_lane(std::span(jobs.begin(), of_kind), [](Job& job) {
      job.lane->calibrate();
      return RunStats{};
    });
  }
  for (const Job& job : jobs)
    if (job.error && job.error->code() == ErrorCode::invalid_argument) throw Error(*job.error);
  if (!drop_failed(jobs, "being prepared")) throw Error(*last_error_);
}

Ticket MultiDeviceState::submit(std::span<const float> src, std::span<float> dst) {
  const Conv2dDesc& d = whole_.desc;
  if (src.size() != d.src_size() || dst.size() != d.dst_size())
    fail(ErrorCode::invalid_argument, "MultiDevicePlan: ", d.str(), " expects ", d.src_size(), " floats in src and ",
         d.dst_size(), " in dst, found ", src.size(), " and ", dst.size());
  if (overlap(src, dst)) fail(ErrorCode::invalid_argument, "MultiDevicePlan: src and dst must not overlap");
  auto ticket = std::make_shared<TicketState>(dst);
  coordinator_.post([this, ticket, src, dst] { execute(*ticket, src, dst); });
  return Access::ticket(std::move(ticket));
}

void MultiDeviceState::execute(TicketState& ticket, std::span<const float> src, std::span<float> dst) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (stopping_) return ticket.fail({ErrorCode::cancelled, "the plan was destroyed before this submission started"});
  }
  try {
    ticket.succeed(dst.empty() ? RunStats{} : run(src, dst));
  } catch (...) {
    ticket.fail(as_error(std::current_exception()));
  }
}

RunStats MultiDeviceState::run(std::span<const float> src, std::span<float> dst) {
  if (std::none_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->alive; }))
    fail(last_error_->code(), "every device of ", whole_.desc.str(),
         " has dropped out, the last with: ", last_error_->what());
  const bool with_cpu = cpu_takes_part();
  const auto begin = Clock::now();
  parts_ = deal(rates(&Lane::gflops, with_cpu ? kWorthwhileGain : std::numeric_limits<double>::infinity()));
  std::vector<Job> open;
  for (std::size_t i = 0; i < lanes_.size(); ++i)
    if (parts_[i].size() > 0) open.push_back({lanes_[i].get(), parts_[i]});
  const double whole_size = axis_size(whole_.desc, parts_[0].axis);
  const double element_gflop = whole_.desc.flops() / whole_size * 1e-9;
  std::map<const Lane*, double> done;  // elements of the axis
  RunStats total;
  while (!open.empty()) {
    on_every_lane(open, [&](Job& job) {
      const auto start = Clock::now();
      const RunStats stats = job.lane->compute(job.part, src, dst);
      if (trace_) trace_->span(trace_group_, job.lane->id(), str(job.part), start, Clock::now());
      return stats;
    });
    std::vector<Part> again;
    for (const Job& job : open) {
      if (job.error) {
        again.push_back(job.part);
        continue;
      }
      total.device_ms = std::max(total.device_ms, job.stats.device_ms);
      done[job.lane] += job.part.size();
      const double gflops = job.part.size() * element_gflop / std::max(job.stats.total_ms, 1e-6) * 1e3;
      const std::scoped_lock lock(mutex_);
      job.lane->gflops = job.lane->gflops == 0 ? gflops : (job.lane->gflops + gflops) / 2;
    }
    if (!drop_failed(open, "computing")) throw Error(*last_error_);
    open.clear();
    for (const Part& part : again) {
      const std::vector<Part> pieces = cut(part, rates());
      for (std::size_t i = 0; i < lanes_.size(); ++i)
        if (pieces[i].size() > 0) open.push_back({lanes_[i].get(), pieces[i]});
    }
  }
  double& ms = run_ms_[with_cpu ? 1 : 0];
  const double now_ms = milliseconds(Clock::now() - begin);
  ms = ms == 0 || now_ms < ms ? now_ms : 0.9 * ms + 0.1 * now_ms;
  const std::scoped_lock lock(mutex_);
  for (const auto& lane : lanes_) lane->fraction = done[lane.get()] / whole_size;
  return total;
}

// A CPU beside other devices also does their copies, which its own rate does not tell: whether it gains anything is
// tried, and tried again now and then.
bool MultiDeviceState::cpu_takes_part() {
  const auto of_kind = [&](bool cpu) {
    return std::any_of(lanes_.begin(), lanes_.end(),
                       [&](const auto& lane) { return lane->alive && lane->is_cpu() == cpu; });
  };
  if (!of_kind(true) || !of_kind(false)) return true;
  const std::size_t run = runs_++;
  if (run < kTrials.first) return true;
  if (run < kTrials.second) return false;
  const bool gains = run_ms_[1] < kGain * run_ms_[0];
  return run % kTrialEvery == 0 ? !gains : gains;
}

// Measured rates; 0 for what is gone, and for a CPU that would add too little.
std::vector<double> MultiDeviceState::rates(double Lane::*gflops, double worthwhile) const {
  std::vector<double> rates;
  double others = 0;
  for (const auto& lane : lanes_) {
    rates.push_back(lane->alive ? (*lane).*gflops : 0);
    if (!lane->is_cpu()) others += rates.back();
  }
  for (std::size_t i = 0; i < lanes_.size(); ++i)
    if (lanes_[i]->is_cpu() && others > 0 && rates[i] < worthwhile * others) rates[i] = 0;
  return rates;
}

std::vector<Part> MultiDeviceState::deal(const std::vector<double>& rates) {
  const Conv2dDesc& d = whole_.desc;
  const double sum = std::accumulate(rates.begin(), rates.end(), 0.0);
  std::vector<Part> best;
  double best_cost = std::numeric_limits<double>::infinity();
  for (const Axis axis : {Axis::n, Axis::k, Axis::p}) {
    if (!can_split(d, axis)) continue;
    const int size = axis_size(d, axis);
    std::vector<Part> parts = cut({axis, 0, size}, rates);
    // Relative to perfect division; the first axis that is near enough copies least.
    const double cost = makespan(parts, rates) * sum / size;
    if (best_cost > kCoarse && cost < best_cost) {
      best = std::move(parts);
      best_cost = cost;
    }
  }
  const bool usable = parts_.size() == best.size() && parts_[0].axis == best[0].axis;
  const double size = axis_size(d, best[0].axis);
  if (usable && makespan(parts_, rates) * sum / size <= kRebalance * best_cost) return parts_;
  return best;
}

template <class Work>
void MultiDeviceState::on_every_lane(std::span<Job> jobs, const Work& work) {
  std::mutex mutex;
  std::condition_variable finished;
  std::size_t open = jobs.size();
  const auto settle = [&](Job& job) {
    try {
      job.stats = work(job);
    } catch (...) {
      job.error.emplace(as_error(std::current_exception()));
    }
    const std::scoped_lock lock(mutex);
    --open;
    finished.notify_one();
  };
  for (Job& job : jobs) {
    try {
      job.lane->worker.post([&settle, &job] { settle(job); });
    } catch (...) {  // no thread to be had: this one does it
      settle(job);
    }
  }
  std::unique_lock lock(mutex);
  finished.wait(lock, [&] { return open == 0; });
}

// Devices that failed drop out; false if none is left.
bool MultiDeviceState::drop_failed(const std::vector<Job>& jobs, const char* during) {
  for (const Job& job : jobs) {
    if (!job.error) continue;
    last_error_.emplace(*job.error);
    {
      const std::scoped_lock lock(mutex_);
      job.lane->alive = false;
    }
    log(LogLevel::warning, "device ", job.lane->id(), " drops out of ", whole_.desc.str(), ", it failed ", during, ": ",
        job.error->what());
  }
  return std::any_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->alive; });
}

MultiBuffer MultiDeviceState::allocate(const std::vector<int>& images, std::size_t image_floats) const {
  MultiBuffer buffer;
  buffer.images_ = images;
  buffer.image_floats_ = image_floats;
  for (std::size_t i = 0; i < lanes_.size(); ++i)
    buffer.parts_.push_back(
        images[i] == 0 ? Buffer() : lanes_[i]->device().allocate(static_cast<std::size_t>(images[i]) * image_floats));
  return buffer;
}

MultiBuffer MultiDeviceState::allocate_src() {
  const int n = whole_.desc.n;
  std::vector<double> rates;
  {
    const std::scoped_lock lock(mutex_);
    rates = this->rates(&Lane::resident_gflops, kWorthwhileResident);
  }
  // Devices of one name are one product: what sets them apart by little is the noise of a short measurement.
  for (std::size_t i = 0; i < lanes_.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (lanes_[i]->device().info().name == lanes_[j]->device().info().name &&
          std::abs(rates[i] - rates[j]) <= kAlike * rates[j])
        rates[i] = rates[j];
  std::vector<int> images;
  for (const Part& part : cut({Axis::n, 0, n}, rates)) images.push_back(part.size());
  return allocate(images, n == 0 ? 0 : whole_.desc.src_size() / static_cast<std::size_t>(n));
}

MultiBuffer MultiDeviceState::allocate_dst(const MultiBuffer& src) {
  check(src, whole_.desc.src_size(), "src");
  const int n = whole_.desc.n;
  return allocate(src.images_, n == 0 ? 0 : whole_.desc.dst_size() / static_cast<std::size_t>(n));
}

void MultiDeviceState::check(const MultiBuffer& buffer, std::size_t floats, const char* what) const {
  if (buffer.images_.size() != lanes_.size() || buffer.size() != floats)
    fail(ErrorCode::invalid_argument, "MultiDevicePlan: ", whole_.desc.str(), " expects ", what, " of ", floats,
         " floats on ", lanes_.size(), " devices, found ", buffer.size(), " on ", buffer.images_.size());
}

void MultiDeviceState::enqueue(const MultiBuffer& src, MultiBuffer& dst) {
  check(src, whole_.desc.src_size(), "src");
  check(dst, whole_.desc.dst_size(), "dst");
  if (src.images_ != dst.images_)
    fail(ErrorCode::invalid_argument,
         "MultiDevicePlan: src and dst lie on other devices image by image; make dst with allocate_dst(src)");
  for (std::size_t i = 0; i < lanes_.size(); ++i)
    if (src.images_[i] > 0) lanes_[i]->resident(src.images_[i]).enqueue(src.parts_[i], dst.parts_[i]);
}

void MultiDeviceState::synchronize() {
  std::exception_ptr first;
  for (const auto& lane : lanes_) {
    try {
      lane->device().synchronize();
    } catch (...) {
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

std::vector<Share> MultiDeviceState::shares() const {
  const std::scoped_lock lock(mutex_);
  std::vector<Share> shares;
  for (const auto& lane : lanes_) shares.push_back({lane->id(), lane->fraction, lane->gflops});
  return shares;
}

namespace {

MultiDeviceState& valid(const std::unique_ptr<MultiDeviceState>& state) {
  if (!state) fail(ErrorCode::invalid_argument, "this MultiDevicePlan was moved from");
  return *state;
}

}  // namespace
}  // namespace core

MultiDevicePlan::MultiDevicePlan(std::vector<Device> devices, const Conv2dDesc& desc, std::span<const float> weights,
                                 std::span<const float> bias, const PlanOptions& options) {
  desc.validate();
  if (weights.size() != desc.weights_size() || (!bias.empty() && bias.size() != static_cast<std::size_t>(desc.k)))
    core::fail(ErrorCode::invalid_argument, "MultiDevicePlan: ", desc.str(), " expects ", desc.weights_size(),
               " floats in weights (KCRS) and ", desc.k, " or none in bias, found ", weights.size(), " and ",
               bias.size());
  state_ = std::make_unique<core::MultiDeviceState>(
      devices, core::Whole{desc,
                           {weights.begin(), weights.end()},
                           {bias.begin(), bias.end()},
                           options,
                           static_cast<int>(std::max<std::size_t>(devices.size(), 1))});
}
MultiDevicePlan::MultiDevicePlan(MultiDevicePlan&&) noexcept = default;
MultiDevicePlan& MultiDevicePlan::operator=(MultiDevicePlan&&) noexcept = default;
MultiDevicePlan::~MultiDevicePlan() = default;

RunStats MultiDevicePlan::run(std::span<const float> src, std::span<float> dst) { return submit(src, dst).wait(); }
Ticket MultiDevicePlan::submit(std::span<const float> src, std::span<float> dst) {
  return core::valid(state_).submit(src, dst);
}
std::vector<Share> MultiDevicePlan::shares() const { return core::valid(state_).shares(); }
MultiBuffer MultiDevicePlan::allocate_src() { return core::valid(state_).allocate_src(); }
MultiBuffer MultiDevicePlan::allocate_dst(const MultiBuffer& src) { return core::valid(state_).allocate_dst(src); }
void MultiDevicePlan::enqueue(const MultiBuffer& src, MultiBuffer& dst) { core::valid(state_).enqueue(src, dst); }
void MultiDevicePlan::synchronize() { core::valid(state_).synchronize(); }

std::size_t MultiBuffer::size() const noexcept {
  std::size_t floats = 0;
  for (const Buffer& part : parts_) floats += part.size();
  return floats;
}

namespace {

// copy(part, its first float) on every device that has a part, all at once; the first error, after all of them.
template <class Copy>
void on_every_part(const std::vector<Buffer>& parts, const Copy& copy) {
  std::vector<std::future<void>> copies;
  std::size_t at = 0;
  for (std::size_t i = 0; i < parts.size(); at += parts[i++].size())
    if (parts[i].size() > 0) copies.push_back(std::async(std::launch::async, copy, i, at));
  for (const std::future<void>& each : copies) each.wait();
  for (std::future<void>& each : copies) each.get();
}

}  // namespace

void MultiBuffer::upload(std::span<const float> from) {
  if (from.size() != size())
    core::fail(ErrorCode::invalid_argument, "MultiBuffer::upload: expected ", size(), " floats, found ", from.size());
  on_every_part(parts_, [&](std::size_t i, std::size_t at) { parts_[i].upload(from.subspan(at, parts_[i].size())); });
}

void MultiBuffer::download(std::span<float> to) const {
  if (to.size() != size())
    core::fail(ErrorCode::invalid_argument, "MultiBuffer::download: expected ", size(), " floats, found ", to.size());
  on_every_part(parts_, [&](std::size_t i, std::size_t at) { parts_[i].download(to.subspan(at, parts_[i].size())); });
}

}  // namespace convrt
