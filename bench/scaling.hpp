/// \file
/// What more threads bring: speed-up over one thread, layer by layer, beside that of the multiply-add loop.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "results.hpp"

namespace convrt::bench {

/// One layer in one layout. The speed-up compares medians; the ceiling is that of the multiply-add loop, sampled among
/// the layers: cores that share a clock or execution units hold it below the number of threads.
struct Scaling {
  std::string layer;
  Layout layout = Layout::nchw;
  int threads = 1;
  std::string kernel;
  double gflops = 0, speed_up = 0, ceiling = 0;
};

/// convrt's choice at every thread count above one, where it was timed on one thread too.
std::vector<Scaling> scaling(const Session& session);

/// Layers by thread counts; nothing where only one count was timed.
void print_scaling(std::ostream& out, const Session& session);

}  // namespace convrt::bench
