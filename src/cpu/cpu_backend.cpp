// The CPU device and the ordered list of its algorithms.
#include <algorithm>
#include <utility>

#include "core/backend.hpp"
#include "core/fail.hpp"
#include "cpu/cpu_conv.hpp"

namespace convrt::cpu {
namespace {

// A new algorithm is one file and one row here. Among equals in predicted cost the earlier row wins.
constexpr const Algorithm* kAlgorithms[] = {&depthwise, &direct, &winograd, &gemm, &reference};

struct Choice {
  const Algorithm* algorithm;
  Variant variant;
};

std::vector<Choice> choices(const Conv2dDesc& problem, int threads) {
  Conv2dDesc desc = problem;
  desc.n = std::max(desc.n, 1);  // no images rank like one, so algorithms may divide by their number of tasks
  const CpuInfo& info = cpu_info();
  if (threads == 0) threads = info.cores;
  std::vector<Choice> found;
  for (const Algorithm* algorithm : kAlgorithms)
    for (Variant& variant : algorithm->variants(desc, info, threads)) found.push_back({algorithm, std::move(variant)});
  std::stable_sort(found.begin(), found.end(),
                   [](const Choice& a, const Choice& b) { return a.variant.cost_ms < b.variant.cost_ms; });
  return found;
}

class CpuBackend final : public core::Backend {
 public:
  CpuBackend() : state_(cpu_info().cores) {
    const CpuInfo& cpu = cpu_info();
    info_.id = "cpu";
    info_.name = cpu.name;
    info_.arch = cpu.arch;
    for (const Isa isa : cpu.isas) info_.driver.append(info_.driver.empty() ? "" : " ").append(to_string(isa));
    info_.memory_bytes = cpu.memory_bytes;
    info_.compute_units = cpu.cores;
    info_.l1_bytes = cpu.l1_bytes;
    info_.l2_bytes = cpu.l2_bytes;
    info_.l3_bytes = cpu.l3_bytes;
  }

  const DeviceInfo& info() const override { return info_; }

  std::vector<std::string> kernels(const Conv2dDesc& desc, int threads) const override {
    std::vector<std::string> names;
    for (Choice& choice : choices(desc, threads)) names.push_back(std::move(choice.variant.name));
    return names;
  }

  std::shared_ptr<const core::PreparedConv> prepare(const core::PrepareRequest& request) override {
    for (Choice& choice : choices(request.desc, request.threads))
      if (choice.variant.name == request.kernel)
        return std::make_shared<CpuConv>(state_, *choice.algorithm, std::move(choice.variant), request);
    core::fail(ErrorCode::internal, "kernel ", request.kernel, " was selected for ", request.desc.str(),
               " but is not in the CPU's list");
  }

  std::shared_ptr<core::BackendBuffer> allocate(std::size_t floats) override {
    return std::make_shared<HostBuffer>(this, state_.queue, floats);
  }
  void synchronize() override { state_.queue.synchronize(); }
  bool host_memory() const override { return true; }

 private:
  DeviceInfo info_;
  CpuState state_;
};

}  // namespace
}  // namespace convrt::cpu

namespace convrt::core {

std::vector<std::shared_ptr<Backend>> probe_cpu() { return {std::make_shared<cpu::CpuBackend>()}; }

}  // namespace convrt::core
