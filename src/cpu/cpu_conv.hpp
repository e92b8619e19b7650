/// \file
/// A prepared CPU convolution: an algorithm's four functions with threads, scratch and the device's queue around them.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "core/worker.hpp"
#include "cpu/algorithm.hpp"

namespace convrt::cpu {

/// Scratch blocks shared by all plans of the device: a run leases one, so `run` allocates only when more runs are in
/// flight at once than ever before.
class ScratchPool {
 public:
  void reserve(std::size_t floats);  ///< makes sure that one free block of this size exists
  AlignedFloats take(std::size_t floats);
  void give_back(AlignedFloats block);

 private:
  std::mutex mutex_;
  std::vector<AlignedFloats> free_;
};

/// Threads in use by all runs of the process: a run gets what is left of the cores, at least one thread. So many
/// callers at once do not oversubscribe the machine.
class ThreadBudget {
 public:
  explicit ThreadBudget(int cores) : cores_(cores) {}
  int take(int wanted);
  void give_back(int threads) { used_ -= threads; }

 private:
  int cores_;
  std::atomic<int> used_ = 0;
};

/// What the plans of one CPU device share.
struct CpuState {
  explicit CpuState(int cores) : threads(cores) {}
  ScratchPool scratch;
  ThreadBudget threads;
  core::Worker queue;  // last: its thread ends before the pools go
};

struct PackedWeights {
  AlignedFloats weights, bias;
};

class CpuConv final : public core::PreparedConv, public std::enable_shared_from_this<CpuConv> {
 public:
  CpuConv(CpuState& state, const Algorithm& algorithm, Variant variant, const core::PrepareRequest& request);
  /// The same weights at another source size.
  CpuConv(const CpuConv& other, const Conv2dDesc& desc);

  RunStats run(std::span<const float> src, std::span<float> dst) const override;
  void enqueue(const std::shared_ptr<core::BackendBuffer>& src,
               const std::shared_ptr<core::BackendBuffer>& dst) const override;
  std::shared_ptr<const core::PreparedConv> reshaped(const Conv2dDesc& desc) const override;
  std::size_t workspace_bytes() const override;
  std::size_t packed_bytes() const override { return packed_->weights.size() * sizeof(float); }

 private:
  std::size_t scratch_floats() const;

  CpuState& state_;
  const Algorithm& algorithm_;
  Variant variant_;
  Conv2dDesc desc_;
  int threads_;
  std::shared_ptr<const PackedWeights> packed_;
};

/// A buffer of the CPU device: plain host memory.
class HostBuffer final : public core::BackendBuffer {
 public:
  HostBuffer(const core::Backend* device, core::Worker& queue, std::size_t floats)
      : device_(device), queue_(queue), storage_(floats) {}
  const core::Backend* device() const override { return device_; }
  std::size_t size() const override { return storage_.size(); }
  void upload(std::span<const float> from) override;
  void download(std::span<float> to) override;
  std::span<float> data() const { return {storage_.data(), storage_.size()}; }

 private:
  const core::Backend* device_;
  core::Worker& queue_;
  AlignedFloats storage_;
};

}  // namespace convrt::cpu
