/// \file
/// Times jobs so that all of them see the same machine: Google Benchmark runs one repetition of a randomly picked job
/// after another, so a slow minute falls on everybody.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "peak.hpp"

namespace convrt::bench {

struct Job {
  std::string name;  ///< shown in the progress line
  std::function<void()> run;
  std::shared_ptr<const std::vector<double>> device_ms = {};  ///< where `run` appends the device's own times; or none
  double warm_up_s = 0;  ///< how long to keep the device busy before a sample, if it was idle; at least one run anyway
  int samples = 0;       ///< taken; fewer than asked where one run is slow
  std::int64_t iterations = 1;              ///< runs per sample
  std::vector<double> seconds = {};         ///< of one run, a value per sample
  std::vector<double> device_seconds = {};  ///< the same by the device's own clock: the median of those in a sample
};

struct RunnerOptions {
  int samples = 15;
  double sample_ms = 5;  ///< a sample repeats the job for about this long, after one untimed run
  Clock clock = Clock::wall;
};

/// Fills iterations, samples and seconds of every job. Progress goes to stderr.
void measure(std::vector<Job>& jobs, const RunnerOptions& options);

}  // namespace convrt::bench
