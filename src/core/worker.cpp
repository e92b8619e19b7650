#include "core/worker.hpp"

#include <utility>

namespace convrt::core {

Worker::~Worker() {
  {
    const std::scoped_lock lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Worker::post(std::function<void()> job) {
  {
    const std::scoped_lock lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });  // first: if it fails, nothing was posted
    jobs_.push_back(std::move(job));
    ++posted_;
  }
  wake_.notify_one();
}

void Worker::synchronize() {
  std::unique_lock lock(mutex_);
  const std::uint64_t target = posted_;
  idle_.wait(lock, [&] { return finished_ >= target; });
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Worker::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
    if (jobs_.empty()) return;  // stop_, and everything posted is done
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    std::exception_ptr error;
    try {
      job();
    } catch (...) {
      error = std::current_exception();
    }
    job = nullptr;  // what the job holds (buffers) is let go outside the lock and before it counts as done
    lock.lock();
    if (error && !error_) error_ = std::move(error);
    ++finished_;
    idle_.notify_all();
  }
}

}  // namespace convrt::core
