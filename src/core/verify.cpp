#include "core/verify.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <random>
#include <sstream>
#include <utility>
#include <vector>

#include "core/activation.hpp"
#include "core/fail.hpp"

namespace convrt::core {
namespace {

constexpr double kUnit = 0x1p-24;

struct Index {
  int n, k, p, q;
};

struct Sum {
  double value = 0, magnitude = 0;  ///< sum w*x, sum |w||x|
};

int winograd_tile(std::string_view kernel) {
  constexpr std::string_view word = "winograd";
  const std::size_t at = kernel.find(word);
  if (at == std::string_view::npos) return 0;
  const std::size_t digit = kernel.find_first_of("23456789", at + word.size());
  return digit == std::string_view::npos ? 6 : kernel[digit] - '0';
}

double winograd_kappa(int m) { return m <= 2 ? 4 : m <= 4 ? 32 : 200; }

double largest_slope(const Activation& a) {
  switch (a.kind) {
    case ActivationKind::sigmoid: return 0.25;
    case ActivationKind::leaky_relu: return std::max(1.0, std::abs(static_cast<double>(a.alpha)));
    case ActivationKind::silu: return 1.1;
    case ActivationKind::gelu: return 1.13;
    case ActivationKind::hard_swish: return 1.5;
    default: return 1;
  }
}

// What evaluating the activation itself in fp32 may add at x, where it gives y. exp(-x) through exp2 has a relative
// error that grows with |x|; 1 - 2 / (exp(2x) + 1) and 1 + erf(x) cancel, so theirs is absolute.
double activation_rounding(const Activation& a, double x, double y) {
  const double reach = std::min(std::abs(x), 100.0);
  switch (a.kind) {
    case ActivationKind::leaky_relu: return kUnit * std::abs(y);
    case ActivationKind::hard_swish: return 4 * kUnit * std::abs(x);
    case ActivationKind::sigmoid:
    case ActivationKind::silu: return 4 * (1 + reach) * kUnit * std::abs(y);
    case ActivationKind::tanh: return 8 * kUnit * std::min(1.0, reach);
    case ActivationKind::gelu: return 8 * kUnit * reach;
    default: return 0;
  }
}

class Oracle {
 public:
  explicit Oracle(const VerifyCase& what)
      : what_(what),
        d_(what.desc),
        p_(d_.p()),
        q_(d_.q()),
        group_c_(d_.c / d_.groups),
        group_k_(d_.k / d_.groups),
        tile_(winograd_tile(what.kernel)) {
    const bool nhwc = d_.layout == Layout::nhwc;
    at_w_ = nhwc ? d_.c : 1;
    at_h_ = at_w_ * d_.w;
    at_c_ = nhwc ? 1 : std::ptrdiff_t{d_.h} * d_.w;
    const double taps = static_cast<double>(group_c_) * d_.r * d_.s;
    terms_ = taps + (what.bias.empty() ? 0 : 1) + (d_.accumulate ? 1 : 0);
    kappa_ = std::min(terms_, 16 + 4 * std::sqrt(terms_));
    if (tile_ != 0) kappa_ = std::max(kappa_, winograd_kappa(tile_));
    slope_ = largest_slope(d_.activation);
  }

  Index index(std::size_t i) const {
    const auto next = [&i](int size) {
      const std::size_t at = i % static_cast<std::size_t>(size);
      i /= static_cast<std::size_t>(size);
      return static_cast<int>(at);
    };
    Index x{};
    if (d_.layout == Layout::nhwc) x.k = next(d_.k);
    x.q = next(q_);
    x.p = next(p_);
    if (d_.layout == Layout::nchw) x.k = next(d_.k);
    x.n = static_cast<int>(i);
    return x;
  }

  std::size_t offset(const Index& x) const {
    const auto [n, k, p, q] = x;
    return static_cast<std::size_t>(d_.layout == Layout::nhwc ? ((std::ptrdiff_t{n} * p_ + p) * q_ + q) * d_.k + k
                                                              : ((std::ptrdiff_t{n} * d_.k + k) * p_ + p) * q_ + q);
  }

  // Adds element `i` of dst to `result`.
  void compare(std::size_t i, float found, VerifyResult& result) const {
    const Index x = index(i);
    Sum sum = window(x);
    double magnitude = tile_ == 0 ? sum.magnitude : std::max(sum.magnitude, patch_magnitude(x));
    if (!what_.bias.empty()) add(what_.bias[static_cast<std::size_t>(x.k)], sum.value, magnitude);
    if (d_.accumulate) add(what_.before[i], sum.value, magnitude);
    if (!(magnitude <= static_cast<double>(std::numeric_limits<float>::max()))) {
      ++result.skipped;
      return;
    }
    ++result.checked;
    const double expected = activate(d_.activation, sum.value);
    const double bound = slope_ * kappa_ * kUnit * magnitude + activation_rounding(d_.activation, sum.value, expected) +
                         (terms_ + 1) * static_cast<double>(std::numeric_limits<float>::min());
    const double difference = std::abs(static_cast<double>(found) - expected);
    const double error = std::isnan(difference) ? INFINITY : difference / bound;
    if (error > result.error || result.checked == 1) {
      const std::size_t checked = result.checked, skipped = result.skipped;
      result = {error, checked, skipped, x.n, x.k, x.p, x.q, expected, static_cast<double>(found), bound};
    }
  }

 private:
  static void add(float term, double& value, double& magnitude) {
    value += static_cast<double>(term);
    magnitude += std::abs(static_cast<double>(term));
  }

  const float* image(const Index& x) const {  // the source channels that filter k reads
    return what_.src.data() + std::ptrdiff_t{x.n} * d_.c * d_.h * d_.w +
           std::ptrdiff_t{x.k / group_k_} * group_c_ * at_c_;
  }
  const float* filter(const Index& x) const {
    return what_.weights.data() + std::ptrdiff_t{x.k} * group_c_ * d_.r * d_.s;
  }

  Sum window(const Index& x) const {
    const float *from = image(x), *weight = filter(x);
    Sum sum;
    for (int c = 0; c < group_c_; ++c)
      for (int r = 0; r < d_.r; ++r) {
        const std::int64_t h = std::int64_t{x.p} * d_.stride_h - d_.pad_top + std::int64_t{r} * d_.dilation_h;
        if (h < 0 || h >= d_.h) continue;
        for (int s = 0; s < d_.s; ++s) {
          const std::int64_t w = std::int64_t{x.q} * d_.stride_w - d_.pad_left + std::int64_t{s} * d_.dilation_w;
          if (w < 0 || w >= d_.w) continue;
          const double product = static_cast<double>(weight[(std::ptrdiff_t{c} * d_.r + r) * d_.s + s]) *
                                 static_cast<double>(from[c * at_c_ + h * at_h_ + w * at_w_]);
          sum.value += product;
          sum.magnitude += std::abs(product);
        }
      }
    return sum;
  }

  // sum over c of max |x| over the patch of x's tile * sum |w|; tiles start at multiples of the tile size
  double patch_magnitude(const Index& x) const {
    const float *from = image(x), *weight = filter(x);
    const int top = x.p - x.p % tile_ - d_.pad_top, left = x.q - x.q % tile_ - d_.pad_left;
    const int h_end = std::min(d_.h, top + tile_ + d_.r - 1), w_end = std::min(d_.w, left + tile_ + d_.s - 1);
    double magnitude = 0;
    for (int c = 0; c < group_c_; ++c) {
      double source = 0, weights = 0;
      for (int h = std::max(0, top); h < h_end; ++h)
        for (int w = std::max(0, left); w < w_end; ++w) {
          const auto element = static_cast<double>(from[c * at_c_ + h * at_h_ + w * at_w_]);
          // NaN and infinity reach every output of the tile: no bound holds there.
          source = std::isfinite(element) ? std::max(source, std::abs(element)) : INFINITY;
          if (source == INFINITY) return INFINITY;
        }
      for (int i = 0; i < d_.r * d_.s; ++i)
        weights += std::abs(static_cast<double>(weight[std::ptrdiff_t{c} * d_.r * d_.s + i]));
      magnitude += source * weights;
    }
    return magnitude;
  }

  const VerifyCase& what_;
  const Conv2dDesc& d_;
  int p_, q_, group_c_, group_k_, tile_;
  std::ptrdiff_t at_w_ = 0, at_h_ = 0, at_c_ = 0;
  double terms_ = 0, kappa_ = 0, slope_ = 1;
};

std::vector<std::size_t> sample(const Oracle& oracle, const Conv2dDesc& d, std::size_t samples, std::uint64_t seed) {
  const int p = d.p(), q = d.q();
  std::vector<std::size_t> picked;
  for (unsigned corner = 0; corner < 16; ++corner)
    picked.push_back(oracle.offset({(corner & 8U) != 0 ? d.n - 1 : 0, (corner & 4U) != 0 ? d.k - 1 : 0,
                                    (corner & 2U) != 0 ? p - 1 : 0, (corner & 1U) != 0 ? q - 1 : 0}));
  std::mt19937_64 random(seed);
  const auto below = [&random](int end) { return static_cast<int>(random() % static_cast<std::uint64_t>(end)); };
  // One of the two elements beside a boundary between tiles, or before the ragged end.
  const auto beside = [&](int end) {
    constexpr int tiles[] = {4, 6, 8, 14, 16, 32, 64, 128};
    const int tile = tiles[below(static_cast<int>(std::size(tiles)))];
    const int boundary = tile * (1 + below(end / tile + 1));
    return std::clamp(boundary - below(2), 0, end - 1);
  };
  while (picked.size() < samples) {
    const bool edge = picked.size() % 2 == 0;
    const int n = below(d.n);
    picked.push_back(edge ? oracle.offset({n, beside(d.k), beside(p), beside(q)})
                          : oracle.offset({n, below(d.k), below(p), below(q)}));
  }
  picked.resize(std::min(picked.size(), samples));
  return picked;
}

void merge(VerifyResult& total, const VerifyResult& part) {
  const std::size_t checked = total.checked + part.checked, skipped = total.skipped + part.skipped;
  if (part.error > total.error || total.checked == 0) total = part;
  total.checked = checked;
  total.skipped = skipped;
}

}  // namespace

std::string VerifyResult::str() const {
  std::ostringstream text;
  text.precision(9);
  text << "dst[n=" << n << "][k=" << k << "][p=" << p << "][q=" << q << "] is " << found << ", expected " << expected;
  text.precision(3);
  text << " +- " << bound << " (" << error << " times the bound)";
  return text.str();
}

std::size_t samples_for(const Conv2dDesc& desc, double multiply_adds) {
  const double taps = static_cast<double>(desc.c / desc.groups) * desc.r * desc.s;
  return static_cast<std::size_t>(std::clamp(multiply_adds / taps, 32.0, 1e15));
}

VerifyResult verify(const VerifyCase& what, std::span<const float> dst, std::size_t samples, std::uint64_t seed) {
  const Conv2dDesc& d = what.desc;
  if (dst.size() != d.dst_size() || what.src.size() != d.src_size() || what.weights.size() != d.weights_size() ||
      (!what.bias.empty() && what.bias.size() != static_cast<std::size_t>(d.k)) ||
      (d.accumulate && what.before.size() != dst.size()))
    fail(ErrorCode::invalid_argument, "verify ", d.str(), ": a span has the wrong length (accumulate needs `before`)");
  VerifyResult total;
  if (dst.empty()) return total;
  const Oracle oracle(what);
  const bool whole = samples == 0 || samples >= dst.size();
  const std::vector<std::size_t> picked = whole ? std::vector<std::size_t>() : sample(oracle, d, samples, seed);
  const auto count = static_cast<std::ptrdiff_t>(whole ? dst.size() : picked.size());
  constexpr std::ptrdiff_t block = 64;
  [[maybe_unused]] const bool worth_threads = count > 16 * block;
#pragma omp parallel for schedule(dynamic) if (worth_threads)
  for (std::ptrdiff_t begin = 0; begin < count; begin += block) {
    VerifyResult part;
    for (std::ptrdiff_t i = begin; i < std::min(begin + block, count); ++i) {
      const std::size_t at = whole ? static_cast<std::size_t>(i) : picked[static_cast<std::size_t>(i)];
      oracle.compare(at, dst[at], part);
    }
#pragma omp critical(convrt_verify)
    merge(total, part);
  }
  return total;
}

}  // namespace convrt::core
