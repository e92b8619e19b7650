#include "gl/gl_device.hpp"

#include "convrt/version.h"
#include "core/cache_file.hpp"
#include "core/fail.hpp"
#include "core/log.hpp"
#include "gl/variants.hpp"

namespace convrt::gl {
namespace {

ProgramCache disk_cache(const GlInfo& info) {
  const std::filesystem::path root = core::cache_directory();
  return ProgramCache(root.empty() ? root : root / "programs",
                      info.vendor_string + '\n' + info.renderer + '\n' + info.version + '\n');
}

}  // namespace

GlSession::GlSession(std::shared_ptr<GlContext> opened)
    : context(std::move(opened)), transfer(context), pool(context), programs(context, disk_cache(context->info())) {}

std::shared_ptr<GlStorage> GlSession::workspace(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  const std::scoped_lock lock(mutex_);
  if (workspace_ == nullptr || workspace_->bytes() < bytes) workspace_ = GlStorage::device_local(context, bytes);
  return workspace_;
}

std::shared_ptr<GlStorage> GlSession::counters() {
  const std::scoped_lock lock(mutex_);
  if (counters_ == nullptr) {
    const std::vector<float> zeros(kCounters, 0.0F);  // also the bits of the integer zero
    counters_ = GlStorage::device_local(context, zeros.size() * sizeof(float));
    transfer.upload(zeros, counters_);
  }
  return counters_;
}

GlDevice::GlDevice(EglDevice egl, GlContext::Options options) : egl_(std::move(egl)), options_(options) {}
GlDevice::~GlDevice() = default;

std::shared_ptr<GlSession> GlDevice::session() {
  std::shared_ptr<GlSession> lost;  // let go outside the lock
  const std::scoped_lock lock(mutex_);
  if (session_ != nullptr && session_->context->alive()) return session_;
  if (left_) core::fail(ErrorCode::device_lost, egl_.label, ": the process is ending, and its OpenGL driver with it");
  if (session_ != nullptr) core::log(LogLevel::info, egl_.label, ": re-opening after its context was lost");
  lost = std::move(session_);
  session_ = std::make_shared<GlSession>(GlContext::open(egl_, options_, errors_));
  return session_;
}

void GlDevice::leave(std::chrono::steady_clock::time_point deadline) noexcept {
  std::shared_ptr<GlSession> current;
  {
    const std::scoped_lock lock(mutex_);
    left_ = true;
    current = session_;
  }
  if (current == nullptr) return;
  current->context->leave(deadline);
  const std::scoped_lock lock(current->mutex_);
  for (const GlSession::Beside& beside : current->beside_)
    if (beside.context != nullptr) beside.context->leave(deadline);
}

std::array<std::shared_ptr<GlContext>, 2> GlDevice::beside(GlSession& session) {
  const std::scoped_lock lock(session.mutex_);
  for (GlSession::Beside& beside : session.beside_) {
    if (beside.context != nullptr && beside.context->alive()) continue;
    if (beside.context != nullptr) beside.context->close();
    beside.context = nullptr;
    beside.context = GlContext::open(egl_, options_, std::make_shared<ErrorSlot>(), session.context);
  }
  return {session.beside_[0].context, session.beside_[1].context};
}

void GlDevice::synchronize() {
  std::shared_ptr<GlSession> current;
  {
    const std::scoped_lock lock(mutex_);
    current = session_;
  }
  confirm([&] {
    if (current == nullptr || !current->context->alive()) return;
    std::future<void> done = current->context->submit([](GlState&) {});
    current->context->wait(done);
  });
}

void GlDevice::confirm(const std::function<void()>& wait) {
  try {
    wait();
  } catch (...) {
    errors_->set(std::current_exception());
  }
  errors_->rethrow();
}

}  // namespace convrt::gl
