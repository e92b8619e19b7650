#include "convrt/device.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <mutex>

#include "core/access.hpp"
#include "core/backend.hpp"
#include "core/fail.hpp"
#include "core/log.hpp"

namespace convrt {
namespace core {
namespace {

// "cpu", "gl" (a whole family) or "gl:1" (one device)
bool listed(std::string_view filter, const Backend& backend) {
  while (!filter.empty()) {
    const std::size_t comma = std::min(filter.find(','), filter.size());
    const std::string_view word = filter.substr(0, comma);
    if (word == backend.info().id || word == backend.family()) return true;
    filter.remove_prefix(std::min(comma + 1, filter.size()));
  }
  return false;
}

struct Registry {
  std::mutex mutex;
  std::vector<std::shared_ptr<Backend>> backends;

  Registry() {
    const char* filter = std::getenv("CONVRT_DEVICES");
    backends = probe_cpu();
    if (filter != nullptr && std::string_view(filter).find("gl") == std::string_view::npos) return;
    for (auto& backend : probe_gl()) {
      if (filter == nullptr || listed(filter, *backend))
        backends.push_back(std::move(backend));
      else
        log(LogLevel::info, "device ", backend->info().id, " left out: not in CONVRT_DEVICES=", filter);
    }
  }
};

Registry& registry() {
  // Never destroyed: GL drivers' own static destructors may run before ours, and user threads may outlive main.
  static Registry* const instance = new Registry;
  return *instance;
}

}  // namespace

double Backend::device_ms(int runs, const std::function<void(int run)>& enqueue) {
  synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (int run = 0; run < runs; ++run) enqueue(run);
  synchronize();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::shared_ptr<Backend>> all_backends() {
  Registry& r = registry();
  const std::scoped_lock lock(r.mutex);
  return r.backends;
}

void add_backend_for_test(std::shared_ptr<Backend> backend) {
  Registry& r = registry();
  const std::scoped_lock lock(r.mutex);
  r.backends.push_back(std::move(backend));
}

}  // namespace core

Buffer::Buffer() noexcept = default;
Buffer::Buffer(Buffer&&) noexcept = default;
Buffer& Buffer::operator=(Buffer&&) noexcept = default;
Buffer::~Buffer() = default;

std::size_t Buffer::size() const noexcept { return impl_ ? impl_->size() : 0; }

void Buffer::upload(std::span<const float> from) {
  if (from.size() != size())
    core::fail(ErrorCode::invalid_argument, "Buffer::upload: expected ", size(), " floats, found ", from.size());
  if (!from.empty()) impl_->upload(from);
}

void Buffer::download(std::span<float> to) const {
  if (to.size() != size())
    core::fail(ErrorCode::invalid_argument, "Buffer::download: expected ", size(), " floats, found ", to.size());
  if (!to.empty()) impl_->download(to);
}

Device::Device(std::shared_ptr<core::Backend> impl) noexcept : impl_(std::move(impl)) {}
const DeviceInfo& Device::info() const { return impl_->info(); }

std::vector<std::string> Device::kernels(const Conv2dDesc& desc) const {
  desc.validate();
  return impl_->kernels(desc, 0);
}

Buffer Device::allocate(std::size_t floats) const { return core::Access::make_buffer(impl_->allocate(floats)); }
void Device::synchronize() const { impl_->synchronize(); }

std::vector<Device> devices() {
  std::vector<Device> found;
  for (auto& backend : core::all_backends()) found.push_back(core::Access::device(std::move(backend)));
  return found;
}

Device find_device(std::string_view id) {
  const std::vector<Device> all = devices();
  if (id == "best") {
    // Backends list their best device first, and a real GPU outruns the CPU it is plugged into.
    for (const Device& d : all)
      if (d.info().id != "cpu" && !d.info().software) return d;
    return all.front();
  }
  std::string names;
  for (const Device& d : all) {
    if (d.info().id == id) return d;
    names.append(names.empty() ? "" : ", ").append(d.info().id);
  }
  core::fail(ErrorCode::no_device, "device \"", id, "\" does not exist here; found: ", names,
             ", and \"best\" (CONVRT_VERBOSE=info says why a driver was left out)");
}

}  // namespace convrt
