#include "tune_report.hpp"

#include <fstream>
#include <functional>
#include <iomanip>
#include <iterator>
#include <ostream>
#include <set>
#include <sstream>

#include "convrt/version.h"
#include "core/access.hpp"
#include "core/fail.hpp"
#include "core/select.hpp"
#include "core/tune_problem.hpp"
#include "export.hpp"
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
    out << std::setw(10) << std::setprecision(4) << r.ms << " ms  +-" << std::setw(3) << std::setprecision(0)
        << 100 * r.spread << " %" << std::setw(9) << std::setprecision(1) << desc.flops() / r.ms * 1e-6
        << " GFLOP/s   error " << std::setprecision(2) << r.error << " of the bound\n";
  }
  if (!report.complete) out << "  (out of time: run again to go on from here)\n";
}

// Every problem that the options mean, in both layouts where both are asked for.
void for_each_problem(const Options& options,
                      const std::function<void(const Device&, const Workload&, const Conv2dDesc&)>& action) {
  for (const Device& device : selected_devices(options.devices))
    for (const Workload& workload : selected_workloads(options))
      for (const Layout layout : selected_layouts(options, workload)) {
        Conv2dDesc desc = workload.desc;
        desc.layout = layout;
        action(device, workload, desc);
      }
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string heading(const DeviceInfo& info) {
  std::string date;
  for (const auto& [name, value] : environment().fields)
    if (name == "date") date = value.substr(0, 10);
  return "# Kernels by problem, fastest first, measured by convrt_bench --tune --export; the time is the first "
         "one's.\n# " +
         info.name + ", " + info.driver + ", convrt " CONVRT_VERSION_STRING ", " + date + "\n";
}

void export_one(const TuneArguments& arguments, const Device& device, const Conv2dDesc& desc,
                const TuneReport& report) {
  const std::vector<std::string> kernels = worth_shipping(report);
  if (kernels.empty()) return;
  std::ostringstream line;
  for (const std::string& kernel : kernels) line << kernel << ' ';
  line << "# " << std::setprecision(4) << 1e3 * report.results[0].ms << " us";
  const std::string path = arguments.export_folder + "/" + device.info().arch + ".txt";
  write_file(path, merge_tuning(read_file(path), {{desc.str(), line.str()}}, heading(device.info())));
}

}  // namespace

std::vector<std::string> worth_shipping(const TuneReport& report) {
  std::vector<std::string> kernels;
  bool strict = false;
  for (const TuneResult& r : report.results) {
    if (!r.rejected.empty()) break;  // the rejected stand last
    const bool direct = core::allowed(r.kernel, Accuracy::strict);
    const bool near = kernels.size() < 3 && r.ms <= 1.5 * report.results[0].ms;
    if (!near && (strict || !direct)) continue;
    kernels.push_back(r.kernel);
    strict = strict || direct;
  }
  return kernels;
}

std::string merge_tuning(const std::string& text, const std::map<std::string, std::string>& lines,
                         const std::string& heading) {
  std::map<std::string, std::string> all;
  std::istringstream old(text);
  for (std::string line; std::getline(old, line);) {
    const std::size_t space = line.find(' ');
    if (!line.empty() && line[0] != '#' && space != std::string::npos)
      all[line.substr(0, space)] = line.substr(space + 1);
  }
  for (const auto& [problem, kernels] : lines) all[problem] = kernels;
  std::string merged = heading;
  for (const auto& [problem, kernels] : all) merged.append(problem).append(" ").append(kernels).append("\n");
  return merged;
}

void tune_layers(std::ostream& out, const Options& options, const TuneArguments& arguments) {
  std::size_t total = 0, done = 0;
  for_each_problem(options, [&](const Device& device, const Workload&, const Conv2dDesc&) {
    if (!arguments.export_folder.empty() && device.info().id == "cpu")
      core::fail(ErrorCode::invalid_argument, "expected a GPU to export the results of, found cpu: choose --device");
    ++total;
  });
  Progress progress("tuning");
  for_each_problem(options, [&](const Device& device, const Workload& workload, const Conv2dDesc& desc) {
    TuneOptions tuning;
    tuning.budget_ms = arguments.budget_ms;
    tuning.most_candidates = arguments.most_candidates;
    tuning.progress = [&](const TuneProgress& p) {
      const double part = static_cast<double>(p.done) / static_cast<double>(p.total);
      progress.show((static_cast<double>(done) + part) / static_cast<double>(total), workload.name + " " + p.kernel);
    };
    const TuneReport report = tune(device, desc, tuning);
    ++done;
    progress.clear();
    out << '\n' << device.info().id << ", " << workload.name << ": " << desc.str() << '\n';
    print_ranking(out, desc, report);
    out.flush();
    if (!arguments.export_folder.empty()) export_one(arguments, device, desc, report);
  });
}

void prepare_programs(const Options& options, const TuneArguments* tuning, std::size_t share, std::size_t shares) {
  // Programs do not depend on n, so one batch size makes those of all.
  std::set<std::string> seen;
  for_each_problem(options, [&](const Device& device, const Workload&, const Conv2dDesc& desc) {
    core::Backend& backend = *core::Access::backend(device);
    Conv2dDesc any_batch = desc;
    any_batch.n = 1;
    std::vector<std::string> kernels =
        tuning != nullptr
            ? core::tune_candidates(backend, desc, 0, tuning->most_candidates)
            : core::select_kernels(backend, desc,
                                   {.tune = options.tuned ? Tune::cached : Tune::off, .accuracy = options.accuracy});
    if (tuning == nullptr) kernels.resize(1);
    for (const std::string& kernel : kernels) {
      if (!seen.insert(kernel + " " + any_batch.str()).second || (seen.size() - 1) % shares != share) continue;
      try {
        const std::vector<float> weights(desc.weights_size());
        backend.prepare({desc, kernel, weights, {}, 0});
      } catch (const Error&) {
        // What does not compile is an ordinary answer, and the run that needs it will say so.
      }
    }
  });
}

}  // namespace convrt::bench
