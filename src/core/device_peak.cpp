#include "core/device_peak.hpp"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <vector>

#include "convrt/shader.hpp"
#include "core/fail.hpp"

namespace convrt::core {
namespace {

// Eight independent chains an invocation, 512 multiply-adds a round; the sums are stored, so nothing is dropped.
constexpr const char* kPeakText = R"(#version 430 core
layout(local_size_x = 256) in;
layout(std430, binding = 0) readonly buffer Src { float src[]; };
layout(std430, binding = 2) writeonly buffer Dst { float dst[]; };
layout(std140, binding = 3) uniform Conv { int n, c, h, w, k, r, s, p, q; } conv;
void main() {
  float x[8], a = src[gl_LocalInvocationIndex & 7u], b = src[8u + (gl_LocalInvocationIndex & 7u)];
  for (int i = 0; i < 8; ++i) x[i] = float(i) + float(gl_LocalInvocationIndex);
  for (int round = 0; round < conv.c; ++round)
    for (int j = 0; j < 64; ++j)
      for (int i = 0; i < 8; ++i) x[i] = fma(x[i], a, b);
  float sum = 0.0;
  for (int i = 0; i < 8; ++i) sum += x[i];
  dst[(gl_WorkGroupID.x * 256u + gl_LocalInvocationIndex) % uint(conv.k)] = sum;
})";
constexpr double kFlopsARound = 2.0 * 256 * 8 * 64;  // of one work group

// The whole of src to dst, sixteen times over: one dispatch is long enough to time.
constexpr const char* kCopyText = R"(#version 430 core
layout(local_size_x = 256) in;
layout(std430, binding = 0) readonly restrict buffer Src { vec4 src[]; };
layout(std430, binding = 2) writeonly restrict buffer Dst { vec4 dst[]; };
layout(std140, binding = 3) uniform Conv { int n, c, h, w, k, r, s, p, q; } conv;
void main() {
  uint step = gl_NumWorkGroups.x * 256u, end = uint(conv.h * conv.w) / 4u;
  for (int round = 0; round < 16; ++round)
    for (uint i = gl_WorkGroupID.x * 256u + gl_LocalInvocationIndex; i < end; i += step) dst[i] = src[i];
})";

// The GPU's best time of several runs, after `warm_ms` of them.
double best_ms(const Device& device, const char* text, const char* label, int groups, const Conv2dDesc& desc,
               std::vector<float>& dst, double warm_ms) {
  const CustomShader shader = gpu_compile_custom_shader(
      device, {.glsl = text, .label = label, .defines = {}, .groups = {static_cast<std::uint32_t>(groups), 1, 1}});
  const std::vector<float> src(desc.src_size(), 0.5F), weights(desc.weights_size(), 0.0F);
  dst.assign(desc.dst_size(), 0.0F);
  double best = std::numeric_limits<double>::infinity();
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed_ms = [&] {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  };
  for (int run = 0; run < 5 || elapsed_ms() < warm_ms; ++run)
    best = std::min(best, gpu_execute_conv2d_custom(shader, desc, src, weights, dst).device_ms);
  return best;
}

}  // namespace

DevicePeak measure_device_peak(const Device& device) {
  const bool software = device.info().software;
  const int units = device.info().compute_units > 0 ? device.info().compute_units : 16;
  DevicePeak peak;
  std::vector<float> dst;

  // A software rasteriser gets a thousandth of a card's work.
  Conv2dDesc desc = Conv2dDesc::parse("n1c1h4w4k256r1s1");
  desc.c = software ? 4 : 1024;
  const int groups = software ? 128 : units * 32;
  const double peak_ms = best_ms(device, kPeakText, "multiply-add peak", groups, desc, dst, software ? 0 : 400);
  peak.tflops = kFlopsARound * desc.c * groups / peak_ms * 1e-9;

  const Conv2dDesc copy = Conv2dDesc::parse(software ? "n1c1h256w8192k1r1s1" : "n1c1h8192w8192k1r1s1");
  const double copy_ms = best_ms(device, kCopyText, "copy", units * 16, copy, dst, 0);
  if (!std::all_of(dst.begin(), dst.end(), [](float v) { return v == 0.5F; }))
    fail(ErrorCode::internal, "the copy that measures the bandwidth of ", device.info().id, " copied wrongly");
  peak.copy_tbytes_s = 16 * 2.0 * sizeof(float) * static_cast<double>(copy.src_size()) / copy_ms * 1e-9;
  return peak;
}

}  // namespace convrt::core
