/// \file
/// Readable tables: layers by contenders, geomeans by class, and where convrt stands against its peers.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "results.hpp"

namespace convrt::bench {

/// A table for each Result::table: GFLOP/s (medians) of every contender; of the first also kernel, spread and % of
/// peak.
void print_tables(std::ostream& out, const Session& session);

/// Where each kernel was timed (--kernel=all): how far convrt's choice stands behind the best in the list.
void print_selection(std::ostream& out, const Session& session);

/// On a CPU of which undisturbed figures of the peer are on record: this run's beside them. A peer that is more than
/// 10 % slower than it can be means that the run was disturbed and its ratios do not count.
void print_recorded(std::ostream& out, const Session& session);

/// How convrt compares with oneDNN, layer by layer, then by geomean. One row for each statement and thread count.
struct Comparison {
  std::string what;
  int threads = 1;
  double ratio = 0;  ///< of geomeans; in the last row: of the weakest layer
  double goal = 0;
  int layers = 0;       ///< compared
  std::string weakest;  ///< layer with the lowest ratio
  double weakest_ratio = 0;
};
std::vector<Comparison> compare(const Session& session);
void print_comparison(std::ostream& out, const Session& session);

}  // namespace convrt::bench
