/// \file
/// convrt_bench --tune: the tuner on every selected layer, with progress and a ranking; its results as a file that
/// convrt ships (shaders/tuned/ARCH.txt); programs compiled beforehand, by several processes side by side.
#pragma once

#include <iosfwd>
#include <map>
#include <string>
#include <vector>

#include "convrt/tuner.hpp"
#include "session.hpp"

namespace convrt::bench {

struct TuneArguments {
  double budget_ms = 2000;          ///< a layer
  std::size_t most_candidates = 0;  ///< TuneOptions::most_candidates
  std::string export_folder = {};   ///< not empty: FOLDER/ARCH.txt takes up what was found, layer by layer
};

/// Runs convrt::tune on every layer, device and layout of the options. Throws Error{invalid_argument} for an export of
/// a CPU, which ships no results.
void tune_layers(std::ostream& out, const Options& options, const TuneArguments& arguments);

/// The kernels of a report worth shipping, best first: those within half as much again of the best, three at most, and
/// the best that Accuracy::strict allows.
std::vector<std::string> worth_shipping(const TuneReport& report);

/// A shipped tuning text with these lines ("kernel kernel # comment" by problem) in place of its own for the same
/// problems or added to them, sorted, under this heading (comment lines).
std::string merge_tuning(const std::string& text, const std::map<std::string, std::string>& lines,
                         const std::string& heading);

/// Makes the plans that a run with these options will need, and drops them: their programs stay in the user's cache. Of
/// `shares` processes that work side by side, this is number `share` (from 0). `tuning`: every candidate of
/// tune_layers, else convrt's choices.
void prepare_programs(const Options& options, const TuneArguments* tuning, std::size_t share, std::size_t shares);

}  // namespace convrt::bench
