// convrt_bench: checked GFLOP/s of named convolutions, beside oneDNN in the same run. See bench/NOTES.md for the
// method.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <utility>

#include "async.hpp"
#include "core/fail.hpp"
#include "devices.hpp"
#include "export.hpp"
#include "plans.hpp"
#include "report.hpp"
#include "scaling.hpp"
#include "session.hpp"
#include "tune_report.hpp"

namespace {

using namespace convrt;
using namespace convrt::bench;

struct Arguments {
  Options options;
  std::string layout = "both", clock = "wall", json, csv;
  bool strict = false, no_end_to_end = false, list = false, no_peers = false, quick = false;
  TuneArguments tuning = {.budget_ms = 0};
  std::string prepare;
  bool async = false, plans = false;
  AsyncOptions stream;
  DevicesOptions several;
};

void define(CLI::App& app, Arguments& a) {
  Options& o = a.options;
  std::string names;
  for (const Suite& suite : suites()) names.append(names.empty() ? "" : ", ").append(suite.name);
  app.add_option("--suite", o.suites, "Suites: " + names + " (default peers36)")->delimiter(',');
  app.add_option("--problem", o.problems, "A problem string, e.g. n1c64h56w56k64r3s3ph1pw1+nhwc; may be repeated");
  app.add_option("--batch", o.batches, "Batch sizes: the layers of the suites at each of these N instead of their own")
      ->delimiter(',')
      ->check(CLI::Range(1, 65536));
  app.add_option("--filter", o.filter, "Only layers whose name contains this");
  app.add_option("--least-gflop", o.least_gflop, "Only layers of at least this much work")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--device", o.devices, "Device ids, \"best\" or \"all\"")->delimiter(',')->capture_default_str();
  app.add_option("--kernel", o.kernels, "Kernel names or prefixes, \"all\" for each; default: convrt's choice")
      ->delimiter(',');
  app.add_option("--threads", o.threads, "Thread counts, 0 for all cores (default 1,0)")
      ->delimiter(',')
      ->check(CLI::Range(0, 4096));
  app.add_option("--layout", a.layout, "nchw, nhwc or both")
      ->capture_default_str()
      ->check(CLI::IsMember({"nchw", "nhwc", "both"}));
  app.add_option("--reps", o.runner.samples, "Samples of each time")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  app.add_option("--sample-ms", o.runner.sample_ms, "Length of a sample, milliseconds")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 10000.0));
  app.add_option("--clock", a.clock, "wall, or thread: CPU time of one thread, for a busy machine (--threads=1)")
      ->capture_default_str()
      ->check(CLI::IsMember({"wall", "thread"}));
  app.add_flag("--quick", a.quick, "5 samples of 1 ms: a first look, not a measurement");
  app.add_flag("--no-peers", a.no_peers, "Leave oneDNN out");
  app.add_option("--json", a.json, "Write all results and the environment here (bench/plot.py draws them)");
  app.add_option("--csv", a.csv, "The same as a table");
  app.add_flag("--async", a.async,
               "A stream of images through an Executor from and to host memory, beside the synchronous run and what "
               "bounds it: the kernel, the bus and the host's copies, each alone");
  app.add_option("--depth", a.stream.depths, "--async: depths of the executor's ring")
      ->delimiter(',')
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--items", a.stream.items, "--async: images of a series; default: as many as half a second takes")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--devices", a.several.ids,
                 "A MultiDevicePlan over these devices (ids, or \"all\") beside each of them alone: tensors on the "
                 "devices, and from and to host memory beside the copies alone")
      ->delimiter(',');
  app.add_flag("--plans", a.plans,
               "What a plan costs: the time to make one, its weights packed, beside a memcpy of the packed bytes");
  app.add_option(
         "--tune", a.tuning.budget_ms,
         "Tune each layer instead of timing it: measure every kernel within this budget (milliseconds a layer), "
         "print the ranking, remember the best in the tune cache")
      ->expected(0, 1)
      ->default_str("2000")
      ->check(CLI::PositiveNumber);
  app.add_option("--candidates", a.tuning.most_candidates,
                 "--tune: only the first so many Winograd kernels and so many others of convrt's guess; 0: all")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--export", a.tuning.export_folder,
                 "--tune: write the best kernels of each layer into ARCH.txt in this folder (shaders/tuned is shipped)")
      ->check(CLI::ExistingDirectory);
  app.add_option(
      "--prepare", a.prepare,
      "I/N: only make the plans that the other options ask for, share I (from 0) of N, so that their programs "
      "are in the cache: N processes at once compile side by side");
  app.add_flag("--tuned", o.tuned,
               "Let convrt choose by tune cache and shipped results too; default: its cost model alone");
  app.add_flag("--strict", a.strict, "Accuracy::strict: convrt's choice is never a Winograd kernel");
  app.add_flag("--no-end-to-end", a.no_end_to_end, "GPUs: time the kernels alone, not also from and to host memory");
  app.add_flag("--list", a.list, "Print the suites, or the layers of the chosen suites and problems, and stop");
}

void list(const Options& options) {
  if (options.suites.empty() && options.problems.empty()) {
    for (const Suite& suite : suites())
      std::cout << std::left << std::setw(14) << suite.name << std::setw(4) << workloads(suite.name).size()
                << "layers: " << suite.about << '\n';
    return;
  }
  for (const Workload& w : selected_workloads(options))
    std::cout << std::left << std::setw(28) << w.name << std::right << std::fixed << std::setprecision(4)
              << std::setw(9) << w.desc.flops() * 1e-9 << " GFLOP  " << w.desc.str() << '\n';
}

std::pair<std::size_t, std::size_t> parse_share(const std::string& text) {
  std::istringstream in(text);
  std::size_t share = 0, shares = 0;
  char slash = 0;
  if (in >> share >> slash >> shares && slash == '/' && in.eof() && share < shares) return {share, shares};
  core::fail(ErrorCode::invalid_argument, "--prepare: expected I/N with I from 0 to N - 1, found \"", text, "\"");
}

// 0: all right; 1: a result of convrt or a peer was wrong
int run(Arguments& a) {
  Options& o = a.options;
  if (a.layout != "both") o.layouts = {a.layout == "nhwc" ? Layout::nhwc : Layout::nchw};
  o.peers = !a.no_peers;
  o.end_to_end = !a.no_end_to_end;
  if (a.strict) o.accuracy = Accuracy::strict;
  if (a.quick) {
    o.runner.samples = 5;
    o.runner.sample_ms = 1;
  }
  if (a.clock == "thread") {
    o.runner.clock = Clock::thread;
    o.threads = {1};
  }
  if (a.list) {
    list(o);
    return 0;
  }
  if (a.async) return bench_async(std::cout, o, a.stream) ? 0 : 1;
  if (!a.several.ids.empty()) return bench_devices(std::cout, o, a.several) ? 0 : 1;
  if (a.plans) {
    bench_plans(std::cout, o);
    return 0;
  }
  const bool tune = a.tuning.budget_ms > 0;
  if (!a.prepare.empty()) {
    const auto [share, shares] = parse_share(a.prepare);
    prepare_programs(o, tune ? &a.tuning : nullptr, share, shares);
    return 0;
  }
  if (tune) {
    tune_layers(std::cout, o, a.tuning);
    return 0;
  }
  const Session session = run_session(o);
  for (const auto& [key, value] : session.environment.fields)
    if (!value.empty()) std::cout << key << ": " << value << '\n';
  print_tables(std::cout, session);
  print_selection(std::cout, session);
  print_comparison(std::cout, session);
  print_scaling(std::cout, session);
  print_recorded(std::cout, session);
  if (!a.json.empty()) write_file(a.json, to_json(session));
  if (!a.csv.empty()) write_file(a.csv, to_csv(session));
  for (const Result& r : session.results)
    if (!r.error.empty()) return 1;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Checked GFLOP/s of 2-D convolutions: convrt, and oneDNN in the same run.", "convrt_bench");
  app.footer(
      "Every result is compared with a double-precision oracle before its time counts. Exit status: 0 all right, 1 a\n"
      "result was wrong, 2 bad arguments or a failure.\n"
      "Examples:\n"
      "  convrt_bench --suite=resnet50 --threads=1 --layout=nhwc\n"
      "  convrt_bench --problem=n1c64h56w56k64r3s3ph1pw1 --kernel=all --reps=31\n"
      "  convrt_bench --suite=layers --json=layers.json");
  Arguments arguments;
  define(app, arguments);
  try {
    app.parse(argc, argv);
    return run(arguments);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const std::exception& e) {
    std::cerr << "convrt_bench: " << e.what() << '\n';
    return 2;
  }
}
