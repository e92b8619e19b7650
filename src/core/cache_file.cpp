#include "core/cache_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <system_error>
#include <thread>

#include "convrt/version.h"
#include "core/log.hpp"

namespace convrt::core {
namespace {

namespace fs = std::filesystem;

/// An open file; closing it also ends its lock.
class File {
 public:
  File(const fs::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (fd_ < 0) fail("cannot open");
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { ::close(fd_); }

  /// Gives up after two seconds: a stopped process that holds the lock must not stop this one.
  void lock() const {
    using namespace std::chrono_literals;
    const auto deadline = std::chrono::steady_clock::now() + 2s;
    while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) return;  // a file system without locks: the rename still protects
      if (std::chrono::steady_clock::now() > deadline) fail("cannot lock");
      std::this_thread::sleep_for(2ms);
    }
  }
  void write(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t written = ::write(fd_, text.data(), text.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail("cannot write");
      text.remove_prefix(static_cast<std::size_t>(written));
    }
    if (::fdatasync(fd_) != 0) fail("cannot write");
  }

 private:
  [[noreturn]] static void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }
  int fd_;
};

const char* environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

}  // namespace

fs::path cache_directory() {
  if (const char* here = environment("CONVRT_CACHE_DIR")) return here;
  // The base directory specification: a relative path there is to be ignored.
  if (const char* base = environment("XDG_CACHE_HOME"); base != nullptr && *base == '/')
    return fs::path(base) / "convrt";
  if (const char* home = environment("HOME")) return fs::path(home) / ".cache" / "convrt";
  return {};
}

fs::path cache_path(std::string_view stem) {
  const fs::path directory = cache_directory();
  if (directory.empty()) return {};
  return directory / (std::string(stem) + "-" CONVRT_VERSION_STRING ".txt");
}

FileStamp file_stamp(const fs::path& path) noexcept {
  struct stat s = {};
  if (::stat(path.c_str(), &s) != 0) return {};
  return {s.st_ino, s.st_mtim.tv_sec, s.st_mtim.tv_nsec};
}

Lines read_lines(const fs::path& path) noexcept {
  Lines lines;
  try {
    std::ifstream file(path, std::ios::binary);
    for (std::string line; std::getline(file, line) && !file.eof();) lines.push_back(line);
  } catch (const std::exception& e) {
    log(LogLevel::warning, "cache ", path.string(), ": ", e.what(), "; what it held is ignored");
  }
  return lines;
}

bool update_lines(const fs::path& path, const std::function<Lines(Lines)>& change) noexcept {
  try {
    if (path.empty()) return false;
    fs::create_directories(path.parent_path());
    const File lock(fs::path(path) += ".lock", O_RDWR | O_CREAT);
    lock.lock();
    std::string text;
    for (const std::string& line : change(read_lines(path))) text.append(line).push_back('\n');
    const fs::path draft = fs::path(path) += ".tmp";  // ours alone: we hold the lock
    File(draft, O_WRONLY | O_CREAT | O_TRUNC).write(text);
    fs::rename(draft, path);
    return true;
  } catch (const std::exception& e) {
    log(LogLevel::warning, "cache ", path.string(), " is not saved: ", e.what());
    return false;
  }
}

std::vector<std::string> split_columns(std::string_view line) {
  std::vector<std::string> columns;
  for (;;) {
    const std::size_t tab = line.find('\t');
    columns.emplace_back(line.substr(0, tab));
    if (tab == std::string_view::npos) return columns;
    line.remove_prefix(tab + 1);
  }
}

std::string join_columns(const std::vector<std::string>& columns) {
  std::string line;
  for (const std::string& column : columns) {
    if (&column != &columns.front()) line.push_back('\t');
    std::transform(column.begin(), column.end(), std::back_inserter(line),
                   [](char c) { return c == '\t' || c == '\n' || c == '\r' || c == '\0' ? ' ' : c; });
  }
  return line;
}

double to_number(std::string_view text, double otherwise) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && std::isfinite(value) ? value : otherwise;
}

std::string number_text(double value) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof text, value, std::chars_format::general, 9);
  return {text, end};
}

}  // namespace convrt::core
