// convrt_info: what convrt sees on this machine. Devices, instruction sets, caches; kernels for a problem; files and
// environment variables it looks at; why a device is missing.
#include <CLI/CLI.hpp>
#include <array>
#include <cstdlib>
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "convrt/conv2d.hpp"
#include "convrt/device.hpp"
#include "convrt/log.hpp"
#include "convrt/version.h"
#include "core/access.hpp"
#include "core/cache_file.hpp"
#include "core/device_peak.hpp"
#include "core/history.hpp"

namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::pair<const char*, const char*>, 8> kVariables = {{
    {"CONVRT_DEVICES", "narrows the device list: \"cpu\", \"gl\", \"gl:1\", comma-separated"},
    {"CONVRT_KERNEL", "forces a kernel name or prefix on the devices of its backend"},
    {"CONVRT_VERBOSE", "log to stderr: error, warning, info or debug"},
    {"CONVRT_VALIDATE", "1: checks a sample of every result against the oracle"},
    {"CONVRT_HISTORY", "1: plans record their runs; convrt_info --history shows them"},
    {"CONVRT_CACHE_DIR", "folder of tune cache, history and program binaries"},
    {"CONVRT_SHADER_DIR", "shaders are read from here instead of from the library"},
    {"OMP_NUM_THREADS", "not used by convrt: PlanOptions::threads is, and the process's CPU affinity"},
}};

// Problems that convrt ships measured kernels for.
std::size_t shipped_problems(const std::string& text) {
  std::istringstream lines(text);
  std::size_t count = 0;
  for (std::string line; std::getline(lines, line);) count += !line.empty() && line[0] != '#' ? 1 : 0;
  return count;
}

Json device_json(const convrt::Device& device, const std::string& problem, bool peaks) {
  const convrt::DeviceInfo& d = device.info();
  Json out = {{"id", d.id},
              {"name", d.name},
              {"arch", d.arch},
              {"driver", d.driver},
              {"software", d.software},
              {"memory_bytes", d.memory_bytes},
              {"compute_units", d.compute_units},
              {"l1_bytes", d.l1_bytes},
              {"l2_bytes", d.l2_bytes},
              {"l3_bytes", d.l3_bytes}};
  const convrt::core::Backend& backend = *convrt::core::Access::backend(device);
  for (const auto& [name, value] : backend.details()) out["probe"][name] = value;
  if (d.id != "cpu") out["shipped_problems"] = shipped_problems(backend.shipped_tuning());
  if (peaks && d.id != "cpu") {
    const convrt::core::DevicePeak peak = convrt::core::measure_device_peak(device);
    out["peak"] = {{"tflops", peak.tflops}, {"copy_tbytes_per_s", peak.copy_tbytes_s}};
  }
  if (!problem.empty()) out["kernels"] = device.kernels(convrt::Conv2dDesc::parse(problem));
  return out;
}

Json collect(const std::string& problem, bool peaks) {
  Json notes = Json::array(), devices = Json::array(), environment = Json::object();
  convrt::set_log(convrt::LogLevel::info, [&notes](convrt::LogLevel, std::string_view line) { notes.push_back(line); });
  for (const convrt::Device& device : convrt::devices()) devices.push_back(device_json(device, problem, peaks));
  convrt::set_log(convrt::LogLevel::off, nullptr);
  for (const auto& [name, about] : kVariables) {
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody here changes the environment
    environment[name] = value == nullptr ? Json() : Json(value);
  }
  Json all = {{"version", CONVRT_VERSION_STRING}, {"devices", devices}};
  if (!problem.empty()) all["problem"] = problem;
  all["cache_directory"] = convrt::core::cache_directory().string();
  all["environment"] = environment;
  all["notes"] = notes;
  return all;
}

std::string bytes(std::size_t count) {
  constexpr std::array<const char*, 5> units = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(count);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < units.size(); ++unit) value /= 1024;
  std::ostringstream text;
  text.precision(3);
  text << value << ' ' << units[unit];
  return text.str();
}

void print_device(const Json& d) {
  std::cout << '\n' << d["id"].get<std::string>() << ": " << d["name"].get<std::string>() << '\n';
  const bool cpu = d["id"] == "cpu";
  const auto line = [](const char* name, const std::string& value) {
    if (!value.empty()) std::cout << "  " << std::left << std::setw(20) << name << value << '\n';
  };
  line("architecture", d["arch"]);
  line(cpu ? "instruction sets" : "driver", d["driver"]);
  if (d["software"]) line("software", "yes: a GL driver that runs on the CPU");
  if (d["compute_units"] != 0) line(cpu ? "cores" : "compute units", std::to_string(d["compute_units"].get<int>()));
  for (const char* level : {"l1", "l2", "l3"}) {
    const std::size_t size = d[std::string(level) + "_bytes"];
    if (size != 0) line((std::string(1, 'L') + level[1] + " data cache").c_str(), bytes(size));
  }
  if (d["memory_bytes"] != 0) line("memory", bytes(d["memory_bytes"]));
  if (d.contains("probe"))
    for (const auto& [name, value] : d["probe"].items()) line(name.c_str(), value.get<std::string>());
  if (!cpu) line("shipped tuning", std::to_string(d["shipped_problems"].get<int>()) + " problems");
  if (d.contains("peak")) {
    std::ostringstream text;
    text << std::fixed << std::setprecision(2) << d["peak"]["tflops"].get<double>()
         << " TFLOP/s of multiply-adds, copy " << std::setprecision(3) << d["peak"]["copy_tbytes_per_s"].get<double>()
         << " TB/s";
    line("measured", text.str());
  }
  if (!d.contains("kernels")) return;
  std::cout << "  kernels, best guess first\n";
  for (const Json& kernel : d["kernels"]) std::cout << "    " << kernel.get<std::string>() << '\n';
}

void print(const Json& all) {
  std::cout << "convrt " << all["version"].get<std::string>() << '\n';
  if (all.contains("problem")) std::cout << "problem " << all["problem"].get<std::string>() << '\n';
  for (const Json& device : all["devices"]) print_device(device);
  const std::string cache = all["cache_directory"];
  std::cout << "\ncache directory: " << (cache.empty() ? "none (no home directory is set)" : cache)
            << "\n\nenvironment\n";
  for (const auto& [name, about] : kVariables) {
    const Json& value = all["environment"][name];
    std::cout << "  " << std::left << std::setw(20) << name
              << (value.is_null() ? "unset" : "\"" + value.get<std::string>() + "\"") << "  (" << about << ")\n";
  }
  if (!all["notes"].empty()) std::cout << "\nnotes while looking for devices\n";
  for (const Json& note : all["notes"]) std::cout << "  " << note.get<std::string>() << '\n';
}

Json collect_history() {
  Json records = Json::array();
  for (const convrt::core::HistoryRecord& r : convrt::core::history())
    records.push_back({{"device", r.device},
                       {"driver", r.driver},
                       {"problem", r.problem},
                       {"kernel", r.kernel},
                       {"runs", r.runs},
                       {"mean_ms", r.runs == 0 ? 0 : r.total_ms / static_cast<double>(r.runs)},
                       {"best_ms", r.best_ms},
                       {"enqueued", r.enqueued}});
  return records;
}

void print_history(const Json& records) {
  if (records.empty()) std::cout << "no runs on record: set CONVRT_HISTORY=1 where plans run\n";
  for (const Json& r : records)
    std::cout << r["device"].get<std::string>() << "  " << r["problem"].get<std::string>() << '\n'
              << "  " << std::left << std::setw(32) << r["kernel"].get<std::string>() << std::right << std::setw(10)
              << r["runs"].get<std::uint64_t>() << " runs, mean " << std::fixed << std::setprecision(3)
              << r["mean_ms"].get<double>() << " ms, best " << r["best_ms"].get<double>() << " ms; "
              << r["enqueued"].get<std::uint64_t>() << " enqueued\n";
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("What convrt sees on this machine: devices, kernels, files, environment.", "convrt_info");
  std::string problem;
  bool json = false, history = false, peaks = false;
  app.add_option("problem", problem, "A problem string, e.g. n1c64h56w56k64r3s3ph1pw1: also list its kernels");
  app.add_flag("--json", json, "The same as JSON");
  app.add_flag("--peaks", peaks, "Measure the GPUs' multiply-add peak and copy bandwidth, a second or two each");
  app.add_flag("--history", history,
               "Runs on record instead: kernels, counts and times by problem (see CONVRT_HISTORY)");
  CLI11_PARSE(app, argc, argv);
  try {
    const Json all = history ? collect_history() : collect(problem, peaks);
    if (json)
      std::cout << all.dump(1) << '\n';
    else if (history)
      print_history(all);
    else
      print(all);
  } catch (const std::exception& e) {
    std::cerr << "convrt_info: " << e.what() << '\n';
    return 1;
  }
  return 0;
}
