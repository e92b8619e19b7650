#include "core/history.hpp"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>

#include "core/cache_file.hpp"

namespace convrt::core {
namespace {

constexpr std::size_t kMaxLines = 20000;

// device, driver, problem, kernel, runs, total ms, best ms, enqueued
std::optional<HistoryRecord> parse(const std::string& line) {
  const std::vector<std::string> c = split_columns(line);
  if (c.size() != 8) return std::nullopt;
  const double runs = to_number(c[4], -1), enqueued = to_number(c[7], -1);
  HistoryRecord r = {c[0], c[1], c[2], c[3], 0, 0, to_number(c[5], -1), to_number(c[6], -1)};
  const auto count = [](double n) { return n >= 0 && n < 1e15; };
  if (!count(runs) || !count(enqueued) || runs + enqueued < 1 || r.total_ms < 0 || r.best_ms < 0) return std::nullopt;
  r.runs = static_cast<std::uint64_t>(runs);
  r.enqueued = static_cast<std::uint64_t>(enqueued);
  return r;
}

std::string line_of(const HistoryRecord& r) {
  return join_columns({r.device, r.driver, r.problem, r.kernel, std::to_string(r.runs), number_text(r.total_ms),
                       number_text(r.best_ms), std::to_string(r.enqueued)});
}

bool same(const HistoryRecord& a, const HistoryRecord& b) {
  return a.device == b.device && a.driver == b.driver && a.problem == b.problem && a.kernel == b.kernel;
}

}  // namespace

std::vector<HistoryRecord> history() {
  std::vector<HistoryRecord> records;
  for (const std::string& line : read_lines(cache_path("history")))
    if (auto record = parse(line)) records.push_back(std::move(*record));
  return records;
}

std::unique_ptr<PlanHistory> PlanHistory::open(const Backend& backend, const Conv2dDesc& desc,
                                               const std::string& kernel) {
  const char* wish = std::getenv("CONVRT_HISTORY");
  if (wish == nullptr || *wish == '\0' || std::string_view(wish) == "0") return nullptr;
  const DeviceInfo& info = backend.info();
  return std::make_unique<PlanHistory>(HistoryRecord{join_columns({info.name + " " + info.arch}),
                                                     join_columns({info.driver}), desc.str(), kernel, 0, 0, 0, 0});
}

void PlanHistory::count(double ms) noexcept {
  const auto ns = static_cast<std::uint64_t>(std::max(0.0, ms) * 1e6);
  ++runs_;
  total_ns_ += ns;
  std::uint64_t best = best_ns_;
  while (ns < best && !best_ns_.compare_exchange_weak(best, ns)) {
  }
}

PlanHistory::~PlanHistory() {
  if (runs_ + enqueued_ == 0) return;
  update_lines(cache_path("history"), [this](Lines lines) {
    HistoryRecord sum = names_;
    sum.runs = runs_;
    sum.total_ms = static_cast<double>(total_ns_) * 1e-6;
    sum.best_ms = runs_ == 0 ? 0 : static_cast<double>(best_ns_) * 1e-6;
    sum.enqueued = enqueued_;
    Lines kept;
    for (std::string& line : lines) {
      const auto record = parse(line);
      if (!record) continue;
      if (same(*record, names_)) {
        sum.runs += record->runs;
        sum.total_ms += record->total_ms;
        sum.enqueued += record->enqueued;
        if (record->runs > 0) sum.best_ms = runs_ == 0 ? record->best_ms : std::min(sum.best_ms, record->best_ms);
      } else {
        kept.push_back(std::move(line));
      }
    }
    kept.push_back(line_of(sum));
    if (kept.size() > kMaxLines) kept.erase(kept.begin(), kept.end() - kMaxLines);
    return kept;
  });
}

}  // namespace convrt::core
