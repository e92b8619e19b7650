#include "session.hpp"

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <set>
#include <utility>

#include "contender.hpp"
#include "convrt/device.hpp"
#include "core/device_peak.hpp"
#include "core/fail.hpp"
#include "cpu/cpu_probe.hpp"
#include "peers/onednn.hpp"
#include "progress.hpp"
#include "statistics.hpp"

namespace convrt::bench {
namespace {

const char* label(Layout layout) { return layout == Layout::nhwc ? "NHWC" : "NCHW"; }

std::string table_name(int threads, Layout layout) {
  return std::to_string(threads) + (threads == 1 ? " thread, " : " threads, ") + label(layout) + " in and out";
}

std::vector<int> selected_threads(const std::vector<int>& wanted) {
  std::vector<int> threads;
  for (const int t : wanted) {
    const int number = t > 0 ? t : cpu::cpu_info().cores;
    if (std::find(threads.begin(), threads.end(), number) == threads.end()) threads.push_back(number);
  }
  return threads;
}

std::vector<std::string> suites_of(const Options& options) {
  if (options.suites.empty() && options.problems.empty()) return {"peers36"};
  return options.suites;
}

// A contender on its problem, and what became of it.
struct Entry {
  std::shared_ptr<Problem> problem;
  Contender contender;
  Result result;
};

bool is_cpu(const Device& device) { return device.info().id == "cpu"; }

class SessionRunner {
 public:
  explicit SessionRunner(const Options& options) : options_(options), devices_(selected_devices(options.devices)) {
    if (layers_suite()) devices_ = devices();
  }

  Session run() {
    Session session;
    session.environment = environment();
    session.suites = suites_of(options_);
    const cpu::Isa best = cpu::cpu_info().isas.front();
    const std::vector<int> rounds = thread_rounds();
    for (const int threads : rounds) {
      build(threads, threads == rounds.front());
      time(threads, session);
      if (cpu_takes_part()) session.bandwidths.emplace_back(threads, bandwidths(best, threads));
    }
    for (const Device& device : devices_) {
      if (is_cpu(device)) continue;
      const core::DevicePeak peak = core::measure_device_peak(device);
      session.device_peaks.push_back(
          {device.info().id, device.info().name, 1e3 * peak.tflops, 1e3 * peak.copy_tbytes_s});
    }
    return session;
  }

 private:
  bool layers_suite() const { return options_.suites == std::vector<std::string>{"layers"}; }

  // The layers suite compares thread counts inside one table, so it is one round.
  std::vector<int> thread_rounds() const {
    return layers_suite() || !cpu_takes_part() ? std::vector<int>{1} : selected_threads(options_.threads);
  }
  bool cpu_takes_part() const { return std::any_of(devices_.begin(), devices_.end(), is_cpu); }

  void add(const std::shared_ptr<Problem>& problem, Contender contender) {
    Entry entry{problem, std::move(contender), {}};
    const Contender& c = entry.contender;
    Result& r = entry.result;
    r.workload = problem->workload();
    r.table = !c.table.empty()    ? c.table
              : c.device == "cpu" ? table_name(c.threads, c.layout)
                                  : c.device + ", " + label(c.layout) + " in and out";
    r.contender = c.name;
    r.kernel = c.kernel;
    r.device = c.device;
    r.layout = c.layout;
    r.threads = c.threads;
    r.peer = c.peer;
    r.device_clock = c.device_clock;
    r.sets = c.sets;
    r.checked = check(*problem, c);
    if (!r.checked.ok()) r.error = r.checked.str();
    entries_.push_back(std::move(entry));
  }

  void add_convrt(const std::shared_ptr<Problem>& problem, const Device& device, Layout layout, int threads,
                  const std::string& kernel, const std::string& name = {}, const std::string& table = {}) {
    ConvrtOptions how = {.kernel = kernel, .tuned = options_.tuned, .accuracy = options_.accuracy};
    std::optional<Contender> contender = make_convrt(problem, device, layout, threads, how);
    if (!contender) return;
    const std::string& id = device.info().id;
    if (!is_cpu(device)) contender->name = kernel.empty() ? id + " kernel" : kernel;
    if (!name.empty()) contender->name = name;
    contender->table = table;
    add(problem, std::move(*contender));
    if (is_cpu(device) || !kernel.empty() || !options_.end_to_end) return;
    how.transfers = Transfers::host_to_host;
    contender = make_convrt(problem, device, layout, threads, how);
    contender->name = id + " end to end";
    contender->table = table;
    add(problem, std::move(*contender));
  }

  void build_layers(const std::shared_ptr<Problem>& problem, Layout layout) {
    const int all = cpu::cpu_info().cores;
    const std::string table = std::string("what each layer of the design adds, ") + label(layout);
    const Device cpu = find_device("cpu");
    for (const char* kernel :
         {"cpu.reference", "cpu.direct", "cpu.depthwise", "cpu.gemm", "cpu.winograd_f2x2", "cpu.winograd_f4x4"})
      add_convrt(problem, cpu, layout, 1, kernel, {}, table);
    add_convrt(problem, cpu, layout, 1, "", "chosen", table);
    if (all > 1) add_convrt(problem, cpu, layout, all, "", "chosen, " + std::to_string(all) + " threads", table);
    for (const Device& device : devices_)
      if (!is_cpu(device)) add_convrt(problem, device, layout, 1, "", {}, table);
  }

  // GPUs take part in the first round only: threads are the CPU's.
  void build(int threads, bool with_gpus) {
    entries_.clear();
    const std::vector<Workload> all = selected_workloads(options_);
    Progress progress("checking results, " + std::to_string(threads) + (threads == 1 ? " thread" : " threads"));
    for (std::size_t i = 0; i < all.size(); ++i) {
      progress.show(static_cast<double>(i) / static_cast<double>(all.size()), all[i].name);
      const auto problem = std::make_shared<Problem>(all[i]);
      for (const Layout layout : selected_layouts(options_, all[i])) {
        if (layers_suite()) {
          build_layers(problem, layout);
          continue;
        }
        for (const Device& device : devices_) {
          if (!is_cpu(device) && !with_gpus) continue;
          for (const std::string& kernel : options_.kernels) {
            if (kernel != "all") {
              add_convrt(problem, device, layout, threads, kernel);
              continue;
            }
            add_convrt(problem, device, layout, threads, "");
            for (const std::string& each : device.kernels(problem->desc(layout)))
              if (each != "cpu.reference") add_convrt(problem, device, layout, threads, each);
          }
        }
      }
      if (options_.peers && cpu_takes_part() && !layers_suite())
        add_peers(problem, selected_layouts(options_, all[i]), threads);
    }
  }

  void add_peers(const std::shared_ptr<Problem>& problem, const std::vector<Layout>& wanted, int threads) {
    for (Contender& peer : make_onednn(problem, threads)) {
      const bool free = peer.name == "onednn free" || peer.name == "onednn winograd";
      if (!free && std::find(wanted.begin(), wanted.end(), peer.layout) == wanted.end()) continue;
      // A free layout belongs to no table more than to another: it stands in the last.
      if (free) peer.table = table_name(threads, wanted.back());
      add(problem, std::move(peer));
    }
  }

  // The layers' jobs and, among them, the FMA loop of every instruction set: the peak has the same conditions.
  void time(int threads, Session& session) {
    std::vector<Job> jobs;
    std::vector<Entry*> timed;
    for (Entry& entry : entries_) {
      if (!entry.result.error.empty()) continue;
      timed.push_back(&entry);
      // A hardware GPU that idled needs about a third of a second of work to come back to its full clock.
      const double warm_up_s = entry.contender.hardware_gpu ? 0.35 : 0;
      jobs.push_back({entry.contender.name + " " + entry.result.workload.name, entry.contender.run,
                      entry.contender.device_ms, warm_up_s});
    }
    std::set<int> team_sizes = {threads};
    for (const Entry* entry : timed)
      if (entry->result.threads > 0) team_sizes.insert(entry->result.threads);
    std::deque<double> flops;  // stable addresses: the jobs write into it
    std::vector<std::pair<cpu::Isa, int>> peaks;
    if (!cpu_takes_part()) team_sizes.clear();
    for (const int team : team_sizes)
      for (const cpu::Isa isa : cpu::cpu_info().isas) {
        if (!has_fma_loop(isa)) continue;
        peaks.emplace_back(isa, team);
        flops.push_back(0);
        jobs.push_back({std::string("FMA peak ") + to_string(isa),
                        [&count = flops.back(), isa, team] { count = run_fma_loop(isa, team); }});
      }
    measure(jobs, options_.runner);
    for (std::size_t i = 0; i < timed.size(); ++i) {
      Result& r = timed[i]->result;
      r.seconds = std::move(r.device_clock ? jobs[i].device_seconds : jobs[i].seconds);
      r.iterations = jobs[i].iterations;
      if (!r.device_clock) r.device_seconds = std::move(jobs[i].device_seconds);
    }
    for (std::size_t i = 0; i < peaks.size(); ++i) {
      const std::vector<double>& seconds = jobs[timed.size() + i].seconds;
      const double middle = median(seconds);
      session.peaks.push_back({to_string(peaks[i].first), peaks[i].second, flops[i] * 1e-9 / middle,
                               (quantile(seconds, 0.75) - quantile(seconds, 0.25)) / middle,
                               static_cast<int>(seconds.size())});
    }
    for (Entry& entry : entries_) session.results.push_back(std::move(entry.result));
    entries_.clear();
  }

  const Options& options_;
  std::vector<Device> devices_;
  std::vector<Entry> entries_;
};

}  // namespace

std::vector<Workload> selected_workloads(const Options& options) {
  std::vector<Workload> all;
  for (const std::string& problem : options.problems) {
    const Conv2dDesc desc = Conv2dDesc::parse(problem);
    desc.validate();
    if (desc.n == 0) core::fail(ErrorCode::invalid_argument, "expected a problem to time, found n = 0 in ", problem);
    all.push_back({desc.str(), desc});
  }
  std::vector<Workload> listed;
  for (const std::string& suite : suites_of(options))
    for (Workload& workload : workloads(suite)) listed.push_back(std::move(workload));
  if (options.batches.empty()) all.insert(all.end(), listed.begin(), listed.end());
  for (const int n : options.batches)
    for (const Workload& workload : listed) {
      Conv2dDesc desc = workload.desc;
      desc.n = n;
      const bool known = std::any_of(all.begin(), all.end(), [&](const Workload& w) { return w.desc == desc; });
      const std::string stem = workload.name.substr(0, workload.name.rfind("_N"));
      if (!known) all.push_back({stem + (n == 1 ? "" : "_N" + std::to_string(n)), desc});
    }
  std::erase_if(all, [&](const Workload& w) {
    return w.name.find(options.filter) == std::string::npos || w.desc.flops() < options.least_gflop * 1e9;
  });
  if (all.empty())
    core::fail(ErrorCode::invalid_argument, "no layer's name contains \"", options.filter, "\" at ",
               options.least_gflop, " GFLOP or more");
  return all;
}

std::vector<Device> selected_devices(const std::vector<std::string>& ids) {
  std::vector<Device> found;
  for (const std::string& id : ids) {
    if (id == "all")
      for (const Device& device : devices()) found.push_back(device);
    else
      found.push_back(find_device(id));
  }
  return found;
}

std::vector<Layout> selected_layouts(const Options& options, const Workload& workload) {
  const bool own_layout = workload.name == workload.desc.str();  // of --problem
  return own_layout ? std::vector<Layout>{workload.desc.layout} : options.layouts;
}

Session run_session(const Options& options) { return SessionRunner(options).run(); }

}  // namespace convrt::bench
