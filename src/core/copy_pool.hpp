/// \file
/// Copies of host memory by several threads: one core moves about 10 GB/s, a PCIe bus five times as much.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace convrt::core {

/// The caller copies too, so a pool without helpers works as well. Helpers start with the first large copy.
/// Thread-safe: copies at once share the helpers.
class CopyPool {
 public:
  /// As many helpers as this machine can spare.
  CopyPool();
  explicit CopyPool(unsigned helpers) : helpers_(helpers) {}
  CopyPool(const CopyPool&) = delete;
  CopyPool& operator=(const CopyPool&) = delete;
  ~CopyPool();

  /// Copies from.size() floats; returns when all are there.
  void copy(std::span<const float> from, float* to);

 private:
  struct Job;
  void help();

  const unsigned helpers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> jobs_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace convrt::core
