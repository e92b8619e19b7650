#include "peak.hpp"

#include <omp.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "cpu/aligned.hpp"
#include "peak_kernels.hpp"

namespace convrt::bench {
namespace {

constexpr std::size_t kSinkFloats = 64;

std::vector<float> distinct_starts() {
  std::vector<float> start = {1e-3F, 1e-3F};
  while (start.size() < 26) start.push_back(static_cast<float>(start.size()));
  return start;
}

// Seconds that `threads` threads take for `work(thread)`, from the moment all are ready.
template <class Work>
double team_seconds(int threads, const Work& work) {
  double seconds = 0;
#pragma omp parallel num_threads(threads)
  {
#pragma omp barrier
    const double begin = now_seconds(Clock::wall);
    work(omp_get_thread_num());
#pragma omp barrier
#pragma omp master
    seconds = now_seconds(Clock::wall) - begin;
  }
  return seconds;
}

}  // namespace

double now_seconds(Clock clock) {
  timespec t{};
  clock_gettime(clock == Clock::wall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

bool has_fma_loop(cpu::Isa isa) { return peak_kernels(isa) != nullptr; }

double run_fma_loop(cpu::Isa isa, int threads) {
  const PeakKernels* kernels = peak_kernels(isa);
  static const std::vector<float> start = distinct_starts();
  constexpr std::int64_t trips = 200'000;
  if (threads == 1) {
    std::array<float, kSinkFloats> sink;
    return kernels->fma_loop(start.data(), sink.data(), trips);
  }
  double flops = 0;
#pragma omp parallel num_threads(threads) reduction(+ : flops)
  {
    std::array<float, kSinkFloats> sink;
    flops += kernels->fma_loop(start.data(), sink.data(), trips);
  }
  return flops;
}

std::vector<Bandwidth> bandwidths(cpu::Isa isa, int threads) {
  const PeakKernels* kernels = peak_kernels(isa);
  if (kernels == nullptr) return {};
  const cpu::CpuInfo& info = cpu::cpu_info();
  const auto team = static_cast<std::size_t>(threads);
  // Bytes of one thread's part. Half of a private cache; half of what L3 adds to the L2s; memory: four times the L3.
  const std::pair<const char*, std::size_t> levels[] = {
      {"L1", info.l1_bytes / 2},
      {"L2", info.l2_bytes / 2},
      {"L3", std::max(2 * info.l2_bytes, info.l3_bytes / 2 / team)},
      {"memory", std::clamp<std::size_t>(4 * info.l3_bytes, 64U << 20, 1U << 30) / team}};
  std::vector<float> sinks(kSinkFloats * team);
  std::vector<Bandwidth> found;
  for (const auto& [level, bytes] : levels) {
    if (level == std::string("L3") && info.l3_bytes <= info.l2_bytes) continue;
    const std::size_t floats = bytes / sizeof(float) / 128 * 128;  // whole trips of eight vectors
    const cpu::AlignedFloats data(floats * team);
    const auto passes = std::max<std::size_t>(1, (8U << 20) / bytes);
    const auto read = [&](int thread) {
      const auto t = static_cast<std::size_t>(thread);
      for (std::size_t pass = 0; pass < passes; ++pass)
        kernels->read_loop(data.data() + t * floats, floats, sinks.data() + t * kSinkFloats);
    };
    team_seconds(threads,
                 [&](int t) { std::fill_n(data.data() + static_cast<std::size_t>(t) * floats, floats, 1.0F); });
    team_seconds(threads, read);
    double best = 0;
    for (int i = 0; i < 7; ++i)
      best = std::max(best,
                      static_cast<double>(passes * floats * team * sizeof(float)) * 1e-9 / team_seconds(threads, read));
    found.push_back({level, best});
  }
  return found;
}

}  // namespace convrt::bench
