#include "contender.hpp"

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include "core/access.hpp"
#include "core/select.hpp"

namespace convrt::bench {
namespace {

cpu::AlignedFloats uniform(std::size_t floats, std::uint32_t seed) {
  cpu::AlignedFloats data(floats);
  std::minstd_rand random(seed);
  for (std::size_t i = 0; i < floats; ++i)
    data.data()[i] = static_cast<float>(static_cast<double>(random()) / std::minstd_rand::max() * 2 - 1);
  return data;
}

// [n][c][hw] to [n][hw][c]
void to_nhwc(const float* from, float* to, int images, int channels, std::size_t plane) {
  const auto c_end = static_cast<std::size_t>(channels);
  for (std::size_t n = 0; n < static_cast<std::size_t>(images); ++n)
    for (std::size_t c = 0; c < c_end; ++c)
      for (std::size_t i = 0; i < plane; ++i) to[(n * plane + i) * c_end + c] = from[(n * c_end + c) * plane + i];
}

// Tensors on the device, in as many sets as it takes to keep them out of its caches (an H200's L2 holds 50 MB). A set
// so large needs no second. Few enough that the driver's bookkeeping of buffers does not show.
struct Resident {
  std::vector<Buffer> src, dst;
  std::size_t next = 0;
  Resident(const Device& device, const Conv2dDesc& desc, std::span<const float> from) {
    constexpr std::size_t enough_floats = (std::size_t{192} << 20) / sizeof(float), most_sets = 64;
    const std::size_t set = desc.src_size() + desc.dst_size();
    const std::size_t sets =
        device.info().software ? 1 : std::clamp<std::size_t>((enough_floats + set - 1) / set, 1, most_sets);
    for (std::size_t i = 0; i < sets; ++i) {
      src.push_back(device.allocate(desc.src_size()));
      src.back().upload(from);
      dst.push_back(device.allocate(desc.dst_size()));
    }
  }
};

// On a device a queue of runs is timed by the device's own clock.
void make_resident(Contender& c, const Conv2dPlan& plan, const std::shared_ptr<Problem>& problem) {
  const auto resident = std::make_shared<Resident>(plan.device(), plan.desc(), problem->src(c.layout));
  const auto first = [resident, dst = problem->dst(c.layout)](auto action) {
    resident->next = 0;
    action(resident->dst.front(), dst);
  };
  c.sets = static_cast<int>(resident->src.size());
  c.poison = [first] { first([](Buffer& device, std::span<float> host) { device.upload(host); }); };
  c.fetch = [first] { first([](Buffer& device, std::span<float> host) { device.download(host); }); };
  c.device_ms = std::make_shared<std::vector<double>>();
  c.device_clock = true;
  const auto launch = [resident, plan, problem, device_ms = c.device_ms](int runs) {
    const auto enqueue = [&](int) {
      const std::size_t set = resident->next++ % resident->src.size();
      plan.enqueue(resident->src[set], resident->dst[set]);
    };
    device_ms->push_back(core::Access::backend(plan.device())->device_ms(runs, enqueue) / runs);
  };
  launch(1);
  launch(1);
  int runs = static_cast<int>(std::clamp(5 / std::max(c.device_ms->back(), 1e-3), 1.0, 256.0));
  // A check compares what one run makes of the poisoned tensor; more would accumulate.
  if (plan.desc().accumulate) runs = 1;
  c.run = [launch, runs] { launch(runs); };
}

}  // namespace

Problem::Problem(Workload workload)
    : workload_(std::move(workload)), weights_(uniform(workload_.desc.weights_size(), 1)) {}

Conv2dDesc Problem::desc(Layout layout) const {
  Conv2dDesc d = workload_.desc;
  d.layout = layout;
  return d;
}

std::span<const float> Problem::src(Layout layout) {
  const Conv2dDesc& d = workload_.desc;
  cpu::AlignedFloats& data = src_[layout];
  if (data.size() == 0 && layout == Layout::nchw) data = uniform(d.src_size(), 2);
  if (data.size() == 0 && layout == Layout::nhwc) {
    const std::span<const float> from = src(Layout::nchw);
    data = cpu::AlignedFloats(from.size());
    to_nhwc(from.data(), data.data(), d.n, d.c, static_cast<std::size_t>(d.h) * static_cast<std::size_t>(d.w));
  }
  return {data.data(), data.size()};
}

std::span<float> Problem::dst(Layout layout) {
  cpu::AlignedFloats& data = dst_[layout];
  if (data.size() == 0) data = cpu::AlignedFloats(workload_.desc.dst_size());
  return {data.data(), data.size()};
}

std::optional<Contender> make_convrt(const std::shared_ptr<Problem>& problem, const Device& device, Layout layout,
                                     int threads, const ConvrtOptions& options) {
  const Conv2dDesc desc = problem->desc(layout);
  const std::string& kernel = options.kernel;
  const std::vector<std::string> offered = device.kernels(desc);
  if (!kernel.empty() &&
      std::none_of(offered.begin(), offered.end(), [&](const auto& name) { return core::names(kernel, name); }))
    return std::nullopt;
  const Conv2dPlan plan(device, desc, problem->weights(), {},
                        {.kernel = kernel,
                         .tune = options.tuned ? Tune::cached : Tune::off,
                         .accuracy = options.accuracy,
                         .threads = threads});
  Contender c;
  c.name = kernel.empty() ? "convrt" : kernel;
  c.kernel = plan.kernel();
  c.device = device.info().id;
  c.hardware_gpu = c.device != "cpu" && !device.info().software;
  c.layout = layout;
  c.threads = c.device == "cpu" ? threads : 0;
  if (c.device != "cpu" && options.transfers == Transfers::none) {
    make_resident(c, plan, problem);
    return c;
  }
  if (c.device != "cpu") c.device_ms = std::make_shared<std::vector<double>>();
  c.run = [plan, src = problem->src(layout), dst = problem->dst(layout), device_ms = c.device_ms, problem] {
    const RunStats stats = plan.run(src, dst);
    if (device_ms) device_ms->push_back(stats.device_ms);
  };
  return c;
}

core::VerifyResult check(Problem& problem, const Contender& contender) {
  const Conv2dDesc desc = problem.desc(contender.layout);
  const std::span<float> dst = problem.dst(contender.layout);
  cpu::AlignedFloats before;
  if (desc.accumulate) {
    before = uniform(dst.size(), 3);
    std::copy_n(before.data(), dst.size(), dst.begin());
  } else {
    std::fill(dst.begin(), dst.end(), std::numeric_limits<float>::quiet_NaN());
  }
  if (contender.poison) contender.poison();
  contender.run();
  if (contender.fetch) contender.fetch();
  const std::size_t samples = desc.flops() < 0.1e9 ? 0 : 4096;
  return core::verify({.desc = desc,
                       .kernel = contender.kernel,
                       .weights = problem.weights(),
                       .bias = {},
                       .src = problem.src(contender.layout),
                       .before = {before.data(), before.size()}},
                      dst, samples);
}

}  // namespace convrt::bench
