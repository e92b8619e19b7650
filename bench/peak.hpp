/// \file
/// What the machine can do at most: fp32 multiply-adds a second, bytes read a second. The denominators of "% of peak"
/// and the roofs of the roofline.
#pragma once

#include <string>
#include <vector>

#include "cpu/cpu_probe.hpp"

namespace convrt::bench {

enum class Clock {
  wall,   ///< what a user waits
  thread  ///< CPU time of the calling thread: right on a busy machine, one thread only
};
double now_seconds(Clock clock);

/// False where there is no vector code for `isa`.
bool has_fma_loop(cpu::Isa isa);

/// Nothing but fused multiply-adds (on SSE4: multiplies and adds) on `threads` threads for about a millisecond. Returns
/// the flops done by all; the caller holds the clock.
double run_fma_loop(cpu::Isa isa, int threads);

struct Bandwidth {
  std::string level;  ///< "L1", "L2", "L3", "memory"
  double gbytes_per_s = 0;
};

/// Read bandwidth of each level, all threads together: the best of seven passes, since it serves as a ceiling. Takes
/// about half a second.
std::vector<Bandwidth> bandwidths(cpu::Isa isa, int threads);

}  // namespace convrt::bench
