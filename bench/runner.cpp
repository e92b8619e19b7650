#include "runner.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "progress.hpp"
#include "statistics.hpp"

namespace convrt::bench {
namespace {

// Google Benchmark's own tables know neither checks nor peers: this reporter only collects the samples.
class Collector final : public benchmark::BenchmarkReporter {
 public:
  Collector(std::vector<Job>& jobs, Clock clock) : jobs_(jobs), clock_(clock) {}
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration || run.error_occurred) continue;
      const double total = clock_ == Clock::wall ? run.real_accumulated_time : run.cpu_accumulated_time;
      jobs_[std::stoul(run.run_name.function_name)].seconds.push_back(total / static_cast<double>(run.iterations));
    }
  }

 private:
  std::vector<Job>& jobs_;
  Clock clock_;
};

// Its settings exist as command-line flags only.
void set_flags() {
  std::string program = "convrt_bench", interleave = "--benchmark_enable_random_interleaving=true";
  char* arguments[] = {program.data(), interleave.data(), nullptr};
  int count = 2;
  benchmark::Initialize(&count, arguments);
}

double seconds_of_one(const Job& job) {
  const double begin = now_seconds(Clock::wall);
  job.run();
  return now_seconds(Clock::wall) - begin;
}

// Before a sample: one run for caches and the thread team. An idle GPU has lowered its clock and needs longer; it stays
// awake for a while after the sample of another job.
void warm_up(const Job& job, double& awake_until) {
  job.run();
  if (job.warm_up_s == 0) return;
  const double begin = now_seconds(Clock::wall);
  constexpr double stays_awake_s = 0.1;
  while (begin > awake_until + stays_awake_s && now_seconds(Clock::wall) < begin + job.warm_up_s) job.run();
}

double median_from(const std::vector<double>& values, std::size_t first) {
  return median({values.begin() + static_cast<std::ptrdiff_t>(first), values.end()});
}

// Picks the number of runs per sample. Returns the seconds that a sample will take.
double calibrate(Job& job, const RunnerOptions& options) {
  constexpr double slow_s = 0.25;  // of a run so long few samples tell enough
  double once = seconds_of_one(job);
  if (once < slow_s) once = std::min(once, seconds_of_one(job));
  job.samples = once < slow_s ? options.samples : std::min(options.samples, 3);
  job.iterations = static_cast<std::int64_t>(std::clamp(options.sample_ms * 1e-3 / once, 1.0, 1e6));
  job.seconds.clear();
  job.device_seconds.clear();
  return once * static_cast<double>(job.iterations + 1);
}

}  // namespace

void measure(std::vector<Job>& jobs, const RunnerOptions& options) {
  set_flags();
  std::vector<double> cost_s;
  double total_s = 0, done_s = 0, awake_until = 0;
  {
    Progress progress("estimating");
    for (Job& job : jobs) {
      progress.show(static_cast<double>(cost_s.size()) / static_cast<double>(jobs.size()), job.name);
      cost_s.push_back(calibrate(job, options));
      total_s += cost_s.back() * job.samples;
    }
  }
  Progress progress("measuring");
  for (std::size_t i = 0; i < jobs.size(); ++i)
    benchmark::RegisterBenchmark(std::to_string(i).c_str(),
                                 [&, i](benchmark::State& state) {
                                   Job& job = jobs[i];
                                   warm_up(job, awake_until);
                                   const std::size_t warm = job.device_ms ? job.device_ms->size() : 0;
                                   for (auto _ : state) job.run();
                                   if (job.device_ms)
                                     job.device_seconds.push_back(1e-3 * median_from(*job.device_ms, warm));
                                   if (job.warm_up_s > 0) awake_until = now_seconds(Clock::wall);
                                   done_s += cost_s[i];
                                   progress.show(done_s / total_s, job.name);
                                 })
        ->Iterations(jobs[i].iterations)
        ->Repetitions(jobs[i].samples);
  Collector collector(jobs, options.clock);
  benchmark::RunSpecifiedBenchmarks(&collector);
  benchmark::ClearRegisteredBenchmarks();
}

}  // namespace convrt::bench
