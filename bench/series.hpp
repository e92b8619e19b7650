/// \file
/// Wall times of calls that follow each other.
#pragma once

#include <algorithm>
#include <chrono>

namespace convrt::bench {

inline double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

/// Milliseconds a call, over `items` calls or, where that is 0, at least `series_ms`, after a warm-up: idle clocks
/// drop. `finish` waits for what the calls started.
template <class Call, class Finish>
double time_each(double series_ms, int items, const Call& call, const Finish& finish) {
  const double warm_up_ms = std::min(400.0, series_ms);
  for (const auto start = std::chrono::steady_clock::now(); ms_since(start) < warm_up_ms;) call();
  finish();
  const auto start = std::chrono::steady_clock::now();
  int calls = 0;
  do {
    call();
    ++calls;
  } while (items > 0 ? calls < items : ms_since(start) < series_ms);
  finish();
  return ms_since(start) / calls;
}

}  // namespace convrt::bench
