#include "core/select.hpp"

#include <cstdlib>

#include "core/fail.hpp"
#include "core/log.hpp"

namespace convrt::core {
namespace {

std::string joined(const std::vector<std::string>& kernels) {
  std::string text;
  for (const std::string& k : kernels) text.append(text.empty() ? "" : ", ").append(k);
  return text;
}

}  // namespace

bool allowed(const std::string& kernel, Accuracy accuracy) {
  return accuracy == Accuracy::normal || kernel.find("winograd") == std::string::npos;
}

bool names(std::string_view prefix, std::string_view kernel) {
  return kernel.substr(0, prefix.size()) == prefix && (kernel.size() == prefix.size() || kernel[prefix.size()] == '.');
}

std::string select_kernel(Backend& backend, const Conv2dDesc& desc, const PlanOptions& options) {
  const std::vector<std::string> kernels = backend.kernels(desc, options.threads);

  std::string wanted = options.kernel, asker = "PlanOptions::kernel";
  if (wanted.empty()) {
    const char* forced = std::getenv("CONVRT_KERNEL");
    if (forced != nullptr && *forced != '\0' && names(backend.family(), forced)) {
      wanted = forced;
      asker = "CONVRT_KERNEL";
    }
  }
  if (!wanted.empty()) {
    for (const std::string& kernel : kernels) {
      if (!names(wanted, kernel)) continue;
      if (allowed(kernel, options.accuracy)) return kernel;
      if (kernel == wanted)
        fail(ErrorCode::unsupported, asker, " \"", wanted, "\" is a Winograd kernel, which Accuracy::strict excludes");
    }
    fail(ErrorCode::invalid_argument, asker, " \"", wanted, "\" names no kernel of device ", backend.info().id, " for ",
         desc.str(), "; it has: ", joined(kernels));
  }

  for (const std::string& kernel : kernels)
    if (allowed(kernel, options.accuracy)) return kernel;
  fail(ErrorCode::unsupported, "device ", backend.info().id, " has no kernel for ", desc.str());
}

}  // namespace convrt::core
