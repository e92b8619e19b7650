// gl_layers: every kernel of a GL device on a suite's layers at N = 32, in TFLOP/s, checked, beside the device's own
// multiply-add peak and copy bandwidth, all through OpenGL in one run. For a bare machine: needs a driver, no files.
//
// usage: gl_layers [--device=gl:0] [--kernel=PREFIX,...] [--suite=resnet50] [--layer=TEXT,...] [--n=32]
//                  [--layout=nchw|nhwc] [--best]
//
// A kernel's time is the GPU's own for 16 runs, one after another, over their number: device buffers, no host copies,
// median of 5 series of 30 ms. A layer's plans are all made first and the device is then kept busy until the last
// series, since idle clocks drop.
#include <algorithm>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "convrt/convrt.hpp"
#include "core/access.hpp"
#include "core/device_peak.hpp"
#include "core/fail.hpp"
#include "core/verify.hpp"
#include "workloads.hpp"

namespace {

using namespace convrt;
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Whether `test(part)` holds for any part between commas; an empty list has one empty part.
template <typename Test>
bool any_part(const std::string& list, Test test) {
  std::size_t begin = 0;
  for (;;) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    if (test(list.substr(begin, end - begin))) return true;
    if (end == list.size()) return false;
    begin = end + 1;
  }
}

struct Options {
  std::string device = "gl:0", kernel, suite = "resnet50", layer;
  int n = 32;
  Layout layout = Layout::nchw;
  bool best = false;  // only what convrt would choose
};

std::vector<float> random_floats(std::size_t count, std::uint32_t seed) {
  std::minstd_rand random(seed);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(random() % 2001) / 1000.0F - 1.0F;
  return values;
}

/// One kernel of a layer: its plan and, once checked, its time.
class Contender {
 public:
  Contender(const Device& device, const Conv2dDesc& desc, const std::string& kernel, const std::vector<float>& weights)
      : plan_(device, desc, weights, {}, {.kernel = kernel, .tune = Tune::off}) {}

  /// Throws where the numbers are wrong.
  void check(Buffer& src, Buffer& dst, const std::vector<float>& host, const std::vector<float>& weights) const {
    const Conv2dDesc& desc = plan_.desc();
    std::vector<float> result(desc.dst_size(), std::numeric_limits<float>::quiet_NaN());
    dst.upload(result);
    plan_.enqueue(src, dst);
    dst.download(result);
    const core::VerifyResult check = core::verify(
        {.desc = desc, .kernel = plan_.kernel(), .weights = weights, .bias = {}, .src = host}, result, 4096);
    if (!check.ok()) core::fail(ErrorCode::internal, plan_.kernel(), " on ", desc.str(), ": ", check.str());
  }

  /// Milliseconds a run, by the GPU's timer.
  double series(const Buffer& src, Buffer& dst, double at_least_ms) const {
    core::Backend& backend = *core::Access::backend(plan_.device());
    int runs = 0;
    double ms = 0;
    while (ms < at_least_ms) {
      ms += backend.device_ms(16, [&](int) { plan_.enqueue(src, dst); });
      runs += 16;
    }
    return ms / runs;
  }

 private:
  Conv2dPlan plan_;
};

void run(const Options& o) {
  const Device device = find_device(o.device);
  std::printf("%s | %s | %s\n", device.info().name.c_str(), device.info().arch.c_str(), device.info().driver.c_str());
  const core::DevicePeak peak = core::measure_device_peak(device);
  std::printf("multiply-add peak %.1f TFLOP/s; copy %.2f TB/s\n", peak.tflops, peak.copy_tbytes_s);

  for (const bench::Workload& layer : bench::workloads(o.suite)) {
    if (layer.desc.n != 1 ||
        !any_part(o.layer, [&](const std::string& text) { return layer.name.find(text) != std::string::npos; }))
      continue;
    Conv2dDesc desc = layer.desc;
    desc.n = o.n;
    desc.layout = o.layout;
    const std::vector<float> src = random_floats(desc.src_size(), 1), weights = random_floats(desc.weights_size(), 2);
    std::printf("%s %s\n", layer.name.c_str(), desc.str().c_str());
    std::vector<std::pair<std::string, Contender>> contenders;
    for (const std::string& kernel : device.kernels(desc)) {
      if (!any_part(o.kernel, [&](const std::string& prefix) { return kernel.starts_with(prefix); })) continue;
      try {
        contenders.emplace_back(kernel, Contender(device, desc, kernel, weights));
      } catch (const Error& error) {
        std::printf("  %-40s %s\n", kernel.c_str(), error.what());
      }
      if (o.best) break;
    }
    Buffer from = device.allocate(desc.src_size()), to = device.allocate(desc.dst_size());
    from.upload(src);
    if (!contenders.empty()) contenders.front().second.series(from, to, 350);
    for (const auto& [kernel, contender] : contenders) {
      try {
        contender.check(from, to, src, weights);
        contender.series(from, to, 60);
        std::vector<double> times;
        for (int i = 0; i < 5; ++i) times.push_back(contender.series(from, to, 30));
        const double tflops = desc.flops() / median(times) * 1e-9;
        std::printf("  %-40s %9.2f us %7.2f TFLOP/s %5.1f %% of peak\n", kernel.c_str(), 1e3 * median(times), tflops,
                    100 * tflops / peak.tflops);
      } catch (const Error& error) {
        std::printf("  %-40s %s\n", kernel.c_str(), error.what());
      }
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i], value = argument.substr(std::min(argument.find('=') + 1, argument.size()));
    if (argument.starts_with("--device="))
      o.device = value;
    else if (argument.starts_with("--kernel="))
      o.kernel = value;
    else if (argument.starts_with("--suite="))
      o.suite = value;
    else if (argument.starts_with("--layer="))
      o.layer = value;
    else if (argument.starts_with("--n="))
      o.n = std::stoi(value);
    else if (argument == "--layout=nhwc")
      o.layout = Layout::nhwc;
    else if (argument == "--layout=nchw")
      o.layout = Layout::nchw;
    else if (argument == "--best")
      o.best = true;
    else
      return std::fprintf(stderr,
                          "usage: gl_layers [--device=gl:0] [--kernel=PREFIX,...] [--suite=resnet50] "
                          "[--layer=TEXT,...] [--n=32] [--layout=nchw|nhwc] [--best]\n"),
             2;
  }
  try {
    run(o);
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "gl_layers: %s\n", error.what()), 1;
  }
}
