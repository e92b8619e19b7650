/// \file
/// From options to a finished Session: builds the contenders, checks every one, times those that are right.
#pragma once

#include <string>
#include <vector>

#include "convrt/device.hpp"
#include "convrt/plan.hpp"
#include "results.hpp"
#include "runner.hpp"

namespace convrt::bench {

struct Options {
  std::vector<std::string> suites;             ///< empty: peers36 unless problems are given
  std::vector<std::string> problems;           ///< problem strings; their layout stands
  std::string filter;                          ///< only layers whose name contains it
  std::vector<int> batches;                    ///< each layer of a suite at these n instead of its own
  double least_gflop = 0;                      ///< only layers of at least this much work
  std::vector<std::string> devices = {"cpu"};  ///< ids, "best" or "all"
  std::vector<std::string> kernels = {""};     ///< "": convrt's choice; a name or prefix; "all": each one listed
  std::vector<int> threads = {1, 0};           ///< 0: all cores
  std::vector<Layout> layouts = {Layout::nchw, Layout::nhwc};
  bool peers = true;
  bool end_to_end = true;  ///< GPUs: also from and to host memory
  bool tuned = false;      ///< convrt's choice: also by tune cache and shipped results, not its cost model alone
  Accuracy accuracy = Accuracy::normal;  ///< what convrt's choice may be
  RunnerOptions runner;
};

/// Which layers the options mean. Throws Error{invalid_argument}.
std::vector<Workload> selected_workloads(const Options& options);

std::vector<Device> selected_devices(const std::vector<std::string>& ids);

/// The layouts a layer is measured in: its own where it came as a problem string.
std::vector<Layout> selected_layouts(const Options& options, const Workload& workload);

/// Runs everything. Progress goes to stderr.
Session run_session(const Options& options);

}  // namespace convrt::bench
