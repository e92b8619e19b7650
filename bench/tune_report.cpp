#include "tune_report.hpp"

#include <iomanip>
#include <ostream>

#include "convrt/tuner.hpp"
#include "progress.hpp"

namespace convrt::bench {
namespace {

void print_ranking(std::ostream& out, const Conv2dDesc& desc, const TuneReport& report) {
  out << std::fixed;
  for (const TuneResult& r : report.results) {
    out << "  " << std::left << std::setw(32) << r.kernel << std::right;
    if (!r.rejected.empty()) {
      out << "  rejected: " << r.rejected << '\n';
      continue;
    }
    out << std::setw(9) << std::setprecision(3) << r.ms << " ms  +-" << std::setw(3) << std::setprecision(0)
        << 100 * r.spread << " %" << std::setw(9) << std::setprecision(1) << desc.flops() / r.ms * 1e-6
        << " GFLOP/s   error " << std::setprecision(2) << r.error << " of the bound\n";
  }
  if (!report.complete) out << "  (out of time: run again to go on from here)\n";
}

}  // namespace

void tune_layers(std::ostream& out, const Options& options, double budget_ms) {
  for (const Device& device : selected_devices(options.devices))
    for (const Workload& workload : selected_workloads(options))
      for (const Layout layout : selected_layouts(options, workload)) {
        Conv2dDesc desc = workload.desc;
        desc.layout = layout;
        TuneOptions tuning;
        tuning.budget_ms = budget_ms;
        TuneReport report;
        {
          Progress progress("tuning " + workload.name);
          tuning.progress = [&progress](const TuneProgress& p) {
            progress.show(static_cast<double>(p.done) / static_cast<double>(p.total), p.kernel);
          };
          report = tune(device, desc, tuning);
        }
        out << '\n' << device.info().id << ", " << workload.name << ": " << desc.str() << '\n';
        print_ranking(out, desc, report);
        out.flush();
      }
}

}  // namespace convrt::bench
