#include "conformance.hpp"

#include <signal.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <sstream>

#include "cases.hpp"
#include "core/activation.hpp"
#include "core/select.hpp"
#include "guarded.hpp"

namespace convrt::test {
namespace {

constexpr double kUnit = 0x1p-24;  // half an ulp of 1: one rounding in fp32

struct Term {
  double sum = 0, magnitude = 0;
};

// Where the taps of output position (p, q) meet the image; p and q may lie outside of dst (Winograd's tiles do).
class Oracle {
 public:
  explicit Oracle(const Problem& problem) : problem_(problem), d_(problem.desc) {}

  Term at(int n, int k, std::int64_t p, std::int64_t q) const {
    const int group_c = d_.c / d_.groups, first_c = k / (d_.k / d_.groups) * group_c;
    Term t;
    for (int r = 0; r < d_.r; ++r) {
      const std::int64_t h = p * d_.stride_h - d_.pad_top + std::int64_t{r} * d_.dilation_h;
      if (h < 0 || h >= d_.h) continue;
      for (int s = 0; s < d_.s; ++s) {
        const std::int64_t w = q * d_.stride_w - d_.pad_left + std::int64_t{s} * d_.dilation_w;
        if (w < 0 || w >= d_.w) continue;
        for (int c = 0; c < group_c; ++c) {
          const double x = problem_.src[src_index(n, first_c + c, h, w)];
          const double product =
              x * problem_.weights[((static_cast<std::size_t>(k) * group_c + c) * d_.r + r) * d_.s + s];
          t.sum += product;
          t.magnitude += std::abs(product);
        }
      }
    }
    return t;
  }

 private:
  std::size_t src_index(int n, int c, std::int64_t h, std::int64_t w) const {
    const auto rows = static_cast<std::size_t>(d_.h), columns = static_cast<std::size_t>(d_.w);
    const auto y = static_cast<std::size_t>(h), x = static_cast<std::size_t>(w);
    if (d_.layout == Layout::nhwc) return ((n * rows + y) * columns + x) * d_.c + c;
    return ((static_cast<std::size_t>(n) * d_.c + c) * rows + y) * columns + x;
  }

  const Problem& problem_;
  const Conv2dDesc& d_;
};

std::size_t dst_index(const Conv2dDesc& d, int n, int k, int p, int q) {
  const auto rows = static_cast<std::size_t>(d.p()), columns = static_cast<std::size_t>(d.q());
  if (d.layout == Layout::nhwc) return ((n * rows + p) * columns + q) * d.k + k;
  return ((static_cast<std::size_t>(n) * d.k + k) * rows + p) * columns + q;
}

template <class Visit>  // visit(n, k, p, q)
void for_each_output(const Conv2dDesc& d, const Visit& visit) {
  const int p_end = d.p(), q_end = d.q();
  for (int n = 0; n < d.n; ++n)
    for (int k = 0; k < d.k; ++k)
      for (int p = 0; p < p_end; ++p)
        for (int q = 0; q < q_end; ++q) visit(n, k, p, q);
}

// The largest slope of the activation: how much it can magnify an error of its argument.
double steepest_slope(const Activation& a) {
  switch (a.kind) {
    case ActivationKind::leaky_relu: return std::max(1.0, std::abs(static_cast<double>(a.alpha)));
    case ActivationKind::sigmoid: return 0.25;
    case ActivationKind::silu: return 1.1;        // 1.0998 at x = 2.40
    case ActivationKind::gelu: return 1.13;       // 1.1290 at x = sqrt(2)
    case ActivationKind::hard_swish: return 1.5;  // at x = 3
    default: return 1;
  }
}

// What the activation may add by its own rounding at x, where its value is y. The exact forms add nothing; the others
// get four ulp, of the value where the formula is a product and of 1 or x where it is a sum.
double activation_error(const Activation& a, double x, double y) {
  switch (a.kind) {
    case ActivationKind::leaky_relu: return kUnit * std::abs(y);
    case ActivationKind::sigmoid:
    case ActivationKind::tanh: return 8 * kUnit;
    case ActivationKind::silu:
    case ActivationKind::gelu:
    case ActivationKind::hard_swish: return 8 * kUnit * std::abs(x);
    default: return 0;
  }
}

// Guard pages end the process; the last word says how to come back. Only async-signal-safe calls in the handler.
char last_words[2048];

void on_fault(int signal_number) {
  const auto ignored = write(STDERR_FILENO, last_words, std::strlen(last_words));
  (void)ignored;
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

void announce(const std::string& command) {
  static std::once_flag once;
  std::call_once(once, [] {
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    signal(SIGILL, on_fault);
  });
  const std::string text =
      "\nThe process ended inside a kernel (a buffer was overrun?). Reproduce with\n  " + command + "\n";
  std::strncpy(last_words, text.c_str(), sizeof last_words - 1);
}

// Owns what one run needs; weights and bias vanish after the plan is made, which therefore has to copy them.
struct Setting {
  Setting(const Problem& problem, Flush flush)
      : src(problem.src.size(), flush),
        dst(problem.before.size(), flush),
        weights(std::make_unique<Guarded>(problem.weights.size(), flush)),
        bias(std::make_unique<Guarded>(problem.bias.size(), flush)) {
    std::ranges::copy(problem.src, src.floats().begin());
    std::ranges::copy(problem.before, dst.floats().begin());
    std::ranges::copy(problem.weights, weights->floats().begin());
    std::ranges::copy(problem.bias, bias->floats().begin());
    for (const Guarded* g : {&src, weights.get(), bias.get()}) g->make_read_only();
  }

  Conv2dPlan plan(const Device& device, const Conv2dDesc& desc, const PlanOptions& options, bool reshaped) {
    Conv2dDesc first = desc;
    if (reshaped) {
      first.n += 1;
      first.h += 3;
      first.w += 5;
    }
    const std::span<const float> no_bias;
    Conv2dPlan made(device, first, weights->floats(), bias->floats().empty() ? no_bias : bias->floats(), options);
    weights.reset();
    bias.reset();
    return reshaped ? made.reshaped(desc.n, desc.h, desc.w) : made;
  }

  Guarded src, dst;
  std::unique_ptr<Guarded> weights, bias;
};

void compare(const Problem& problem, std::span<const float> dst, std::string_view kernel, std::ostream& complaints) {
  const std::vector<double> bounds = problem.bounds(kernel);
  std::size_t wrong = 0;
  for_each_output(problem.desc, [&](int n, int k, int p, int q) {
    const std::size_t i = dst_index(problem.desc, n, k, p, q);
    const double expected = problem.expected(i), found = dst[i];
    if (std::abs(found - expected) <= bounds[i]) return;  // false for NaN, as it should be
    if (++wrong <= 3)
      complaints << "  dst[n=" << n << "][k=" << k << "][p=" << p << "][q=" << q << "] is " << found << ", expected "
                 << expected << " within " << bounds[i] << '\n';
  });
  if (wrong > 3) complaints << "  ... " << wrong << " of " << dst.size() << " values are wrong\n";
}

}  // namespace

Problem::Problem(const Conv2dDesc& problem, Data kind, std::uint64_t base_seed)
    : desc(problem), data(kind), seed(base_seed) {
  desc.validate();
  Random random(seed_for(desc, seed));
  const auto fill = [&](std::vector<float>& v, std::size_t size, int limit) {
    v.resize(size);
    for (float& f : v) {
      if (data == Data::reals)
        f = random.real();
      else
        while ((f = static_cast<float>(random.between(-limit, limit))) == 0) {
        }
    }
  };
  fill(src, desc.src_size(), 4);
  fill(weights, desc.weights_size(), 3);
  if (random.between(0, 1) == 1) fill(bias, static_cast<std::size_t>(desc.k), 9);
  fill(before, desc.dst_size(), 9);

  sums.resize(before.size());
  magnitudes.resize(before.size());
  const Oracle oracle(*this);
  for_each_output(desc, [&](int n, int k, int p, int q) {
    const std::size_t i = dst_index(desc, n, k, p, q);
    const Term t = oracle.at(n, k, p, q);
    const double b = bias.empty() ? 0 : bias[k], old = desc.accumulate ? before[i] : 0;
    sums[i] = t.sum + b + old;
    magnitudes[i] = t.magnitude + std::abs(b) + std::abs(old);
  });
  if (!desc.accumulate) std::ranges::fill(before, Guarded::canary());
}

double Problem::expected(std::size_t i) const { return core::activate(desc.activation, sums[i]); }

std::vector<double> Problem::bounds(std::string_view kernel) const {
  const bool winograd = kernel.find("winograd") != std::string_view::npos;
  const bool exact = data == Data::integers && (!winograd || kernel.find("winograd_f2") != std::string_view::npos);
  const int tile = kernel.find("winograd_f2") != std::string_view::npos ? 2 : 4;
  const double terms = static_cast<double>(desc.c / desc.groups) * desc.r * desc.s + !bias.empty() + desc.accumulate;
  const double factor = winograd ? (tile == 2 ? 8 : 64) : std::min(terms, 16 + 4 * std::sqrt(terms));

  std::vector<double> reach;  // of one n, k: the largest magnitude around each tile
  const int p_end = desc.p(), q_end = desc.q(), tiles_w = (q_end + tile - 1) / tile;
  const Oracle oracle(*this);
  const auto gather = [&](int n, int k) {
    reach.assign(static_cast<std::size_t>((p_end + tile - 1) / tile) * tiles_w, 0);
    for (int p = -1; p <= (p_end + tile - 1) / tile * tile; ++p)
      for (int q = -1; q <= tiles_w * tile; ++q) {
        const bool inside = p >= 0 && p < p_end && q >= 0 && q < q_end;
        const double m = inside ? magnitudes[dst_index(desc, n, k, p, q)] : oracle.at(n, k, p, q).magnitude;
        for (int i = std::max(0, p - 1) / tile; i * tile < p_end && i * tile <= p + 1; ++i)
          for (int j = std::max(0, q - 1) / tile; j < tiles_w && j * tile <= q + 1; ++j) {
            double& most = reach[static_cast<std::size_t>(i) * tiles_w + j];
            most = std::max(most, m);
          }
      }
  };

  std::vector<double> result(sums.size());
  for_each_output(desc, [&](int n, int k, int p, int q) {
    const std::size_t i = dst_index(desc, n, k, p, q);
    if (winograd && !exact && p == 0 && q == 0) gather(n, k);
    const double magnitude =
        winograd && !exact ? reach[static_cast<std::size_t>(p / tile) * tiles_w + q / tile] : magnitudes[i];
    const double rounding = exact ? 0 : factor * kUnit * magnitude;
    // The activation of a sum that is off by `rounding` errs like one of a slightly larger argument.
    result[i] = rounding * steepest_slope(desc.activation) +
                activation_error(desc.activation, std::abs(sums[i]) + rounding, expected(i));
  });
  return result;
}

std::string reproduce(const Device& device, std::string_view kernel, const Conv2dDesc& desc, std::uint64_t seed) {
  std::ostringstream text;
  text << "CONVRT_TEST_SEED=" << seed << " CONVRT_TEST_DEVICE=" << device.info().id << " CONVRT_TEST_KERNEL=" << kernel
       << " CONVRT_TEST_PROBLEM=" << desc.str() << " tests/conformance_test";
  return text.str();
}

std::string check_kernel(const Device& device, const std::string& kernel, const Problem& problem,
                         const CheckOptions& options) {
  std::ostringstream complaints;
  for (const Flush flush : {Flush::front, Flush::back}) {
    if (flush == Flush::front && !options.both_ends) continue;
    announce(reproduce(device, kernel, problem.desc, problem.seed));
    try {
      Setting setting(problem, flush);
      const PlanOptions plan_options = {.kernel = kernel, .tune = Tune::off, .threads = options.threads};
      const Conv2dPlan plan = setting.plan(device, problem.desc, plan_options, options.reshaped);
      if (plan.kernel() != kernel) complaints << "  the plan runs " << plan.kernel() << '\n';
      plan.run(setting.src.floats(), setting.dst.floats());
      compare(problem, setting.dst.floats(), kernel, complaints);
      if (!setting.dst.intact()) complaints << "  memory beside dst was overwritten\n";
    } catch (const std::exception& e) {
      complaints << "  threw: " << e.what() << '\n';
    }
    if (complaints.str().empty()) continue;
    return kernel + " on " + problem.desc.str() + " (" + (problem.data == Data::integers ? "integers" : "reals") +
           (flush == Flush::front ? ", data at the front of a page" : ", data at the end of a page") +
           (options.reshaped ? ", reshaped" : "") + ", threads=" + std::to_string(options.threads) + "):\n" +
           complaints.str() + "  reproduce: " + reproduce(device, kernel, problem.desc, problem.seed) + '\n';
  }
  return {};
}

std::string check_kernels(const Device& device, const Conv2dDesc& desc, std::uint64_t seed, std::string_view prefix,
                          const std::function<bool(const std::string&)>& wanted) {
  const Problem integers(desc, Data::integers, seed), reals(desc, Data::reals, seed);
  const bool on_cpu = device.info().id == "cpu";
  std::string complaints;
  bool any = false;
  for (const std::string& kernel : device.kernels(desc)) {
    if (!prefix.empty() && !core::names(prefix, kernel)) continue;
    any = true;
    if (wanted && !wanted(kernel)) continue;
    if (!on_cpu) {
      complaints += check_kernel(device, kernel, integers, {.both_ends = false});
      complaints += check_kernel(device, kernel, reals, {.reshaped = true, .both_ends = false});
      continue;
    }
    complaints += check_kernel(device, kernel, integers, {.threads = 3});
    complaints += check_kernel(device, kernel, reals, {.threads = 1});
    complaints += check_kernel(device, kernel, reals, {.threads = 2, .reshaped = true});
  }
  if (!any) complaints += "no kernel \"" + std::string(prefix) + "\" lists this problem\n";
  return complaints;
}

}  // namespace convrt::test
