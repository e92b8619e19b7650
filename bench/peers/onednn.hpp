/// \file
/// oneDNN (github.com/uxlfoundation/oneDNN) as a contender; linked where CMake finds it, else onednn_version() is
/// empty.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "contender.hpp"

namespace convrt::bench {

/// "2.6.3", or empty where this build has no oneDNN.
std::string onednn_version();

/// How oneDNN runs the problem, weights prepacked in every case:
///   "onednn nchw", "onednn nhwc"   source and destination in that layout
///   "onednn reorder"               from NCHW to the layout it likes best, convolution, back to NCHW, all timed
///   "onednn free"                  in the layout it likes best, no reorder timed
///   "onednn winograd"              the same with its Winograd algorithm, where it takes the problem
/// Problems with an activation or accumulate have no oneDNN contender.
std::vector<Contender> make_onednn(const std::shared_ptr<Problem>& problem, int threads);

}  // namespace convrt::bench
