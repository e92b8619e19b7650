// Measures kernels: numbers first, then the clock.
#include "convrt/tuner.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "core/access.hpp"
#include "core/cache_file.hpp"
#include "core/history.hpp"
#include "core/log.hpp"
#include "core/select.hpp"
#include "core/ticket.hpp"
#include "core/tune_cache.hpp"
#include "core/tune_problem.hpp"
#include "core/verify.hpp"

namespace convrt::core {
namespace {

constexpr double kOracleMultiplyAdds = 2e7;  // 20 ms or so per check
constexpr int kMostRuns = 60, kFewestRuns = 5;
constexpr double kEnoughMs = 40;

// A GPU that idled, if only while the driver compiled, has lowered its clock; this much work brings it back.
constexpr double kWarmUpMs = 350;
constexpr double kSeriesMs = 4;  // of runs between two looks at the device's clock
constexpr int kMostRunsASeries = 64;
// Tensors on a device: so many sets in turn that they lie in its memory, not in a cache, as those of a network do.
constexpr std::size_t kRotatedFloats = 48U << 20U, kMostSets = 16;

// Rounds of the finals, and what survives each: within this factor of the best, and no more than so many.
struct Round {
  double within;
  std::size_t most;
};
constexpr Round kFinals[] = {{2, 64}, {1.5, 12}, {1.25, 6}, {1.15, 4}, {1.15, 4}, {1.15, 4}, {1.15, 4}};

double quantile(std::vector<double> times, double part) {
  std::sort(times.begin(), times.end());
  return times[static_cast<std::size_t>(std::lround(part * static_cast<double>(times.size() - 1)))];
}

/// A plain generator: tensors of a hundred million floats are made for each problem.
std::vector<float> random_floats(std::size_t size, std::uint32_t seed) {
  std::minstd_rand random(seed);
  std::vector<float> values(size);
  for (float& v : values) v = static_cast<float>(random()) * (2.0F / 2147483647.0F) - 1.0F;
  return values;
}

/// Everything one problem is measured with. On a device with memory of its own, tensors stay there.
struct Bench {
  Backend& backend;
  const Conv2dDesc& desc;
  int threads;
  std::vector<float> weights = random_floats(desc.weights_size(), 1);
  std::vector<float> bias = random_floats(static_cast<std::size_t>(desc.k), 2);
  std::vector<float> src = random_floats(desc.src_size(), 3);
  std::vector<float> before = random_floats(desc.dst_size(), 4);
  std::vector<float> dst = before;
  std::vector<std::shared_ptr<BackendBuffer>> device_src = {}, device_dst = {};
  std::size_t next = 0;
  Clock::time_point awake = {};  ///< until then the device was busy

  Bench(Backend& device, const Conv2dDesc& problem, int run_threads)
      : backend(device), desc(problem), threads(run_threads) {
    if (!resident()) return;
    const std::size_t set = src.size() + dst.size();
    const std::size_t sets = software() ? 1 : std::clamp<std::size_t>((kRotatedFloats + set - 1) / set, 1, kMostSets);
    for (std::size_t i = 0; i < sets; ++i) {
      device_src.push_back(backend.allocate(src.size()));
      device_src.back()->upload(src);
      device_dst.push_back(backend.allocate(dst.size()));
    }
  }
  bool resident() const { return !backend.host_memory(); }
  bool software() const { return backend.info().software; }
  /// Whether a first look says little: a GPU's clock may be anywhere after what the host did meanwhile.
  bool cold() const { return resident() && !software(); }

  /// One run into a dst that holds nothing right yet.
  void run(const PreparedConv& conv) {
    if (!resident()) {
      dst = before;
      conv.run(src, dst);
      return;
    }
    device_dst.front()->upload(before);
    conv.enqueue(device_src.front(), device_dst.front());
    device_dst.front()->download(dst);
    awake = Clock::now();
  }
  VerifyResult check(const std::string& kernel, double multiply_adds) const {
    return verify({desc, kernel, weights, bias, src, before}, dst, samples_for(desc, multiply_adds));
  }

  /// Milliseconds of one run, measured over `runs` of them: of the kernel alone, by the device's own clock if it has
  /// one.
  double series(const PreparedConv& conv, int runs) {
    if (resident()) {
      const double ms = backend.device_ms(runs, [&](int) {
        const std::size_t set = next++ % device_src.size();
        conv.enqueue(device_src[set], device_dst[set]);
      });
      awake = Clock::now();
      return std::max(ms / runs, 1e-6);
    }
    double spent = 0;
    for (int i = 0; i < runs; ++i) {
      dst = before;
      const auto start = Clock::now();
      conv.run(src, dst);
      spent += milliseconds(Clock::now() - start);
    }
    return std::max(spent / runs, 1e-6);
  }
  static int runs_a_series(double ms) {
    return static_cast<int>(std::clamp(kSeriesMs / ms, 1.0, 1.0 * kMostRunsASeries));
  }
};

/// A kernel that computes rightly, and its times so far.
struct Candidate {
  TuneResult result;
  std::shared_ptr<const PreparedConv> conv;
  std::vector<double> times = {};  // of the finals
};

/// The first look: enough to find who is not clearly beaten.
void time(Bench& bench, const PreparedConv& conv, double best_ms, TuneResult& result) {
  std::vector<double> times;
  double spent = 0;
  while (times.size() < kMostRuns && (times.size() < kFewestRuns || spent < kEnoughMs)) {
    times.push_back(bench.series(conv, 1));
    spent += times.back();
    if (bench.cold() && times.size() == 2) break;  // the finals decide
    // Clearly beaten: its place among the others needs no precision.
    if (best_ms > 0 && times.size() >= 2 && times.back() > 2 * best_ms && times.front() > 2 * best_ms) break;
  }
  result.ms = quantile(times, 0.5);
  result.spread = (quantile(times, 0.75) - quantile(times, 0.25)) / result.ms;
}

/// Measures one kernel. `lasting`: the outcome says something about the kernel, not about this moment.
Candidate measure(Bench& bench, const std::string& kernel, double best_ms, bool& lasting) {
  Candidate found;
  TuneResult& result = found.result;
  result.kernel = kernel;
  lasting = true;
  try {
    found.conv = bench.backend.prepare({bench.desc, kernel, bench.weights, bench.bias, bench.threads});
    bench.run(*found.conv);
    VerifyResult check = bench.check(kernel, kOracleMultiplyAdds);
    result.error = check.error;
    if (check.ok()) {
      time(bench, *found.conv, best_ms, result);
      bench.run(*found.conv);
      check = bench.check(kernel, kOracleMultiplyAdds / 10);  // and still right after many runs
      result.error = std::max(result.error, check.error);
    }
    if (!check.ok()) result.rejected = "wrong result: " + check.str();
  } catch (...) {
    const Error error = as_error(std::current_exception());
    lasting = error.code() == ErrorCode::compile_failed || error.code() == ErrorCode::unsupported;
    result.rejected = (error.code() == ErrorCode::compile_failed ? "does not compile: "
                                                                 : std::string(to_string(error.code())) + ": ") +
                      error.what();
  }
  if (!result.rejected.empty()) result.ms = result.spread = 0;
  if (!std::isfinite(result.error)) result.error = 1e30;  // stays a number in the cache
  return found;
}

/// Candidates in the order of trial: what ran fast in this user's history first, then the backend's own guess.
std::vector<std::string> order_of_trial(const TuneKey& key, std::vector<std::string> kernels) {
  std::map<std::string, double> seen;
  for (const HistoryRecord& r : history())
    if (r.device == key.device && r.driver == key.driver && r.problem == key.problem && r.best_ms > 0)
      seen[r.kernel] = r.best_ms;
  const auto time = [&seen](const std::string& kernel) {
    const auto found = seen.find(kernel);
    return found == seen.end() ? INFINITY : found->second;
  };
  std::stable_sort(kernels.begin(), kernels.end(),
                   [&](const std::string& a, const std::string& b) { return time(a) < time(b); });
  return kernels;
}

/// Times measured beside other work mislead, and they are kept: the user should hear of it.
void warn_if_busy() {
  double load = 0;
  const unsigned cores = std::thread::hardware_concurrency();
  if (getloadavg(&load, 1) == 1 && cores > 0 && load > 1.5 * cores)
    log(LogLevel::warning, "tuning while the machine is busy (load ", load, " on ", cores,
        " cores): the times may mislead; empty ", cache_path("tune").string(), " to tune anew");
}

/// One search: what is known, what was added, what the caller hears.
class Search {
 public:
  Search(Backend& backend, const Conv2dDesc& desc, int threads, const TuneOptions& options)
      : backend_(backend), desc_(desc), threads_(threads), options_(options), key_(tune_key(backend, desc, threads)) {}

  TuneReport run() {
    const std::vector<std::string> kernels =
        order_of_trial(key_, tune_candidates(backend_, desc_, threads_, options_.most_candidates));
    std::vector<std::string> open;
    for (const std::string& kernel : kernels)
      if (!recall(kernel)) open.push_back(kernel);
    if (open.empty() || desc_.dst_size() == 0) {
      report_.complete = true;
      rank(report_.results);
      return std::move(report_);
    }
    warn_if_busy();
    Bench bench{backend_, desc_, threads_};
    bool stopped = false;
    for (const std::string& kernel : open) {
      stopped = stopped || options_.cancel.stop_requested() || (measured_ > 0 && elapsed() > options_.budget_ms);
      if (stopped)
        report_.results.push_back({kernel, 0, 0, 0, options_.cancel.stop_requested() ? "cancelled" : "over budget"});
      else
        try_one(bench, kernel, kernels.size());
    }
    // Out of time, a cold device's first looks are still no times to keep.
    if (!stopped || (bench.cold() && !options_.cancel.stop_requested())) finals(bench);
    report_.complete = !stopped;
    rank(report_.results);
    if (const std::string best = report_.best(); !best.empty())
      log(LogLevel::info, "tuned ", desc_.str(), " on ", backend_.info().id, ": ", best, " ", report_.results[0].ms,
          " ms, best of ", report_.results.size() - unmeasured(), " measured");
    return std::move(report_);
  }

 private:
  double elapsed() const { return milliseconds(Clock::now() - start_); }

  std::size_t unmeasured() const {
    return static_cast<std::size_t>(std::count_if(report_.results.begin(), report_.results.end(), [](const auto& r) {
      return r.rejected == "over budget" || r.rejected == "cancelled";
    }));
  }

  bool recall(const std::string& kernel) {
    for (const TuneResult& r : known_)
      if (r.kernel == kernel) {
        add(r);
        return true;
      }
    return false;
  }

  void try_one(Bench& bench, const std::string& kernel, std::size_t total) {
    bool lasting = false;
    Candidate found = measure(bench, kernel, best_ms_, lasting);
    const TuneResult& result = found.result;
    ++measured_;
    if (lasting) user_tune_cache().store(key_, result);  // at once: a search cut off goes on from here
    if (!result.rejected.empty()) log(LogLevel::warning, "tuning ", desc_.str(), ": ", kernel, ": ", result.rejected);
    add(result);
    if (result.rejected.empty()) candidates_.push_back(std::move(found));
    if (options_.progress) options_.progress({report_.results.size(), total, kernel, best_, best_ms_, elapsed()});
  }

  // Successive halving: the best measured now once more, in turn, so that a slow moment falls on all of them. The lower
  // quartile counts: disturbances only ever add time.
  void finals(Bench& bench) {
    if (candidates_.size() < (bench.cold() ? 1 : 2)) return;
    std::vector<Candidate*> left;
    for (Candidate& c : candidates_) left.push_back(&c);
    const auto ms = [](const Candidate* c) { return c->times.empty() ? c->result.ms : quantile(c->times, 0.25); };
    const auto keep = [&](const Round& round) {
      std::sort(left.begin(), left.end(), [&](auto* a, auto* b) { return ms(a) < ms(b); });
      const double limit = round.within * ms(left.front());
      std::erase_if(left, [&](auto* c) { return ms(c) > limit; });
      if (left.size() > round.most) left.resize(round.most);
    };
    // A cold device's first looks exclude nobody, and all are timed anew once, over the budget or not.
    if (!bench.cold()) {
      keep({1.3, 4});
      if (left.size() < 2) return;
    }
    const auto round_of = [&](bool whatever_it_takes) {
      for (Candidate* c : left) {
        c->times.push_back(bench.series(*c->conv, Bench::runs_a_series(ms(c))));
        if (!whatever_it_takes && over()) return false;
      }
      return true;
    };
    if (bench.cold()) {
      const auto start = Clock::now();
      while (milliseconds(Clock::now() - start) < kWarmUpMs)
        for (const Candidate* c : left) bench.series(*c->conv, Bench::runs_a_series(ms(c)));
    }
    bool first = bench.cold();
    for (const Round& round : kFinals) {
      if (!round_of(std::exchange(first, false))) break;
      keep(round);
    }
    for (Candidate& c : candidates_) {
      if (c.times.empty()) continue;
      c.result.ms = quantile(c.times, 0.25);
      c.result.spread = (quantile(c.times, 0.75) - c.result.ms) / c.result.ms;
      user_tune_cache().store(key_, c.result);
      for (TuneResult& known : report_.results)
        if (known.kernel == c.result.kernel) known = c.result;
    }
  }

  // The finals may take half of the budget again.
  bool over() const { return options_.cancel.stop_requested() || elapsed() > 1.5 * options_.budget_ms; }

  void add(const TuneResult& r) {
    report_.results.push_back(r);
    if (!r.rejected.empty() || (best_ms_ > 0 && r.ms >= best_ms_)) return;
    best_ = r.kernel;
    best_ms_ = r.ms;
  }

  Backend& backend_;
  const Conv2dDesc& desc_;
  const int threads_;
  const TuneOptions& options_;
  const TuneKey key_;
  const Clock::time_point start_ = Clock::now();
  const std::vector<TuneResult> known_ = user_tune_cache().find(key_);
  TuneReport report_;
  std::vector<Candidate> candidates_;
  std::string best_;
  double best_ms_ = 0;
  std::size_t measured_ = 0;
};

}  // namespace

std::vector<std::string> tune_candidates(const Backend& backend, const Conv2dDesc& desc, int threads,
                                         std::size_t most) {
  std::vector<std::string> kernels = backend.kernels(desc, threads);
  const std::string reference = backend.family() + ".reference";
  if (kernels.size() > 1) std::erase(kernels, reference);
  std::size_t direct = 0, winograd = 0;
  if (most > 0)
    std::erase_if(kernels, [&](const std::string& kernel) {
      return ++(allowed(kernel, Accuracy::strict) ? direct : winograd) > most;
    });
  return kernels;
}

TuneReport tune_problem(Backend& backend, const Conv2dDesc& desc, int threads, const TuneOptions& options) {
  // One search at a time in this process: two would measure each other.
  static std::mutex one_search;
  const std::scoped_lock lock(one_search);
  return Search(backend, desc, threads, options).run();
}

}  // namespace convrt::core

namespace convrt {

TuneReport tune(const Device& device, const Conv2dDesc& desc, const TuneOptions& options) {
  desc.validate();
  return core::tune_problem(*core::Access::backend(device), desc, 0, options);
}

}  // namespace convrt
