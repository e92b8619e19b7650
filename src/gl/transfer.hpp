/// \file
/// Copies between host and device.
#pragma once

#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "gl/device_copy.hpp"
#include "gl/gl_storage.hpp"

namespace convrt::gl {

/// Copies through persistently mapped blocks: the host fills one while the GPU empties another. Thread-safe; the
/// threads that call do the host's share of the copying, never the context's own.
class Transfer {
 public:
  explicit Transfer(std::shared_ptr<GlContext> context);

  /// Copies `from` to the start of `to`, after what was enqueued before. Returns once `from` is no longer needed; what
  /// fails later goes to `errors`, or else to where enqueued work's errors go.
  void upload(std::span<const float> from, const std::shared_ptr<GlStorage>& to,
              const std::shared_ptr<ErrorSlot>& errors = nullptr);
  /// Copies the start of `from` to `to`, after what was enqueued before; blocks.
  void download(const std::shared_ptr<GlStorage>& from, std::span<float> to);

  const DeviceCopy& device_copy() const { return *copy_; }

 private:
  /// Blocks of one direction. A block goes back when its last user lets go, also when a lost context drops its jobs.
  class Blocks : public std::enable_shared_from_this<Blocks> {
   public:
    Blocks(std::shared_ptr<GlContext> context, bool to_device) : context_(std::move(context)), to_device_(to_device) {}
    std::shared_ptr<GlStorage> take();      ///< waits for one
    std::shared_ptr<GlStorage> try_take();  ///< nullptr where all are in use

   private:
    std::shared_ptr<GlStorage> lease(std::unique_lock<std::mutex> lock);

    const std::shared_ptr<GlContext> context_;
    const bool to_device_;
    std::mutex mutex_;
    std::condition_variable returned_;
    std::vector<std::shared_ptr<GlStorage>> free_;
    int existing_ = 0;
  };

  const std::shared_ptr<GlContext> context_;
  const std::shared_ptr<Blocks> up_, down_;
  const std::shared_ptr<const DeviceCopy> copy_;  // shared with jobs, which may outlive this
};

}  // namespace convrt::gl
