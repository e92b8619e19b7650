#include "core/validate.hpp"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/fail.hpp"
#include "core/verify.hpp"

namespace convrt::core {

std::shared_ptr<const Validation> Validation::open(std::span<const float> weights, std::span<const float> bias) {
  const char* wish = std::getenv("CONVRT_VALIDATE");
  if (wish == nullptr || *wish == '\0' || std::string_view(wish) == "0") return nullptr;
  return std::make_shared<const Validation>(weights, bias);
}

RunStats Validation::run(const PreparedConv& conv, const Conv2dDesc& desc, const std::string& kernel,
                         std::span<const float> src, std::span<float> dst) const {
  std::vector<float> before;
  if (desc.accumulate) before.assign(dst.begin(), dst.end());
  const RunStats stats = conv.run(src, dst);
  check(desc, kernel, src, before, dst);
  return stats;
}

void Validation::enqueue(const PreparedConv& conv, const Conv2dDesc& desc, const std::string& kernel,
                         const std::shared_ptr<BackendBuffer>& src, const std::shared_ptr<BackendBuffer>& dst) const {
  std::vector<float> from(src->size()), before(desc.accumulate ? dst->size() : 0), to(dst->size());
  src->download(from);
  if (desc.accumulate) dst->download(before);
  conv.enqueue(src, dst);
  dst->download(to);
  check(desc, kernel, from, before, to);
}

void Validation::check(const Conv2dDesc& desc, const std::string& kernel, std::span<const float> src,
                       std::span<const float> before, std::span<const float> dst) const {
  // Every run checks other elements.
  static std::atomic<std::uint64_t> seed = 1;
  const VerifyResult result = verify({desc, kernel, weights_, bias_, src, before}, dst, samples_for(desc, 1e6), seed++);
  if (!result.ok())
    fail(ErrorCode::internal, "CONVRT_VALIDATE: kernel ", kernel, " computed ", desc.str(), " wrongly: ", result.str(),
         "; PlanOptions::kernel or CONVRT_KERNEL chooses another kernel");
}

}  // namespace convrt::core
