#include "core/select.hpp"

#include <algorithm>
#include <cstdlib>

#include "core/fail.hpp"
#include "core/tune_cache.hpp"
#include "core/tune_problem.hpp"

namespace convrt::core {
namespace {

std::string joined(const std::vector<std::string>& kernels) {
  std::string text;
  for (const std::string& k : kernels) text.append(text.empty() ? "" : ", ").append(k);
  return text;
}

// The backend's kernels: those that tuning measured first, as it ranked them, then those of the shipped results, then
// the backend's own order; what tuning rejected after the reference.
std::vector<std::string> best_first(Backend& backend, const Conv2dDesc& desc, const PlanOptions& options, bool choose) {
  std::vector<std::string> kernels = backend.kernels(desc, options.threads);
  if (options.tune == Tune::off) return kernels;

  std::vector<std::string> tuned, rejected;
  const auto sort_in = [&](const std::vector<TuneResult>& results) {
    for (const TuneResult& r : results) (r.rejected.empty() ? tuned : rejected).push_back(r.kernel);
  };
  if (options.tune == Tune::measure && choose && desc.n > 0) {
    TuneReport report = tune_problem(backend, desc, options.threads, {});
    std::erase_if(report.results, [](const TuneResult& r) { return r.rejected == "over budget"; });
    sort_in(report.results);
  } else {
    sort_in(user_tune_cache().find(tune_key(backend, desc, options.threads)));
  }
  for (std::string& kernel : shipped_kernels(backend.shipped_tuning(), desc))
    if (std::find(tuned.begin(), tuned.end(), kernel) == tuned.end()) tuned.push_back(std::move(kernel));

  const auto place = [&](const std::string& kernel) {
    const auto at = std::find(tuned.begin(), tuned.end(), kernel);
    const bool bad = std::find(rejected.begin(), rejected.end(), kernel) != rejected.end();
    return bad ? tuned.size() + 1 : static_cast<std::size_t>(at - tuned.begin());
  };
  std::stable_sort(kernels.begin(), kernels.end(),
                   [&](const std::string& a, const std::string& b) { return place(a) < place(b); });
  return kernels;
}

// What CONVRT_KERNEL asks of this backend; empty where it asks nothing, or something of the other one.
std::string forced_kernel(const Backend& backend) {
  const char* variable = std::getenv("CONVRT_KERNEL");
  if (variable == nullptr || *variable == '\0') return {};
  if (names(backend.family(), variable)) return variable;
  if (names("cpu", variable) || names("gl", variable)) return {};
  fail(ErrorCode::invalid_argument, "CONVRT_KERNEL \"", variable,
       "\" names no kernel; expected a kernel or leading components of one, starting with cpu or gl");
}

}  // namespace

bool allowed(const std::string& kernel, Accuracy accuracy) {
  return accuracy == Accuracy::normal || kernel.find("winograd") == std::string::npos;
}

bool names(std::string_view prefix, std::string_view kernel) {
  return kernel.substr(0, prefix.size()) == prefix && (kernel.size() == prefix.size() || kernel[prefix.size()] == '.');
}

std::vector<std::string> select_kernels(Backend& backend, const Conv2dDesc& desc, const PlanOptions& options) {
  std::string wanted = options.kernel, asker = "PlanOptions::kernel";
  if (wanted.empty()) {
    wanted = forced_kernel(backend);
    asker = "CONVRT_KERNEL";
  }
  const std::vector<std::string> kernels = best_first(backend, desc, options, wanted.empty());
  std::vector<std::string> selected;
  for (const std::string& kernel : kernels) {
    if (!wanted.empty() && !names(wanted, kernel)) continue;
    if (allowed(kernel, options.accuracy))
      selected.push_back(kernel);
    else if (kernel == wanted)
      fail(ErrorCode::unsupported, asker, " \"", wanted, "\" is a Winograd kernel, which Accuracy::strict excludes");
  }
  if (!selected.empty()) return selected;
  if (!wanted.empty())
    fail(ErrorCode::invalid_argument, asker, " \"", wanted, "\" names no kernel of device ", backend.info().id, " for ",
         desc.str(), "; it has: ", joined(kernels));
  fail(ErrorCode::unsupported, "device ", backend.info().id, " has no kernel for ", desc.str());
}

}  // namespace convrt::core
