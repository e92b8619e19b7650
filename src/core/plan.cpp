#include "convrt/plan.hpp"

#include <utility>

#include "core/access.hpp"
#include "core/backend.hpp"
#include "core/fail.hpp"
#include "core/history.hpp"
#include "core/log.hpp"
#include "core/overlap.hpp"
#include "core/select.hpp"
#include "core/validate.hpp"

namespace convrt {

struct Conv2dPlan::Impl {
  Device device;
  Conv2dDesc desc;
  std::string kernel;
  std::shared_ptr<const core::PreparedConv> prepared;
  std::shared_ptr<const core::Validation> validation;  ///< or nullptr
  std::unique_ptr<core::PlanHistory> history;          ///< or nullptr

  Impl(Device d, const Conv2dDesc& problem, std::string name, std::shared_ptr<const core::PreparedConv> conv,
       std::shared_ptr<const core::Validation> checks)
      : device(std::move(d)),
        desc(problem),
        kernel(std::move(name)),
        prepared(std::move(conv)),
        validation(std::move(checks)),
        history(core::PlanHistory::open(*core::Access::backend(device), desc, kernel)) {}
};

namespace {

void expect_length(const Conv2dDesc& desc, const char* what, std::size_t expected, std::size_t found) {
  if (expected != found)
    core::fail(ErrorCode::invalid_argument, "convolution ", desc.str(), ": ", what, " must hold ", expected,
               " floats, found ", found);
}

// The first of `kernels` that the device can make: that a driver does not compile a shader, or that a problem is too
// large for one of them, is an ordinary answer as long as another kernel is left.
std::pair<std::string, std::shared_ptr<const core::PreparedConv>> prepare_first(core::Backend& backend,
                                                                                const std::vector<std::string>& kernels,
                                                                                core::PrepareRequest request) {
  for (std::size_t i = 0;; ++i) {
    request.kernel = kernels[i];
    try {
      return {kernels[i], backend.prepare(request)};
    } catch (const Error& e) {
      const bool ordinary = e.code() == ErrorCode::compile_failed || e.code() == ErrorCode::unsupported;
      if (!ordinary || i + 1 == kernels.size()) throw;
      core::log(LogLevel::warning, "plan ", request.desc.str(), " on ", backend.info().id, ": ", kernels[i],
                " left out: ", e.what());
    }
  }
}

}  // namespace

Conv2dPlan::Conv2dPlan(std::shared_ptr<const Impl> impl) noexcept : impl_(std::move(impl)) {}

Conv2dPlan::Conv2dPlan(const Device& device, const Conv2dDesc& desc, std::span<const float> weights,
                       std::span<const float> bias, const PlanOptions& options) {
  desc.validate();
  expect_length(desc, "weights (KCRS)", desc.weights_size(), weights.size());
  if (!bias.empty()) expect_length(desc, "bias", static_cast<std::size_t>(desc.k), bias.size());
  if (options.threads < 0)
    core::fail(ErrorCode::invalid_argument, "PlanOptions::threads must be 0 (all cores) or more, found ",
               options.threads);
  core::Backend& backend = *core::Access::backend(device);
  const std::vector<std::string> kernels = core::select_kernels(backend, desc, options);
  auto [kernel, prepared] =
      prepare_first(backend, kernels, {desc, {}, weights, bias, options.threads, options.batch_invariant});
  core::log(LogLevel::info, "plan ", desc.str(), " on ", backend.info().id, ": ", kernel);
  impl_ = std::make_shared<const Impl>(device, desc, std::move(kernel), std::move(prepared),
                                       core::Validation::open(weights, bias));
}

RunStats Conv2dPlan::run(std::span<const float> src, std::span<float> dst) const {
  expect_length(desc(), "src", desc().src_size(), src.size());
  expect_length(desc(), "dst", desc().dst_size(), dst.size());
  if (dst.empty()) return {};
  if (core::overlap(src, dst))
    core::fail(ErrorCode::invalid_argument, "convolution ", desc().str(), ": src and dst must not overlap");
  const Impl& self = *impl_;
  const RunStats stats = self.validation ? self.validation->run(*self.prepared, desc(), self.kernel, src, dst)
                                         : self.prepared->run(src, dst);
  if (self.history) self.history->count(stats.device_ms);
  return stats;
}

void Conv2dPlan::enqueue(const Buffer& src, Buffer& dst) const {
  expect_length(desc(), "src buffer", desc().src_size(), src.size());
  expect_length(desc(), "dst buffer", desc().dst_size(), dst.size());
  if (dst.size() == 0) return;
  const auto& from = core::Access::buffer(src);
  const auto& to = core::Access::buffer(dst);
  if (from == to)
    core::fail(ErrorCode::invalid_argument, "convolution ", desc().str(), ": src and dst must be different buffers");
  for (const auto* buffer : {from.get(), to.get()})
    if (buffer->device() != core::Access::backend(impl_->device).get())
      core::fail(ErrorCode::invalid_argument, "convolution ", desc().str(), ": this plan is on device ",
                 impl_->device.info().id, ", but a buffer was allocated on ", buffer->device()->info().id);
  if (impl_->validation)
    impl_->validation->enqueue(*impl_->prepared, desc(), impl_->kernel, from, to);
  else
    impl_->prepared->enqueue(from, to);
  if (impl_->history) impl_->history->count_enqueue();
}

Conv2dPlan Conv2dPlan::reshaped(int n, int h, int w) const {
  Conv2dDesc next = desc();
  next.n = n;
  next.h = h;
  next.w = w;
  next.validate();
  return Conv2dPlan(std::make_shared<const Impl>(impl_->device, next, impl_->kernel, impl_->prepared->reshaped(next),
                                                 impl_->validation));
}

const Conv2dDesc& Conv2dPlan::desc() const { return impl_->desc; }
const Device& Conv2dPlan::device() const { return impl_->device; }
std::string Conv2dPlan::kernel() const { return impl_->kernel; }
std::size_t Conv2dPlan::workspace_bytes() const { return impl_->prepared->workspace_bytes(); }

const std::shared_ptr<const core::PreparedConv>& core::Access::prepared(const Conv2dPlan& plan) {
  return plan.impl_->prepared;
}

bool core::Access::validated(const Conv2dPlan& plan) { return plan.impl_->validation != nullptr; }

void core::Access::count(const Conv2dPlan& plan, double device_ms) noexcept {
  if (plan.impl_->history) plan.impl_->history->count(device_ms);
}

}  // namespace convrt
