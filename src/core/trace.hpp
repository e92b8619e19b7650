/// \file
/// CONVRT_TRACE=FILE: what executors and multi-device plans did when, in the Chrome trace event format that Perfetto
/// (ui.perfetto.dev) and bench/plot.py draw.
#pragma once

#include <chrono>
#include <cstddef>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

namespace convrt::core {

/// One file a process. Complete JSON whenever the last user has let go. Thread-safe.
class Trace {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// nullptr unless CONVRT_TRACE names a file; a log line if it cannot be written. All users at once share one.
  static std::shared_ptr<Trace> open();
  Trace(std::fstream file, bool empty) : file_(std::move(file)), first_(empty) {}
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;
  ~Trace();

  /// A group of tracks, drawn together under this name.
  int add_group(std::string_view name);
  /// A bar on one track of a group. Nothing where the span is empty.
  void span(int group, std::string_view track, std::string_view name, Time begin, Time end);

 private:
  void write(const std::string& event);

  std::mutex mutex_;
  std::fstream file_;
  bool first_;
  std::map<std::pair<int, std::string>, std::size_t> tracks_;  ///< their numbers in the file
};

/// `text` between the quotes of a JSON string.
std::string json_escape(std::string_view text);

}  // namespace convrt::core
