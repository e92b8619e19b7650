#include "scaling.hpp"

#include <algorithm>
#include <iomanip>
#include <ostream>
#include <set>
#include <sstream>

#include "statistics.hpp"

namespace convrt::bench {

std::vector<Scaling> scaling(const Session& session) {
  std::vector<Scaling> rows;
  const double peak = session.peak_gflops(1);
  for (const Result& r : session.results) {
    if (r.contender != "convrt" || r.device != "cpu" || r.threads == 1 || r.gflops() <= 0) continue;
    const Result* one = session.find(r.workload.name, r.contender, r.layout, 1);
    if (one == nullptr || one->gflops() <= 0) continue;
    rows.push_back({r.workload.name, r.layout, r.threads, r.kernel, r.gflops(), r.gflops() / one->gflops(),
                    peak > 0 ? session.peak_gflops(r.threads) / peak : 0});
  }
  return rows;
}

void print_scaling(std::ostream& out, const Session& session) {
  const std::vector<Scaling> rows = scaling(session);
  if (rows.empty()) return;
  std::set<int> threads;
  std::size_t width = 0;
  for (const Scaling& row : rows) {
    threads.insert(row.threads);
    width = std::max(width, row.layer.size());
  }
  constexpr double goal = 0.8;
  constexpr int column = 18;
  out << "\nspeed-up over one thread (GFLOP/s), * below " << goal
      << " of the threads or of the multiply-add loop's own speed-up\n"
      << std::fixed << std::left << std::setw(static_cast<int>(width) + 6) << "layer" << std::right;
  for (const int t : threads) out << std::setw(column) << (std::to_string(t) + " threads");
  out << '\n';
  const auto cell = [](double speed_up, double gflops, bool low) {
    std::ostringstream text;
    text << std::fixed << std::setprecision(2) << speed_up << std::setprecision(0) << " (" << gflops << ")"
         << (low ? "*" : " ");
    return text.str();
  };
  const auto line = [&](const std::string& layer, Layout layout) {
    out << std::left << std::setw(static_cast<int>(width) + 6) << layer + (layout == Layout::nhwc ? " NHWC" : " NCHW")
        << std::right;
    for (const int t : threads) {
      const auto found = std::find_if(rows.begin(), rows.end(), [&](const Scaling& row) {
        return row.layer == layer && row.layout == layout && row.threads == t;
      });
      if (found == rows.end()) {
        out << std::setw(column) << "- ";
        continue;
      }
      const double ceiling = found->ceiling > 0 ? std::min<double>(t, found->ceiling) : t;
      out << std::setw(column) << cell(found->speed_up, found->gflops, found->speed_up < goal * ceiling);
    }
    out << '\n';
  };
  for (auto row = rows.begin(); row != rows.end(); ++row)
    if (std::none_of(rows.begin(), row,
                     [&](const Scaling& r) { return r.layer == row->layer && r.layout == row->layout; }))
      line(row->layer, row->layout);
  for (const bool loop : {false, true}) {
    out << std::left << std::setw(static_cast<int>(width) + 6) << (loop ? "multiply-add loop" : "geomean")
        << std::right;
    for (const int t : threads) {
      std::vector<double> ratios, rates;
      for (const Scaling& row : rows)
        if (row.threads == t) {
          ratios.push_back(loop ? row.ceiling : row.speed_up);
          rates.push_back(loop ? session.peak_gflops(t) : row.gflops);
        }
      out << std::setw(column) << cell(geomean(ratios), geomean(rates), false);
    }
    out << '\n';
  }
}

}  // namespace convrt::bench
