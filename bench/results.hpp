/// \file
/// What one invocation found, before it becomes a table, JSON or CSV.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/verify.hpp"
#include "peak.hpp"
#include "workloads.hpp"

namespace convrt::bench {

struct Result {
  Workload workload;
  std::string table, contender, kernel, device;
  Layout layout = Layout::nchw;  ///< of source and destination; free-layout peers: of the checked copy
  int threads = 1;               ///< 0 on a GPU
  bool peer = false;
  core::VerifyResult checked;
  std::string error;                        ///< why there is no time: a wrong result, a failure of the library
  std::vector<double> seconds;              ///< of one run, a value per sample; empty where `error` says why
  bool device_clock = false;                ///< `seconds` are the GPU's own, of its kernels alone
  int sets = 1;                             ///< of tensors on the GPU that the runs took in turn
  std::int64_t iterations = 1;              ///< runs per sample
  std::vector<double> device_seconds = {};  ///< GPU: its own time where `seconds` are the host's

  double gflops() const;  ///< at the median; 0 where not measured
  double best_gflops() const;
  double spread() const;         ///< (75th - 25th percentile) / median
  double device_gflops() const;  ///< at the median of the device's own time; 0 on the CPU
};

struct Peak {
  std::string isa;
  int threads = 1;
  double gflops = 0, spread = 0;
  int samples = 0;
};

/// What a GPU can do at most, through the same driver in the same run.
struct DevicePeaks {
  std::string device, name;  ///< "gl:0", "NVIDIA H200"
  double gflops = 0, copy_gbytes_per_s = 0;
};

struct Environment {
  std::vector<std::pair<std::string, std::string>> fields;  ///< "cpu", "compiler", "commit", "load_average", ...
};
Environment environment();

struct Session {
  Environment environment;
  std::vector<std::string> suites;
  std::vector<Peak> peaks;
  std::vector<std::pair<int, std::vector<Bandwidth>>> bandwidths;  ///< threads, levels
  std::vector<DevicePeaks> device_peaks;
  std::vector<Result> results;

  double peak_gflops(int threads) const;          ///< of the best instruction set; 0 where not measured
  double percent_of_peak(const Result& r) const;  ///< of the CPU's or its GPU's peak; 0 where not measured
  double percent_of_copy(const Result& r) const;  ///< GPU: bytes that must move, of its copy bandwidth; else 0
  const Result* find(const std::string& layer, const std::string& contender, Layout layout, int threads) const;
};

/// Bytes that any convolution must move: source and weights in, destination out.
double compulsory_bytes(const Conv2dDesc& d);

}  // namespace convrt::bench
