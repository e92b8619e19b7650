/// \file
/// Loops whose speed is the machine's own: nothing but fused multiply-adds, nothing but loads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/cpu_probe.hpp"

namespace convrt::bench {

struct PeakKernels {
  /// `start`: 26 distinct small floats, `sink`: one vector (at most 64 floats). Returns the flops done.
  double (*fma_loop)(const float* start, float* sink, std::int64_t trips);
  /// Reads `floats` floats (aligned to a vector) and adds them up.
  void (*read_loop)(const float* from, std::size_t floats, float* sink);
};

/// nullptr where convrt has no vector code for the instruction set.
const PeakKernels* peak_kernels(cpu::Isa isa);

}  // namespace convrt::bench
