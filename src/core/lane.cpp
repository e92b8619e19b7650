#include "core/lane.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <limits>
#include <utility>

#include "core/access.hpp"
#include "core/cache_file.hpp"
#include "core/fail.hpp"
#include "core/log.hpp"
#include "core/select.hpp"
#include "core/ticket.hpp"

namespace convrt::core {
namespace {

// Long enough to tell what a device does, short enough to wait for; and the host memory that it may take.
constexpr double kCalibration_ms = 2;
constexpr double kBetter = 0.98, kGlance_ms = 5, kSettled_ms = 60, kGpuSettled_ms = 300, kMost_ms = 2000;
constexpr int kQueue = 4;
constexpr std::size_t kCalibration_bytes = std::size_t{256} << 20;
// An executor's submissions: enough of them to overlap, each large enough for the bus to reach its speed.
constexpr int kDepth = 4;
constexpr std::size_t kChunks = 16;
constexpr std::pair<std::size_t, std::size_t> kChunk_bytes = {std::size_t{4} << 20, std::size_t{32} << 20};

std::span<float> gather(std::span<const float> whole, const Box& box, std::vector<float>& into) {
  into.resize(box.size());
  for (std::size_t i = 0; i < box.blocks; ++i)
    std::copy_n(whole.begin() + static_cast<std::ptrdiff_t>(box.offset + i * box.stride), box.length,
                into.begin() + static_cast<std::ptrdiff_t>(i * box.length));
  return into;
}

// Of runs until none was better for a while: an idle GPU's clocks take some to rise, and CPU threads to wake.
template <class Run>
double best_ms(double settled_ms, const Run& run) {
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

// Of an image and its result; not 0 where there are none.
std::size_t image_bytes(const Conv2dDesc& d) {
  const std::size_t bytes = (d.src_size() + d.dst_size()) * sizeof(float);
  return std::max<std::size_t>(bytes / static_cast<std::size_t>(std::max(d.n, 1)), 1);
}

double rate(const Conv2dDesc& desc, double ms) { return desc.flops() / std::max(ms, 1e-6) * 1e-6; }

}  // namespace

int images_a_submission(const Conv2dDesc& whole) {
  const std::size_t image = image_bytes(whole);
  const std::size_t bytes =
      std::clamp(image * static_cast<std::size_t>(whole.n) / kChunks, kChunk_bytes.first, kChunk_bytes.second);
  return static_cast<int>((bytes + image - 1) / image);
}

bool Lane::is_cpu() const { return Access::backend(device_)->family() == "cpu"; }
bool Lane::copies() const { return !Access::backend(device_)->host_memory(); }
bool Lane::named(const std::string& kernel) const { return names(Access::backend(device_)->family(), kernel); }

void Lane::calibrate() {
  PlanOptions options = whole_.options;
  if (!named(options.kernel)) options.kernel.clear();
  Conv2dDesc share = whole_.desc;  // about what this device will get: that is what its kernel is chosen for
  share.n = (whole_.desc.n + whole_.devices - 1) / whole_.devices;
  base_.emplace(device_, share, whole_.weights, whole_.bias, options);
  const auto most = static_cast<int>(std::clamp<std::size_t>(kCalibration_bytes / image_bytes(whole_.desc), 1,
                                                             static_cast<std::size_t>(std::max(whole_.desc.n, 1))));
  const double settled_ms = copies() ? kGpuSettled_ms : kSettled_ms;
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

RunStats Lane::compute(const Part& part, std::span<const float> src, std::span<float> dst) {
  const bool streams = part.axis == Axis::n && streamed(part.size());
  const Conv2dPlan* const plan = streams ? nullptr : &plan_for(part);
  const auto start = Clock::now();
  const Box from = src_box(whole_.desc, part), to = dst_box(whole_.desc, part);
  const std::span<const float> in = from.blocks == 1 ? src.subspan(from.offset, from.length) : gather(src, from, src_);
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

const Conv2dPlan& Lane::resident(int images) {
  if (!base_) fail(ErrorCode::device_lost, "device ", id(), " has dropped out of ", whole_.desc.str());
  const std::scoped_lock lock(resident_mutex_);
  const auto found = resident_.find(images);
  if (found != resident_.end()) return found->second;
  return resident_.emplace(images, base_->reshaped(images, whole_.desc.h, whole_.desc.w)).first->second;
}

// Whether so many images from host memory go through an executor, which copies some while it computes others.
bool Lane::streamed(int images) const {
  return copies() && !whole_.desc.accumulate && images > images_a_submission(whole_.desc);
}

// The last submission ends with the last image and computes some of the one before once more.
RunStats Lane::stream(int images, std::span<const float> src, std::span<float> dst) {
  if (!executor_)
    executor_.emplace(base_->reshaped(images_a_submission(whole_.desc), whole_.desc.h, whole_.desc.w), kDepth);
  const auto count = static_cast<std::size_t>(images),
             size = static_cast<std::size_t>(images_a_submission(whole_.desc));
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

const Conv2dPlan& Lane::plan_for(Part part) {
  if (part.axis == Axis::n) part = {Axis::n, 0, part.size()};
  if (const auto found = plans_.find(part); found != plans_.end()) return found->second;
  if (plans_.size() >= 8) plans_.clear();  // shares have wandered
  return plans_.emplace(part, make_plan(part)).first->second;
}

Conv2dPlan Lane::make_plan(const Part& part) const {
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

}  // namespace convrt::core
