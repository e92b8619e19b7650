/// \file
/// One OpenMP region over independent tasks, and none where one thread runs them: to open a region costs libgomp an
/// allocation and half a microsecond even with a team of one.
#pragma once

#include <omp.h>

#include <cstddef>

namespace convrt::cpu {

/// Calls run(task, thread) for every task of [0, tasks) on a team of `threads`, neighbouring tasks on one thread.
template <class Run>
void for_each_task(int threads, std::ptrdiff_t tasks, const Run& run) {
  if (threads <= 1) {
    for (std::ptrdiff_t task = 0; task < tasks; ++task) run(task, 0);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::ptrdiff_t task = 0; task < tasks; ++task) run(task, omp_get_thread_num());
}

/// Calls run(begin, end, thread) once a thread, with neighbouring shares of [0, units) that differ by at most one unit.
template <class Run>
void for_each_share(int threads, std::ptrdiff_t units, const Run& run) {
  if (threads <= 1) return run(0, units, 0);
#pragma omp parallel num_threads(threads)
  {
    const std::ptrdiff_t thread = omp_get_thread_num(), team = omp_get_num_threads();
    run(units * thread / team, units * (thread + 1) / team, static_cast<int>(thread));
  }
}

}  // namespace convrt::cpu
