#include "core/tune_cache.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <sstream>
#include <utility>

#include "core/log.hpp"

namespace convrt::core {
namespace {

// device, driver, threads, problem, kernel, ms, spread, error, reason of rejection
constexpr std::size_t kColumns = 9;

std::string line_of(const TuneKey& key, const TuneResult& r) {
  return join_columns({key.device, key.driver, std::to_string(key.threads), key.problem, r.kernel, number_text(r.ms),
                       number_text(r.spread), number_text(r.error), r.rejected.substr(0, 300)});
}

std::optional<std::pair<TuneKey, TuneResult>> parse(const std::string& line) {
  const std::vector<std::string> c = split_columns(line);
  if (c.size() != kColumns || c[0].empty() || c[3].empty() || c[4].empty()) return std::nullopt;
  const double threads = to_number(c[2], -1);
  TuneResult r = {c[4], to_number(c[5], -1), to_number(c[6], -1), to_number(c[7], -1), c[8]};
  if (!(threads >= 0 && threads < 1e6) || r.ms < 0 || r.spread < 0 || r.error < 0) return std::nullopt;
  if (r.rejected.empty() && r.ms == 0) return std::nullopt;
  return std::pair(TuneKey{c[0], c[1], static_cast<int>(threads), c[3]}, std::move(r));
}

}  // namespace

TuneKey tune_key(const Backend& backend, const Conv2dDesc& desc, int threads) {
  const DeviceInfo& info = backend.info();
  const bool cpu = backend.family() == "cpu";
  // Through a line and back, so that a maker's odd characters do not hide the key from itself.
  const auto clean = [](const std::string& text) { return join_columns({text}); };
  return {clean(info.name + " " + info.arch), clean(info.driver),
          !cpu          ? 0
          : threads > 0 ? threads
                        : info.compute_units,
          desc.str()};
}

void rank(std::vector<TuneResult>& results) {
  std::stable_sort(results.begin(), results.end(), [](const TuneResult& a, const TuneResult& b) {
    if (a.rejected.empty() != b.rejected.empty()) return a.rejected.empty();
    return a.rejected.empty() && a.ms < b.ms;
  });
}

TuneCache::TuneCache(std::filesystem::path file, std::size_t max_lines)
    : file_(std::move(file)), max_lines_(max_lines) {}

void TuneCache::refresh() {
  const FileStamp now = file_stamp(file_);
  if (now == seen_) return;
  seen_ = now;
  std::size_t bad = 0;
  for (const std::string& line : read_lines(file_)) {
    if (auto entry = parse(line))
      known_[std::move(entry->first)].insert_or_assign(entry->second.kernel, entry->second);
    else
      ++bad;
  }
  if (bad > 0)
    log(LogLevel::warning, "tune cache ", file_.string(), ": ", bad,
        " unreadable lines are ignored; what they held is measured again when asked for");
}

std::vector<TuneResult> TuneCache::find(const TuneKey& key) {
  const std::scoped_lock lock(mutex_);
  refresh();
  std::vector<TuneResult> results;
  if (const auto found = known_.find(key); found != known_.end())
    for (const auto& [kernel, result] : found->second) results.push_back(result);
  rank(results);
  return results;
}

void TuneCache::store(const TuneKey& key, const TuneResult& measured) {
  const std::scoped_lock lock(mutex_);
  if (known_.size() > max_lines_) {  // changing shapes without end: the file has the latest of them
    known_.clear();
    seen_ = {};
  }
  known_[key].insert_or_assign(measured.kernel, measured);
  update_lines(file_, [&](Lines lines) {
    // This problem moves to the end with all that is known of it; the unreadable goes.
    Lines kept;
    std::map<std::string, std::string> own;
    for (std::string& line : lines) {
      const auto entry = parse(line);
      if (entry && entry->first == key)
        own[entry->second.kernel] = std::move(line);
      else if (entry)
        kept.push_back(std::move(line));
    }
    own[measured.kernel] = line_of(key, measured);
    for (auto& [kernel, line] : own) kept.push_back(std::move(line));
    if (kept.size() > max_lines_) kept.erase(kept.begin(), kept.end() - static_cast<std::ptrdiff_t>(max_lines_));
    return kept;
  });
}

TuneCache& user_tune_cache() {
  // One per path, never destroyed: plans may be made by static destructors. The path changes only if the environment
  // does.
  static std::mutex mutex;
  static auto* const caches = new std::map<std::filesystem::path, std::unique_ptr<TuneCache>>;
  const std::filesystem::path path = cache_path("tune");
  const std::scoped_lock lock(mutex);
  std::unique_ptr<TuneCache>& cache = (*caches)[path];
  if (!cache) cache = std::make_unique<TuneCache>(path);
  return *cache;
}

std::vector<std::string> shipped_kernels(std::string_view text, const Conv2dDesc& desc) {
  std::vector<std::string> best;
  double nearest = std::numeric_limits<double>::infinity();
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string problem;
    if (!(words >> problem)) continue;
    try {
      Conv2dDesc listed = Conv2dDesc::parse(problem);
      // A half added: what an empty batch runs matters little, but it must not divide by zero.
      double distance = std::abs(std::log2((desc.n + 0.5) / (std::max(0, listed.n) + 0.5)));
      if (distance > 2 && (listed.n < 16 || desc.n < 16)) continue;
      const bool same_epilogue = listed.accumulate == desc.accumulate && listed.activation == desc.activation;
      if (!same_epilogue) distance += 100;
      listed.n = desc.n;
      listed.accumulate = desc.accumulate;
      listed.activation = desc.activation;
      if (!(listed == desc) || distance >= nearest) continue;
      nearest = distance;
      best.clear();
      for (std::string kernel; words >> kernel;) best.push_back(kernel);
    } catch (const Error& e) {
      log(LogLevel::warning, "shipped tuning: ", e.what());
    }
  }
  return best;
}

}  // namespace convrt::core
