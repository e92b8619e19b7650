// One thread per device computes its part; a coordinator deals out the parts, one run at a time.
#include "convrt/multi_device.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <condition_variable>
#include <functional>
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
#include "core/even_out.hpp"
#include "core/fail.hpp"
#include "core/lane.hpp"
#include "core/log.hpp"
#include "core/overlap.hpp"
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
constexpr double kCoarse = 1.15;  // an axis is too small where rounding to whole elements costs more than this

// Each team is tried in as many of the first runs, the last once more; then the best, and another in so many runs.
constexpr std::size_t kTrialRuns = 3, kTrialEvery = 256;
constexpr double kGain = 0.95;  // of the time of the usual team

std::string str(const Part& part) {
  const char* const what = part.axis == Axis::n ? "images " : part.axis == Axis::k ? "filters " : "rows ";
  return what + std::to_string(part.begin) + " to " + std::to_string(part.end - 1);
}

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

  /// Who takes part in a run. Devices share the host's cores and memory for their copies, which no device's own rate
  /// tells, so whether a CPU gains anything beside others, and several others beside the fastest, is tried.
  enum Team : std::size_t { with_cpu, usual, alone, teams };  // usual: all but a CPU beside others
  Team next_team();
  std::vector<double> rates_of(Team team) const;
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
  std::array<double, teams> run_ms_ = {};  ///< what each team's best run took and slowly what later ones do; 0: none
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
  const Team team = next_team();
  const auto begin = Clock::now();
  parts_ = deal(rates_of(team));
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
  double& ms = run_ms_[team];
  const double now_ms = milliseconds(Clock::now() - begin);
  ms = ms == 0 || now_ms < ms ? now_ms : 0.9 * ms + 0.1 * now_ms;
  const std::scoped_lock lock(mutex_);
  for (const auto& lane : lanes_) lane->fraction = done[lane.get()] / whole_size;
  return total;
}

MultiDeviceState::Team MultiDeviceState::next_team() {
  const auto count = [&](const auto& wanted) {
    return std::count_if(lanes_.begin(), lanes_.end(), [&](const auto& lane) { return lane->alive && wanted(*lane); });
  };
  const auto others = count([](const Lane& lane) { return !lane.is_cpu(); });
  std::vector<Team> possible;
  if (others > 0 && count([](const Lane& lane) { return lane.is_cpu(); }) > 0) possible.push_back(with_cpu);
  possible.push_back(usual);
  if (count([](const Lane& lane) { return lane.copies(); }) > 1) possible.push_back(alone);
  if (possible.size() == 1) return usual;
  const std::size_t run = runs_++;
  if (run <= kTrialRuns * possible.size()) return possible[std::min(run / kTrialRuns, possible.size() - 1)];
  if (run % kTrialEvery == 0) return possible[run / kTrialEvery % possible.size()];
  Team best = usual;
  for (const Team team : possible)
    if (run_ms_[team] > 0 && run_ms_[team] < kGain * run_ms_[usual] && run_ms_[team] < run_ms_[best]) best = team;
  return best;
}

std::vector<double> MultiDeviceState::rates_of(Team team) const {
  if (team == with_cpu) return rates();
  std::vector<double> rates = this->rates(&Lane::gflops, std::numeric_limits<double>::infinity());
  if (team == alone) {
    const auto fastest = std::max_element(rates.begin(), rates.end());
    std::fill(rates.begin(), fastest, 0);
    std::fill(fastest + 1, rates.end(), 0);
  }
  return rates;
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
  std::vector<std::size_t> products;
  for (const auto& lane : lanes_) products.push_back(std::hash<std::string>()(lane->device().info().name));
  even_out(rates, products);
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

// At once: each wait takes a while, also where its device is done long ago.
void MultiDeviceState::synchronize() {
  std::vector<Job> jobs;
  for (const auto& lane : lanes_) jobs.push_back({lane.get(), {}});
  on_every_lane(jobs, [](Job& job) {
    job.lane->device().synchronize();
    return RunStats{};
  });
  for (const Job& job : jobs)
    if (job.error) throw Error(*job.error);
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
