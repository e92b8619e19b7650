#include "core/copy_pool.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>

namespace convrt::core {
namespace {

constexpr std::size_t kChunk = std::size_t{1} << 18;  // floats: 1 MiB, many times what waking a thread costs
constexpr unsigned kMostHelpers = 7;

}  // namespace

/// One copy, cut into chunks that threads take until none is left.
struct CopyPool::Job {
  Job(std::span<const float> source, float* target)
      : from(source), to(target), chunks((source.size() + kChunk - 1) / kChunk) {}

  void work() {
    for (std::size_t i = next++; i < chunks; i = next++) {
      const std::size_t begin = i * kChunk, length = std::min(kChunk, from.size() - begin);
      std::memcpy(to + begin, from.data() + begin, length * sizeof(float));
      if (++done == chunks) done.notify_all();
    }
  }

  const std::span<const float> from;
  float* const to;
  const std::size_t chunks;
  std::atomic<std::size_t> next = 0, done = 0;
};

// On a 16-core host of a GPU 1, 2, 4, 8 threads copied 8 to 12, 18 to 30, 33 to 58, 58 to 72 GB/s.
CopyPool::CopyPool() : CopyPool(std::min(std::thread::hardware_concurrency() / 4 * 2, kMostHelpers)) {}

CopyPool::~CopyPool() {
  {
    const std::scoped_lock lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void CopyPool::copy(std::span<const float> from, float* to) {
  if (helpers_ == 0 || from.size() < 4 * kChunk) {
    if (!from.empty()) std::memcpy(to, from.data(), from.size_bytes());
    return;
  }
  const auto job = std::make_shared<Job>(from, to);
  {
    const std::scoped_lock lock(mutex_);
    try {
      while (threads_.size() < helpers_) threads_.emplace_back([this] { help(); });
    } catch (const std::system_error&) {  // no more threads to be had: fewer do it too
    }
    jobs_.push_back(job);
  }
  wake_.notify_all();
  job->work();
  for (std::size_t done = job->done; done < job->chunks; done = job->done) job->done.wait(done);
}

void CopyPool::help() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
    if (stop_) return;
    const std::shared_ptr<Job> job = jobs_.front();
    lock.unlock();
    job->work();
    lock.lock();
    if (!jobs_.empty() && jobs_.front() == job) jobs_.pop_front();
  }
}

}  // namespace convrt::core
