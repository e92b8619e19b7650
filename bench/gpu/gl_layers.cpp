// gl_layers: every kernel of a GL device on ResNet-50's layers at N = 32, in TFLOP/s, checked, beside the device's own
// multiply-add peak and copy bandwidth, all through OpenGL in one run. For a bare machine: needs a driver, no files.
//
// usage: gl_layers [--device=gl:0] [--kernel=PREFIX] [--layer=TEXT] [--n=32] [--layout=nchw|nhwc] [--best]
//
// A kernel's time is the wall time of a queue of enqueued runs over their number: device buffers, no host copies,
// several hundred milliseconds of work, median of 5 series. The device is kept busy before each, since idle clocks
// drop.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "convrt/convrt.hpp"
#include "core/fail.hpp"
#include "core/verify.hpp"
#include "workloads.hpp"

namespace {

using namespace convrt;
using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Eight independent chains an invocation, 128 multiply-adds each a round; the sums are stored, so nothing is dropped.
constexpr const char* kPeak = R"(#version 430 core
layout(local_size_x = 256) in;
layout(std430, binding = 0) readonly buffer Src { float src[]; };
layout(std430, binding = 2) writeonly buffer Dst { float dst[]; };
layout(std140, binding = 3) uniform Conv { int n, c, h, w, k, r, s, p, q; } conv;
void main() {
  float x[8], a = src[gl_LocalInvocationIndex & 7u], b = src[8u + (gl_LocalInvocationIndex & 7u)];
  for (int i = 0; i < 8; ++i) x[i] = float(i) + float(gl_LocalInvocationIndex);
  for (int round = 0; round < conv.c; ++round)
    for (int j = 0; j < 16; ++j)
      for (int i = 0; i < 8; ++i) x[i] = fma(x[i], a, b);
  float sum = 0.0;
  for (int i = 0; i < 8; ++i) sum += x[i];
  dst[(gl_WorkGroupID.x * 256u + gl_LocalInvocationIndex) % uint(conv.k)] = sum;
})";
// A card's work; a software rasteriser gets a thousandth.
constexpr int kPeakRounds = 4096, kPeakGroups = 132 * 32, kSoftwareShare = 1024;
constexpr double kPeakFlops = 2.0 * 8 * 16 * 256 * kPeakRounds * kPeakGroups;

// The whole of src to dst, `c` times over: 256 MiB do not stay in any cache, and one dispatch is long enough to time.
constexpr const char* kCopy = R"(#version 430 core
layout(local_size_x = 256) in;
layout(std430, binding = 0) readonly restrict buffer Src { vec4 src[]; };
layout(std430, binding = 2) writeonly restrict buffer Dst { vec4 dst[]; };
layout(std140, binding = 3) uniform Conv { int n, c, h, w, k, r, s, p, q; } conv;
void main() {
  uint step = gl_NumWorkGroups.x * 256u, end = uint(conv.h * conv.w) / 4u;
  for (int round = 0; round < 16; ++round)
    for (uint i = gl_WorkGroupID.x * 256u + gl_LocalInvocationIndex; i < end; i += step) dst[i] = src[i];
})";

// Best device time of a few runs after one that warms the clocks.
double custom_ms(const Device& device, const char* text, const char* label, std::uint32_t groups,
                 const Conv2dDesc& desc, std::vector<float>& dst, int warm_ms) {
  ShaderSource source;
  source.glsl = text;
  source.label = label;
  source.groups = {groups, 1, 1};
  const CustomShader shader = gpu_compile_custom_shader(device, source);
  const std::vector<float> src(desc.src_size(), 0.5F), weights(desc.weights_size(), 0.0F);
  dst.assign(desc.dst_size(), 0.0F);
  double best = 1e30;
  const Clock::time_point start = Clock::now();
  for (int run = 0; run < 5 || ms_since(start) < warm_ms; ++run)
    best = std::min(best, gpu_execute_conv2d_custom(shader, desc, src, weights, dst).device_ms);
  return best;
}

struct Options {
  std::string device = "gl:0", kernel, layer;
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

// TFLOP/s of one kernel; throws where its numbers are wrong.
double measure(const Device& device, const Conv2dDesc& desc, const std::string& kernel, const std::vector<float>& host,
               const std::vector<float>& weights, double* compile_ms) {
  Clock::time_point start = Clock::now();
  const Conv2dPlan plan(device, desc, weights, {}, {.kernel = kernel, .tune = Tune::off});
  *compile_ms = ms_since(start);
  Buffer src = device.allocate(desc.src_size()), dst = device.allocate(desc.dst_size());
  src.upload(host);
  std::vector<float> result(desc.dst_size(), std::numeric_limits<float>::quiet_NaN());
  dst.upload(result);
  plan.enqueue(src, dst);
  dst.download(result);
  const core::VerifyResult check =
      core::verify({.desc = desc, .kernel = kernel, .weights = weights, .bias = {}, .src = host}, result, 4096);
  if (!check.ok()) core::fail(ErrorCode::internal, kernel, " on ", desc.str(), ": ", check.str());

  const auto series = [&](double at_least_ms) {  // milliseconds a run
    int runs = 0;
    const Clock::time_point begin = Clock::now();
    do {
      for (int i = 0; i < 16; ++i) plan.enqueue(src, dst);
      device.synchronize();
      runs += 16;
    } while (ms_since(begin) < at_least_ms);
    return ms_since(begin) / runs;
  };
  series(350);
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) times.push_back(series(40));
  return desc.flops() / median(times) * 1e-9;
}

void run(const Options& o) {
  const Device device = find_device(o.device);
  std::printf("%s | %s | %s\n", device.info().name.c_str(), device.info().arch.c_str(), device.info().driver.c_str());
  std::vector<float> dst;
  const bool software = device.info().software;
  Conv2dDesc peak_desc = Conv2dDesc::parse("n1c1h4w4k256r1s1");
  peak_desc.c = software ? kPeakRounds / kSoftwareShare : kPeakRounds;
  const double peak_ms = custom_ms(device, kPeak, "peak", kPeakGroups, peak_desc, dst, software ? 0 : 400);
  const double peak = kPeakFlops / (software ? kSoftwareShare : 1) / peak_ms * 1e-9;
  const Conv2dDesc copy_desc = Conv2dDesc::parse(software ? "n1c1h256w8192k1r1s1" : "n1c1h8192w8192k1r1s1");
  const double copy_ms = custom_ms(device, kCopy, "copy", 132 * 16, copy_desc, dst, 0);
  const bool copied = std::all_of(dst.begin(), dst.end(), [](float v) { return v == 0.5F; });
  std::printf("multiply-add peak %.1f TFLOP/s; copy %.2f TB/s of %zu MiB (%s)\n", peak,
              16 * 2 * 4.0 * static_cast<double>(copy_desc.src_size()) / copy_ms * 1e-9, copy_desc.src_size() >> 18U,
              copied ? "checked" : "WRONG");

  for (const bench::Workload& layer : bench::workloads("resnet50")) {
    if (layer.desc.n != 1 || layer.name.find(o.layer) == std::string::npos) continue;
    Conv2dDesc desc = layer.desc;
    desc.n = o.n;
    desc.layout = o.layout;
    const std::vector<float> src = random_floats(desc.src_size(), 1), weights = random_floats(desc.weights_size(), 2);
    std::printf("%s %s\n", layer.name.c_str(), desc.str().c_str());
    for (const std::string& kernel : device.kernels(desc)) {
      if (!kernel.starts_with(o.kernel)) continue;
      try {
        double compile_ms = 0;
        const double tflops = measure(device, desc, kernel, src, weights, &compile_ms);
        std::printf("  %-32s %7.2f TFLOP/s %5.1f %% of peak   plan %6.0f ms\n", kernel.c_str(), tflops,
                    100 * tflops / peak, compile_ms);
      } catch (const Error& error) {
        std::printf("  %-32s %s\n", kernel.c_str(), error.what());
      }
      std::fflush(stdout);
      if (o.best) break;
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
                          "usage: gl_layers [--device=gl:0] [--kernel=PREFIX] [--layer=TEXT] [--n=32] "
                          "[--layout=nchw|nhwc] [--best]\n"),
             2;
  }
  try {
    run(o);
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "gl_layers: %s\n", error.what()), 1;
  }
}
