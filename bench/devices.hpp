/// \file
/// convrt_bench --devices: a MultiDevicePlan over several devices beside each of them alone.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "session.hpp"

namespace convrt::bench {

struct DevicesOptions {
  std::vector<std::string> ids;  ///< of the plan's devices
  double series_ms = 300;        ///< each number is taken over at least as long, after a warm-up
};

/// Prints a block for every layer of the options, and geomeans. False if a result was wrong.
bool bench_devices(std::ostream& out, const Options& options, const DevicesOptions& devices);

}  // namespace convrt::bench
