/// \file
/// Predicted times of CPU kernels, in one place so that algorithms compare. Only relative truth matters: the figures
/// order the kernel list until a tuner has measured.
#pragma once

#include <algorithm>

#include "cpu/cpu_probe.hpp"

namespace convrt::cpu {

/// Single-precision peak of one core in GFLOP/s at an assumed 3.5 GHz: lanes x pipes x 2.
inline double peak_gflops(const CpuInfo& info, Isa isa) {
  constexpr double ghz = 3.5;
  const bool half_width_512 = info.arch == "zen4";  // one 512-bit FMA a cycle, as two halves
  switch (isa) {
    case Isa::avx512: return ghz * 16 * (half_width_512 ? 1 : 2) * 2;
    case Isa::avx2: return ghz * 8 * 2 * 2;
    case Isa::sse4: return ghz * 4 * 1.5 * 2;  // separate multiply and add
    case Isa::neon: return ghz * 4 * 2 * 2;
    case Isa::scalar: return ghz * 1 * 2;
  }
  return ghz;
}

/// Intel's server parts, whose cores stand in a mesh: one gets about 15 GB/s from the last-level cache, no more than
/// from memory (measured on emerald-rapids).
inline bool has_slow_l3(const CpuInfo& info) {
  for (const char* arch : {"skylake-avx512", "ice-lake-server", "sapphire-rapids", "emerald-rapids", "granite-rapids"})
    if (info.arch == arch) return true;
  return false;
}

/// Threads worth starting for `flops`: each needs about 4 us of work to repay its wake-up. Depends on the problem
/// alone; results may not depend on it.
inline int useful_threads(double flops, int threads) {
  constexpr double flops_per_thread = 4e5;
  return static_cast<int>(std::clamp(flops / flops_per_thread, 1.0, static_cast<double>(threads)));
}

/// To start and join a team of threads.
constexpr double kForkJoinMs = 0.004;

/// Time of `flops` executed (not nominal: Winograd passes its own count) at `efficiency`, the fraction of peak that the
/// kernel reaches, on up to `threads` threads.
inline double predicted_ms(const CpuInfo& info, Isa isa, double flops, double efficiency, int threads) {
  const int used = useful_threads(flops, threads);
  return flops / (peak_gflops(info, isa) * efficiency * used * 1e6) + (used > 1 ? kForkJoinMs : 0);
}

/// Time to move `bytes` between the cores and memory; kernels bound by it (depthwise) take the larger of the two.
inline double memory_ms(double bytes, int threads) {
  constexpr double bytes_per_ms = 20e6;  // one core's stream from the last-level cache or DRAM
  return bytes / (bytes_per_ms * std::clamp(threads, 1, 4));
}

}  // namespace convrt::cpu
