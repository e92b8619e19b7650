// cpu.reference: seven loops, double accumulator. The oracle of all tests; last in every kernel list.
#include <algorithm>
#include <limits>

#include "core/activation.hpp"
#include "cpu/algorithm.hpp"

namespace convrt::cpu {
namespace {

std::vector<Variant> variants(const Conv2dDesc&, const CpuInfo&, int) {
  return {{"cpu.reference", Isa::scalar, 0, 0, std::numeric_limits<double>::infinity()}};
}

AlignedFloats pack(const Conv2dDesc&, const Variant&, std::span<const float> weights, int) {
  AlignedFloats copy(weights.size());
  std::copy(weights.begin(), weights.end(), copy.data());
  return copy;
}

std::size_t scratch_floats(const Conv2dDesc&, const Variant&, int) { return 0; }

// One output element. src: [N][C][H][W] or [N][H][W][C] through the strides of its layout.
double element(const Run& run, int n, int k, int p, int q) {
  const Conv2dDesc& d = run.desc;
  const bool nhwc = d.layout == Layout::nhwc;
  const std::ptrdiff_t at_w = nhwc ? d.c : 1, at_h = at_w * d.w, at_c = nhwc ? 1 : std::ptrdiff_t{d.h} * d.w;
  const int group_c = d.c / d.groups, group = k / (d.k / d.groups);
  const float* image = run.src + std::ptrdiff_t{n} * d.c * d.h * d.w + group * group_c * at_c;
  const float* filter = run.weights + std::ptrdiff_t{k} * group_c * d.r * d.s;
  double sum = 0;
  for (int c = 0; c < group_c; ++c)
    for (int r = 0; r < d.r; ++r) {
      const std::int64_t h = std::int64_t{p} * d.stride_h - d.pad_top + std::int64_t{r} * d.dilation_h;
      if (h < 0 || h >= d.h) continue;
      for (int s = 0; s < d.s; ++s) {
        const std::int64_t w = std::int64_t{q} * d.stride_w - d.pad_left + std::int64_t{s} * d.dilation_w;
        if (w < 0 || w >= d.w) continue;
        sum += static_cast<double>(filter[(std::ptrdiff_t{c} * d.r + r) * d.s + s]) *
               static_cast<double>(image[c * at_c + h * at_h + w * at_w]);
      }
    }
  return sum;
}

void execute(const Run& run) noexcept {
  const Conv2dDesc& d = run.desc;
  const int p_end = d.p(), q_end = d.q();
  const bool nhwc = d.layout == Layout::nhwc;
  const std::ptrdiff_t images = std::ptrdiff_t{d.n} * d.k;
#pragma omp parallel for num_threads(run.threads) schedule(static)
  for (std::ptrdiff_t nk = 0; nk < images; ++nk) {
    const int n = static_cast<int>(nk / d.k), k = static_cast<int>(nk % d.k);
    for (int p = 0; p < p_end; ++p)
      for (int q = 0; q < q_end; ++q) {
        float& out = nhwc ? run.dst[((std::ptrdiff_t{n} * p_end + p) * q_end + q) * d.k + k]
                          : run.dst[(nk * p_end + p) * q_end + q];
        const double sum = element(run, n, k, p, q) + run.bias[k] + (d.accumulate ? out : 0.0F);
        out = static_cast<float>(core::activate(d.activation, sum));
      }
  }
}

}  // namespace

const Algorithm reference = {variants, pack, scratch_floats, execute};

}  // namespace convrt::cpu
