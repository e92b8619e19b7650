/// \file
/// A device for tests: computes right results with cpu.reference behind the backend contract, and fails, lies, blocks
/// or takes its time on command.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/access.hpp"
#include "core/backend.hpp"
#include "core/worker.hpp"

namespace convrt::test {

/// A door that runs wait at until it is opened.
class Gate {
 public:
  void open() {
    const std::scoped_lock lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  void await_visitor() {  ///< until somebody stands at the door
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_ > 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int waiting_ = 0;
};

/// What one kernel of a fake device does. Functions may be empty; they are called from the thread that runs.
struct FakeKernel {
  std::string name = {};
  std::function<void()> on_prepare = {};
  std::function<void(int run)> before_run = {};                    ///< run: 0, 1, ... of this kernel; throw to fail
  std::function<void(std::span<float> dst)> after_run = {};        ///< falsify the result here
  std::chrono::microseconds delay = std::chrono::microseconds(0);  ///< every run takes this much longer
};

class FakeBackend : public core::Backend, public std::enable_shared_from_this<FakeBackend> {
 public:
  FakeBackend(std::string id, std::vector<FakeKernel> kernels, bool host_memory = true)
      : kernels_(std::move(kernels)), counts_(kernels_.size()), host_memory_(host_memory) {
    info_.id = std::move(id);
    info_.name = "fake device";
    info_.arch = "fake";
    info_.driver = "1.0";
  }

  const DeviceInfo& info() const override { return info_; }
  std::vector<std::string> kernels(const Conv2dDesc&, int) const override {
    std::vector<std::string> names;
    for (const FakeKernel& k : kernels_) names.push_back(k.name);
    return names;
  }
  std::shared_ptr<const core::PreparedConv> prepare(const core::PrepareRequest& request) override;
  std::shared_ptr<core::BackendBuffer> allocate(std::size_t floats) override;
  void synchronize() override { queue_.synchronize(); }
  bool host_memory() const override { return host_memory_; }

  std::string shipped_tuning() const override { return shipped_; }
  void ship(std::string tuning) { shipped_ = std::move(tuning); }

  int runs(std::size_t kernel = 0) const { return counts_[kernel]; }
  Device device() { return core::Access::device(shared_from_this()); }

 private:
  class Conv;
  class Memory;

  DeviceInfo info_;
  std::vector<FakeKernel> kernels_;
  mutable std::vector<std::atomic<int>> counts_;
  bool host_memory_;
  std::string shipped_;
  core::Worker queue_;
};

class FakeBackend::Memory final : public core::BackendBuffer {
 public:
  Memory(FakeBackend* device, std::size_t floats) : device_(device), storage(floats) {}
  const core::Backend* device() const override { return device_; }
  std::size_t size() const override { return storage.size(); }
  void upload(std::span<const float> from) override {
    device_->queue_.synchronize();
    std::copy(from.begin(), from.end(), storage.begin());
  }
  void download(std::span<float> to) override {
    device_->queue_.synchronize();
    std::copy(storage.begin(), storage.end(), to.begin());
  }

 private:
  FakeBackend* device_;

 public:
  std::vector<float> storage;
};

class FakeBackend::Conv final : public core::PreparedConv, public std::enable_shared_from_this<Conv> {
 public:
  Conv(const FakeBackend* device, std::size_t kernel, std::shared_ptr<const core::PreparedConv> real)
      : device_(device), kernel_(kernel), real_(std::move(real)) {}
  RunStats run(std::span<const float> src, std::span<float> dst) const override {
    const FakeKernel& k = device_->kernels_[kernel_];
    const auto start = std::chrono::steady_clock::now();
    const int number = device_->counts_[kernel_]++;
    if (k.before_run) k.before_run(number);
    real_->run(src, dst);
    if (k.delay.count() > 0) std::this_thread::sleep_for(k.delay);
    if (k.after_run) k.after_run(dst);
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    return {ms, ms};
  }
  void enqueue(const std::shared_ptr<core::BackendBuffer>& src,
               const std::shared_ptr<core::BackendBuffer>& dst) const override {
    const_cast<FakeBackend*>(device_)->queue_.post([self = shared_from_this(), src, dst] {
      self->run(static_cast<const Memory&>(*src).storage, static_cast<Memory&>(*dst).storage);
    });
  }
  std::shared_ptr<const core::PreparedConv> reshaped(const Conv2dDesc& desc) const override {
    return std::make_shared<Conv>(device_, kernel_, real_->reshaped(desc));
  }
  std::size_t workspace_bytes() const override { return 0; }
  std::size_t packed_bytes() const override { return 0; }

 private:
  const FakeBackend* device_;
  std::size_t kernel_;
  std::shared_ptr<const core::PreparedConv> real_;
};

inline std::shared_ptr<const core::PreparedConv> FakeBackend::prepare(const core::PrepareRequest& request) {
  std::size_t at = 0;
  while (kernels_.at(at).name != request.kernel) ++at;
  if (kernels_[at].on_prepare) kernels_[at].on_prepare();
  core::PrepareRequest real = request;
  real.kernel = "cpu.reference";
  real.threads = 1;
  return std::make_shared<Conv>(this, at, core::all_backends().front()->prepare(real));
}

inline std::shared_ptr<core::BackendBuffer> FakeBackend::allocate(std::size_t floats) {
  return std::make_shared<Memory>(this, floats);
}

inline std::shared_ptr<FakeBackend> fake(std::string id, FakeKernel kernel = {}, bool host_memory = true) {
  if (kernel.name.empty()) kernel.name = id.substr(0, id.find(':')) + ".only";
  return std::make_shared<FakeBackend>(std::move(id), std::vector<FakeKernel>{std::move(kernel)}, host_memory);
}

}  // namespace convrt::test
