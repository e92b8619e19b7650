/// \file
/// One thread that runs posted jobs in order: a device's queue.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace convrt::core {

/// The thread starts with the first job and ends with the Worker, which finishes what was posted. Thread-safe.
class Worker {
 public:
  Worker() = default;
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker();

  /// Appends a job. What it throws is kept (the first one) for synchronize().
  void post(std::function<void()> job);

  /// Waits until every job posted before is done, then throws the first error since the last call, if any.
  void synchronize();

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<std::function<void()>> jobs_;
  std::uint64_t posted_ = 0, finished_ = 0;
  std::exception_ptr error_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace convrt::core
