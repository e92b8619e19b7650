#include "report.hpp"

#include <algorithm>
#include <functional>
#include <iomanip>
#include <map>
#include <ostream>
#include <sstream>

#include "statistics.hpp"

namespace convrt::bench {
namespace {

std::string fixed(double value, int digits) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << value;
  return text.str();
}

std::string gflops_cell(const Result* r) {
  if (r == nullptr) return "-";
  if (!r->error.empty()) return "WRONG";
  return fixed(r->gflops(), r->gflops() < 9.95 ? 1 : 0);
}

// Beside another's column, a GPU's kernel says what part of its own peak it reaches.
std::string gflops_cell(const Session& session, const Result* r) {
  std::string cell = gflops_cell(r);
  if (r == nullptr || !r->device_clock || r->gflops() <= 0 || session.percent_of_peak(*r) <= 0) return cell;
  return cell + " (" + fixed(session.percent_of_peak(*r), 0) + " %)";
}

std::string without(const std::string& text, const std::string& prefix) {
  return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}

// Columns in order of first appearance; the first column is left-aligned.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> head) : rows_{std::move(head)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  void line() { rows_.emplace_back(); }
  bool empty() const { return rows_.size() == 1; }
  void print(std::ostream& out) const {
    std::vector<std::size_t> width(rows_[0].size());
    for (const auto& row : rows_)
      for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
    std::size_t total = 0;
    for (const std::size_t w : width) total += w + 2;
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      if (rows_[r].empty()) out << std::string(total - 2, '-');
      for (std::size_t i = 0; i < rows_[r].size(); ++i)
        out << (i == 0 ? "" : "  ") << (i == 0 ? std::left : std::right) << std::setw(static_cast<int>(width[i]))
            << rows_[r][i];
      out << '\n';
      if (r == 0) out << std::string(total - 2, '-') << '\n';
    }
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

// One table's results by layer and contender, both in order of appearance.
struct Grid {
  std::vector<std::string> layers, contenders;
  std::map<std::pair<std::string, std::string>, const Result*> cells;

  explicit Grid(const Session& session, const std::string& table) {
    const auto note = [](std::vector<std::string>& list, const std::string& name) {
      if (std::find(list.begin(), list.end(), name) == list.end()) list.push_back(name);
    };
    for (const Result& r : session.results) {
      if (r.table != table) continue;
      note(layers, r.workload.name);
      note(contenders, r.contender);
      cells[{r.workload.name, r.contender}] = &r;
    }
  }
  const Result* at(const std::string& layer, const std::string& contender) const {
    const auto found = cells.find({layer, contender});
    return found == cells.end() ? nullptr : found->second;
  }
};

void print_geomeans(TextTable& table, const Grid& grid, bool gpu) {
  for (const std::string_view wanted : classes()) {
    std::vector<std::string> row;
    std::size_t members = 0;
    for (const std::string& contender : grid.contenders) {
      std::vector<double> rates;
      for (const std::string& layer : grid.layers) {
        const Result* r = grid.at(layer, contender);
        if (r != nullptr && r->gflops() > 0 && class_of(r->workload.desc) == wanted) rates.push_back(r->gflops());
      }
      members = std::max(members, rates.size());
      // A mean over fewer layers than its neighbours' says over how many.
      row.push_back(rates.empty() ? "-" : fixed(geomean(rates), 1));
      if (!rates.empty() && rates.size() < members) row.back() += " (" + std::to_string(rates.size()) + ")";
    }
    if (members == 0) continue;
    std::vector<std::string> line = {
        "geomean " + std::string(wanted) + " (" + std::to_string(members) + ")", "", "", row[0], "", ""};
    if (gpu) line.emplace_back();
    line.insert(line.end(), row.begin() + 1, row.end());
    table.add(std::move(line));
  }
}

// For many contenders: a line each, fastest first.
void print_rankings(std::ostream& out, const Grid& grid, const std::string& name) {
  out << '\n' << name << " (GFLOP/s, medians; +-% = quartile distance / median)\n";
  TextTable table({"layer", "contender", "kernel", "GFLOP/s", "+-%"});
  for (const std::string& layer : grid.layers) {
    std::vector<const Result*> ranked;
    for (const std::string& contender : grid.contenders)
      if (const Result* r = grid.at(layer, contender)) ranked.push_back(r);
    std::sort(ranked.begin(), ranked.end(), [](const Result* a, const Result* b) { return a->gflops() > b->gflops(); });
    for (const Result* r : ranked)
      table.add({r == ranked.front() ? layer : "", r->contender, r->contender == r->kernel ? "" : r->kernel,
                 gflops_cell(r), r->seconds.empty() ? "" : fixed(100 * r->spread(), 0)});
  }
  table.print(out);
}

void print_table(std::ostream& out, const Session& session, const std::string& name) {
  const Grid grid(session, name);
  constexpr std::size_t most_columns = 8;
  if (grid.contenders.size() > most_columns) return print_rankings(out, grid, name);
  const bool gpu = std::any_of(grid.layers.begin(), grid.layers.end(), [&](const std::string& layer) {
    const Result* first = grid.at(layer, grid.contenders[0]);
    return first != nullptr && first->device != "cpu";
  });
  std::vector<std::string> head = {"layer", "GFLOP", "kernel", grid.contenders[0], "+-%", "%peak"};
  if (gpu) head.emplace_back("%copy");
  head.insert(head.end(), grid.contenders.begin() + 1, grid.contenders.end());
  TextTable table(head);
  for (const std::string& layer : grid.layers) {
    const Result* own = grid.at(layer, grid.contenders[0]);
    const Result* any = own;
    for (const std::string& contender : grid.contenders)
      if (any == nullptr) any = grid.at(layer, contender);
    std::vector<std::string> row = {layer, fixed(any->workload.desc.flops() * 1e-9, 4)};
    if (own != nullptr && own->error.empty()) {
      const double percent = session.percent_of_peak(*own);
      row.insert(row.end(), {without(own->kernel, "cpu."), gflops_cell(own), fixed(100 * own->spread(), 0),
                             percent > 0 ? fixed(percent, 0) : "-"});
      if (gpu) row.push_back(fixed(session.percent_of_copy(*own), 0));
    } else {
      row.insert(row.end(), {own == nullptr ? "-" : without(own->kernel, "cpu."), gflops_cell(own), "", ""});
      if (gpu) row.emplace_back();
    }
    for (std::size_t i = 1; i < grid.contenders.size(); ++i)
      row.push_back(gflops_cell(session, grid.at(layer, grid.contenders[i])));
    table.add(std::move(row));
  }
  table.line();
  print_geomeans(table, grid, gpu);
  out << '\n' << name << " (GFLOP/s, medians; +-% = quartile distance / median)\n";
  if (gpu) out << "kernel: by the GPU's timer, tensors on the device; end to end: host to host, wall time\n";
  table.print(out);
}

using Rate = std::function<double(const std::string& layer)>;  // 0 where not measured

Comparison compare_rates(std::string what, int threads, double goal, const std::vector<std::string>& layers,
                         const Rate& own, const Rate& peer) {
  Comparison c;
  c.what = std::move(what);
  c.threads = threads;
  c.goal = goal;
  std::vector<double> ratios;
  for (const std::string& layer : layers) {
    const double a = own(layer), b = peer(layer);
    if (a <= 0 || b <= 0) continue;
    ratios.push_back(a / b);
    if (c.weakest.empty() || a / b < c.weakest_ratio) {
      c.weakest = layer;
      c.weakest_ratio = a / b;
    }
  }
  c.layers = static_cast<int>(ratios.size());
  c.ratio = geomean(ratios);
  return c;
}

}  // namespace

void print_tables(std::ostream& out, const Session& session) {
  std::vector<std::string> names;
  for (const Result& r : session.results)
    if (std::find(names.begin(), names.end(), r.table) == names.end()) names.push_back(r.table);
  for (const std::string& name : names) print_table(out, session, name);
  for (const Result& r : session.results)
    if (!r.error.empty())
      out << "\nWRONG: " << r.contender << " (" << r.kernel << ") on " << r.workload.name << ", "
          << (r.layout == Layout::nhwc ? "NHWC" : "NCHW") << ", " << r.threads << " threads: " << r.error << '\n';
  out << '\n';
  for (const Peak& peak : session.peaks)
    out << "FMA peak, " << peak.isa << ", " << peak.threads << (peak.threads == 1 ? " thread: " : " threads: ")
        << fixed(peak.gflops, 1) << " GFLOP/s +- " << fixed(100 * peak.spread, 0) << " % (median of " << peak.samples
        << " samples among the layers')\n";
  for (const DevicePeaks& peaks : session.device_peaks)
    out << peaks.device << " (" << peaks.name << "): FMA peak " << fixed(peaks.gflops * 1e-3, 2) << " TFLOP/s, copy "
        << fixed(peaks.copy_gbytes_per_s * 1e-3, 3) << " TB/s, through OpenGL\n";
}

std::vector<Comparison> compare(const Session& session) {
  std::vector<int> threads;
  std::vector<std::string> layers;
  for (const Result& r : session.results) {
    if (std::find(threads.begin(), threads.end(), r.threads) == threads.end()) threads.push_back(r.threads);
    if (std::find(layers.begin(), layers.end(), r.workload.name) == layers.end()) layers.push_back(r.workload.name);
  }
  std::vector<Comparison> rows;
  for (const int t : threads) {
    const auto rate = [&session, t](const char* contender, Layout layout) -> Rate {
      return [&session, t, contender, layout](const std::string& layer) {
        const Result* r = session.find(layer, contender, layout, t);
        return r == nullptr ? 0 : r->gflops();
      };
    };
    const auto best = [](std::vector<Rate> rates) -> Rate {
      return [rates = std::move(rates)](const std::string& layer) {
        double most = 0;
        for (const Rate& r : rates) most = std::max(most, r(layer));
        return most;
      };
    };
    const Rate own_nchw = rate("convrt", Layout::nchw), own_nhwc = rate("convrt", Layout::nhwc);
    const Rate nchw = rate("onednn nchw", Layout::nchw), through = rate("onednn reorder", Layout::nchw),
               nhwc = rate("onednn nhwc", Layout::nhwc), free = rate("onednn free", Layout::nhwc),
               winograd = rate("onednn winograd", Layout::nhwc);
    const Rate any = best({nchw, through, nhwc, free, winograd});
    for (const Comparison& row :
         {compare_rates("NCHW / faster of oneDNN's NCHW and reorder-free-reorder", t, 1.6, layers, own_nchw,
                        best({nchw, through})),
          compare_rates("NHWC / oneDNN's NHWC", t, 1.3, layers, own_nhwc, nhwc),
          compare_rates("NCHW / oneDNN's free layout", t, 1.25, layers, own_nchw, free),
          compare_rates("NHWC / oneDNN's free layout", t, 1.25, layers, own_nhwc, free),
          compare_rates("NCHW / best of oneDNN, Winograd included", t, 1.05, layers, own_nchw, any),
          compare_rates("NHWC / best of oneDNN, Winograd included", t, 1.05, layers, own_nhwc, any)})
      if (row.layers > 0) rows.push_back(row);
    Comparison floor[] = {compare_rates("weakest layer, NCHW / oneDNN's NCHW", t, 0.9, layers, own_nchw, nchw),
                          compare_rates("weakest layer, NHWC / oneDNN's NHWC", t, 0.9, layers, own_nhwc, nhwc)};
    for (Comparison& row : floor) {
      row.ratio = row.weakest_ratio;
      if (row.layers > 0) rows.push_back(row);
    }
  }
  return rows;
}

void print_selection(std::ostream& out, const Session& session) {
  TextTable table({"layer", "threads", "layout", "chosen", "best", "chosen / best"});
  std::vector<double> ratios;
  for (const Result& chosen : session.results) {
    if (chosen.contender != "convrt" || chosen.gflops() <= 0) continue;
    const Result* best = nullptr;
    for (const Result& r : session.results)
      if (r.contender == r.kernel && !r.peer && r.workload.name == chosen.workload.name && r.layout == chosen.layout &&
          r.threads == chosen.threads && (best == nullptr || r.gflops() > best->gflops()))
        best = &r;
    if (best == nullptr || best->gflops() <= 0) continue;
    // The chosen kernel was timed twice; its own entry tells the noise, so the comparison is between named entries.
    const Result* named = session.find(chosen.workload.name, chosen.kernel, chosen.layout, chosen.threads);
    const double ratio = (named == nullptr ? chosen : *named).gflops() / best->gflops();
    ratios.push_back(ratio);
    if (ratio < 0.95)
      table.add({chosen.workload.name, std::to_string(chosen.threads), chosen.layout == Layout::nhwc ? "NHWC" : "NCHW",
                 chosen.kernel, best->kernel, fixed(ratio, 2)});
  }
  if (ratios.empty()) return;
  out << "\nselection: geomean of chosen / best kernel " << fixed(geomean(ratios), 3) << ", lowest "
      << fixed(*std::min_element(ratios.begin(), ratios.end()), 2) << ", over " << ratios.size() << " problems"
      << (table.empty() ? "\n" : "; below 0.95:\n");
  if (!table.empty()) table.print(out);
}

void print_recorded(std::ostream& out, const Session& session) {
  struct Recorded {
    const char* contender;
    Layout layout;
    double one, two;  // GFLOP/s, geomean of peers36 on one and on two threads
  };
  // oneDNN 2.6.3 on two cores of a Zen 5 EPYC at about 3.7 GHz, otherwise idle.
  constexpr Recorded recorded[] = {{"onednn nchw", Layout::nchw, 112, 212},
                                   {"onednn nhwc", Layout::nhwc, 210, 407},
                                   {"onednn free", Layout::nhwc, 211, 410},
                                   {"onednn winograd", Layout::nhwc, 386, 772}};
  const auto field = [&session](const std::string& key) {
    for (const auto& [name, value] : session.environment.fields)
      if (name == key) return value;
    return std::string();
  };
  if (field("arch") != "zen5" || !field("onednn").starts_with("2.6") ||
      session.suites != std::vector<std::string>{"peers36"})
    return;
  TextTable table({"oneDNN's own geomean", "threads", "here", "undisturbed", ""});
  for (const int threads : {1, 2})
    for (const Recorded& r : recorded) {
      std::vector<double> rates;
      for (const Result& result : session.results)
        if (result.contender == r.contender && result.threads == threads && result.gflops() > 0)
          rates.push_back(result.gflops());
      const double expected = threads == 1 ? r.one : r.two;
      if (!rates.empty())
        table.add({r.contender, std::to_string(threads), fixed(geomean(rates), 0), fixed(expected, 0),
                   geomean(rates) < 0.9 * expected ? "disturbed: ratios do not count" : ""});
    }
  out << '\n';
  table.print(out);
}

void print_comparison(std::ostream& out, const Session& session) {
  const std::vector<Comparison> rows = compare(session);
  if (rows.empty()) return;
  TextTable table({"convrt / oneDNN", "threads", "ratio", "goal", "", "layers", "lowest", "at"});
  for (const Comparison& c : rows)
    table.add({c.what, std::to_string(c.threads), fixed(c.ratio, 2), fixed(c.goal, 2),
               c.ratio >= c.goal ? "met" : "not met", std::to_string(c.layers), fixed(c.weakest_ratio, 2), c.weakest});
  out << '\n';
  table.print(out);
}

}  // namespace convrt::bench
