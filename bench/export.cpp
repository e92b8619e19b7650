#include "export.hpp"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/fail.hpp"
#include "report.hpp"
#include "statistics.hpp"

namespace convrt::bench {
namespace {

using Json = nlohmann::ordered_json;

const char* to_string(Layout layout) { return layout == Layout::nhwc ? "nhwc" : "nchw"; }

// Four significant digits: what a measured time is good for.
double rounded(double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  const double scale = std::pow(10.0, 3 - std::floor(std::log10(std::abs(value))));
  return std::round(value * scale) / scale;
}

Json result_json(const Session& session, const Result& r) {
  Conv2dDesc desc = r.workload.desc;
  desc.layout = r.layout;
  Json out = {{"layer", r.workload.name},
              {"class", class_of(desc)},
              {"problem", desc.str()},
              {"table", r.table},
              {"contender", r.contender},
              {"kernel", r.kernel},
              {"device", r.device},
              {"layout", to_string(r.layout)},
              {"threads", r.threads},
              {"peer", r.peer},
              {"gflop", rounded(desc.flops() * 1e-9)},
              {"bytes", compulsory_bytes(desc)},
              {"checked_outputs", r.checked.checked},
              {"worst_error", rounded(r.checked.error)}};
  if (!r.error.empty()) {
    out["error"] = r.error;
    return out;
  }
  out["gflops"] = rounded(r.gflops());
  out["gflops_best"] = rounded(r.best_gflops());
  out["spread"] = rounded(r.spread());
  out["percent_of_peak"] = rounded(session.percent_of_peak(r));
  out["ms"] = rounded(1e3 * median(r.seconds));
  out["samples"] = r.seconds.size();
  out["iterations"] = r.iterations;
  if (r.device != "cpu") {
    out["clock"] = r.device_clock ? "gpu" : "wall";
    out["percent_of_copy"] = rounded(session.percent_of_copy(r));
    out["tensor_sets"] = r.sets;
    if (!r.device_clock) out["device_gflops"] = rounded(r.device_gflops());
  }
  return out;
}

// RFC 4180: quoted where a comma, a quote or a line break stands inside.
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted.append(c == '"' ? "\"\"" : std::string(1, c));
  return quoted + '"';
}

}  // namespace

std::string to_json(const Session& session) {
  Json environment = Json::object(), peaks = Json::array(), bandwidths_json = Json::array(), results = Json::array(),
       comparisons = Json::array(), device_peaks = Json::array();
  for (const auto& [key, value] : session.environment.fields) environment[key] = value;
  for (const Peak& p : session.peaks)
    peaks.push_back({{"isa", p.isa},
                     {"threads", p.threads},
                     {"gflops", rounded(p.gflops)},
                     {"spread", rounded(p.spread)},
                     {"samples", p.samples}});
  for (const auto& [threads, levels] : session.bandwidths)
    for (const Bandwidth& b : levels)
      bandwidths_json.push_back({{"threads", threads}, {"level", b.level}, {"gbytes_per_s", rounded(b.gbytes_per_s)}});
  for (const DevicePeaks& p : session.device_peaks)
    device_peaks.push_back({{"device", p.device},
                            {"name", p.name},
                            {"gflops", rounded(p.gflops)},
                            {"copy_gbytes_per_s", rounded(p.copy_gbytes_per_s)}});
  for (const Result& r : session.results) results.push_back(result_json(session, r));
  for (const Comparison& c : compare(session))
    comparisons.push_back({{"what", c.what},
                           {"threads", c.threads},
                           {"ratio", rounded(c.ratio)},
                           {"goal", c.goal},
                           {"layers", c.layers},
                           {"weakest", c.weakest},
                           {"weakest_ratio", rounded(c.weakest_ratio)}});
  const Json all = {{"format", "convrt_bench 1"},    {"environment", environment},
                    {"suites", session.suites},      {"peaks", peaks},
                    {"bandwidths", bandwidths_json}, {"device_peaks", device_peaks},
                    {"comparisons", comparisons},    {"results", results}};
  return all.dump(1) + "\n";
}

std::string to_csv(const Session& session) {
  std::ostringstream out;
  for (const auto& [key, value] : session.environment.fields) out << "# " << key << ": " << value << '\n';
  for (const Peak& p : session.peaks)
    out << "# fma_peak_gflops " << p.isa << ' ' << p.threads << " threads: " << p.gflops << '\n';
  for (const DevicePeaks& p : session.device_peaks)
    out << "# peaks of " << p.device << ": " << p.gflops << " GFLOP/s, copy " << p.copy_gbytes_per_s << " GB/s\n";
  out << "layer,class,problem,contender,kernel,device,layout,threads,gflop,gflops,gflops_best,spread,percent_of_peak,"
         "ms,"
         "samples,iterations,checked_outputs,worst_error,device_gflops,clock,percent_of_copy,error\n";
  out.precision(4);
  for (const Result& r : session.results) {
    Conv2dDesc desc = r.workload.desc;
    desc.layout = r.layout;
    out << csv_field(r.workload.name) << ',' << class_of(desc) << ',' << csv_field(desc.str()) << ','
        << csv_field(r.contender) << ',' << csv_field(r.kernel) << ',' << r.device << ',' << to_string(r.layout) << ','
        << r.threads << ',' << desc.flops() * 1e-9 << ',' << r.gflops() << ',' << r.best_gflops() << ',' << r.spread()
        << ',' << session.percent_of_peak(r) << ',' << 1e3 * median(r.seconds) << ',' << r.seconds.size() << ','
        << r.iterations << ',' << r.checked.checked << ',' << r.checked.error << ',' << r.device_gflops() << ','
        << (r.device_clock ? "gpu," : "host,") << session.percent_of_copy(r) << ',' << csv_field(r.error) << '\n';
  }
  return out.str();
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) core::fail(ErrorCode::io_error, "could not write ", path, ": check that its folder exists and has room");
}

}  // namespace convrt::bench
