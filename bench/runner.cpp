#include "runner.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "progress.hpp"

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

}  // namespace

void measure(std::vector<Job>& jobs, const RunnerOptions& options) {
  set_flags();
  constexpr double slow_s = 0.25;  // a run so long needs no warm-up and no crowd of samples
  double total_s = 0;
  Progress progress("measuring");
  std::vector<double> cost_s(jobs.size());
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    Job& job = jobs[i];
    double once = seconds_of_one(job);
    if (once < slow_s) once = std::min(once, seconds_of_one(job));
    job.samples = once < slow_s ? options.samples : std::min(options.samples, 3);
    job.iterations = static_cast<std::int64_t>(std::clamp(options.sample_ms * 1e-3 / once, 1.0, 1e6));
    job.seconds.clear();
    cost_s[i] = once * static_cast<double>(job.iterations + (once < slow_s ? 1 : 0));
    total_s += cost_s[i] * job.samples;
  }
  double done_s = 0;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const Job& job = jobs[i];
    const bool warm_up = cost_s[i] / static_cast<double>(job.iterations) < slow_s;
    benchmark::RegisterBenchmark(std::to_string(i).c_str(),
                                 [&, i, warm_up](benchmark::State& state) {
                                   if (warm_up) job.run();
                                   for (auto _ : state) job.run();
                                   done_s += cost_s[i];
                                   progress.show(done_s / total_s, jobs[i].name);
                                 })
        ->Iterations(job.iterations)
        ->Repetitions(job.samples);
  }
  Collector collector(jobs, options.clock);
  benchmark::RunSpecifiedBenchmarks(&collector);
  benchmark::ClearRegisteredBenchmarks();
}

}  // namespace convrt::bench
