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

Progress::~Progress() {
  if (terminal_) std::fputs("\r\033[K", stderr);
}

void Progress::show(double fraction, const std::string& detail) {
  const double now = now_seconds(Clock::wall);
  if (now - last_ < (terminal_ ? 0.25 : 10)) return;
  last_ = now;
  const double left = fraction > 0 ? (now - start_) * (1 - fraction) / fraction : 0;
  std::fprintf(stderr, terminal_ ? "\r\033[K%s: %3.0f %%, %.0f s left  %s" : "%s: %3.0f %%, %.0f s left  %s\n",
               what_.c_str(), 100 * std::min(fraction, 1.0), left, detail.c_str());
}

}  // namespace convrt::bench
