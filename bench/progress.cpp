#include "progress.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "peak.hpp"

namespace convrt::bench {

Progress::Progress(std::string what)
    : what_(std::move(what)),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(now_seconds(Clock::wall)),
      last_(terminal_ ? 0 : start_) {}

Progress::~Progress() { clear(); }

void Progress::clear() {
  if (terminal_) std::fputs("\r\033[K", stderr);
  if (terminal_) last_ = 0;
}

void Progress::show(double fraction, const std::string& detail) {
  const double now = now_seconds(Clock::wall);
  if (now - last_ < (terminal_ ? 0.25 : 10)) return;
  last_ = now;
  std::fprintf(stderr, "%s%s: %3.0f %%", terminal_ ? "\r\033[K" : "", what_.c_str(), 100 * std::min(fraction, 1.0));
  if (fraction > 0.02) std::fprintf(stderr, ", %.0f s left", (now - start_) * (1 - fraction) / fraction);
  std::fprintf(stderr, "  %s%s", detail.c_str(), terminal_ ? "" : "\n");
}

}  // namespace convrt::bench
