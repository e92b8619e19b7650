/// \file
/// convrt_bench --async: streams of images through an Executor, beside what bounds them, each measured alone.
#pragma once

#include <iosfwd>
#include <vector>

#include "session.hpp"

namespace convrt::bench {

struct AsyncOptions {
  std::vector<int> depths = {3, 6};  ///< of the executor's ring
  double series_ms = 500;            ///< each number is taken over at least as long, after a warm-up
  int items = 0;                     ///< images of an executor's series; 0: as many as series_ms take
};

/// Prints a table for every layer, device and layout of the options. False if a result was wrong.
bool bench_async(std::ostream& out, const Options& options, const AsyncOptions& async);

}  // namespace convrt::bench
