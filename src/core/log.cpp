#include "core/log.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string_view>
#include <utility>

namespace convrt {
namespace {

constexpr std::string_view kNames[] = {"off", "error", "warning", "info", "debug"};

LogLevel level_from_environment() {
  const char* text = std::getenv("CONVRT_VERBOSE");
  if (text == nullptr || *text == '\0') return LogLevel::off;
  for (int i = 0; i < 5; ++i)
    if (kNames[i] == text) return static_cast<LogLevel>(i);
  return std::string_view(text) == "0" ? LogLevel::off : LogLevel::info;  // CONVRT_VERBOSE=1 means "tell me"
}

struct Sink {
  std::mutex mutex;
  std::function<void(LogLevel, std::string_view)> callback;
  std::atomic<LogLevel> level{level_from_environment()};
};

Sink& sink() {
  // Never destroyed: worker threads and static destructors may still log.
  static Sink* const instance = new Sink;
  return *instance;
}

}  // namespace

void set_log(LogLevel level, std::function<void(LogLevel, std::string_view)> callback) {
  const std::scoped_lock lock(sink().mutex);
  sink().level = callback ? level : level_from_environment();
  sink().callback = std::move(callback);
}

namespace core {

bool log_enabled(LogLevel level) noexcept { return level != LogLevel::off && level <= sink().level.load(); }

void log_message(LogLevel level, std::string_view message) noexcept {
  if (!log_enabled(level)) return;
  const std::scoped_lock lock(sink().mutex);
  if (sink().callback)
    sink().callback(level, message);
  else
    std::fprintf(stderr, "convrt: %s: %.*s\n", kNames[static_cast<int>(level)].data(), static_cast<int>(message.size()),
                 message.data());
}

}  // namespace core
}  // namespace convrt
