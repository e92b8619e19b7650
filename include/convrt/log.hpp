/// \file
/// What the library has to say: why a device is missing, which kernel was chosen, which cache was unreadable.
#pragma once

#include <functional>
#include <string_view>

#include "convrt/export.h"

namespace convrt {

enum class LogLevel { off, error, warning, info, debug };

/// Receives every message up to `level`, from any thread, one call at a time. The callback must not throw and must not
/// call convrt. An empty callback restores the default: silence, or stderr where the environment variable
/// CONVRT_VERBOSE names a level ("error", "warning", "info", "debug"). Thread-safe.
CONVRT_API void set_log(LogLevel level, std::function<void(LogLevel, std::string_view)> callback);

}  // namespace convrt
