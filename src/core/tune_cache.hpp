/// \file
/// What tuning found, per device, driver, thread count and problem: one line per measured kernel.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "convrt/tuner.hpp"
#include "core/backend.hpp"
#include "core/cache_file.hpp"

namespace convrt::core {

struct TuneKey {
  std::string device;                                ///< name and arch
  std::string driver;                                ///< a new driver compiles and runs differently
  int threads = 0;                                   ///< CPU: what a run may use; else 0
  std::string problem;                               ///< Conv2dDesc::str()
  auto operator<=>(const TuneKey&) const = default;  // NOLINT(modernize-use-nullptr): mistakes its 0 for a pointer
};

TuneKey tune_key(const Backend& backend, const Conv2dDesc& desc, int threads);

/// Remembers in memory and in a text file that other processes share. What cannot be read counts as not measured.
/// Thread-safe.
class TuneCache {
 public:
  /// At most `max_lines` kernels are kept, those of the problems tuned last. An empty path: memory only.
  explicit TuneCache(std::filesystem::path file, std::size_t max_lines = 20000);

  std::vector<TuneResult> find(const TuneKey& key);            ///< fastest first, rejected ones last
  void store(const TuneKey& key, const TuneResult& measured);  ///< replaces the kernel's earlier result

 private:
  using Results = std::map<std::string, TuneResult>;  // by kernel
  void refresh();

  const std::filesystem::path file_;
  const std::size_t max_lines_;
  std::mutex mutex_;
  std::map<TuneKey, Results> known_;
  FileStamp seen_;
};

/// The cache of this user (cache_directory() as it is now).
TuneCache& user_tune_cache();

/// Fastest first, rejected ones last.
void rank(std::vector<TuneResult>& results);

/// Kernels for `desc`, best first, from a shipped tuning text: lines "problem kernel [kernel ...]", "#" starts a
/// comment. A line serves every activation, with or without accumulate, and other batch sizes: those up to four times
/// smaller or larger, and, measured at 16 or more, all that are. Of the lines that serve, an equal epilogue counts
/// most, then the nearest n.
std::vector<std::string> shipped_kernels(std::string_view text, const Conv2dDesc& desc);

}  // namespace convrt::core
