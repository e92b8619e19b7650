/// \file
/// A GL device over the life of its contexts.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>

#include "gl/gl_context.hpp"
#include "gl/gl_storage.hpp"
#include "gl/program.hpp"
#include "gl/transfer.hpp"

namespace convrt::gl {

/// Everything that lives and dies with one context.
struct GlSession {
  explicit GlSession(std::shared_ptr<GlContext> opened);

  /// Scratch of at least `bytes` that plans share: work on a device runs in order. It grows, never shrinks.
  std::shared_ptr<GlStorage> workspace(std::size_t bytes);

  /// kCounters words that start as zeros; whoever counts in them leaves zeros.
  std::shared_ptr<GlStorage> counters();

  const std::shared_ptr<GlContext> context;

 private:
  // Ends the thread, also where opening fails halfway. Buffers and programs may outlive the session; the thread need
  // not.
  struct Close {
    GlContext& context;
    ~Close() { context.close(); }
  } close_{*context};

 public:
  Transfer transfer;
  StoragePool pool;
  ProgramStore programs;

 private:
  std::mutex mutex_;
  std::shared_ptr<GlStorage> workspace_, counters_;
  friend class GlDevice;
  struct Beside {
    std::shared_ptr<GlContext> context;
    ~Beside() {
      if (context != nullptr) context->close();
    }
  };
  std::array<Beside, 2> beside_;
};

/// Opens a session when one is needed and again after it was lost. Thread-safe.
class GlDevice {
 public:
  GlDevice(EglDevice egl, GlContext::Options options);
  ~GlDevice();

  /// Throws Error{unsupported} that says what the driver refused.
  std::shared_ptr<GlSession> session();
  /// For the end of the process: see GlContext::leave. There is no session any more.
  void leave(std::chrono::steady_clock::time_point deadline) noexcept;
  /// Two further contexts that share the session's objects, for copies beside its work. They end with the session.
  std::array<std::shared_ptr<GlContext>, 2> beside(GlSession& session);
  /// Waits for what was enqueued; throws its first error.
  void synchronize();
  /// Runs `wait`, which waits for work, then throws the first error of enqueued work, else what `wait` threw.
  void confirm(const std::function<void()>& wait);

 private:
  const EglDevice egl_;
  const GlContext::Options options_;
  const std::shared_ptr<ErrorSlot> errors_ = std::make_shared<ErrorSlot>();
  std::mutex mutex_;
  std::shared_ptr<GlSession> session_;
  bool left_ = false;
};

}  // namespace convrt::gl
