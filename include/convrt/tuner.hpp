/// \file
/// Find the fastest kernel for one problem on one device by measuring checked results.
#pragma once

#include <cstddef>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "convrt/device.hpp"
#include "convrt/export.h"

namespace convrt {

struct TuneProgress {
  std::size_t done = 0, total = 0;  ///< candidates
  std::string kernel;               ///< the one just measured
  std::string best;                 ///< fastest so far; empty before the first success
  double best_ms = 0;
  double elapsed_ms = 0;
};

struct TuneResult {
  std::string kernel;
  double ms = 0;         ///< time of one run, of the kernel alone; 0 where rejected
  double spread = 0;     ///< (75th - 25th percentile) / ms
  double error = 0;      ///< largest |found - oracle| in units of the documented bound, over checked outputs
  std::string rejected;  ///< empty, or why: "does not compile: ...", "wrong result: ...", "over budget"
};

struct TuneReport {
  std::vector<TuneResult> results;  ///< fastest first, rejected ones last
  bool complete = false;            ///< false: budget or cancel ended the search; calling again goes on from there
  std::string best() const {
    return results.empty() || !results[0].rejected.empty() ? std::string() : results[0].kernel;
  }
};

struct TuneOptions {
  /// Stop starting candidates after this; the first is always measured. Where all were, the best of them are compared
  /// once more, which takes at most half as long again.
  double budget_ms = 2000;
  std::function<void(const TuneProgress&)> progress = {};
  std::stop_token cancel = {};
  /// Only the first so many Winograd kernels and so many others of Device::kernels; 0: all of them.
  std::size_t most_candidates = 0;
};

/// Measures the device's kernels on `desc` with random data, checks each one's numbers against the oracle before its
/// time counts, times the best of them once more in turns (on a GPU: by its own timer, at full clock, on tensors that
/// lie on the device and in none of its caches; the lower quartile counts), stores best and runners-up in the user's
/// tune cache, and returns the ranking. Thread-safe; one search at a time per process, so `progress` must not call
/// tune.
///
/// The cache is tune-VERSION.txt below CONVRT_CACHE_DIR, else $XDG_CACHE_HOME/convrt, else ~/.cache/convrt; deleting
/// it is always safe. Processes share it. What it cannot read counts as not measured.
CONVRT_API TuneReport tune(const Device& device, const Conv2dDesc& desc, const TuneOptions& options = {});

}  // namespace convrt
