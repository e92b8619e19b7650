/// \file
/// The library's one mouth; the only file of convrt that may write to stderr.
#pragma once

#include <sstream>
#include <string>
#include <string_view>

#include "convrt/log.hpp"

namespace convrt::core {

bool log_enabled(LogLevel level) noexcept;
void log_message(LogLevel level, std::string_view message) noexcept;

/// log(LogLevel::info, "cache ", path, ": ", reason): formats only when somebody listens.
template <class... Parts>
void log(LogLevel level, const Parts&... parts) {
  if (!log_enabled(level)) return;
  std::ostringstream text;
  (text << ... << parts);
  log_message(level, text.str());
}

}  // namespace convrt::core
