#include "results.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <ctime>

#include "convrt/device.hpp"
#include "convrt/version.h"
#include "peers/onednn.hpp"
#include "statistics.hpp"

namespace convrt::bench {
namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

std::string load_average() {
  std::array<double, 3> load{};
  if (getloadavg(load.data(), 3) != 3) return "unknown";
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.2f %.2f %.2f", load[0], load[1], load[2]);
  return text.data();
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

double Result::gflops() const {
  const double s = median(seconds);
  return s > 0 ? workload.desc.flops() / s * 1e-9 : 0;
}

double Result::best_gflops() const {
  return seconds.empty() ? 0 : workload.desc.flops() / *std::min_element(seconds.begin(), seconds.end()) * 1e-9;
}

double Result::spread() const {
  return seconds.empty() ? 0 : (quantile(seconds, 0.75) - quantile(seconds, 0.25)) / median(seconds);
}

double Result::device_gflops() const {
  const double s = device_clock ? 0 : median(device_seconds);
  return s > 0 ? workload.desc.flops() / s * 1e-9 : 0;
}

Environment environment() {
  const DeviceInfo cpu = find_device("cpu").info();
  utsname system{};
  uname(&system);
  return {{{"date", utc_now()},
           {"cpu", cpu.name},
           {"arch", cpu.arch},
           {"isa", cpu.driver},
           {"cores", std::to_string(cpu.compute_units)},
           {"l1_bytes", std::to_string(cpu.l1_bytes)},
           {"l2_bytes", std::to_string(cpu.l2_bytes)},
           {"l3_bytes", std::to_string(cpu.l3_bytes)},
           {"memory_bytes", std::to_string(cpu.memory_bytes)},
           {"system", std::string(system.sysname) + " " + system.release + " " + system.machine},
           {"load_average", load_average()},
           {"compiler", CONVRT_BENCH_COMPILER},
           {"flags", CONVRT_BENCH_FLAGS},
           {"version", CONVRT_VERSION_STRING},
           {"commit", CONVRT_BENCH_COMMIT},
           {"onednn", onednn_version()},
           {"OMP_NUM_THREADS", variable("OMP_NUM_THREADS")},
           {"OMP_WAIT_POLICY", variable("OMP_WAIT_POLICY")},
           {"CONVRT_KERNEL", variable("CONVRT_KERNEL")}}};
}

double Session::peak_gflops(int threads) const {
  double best = 0;
  for (const Peak& peak : peaks)
    if (peak.threads == threads) best = std::max(best, peak.gflops);
  return best;
}

double Session::percent_of_peak(const Result& r) const {
  double peak = r.device == "cpu" ? peak_gflops(r.threads) : 0;
  for (const DevicePeaks& p : device_peaks)
    if (p.device == r.device) peak = p.gflops;
  return peak > 0 ? 100 * r.gflops() / peak : 0;
}

double Session::percent_of_copy(const Result& r) const {
  for (const DevicePeaks& p : device_peaks)
    if (p.device == r.device && p.copy_gbytes_per_s > 0 && !r.seconds.empty())
      return 100 * compulsory_bytes(r.workload.desc) * 1e-9 / median(r.seconds) / p.copy_gbytes_per_s;
  return 0;
}

double compulsory_bytes(const Conv2dDesc& d) {
  return static_cast<double>(d.src_size() + d.weights_size() + d.dst_size()) * sizeof(float);
}

const Result* Session::find(const std::string& layer, const std::string& contender, Layout layout, int threads) const {
  for (const Result& r : results)
    if (r.workload.name == layer && r.contender == contender && r.layout == layout && r.threads == threads) return &r;
  return nullptr;
}

}  // namespace convrt::bench
