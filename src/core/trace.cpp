#include "core/trace.hpp"

#include <atomic>
#include <cstdlib>
#include <sstream>
#include <utility>

#include "core/log.hpp"

namespace convrt::core {
namespace {

constexpr std::string_view kEnd = "\n]\n";
std::atomic<int> next_group = 1;

/// Microseconds, the unit of the format, since the clock's own beginning.
double microseconds(Trace::Time time) {
  return std::chrono::duration<double, std::micro>(time.time_since_epoch()).count();
}

}  // namespace

std::string json_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20)
      out += ' ';
    else
      out += c;
  }
  return out;
}

std::shared_ptr<Trace> Trace::open() {
  static std::mutex mutex;
  static std::weak_ptr<Trace> current;
  static bool begun = false;
  const char* path = std::getenv("CONVRT_TRACE");
  if (path == nullptr || *path == '\0') return nullptr;
  const std::scoped_lock lock(mutex);
  if (auto trace = current.lock()) return trace;
  // A later trace of the same process goes on where the earlier one ended, in place of its closing bracket.
  std::fstream file(path, begun ? std::ios::in | std::ios::out : std::ios::out | std::ios::trunc);
  if (!file) {
    log(LogLevel::warning, "CONVRT_TRACE: ", path, " cannot be written; there will be no trace");
    return nullptr;
  }
  if (begun)
    file.seekp(-static_cast<int>(kEnd.size()), std::ios::end);
  else
    file << "[\n";
  auto trace = std::make_shared<Trace>(std::move(file), !begun);
  begun = true;
  current = trace;
  return trace;
}

Trace::~Trace() { file_ << kEnd; }

int Trace::add_group(std::string_view name) {
  const int group = next_group++;
  std::ostringstream event;
  event << R"({"ph":"M","name":"process_name","pid":)" << group << R"(,"args":{"name":")" << json_escape(name)
        << R"("}})";
  const std::scoped_lock lock(mutex_);
  write(event.str());
  return group;
}

void Trace::span(int group, std::string_view track, std::string_view name, Time begin, Time end) {
  if (begin == Time{} || end < begin) return;
  const std::scoped_lock lock(mutex_);
  const auto [known, fresh] = tracks_.emplace(std::pair(group, std::string(track)), tracks_.size() + 1);
  if (fresh) {
    std::ostringstream naming;
    naming << R"({"ph":"M","name":"thread_name","pid":)" << group << R"(,"tid":)" << known->second
           << R"(,"args":{"name":")" << json_escape(track) << R"("}})";
    write(naming.str());
  }
  std::ostringstream event;
  event.precision(3);
  event << std::fixed << R"({"ph":"X","name":")" << json_escape(name) << R"(","pid":)" << group << R"(,"tid":)"
        << known->second << R"(,"ts":)" << microseconds(begin) << R"(,"dur":)"
        << microseconds(end) - microseconds(begin) << "}";
  write(event.str());
}

void Trace::write(const std::string& event) {
  if (!std::exchange(first_, false)) file_ << ",\n";
  file_ << event;
}

}  // namespace convrt::core
