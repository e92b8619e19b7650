// Measures kernels: numbers first, then the clock.
#include "convrt/tuner.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "core/access.hpp"
#include "core/cache_file.hpp"
#include "core/history.hpp"
#include "core/log.hpp"
#include "core/ticket.hpp"
#include "core/tune_cache.hpp"
#include "core/tune_problem.hpp"
#include "core/verify.hpp"

namespace convrt::core {
namespace {

constexpr double kOracleMultiplyAdds = 2e7;  // 20 ms or so per check
constexpr int kMostRuns = 60, kFewestRuns = 5;
constexpr double kEnoughMs = 40;

std::vector<float> random_floats(std::size_t size, std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(size);
  for (float& v : values) v = uniform(random);
  return values;
}

/// Everything one problem is measured with.
struct Bench {
  Backend& backend;
  const Conv2dDesc& desc;
  int threads;
  std::mt19937 random{12345};
  std::vector<float> weights = random_floats(desc.weights_size(), random);
  std::vector<float> bias = random_floats(static_cast<std::size_t>(desc.k), random);
  std::vector<float> src = random_floats(desc.src_size(), random);
  std::vector<float> before = random_floats(desc.dst_size(), random);
  std::vector<float> dst = before;

  /// One run into a dst that holds nothing right yet; the time of the kernel alone.
  double run(const PreparedConv& conv) {
    dst = before;
    const auto start = Clock::now();
    const RunStats stats = conv.run(src, dst);
    const double wall = milliseconds(Clock::now() - start);
    return stats.device_ms > 0 ? stats.device_ms : std::max(wall, 1e-6);
  }
  VerifyResult check(const std::string& kernel, double multiply_adds) const {
    return verify({desc, kernel, weights, bias, src, before}, dst, samples_for(desc, multiply_adds));
  }
};

void time(Bench& bench, const PreparedConv& conv, double best_ms, TuneResult& result) {
  std::vector<double> times;
  double spent = 0;
  while (times.size() < kMostRuns && (times.size() < kFewestRuns || spent < kEnoughMs)) {
    times.push_back(bench.run(conv));
    spent += times.back();
    // Clearly beaten: its place among the others needs no precision.
    if (best_ms > 0 && times.size() >= 2 && times.back() > 2 * best_ms && times.front() > 2 * best_ms) break;
  }
  std::sort(times.begin(), times.end());
  const auto percentile = [&times](std::size_t part) { return times[(times.size() - 1) * part / 100]; };
  result.ms = percentile(50);
  result.spread = (percentile(75) - percentile(25)) / result.ms;
}

/// Measures one kernel. `lasting`: the outcome says something about the kernel, not about this moment.
TuneResult measure(Bench& bench, const std::string& kernel, double best_ms, bool& lasting) {
  TuneResult result;
  result.kernel = kernel;
  lasting = true;
  try {
    const auto conv = bench.backend.prepare({bench.desc, kernel, bench.weights, bench.bias, bench.threads});
    bench.run(*conv);
    VerifyResult check = bench.check(kernel, kOracleMultiplyAdds);
    result.error = check.error;
    if (check.ok()) {
      time(bench, *conv, best_ms, result);
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
  return result;
}

/// Candidates in the order of trial: what ran fast in this user's history first, then the backend's own guess.
std::vector<std::string> order_of_trial(const TuneKey& key, std::vector<std::string> kernels) {
  std::map<std::string, double> seen;
  for (const HistoryRecord& r : history())
    if (r.device == key.device && r.driver == key.driver && r.problem == key.problem) seen[r.kernel] = r.best_ms;
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
    const std::vector<std::string> kernels = order_of_trial(key_, tune_candidates(backend_, desc_, threads_));
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
    const TuneResult result = measure(bench, kernel, best_ms_, lasting);
    ++measured_;
    if (lasting) user_tune_cache().store(key_, result);  // at once: a search cut off goes on from here
    if (!result.rejected.empty()) log(LogLevel::warning, "tuning ", desc_.str(), ": ", kernel, ": ", result.rejected);
    add(result);
    if (options_.progress) options_.progress({report_.results.size(), total, kernel, best_, best_ms_, elapsed()});
  }

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
  std::string best_;
  double best_ms_ = 0;
  std::size_t measured_ = 0;
};

}  // namespace

std::vector<std::string> tune_candidates(const Backend& backend, const Conv2dDesc& desc, int threads) {
  std::vector<std::string> kernels = backend.kernels(desc, threads);
  const std::string reference = backend.family() + ".reference";
  if (kernels.size() > 1) std::erase(kernels, reference);
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
