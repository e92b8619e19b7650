#include "cpu/cpu_conv.hpp"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace convrt::cpu {

void ScratchPool::reserve(std::size_t floats) {
  if (floats != 0) give_back(take(floats));
}

AlignedFloats ScratchPool::take(std::size_t floats) {
  {
    const std::scoped_lock lock(mutex_);
    for (AlignedFloats& block : free_)
      if (block.size() >= floats) {
        std::swap(block, free_.back());
        AlignedFloats found = std::move(free_.back());
        free_.pop_back();
        return found;
      }
    if (!free_.empty()) free_.pop_back();  // too small: replaced by the larger one, so the pool does not grow
  }
  return AlignedFloats(floats);
}

void ScratchPool::give_back(AlignedFloats block) {
  const std::scoped_lock lock(mutex_);
  free_.push_back(std::move(block));
}

int ThreadBudget::take(int wanted) {
  if (omp_in_parallel() != 0) wanted = 1;
  const int limit = std::max(cores_, wanted);  // asking for more threads than cores is the caller's right, once
  int used = used_.load();
  for (;;) {
    const int granted = std::clamp(limit - used, 1, wanted);
    if (used_.compare_exchange_weak(used, used + granted)) return granted;
  }
}

CpuConv::CpuConv(CpuState& state, const Algorithm& algorithm, Variant variant, const core::PrepareRequest& request)
    : state_(state),
      algorithm_(algorithm),
      variant_(std::move(variant)),
      desc_(request.desc),
      threads_(request.threads > 0 ? request.threads : cpu_info().cores) {
  auto packed = std::make_shared<PackedWeights>();
  const int granted = state_.threads.take(threads_);
  try {
    packed->weights = algorithm_.pack(desc_, variant_, request.weights, granted);
    packed->bias = AlignedFloats(static_cast<std::size_t>(desc_.k));
  } catch (...) {
    state_.threads.give_back(granted);
    throw;
  }
  state_.threads.give_back(granted);
  if (request.bias.empty())
    std::fill_n(packed->bias.data(), desc_.k, 0.0F);
  else
    std::copy(request.bias.begin(), request.bias.end(), packed->bias.data());
  packed_ = std::move(packed);
  state_.scratch.reserve(scratch_floats());
}

CpuConv::CpuConv(const CpuConv& other, const Conv2dDesc& desc)
    : std::enable_shared_from_this<CpuConv>(),
      state_(other.state_),
      algorithm_(other.algorithm_),
      variant_(other.variant_),
      desc_(desc),
      threads_(other.threads_),
      packed_(other.packed_) {
  state_.scratch.reserve(scratch_floats());
}

std::size_t CpuConv::scratch_floats() const {
  return desc_.n == 0 ? 0 : algorithm_.scratch_floats(desc_, variant_, threads_);
}

std::size_t CpuConv::workspace_bytes() const { return scratch_floats() * sizeof(float); }

RunStats CpuConv::run(std::span<const float> src, std::span<float> dst) const {
  const auto start = std::chrono::steady_clock::now();
  AlignedFloats scratch = state_.scratch.take(scratch_floats());
  const int granted = state_.threads.take(threads_);
  algorithm_.execute({desc_, variant_, packed_->weights.data(), packed_->bias.data(), src.data(), dst.data(),
                      scratch.data(), granted});
  state_.threads.give_back(granted);
  state_.scratch.give_back(std::move(scratch));
  const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return {ms, ms};
}

void CpuConv::enqueue(const std::shared_ptr<core::BackendBuffer>& src,
                      const std::shared_ptr<core::BackendBuffer>& dst) const {
  state_.queue.post([self = shared_from_this(), src, dst] {
    self->run(static_cast<const HostBuffer&>(*src).data(), static_cast<const HostBuffer&>(*dst).data());
  });
}

std::shared_ptr<const core::PreparedConv> CpuConv::reshaped(const Conv2dDesc& desc) const {
  return std::make_shared<CpuConv>(*this, desc);
}

void HostBuffer::upload(std::span<const float> from) {
  queue_.synchronize();
  std::copy(from.begin(), from.end(), storage_.data());
}

void HostBuffer::download(std::span<float> to) {
  queue_.synchronize();
  std::copy_n(storage_.data(), to.size(), to.begin());
}

}  // namespace convrt::cpu
