#include "gl/gl_storage.hpp"

#include <algorithm>

#include "core/fail.hpp"

namespace convrt::gl {

std::shared_ptr<GlStorage> GlStorage::make(const std::shared_ptr<GlContext>& context, std::size_t bytes,
                                           std::vector<std::uint32_t> words, GLbitfield access) {
  const std::size_t rounded = (std::max<std::size_t>(bytes, 16) + 15) / 16 * 16;
  words.resize(words.empty() ? 0 : rounded / sizeof(std::uint32_t));
  const auto made = std::make_shared<std::shared_ptr<GlStorage>>();
  context->call([made, context, rounded, access, words = std::move(words)](GlState& state) {
    GLuint name = 0;
    state.gl.GenBuffers(1, &name);
    // Owned from here on, so that every way out deletes it.
    auto storage = std::make_shared<GlStorage>(context, name, rounded);
    state.gl.BindBuffer(GL_COPY_WRITE_BUFFER, name);
    const bool mapped = access != 0;
    const GLbitfield persistent = access | GL_MAP_PERSISTENT_BIT | GL_MAP_COHERENT_BIT;
    state.gl.BufferStorage(GL_COPY_WRITE_BUFFER, static_cast<GLsizeiptr>(rounded),
                           words.empty() ? nullptr : words.data(), mapped ? persistent | GL_CLIENT_STORAGE_BIT : 0);
    try {
      state.check("allocation");
    } catch (const Error& e) {
      if (e.code() != ErrorCode::out_of_memory) throw;
      core::fail(ErrorCode::out_of_memory, "device ", state.info.renderer, " cannot allocate ", rounded,
                 " bytes; use a smaller problem or free buffers");
    }
    if (mapped) {
      storage->mapped_ = state.gl.MapBufferRange(GL_COPY_WRITE_BUFFER, 0, static_cast<GLsizeiptr>(rounded), persistent);
      state.check("mapping staging memory");
      if (storage->mapped_ == nullptr)
        core::fail(ErrorCode::out_of_memory, "device ", state.info.renderer, " cannot map ", rounded,
                   " bytes of staging memory");
    }
    *made = std::move(storage);
  });
  return *made;
}

std::shared_ptr<GlStorage> GlStorage::device_local(const std::shared_ptr<GlContext>& context, std::size_t bytes) {
  return make(context, bytes, {}, 0);
}

std::shared_ptr<GlStorage> GlStorage::constant(const std::shared_ptr<GlContext>& context,
                                               std::vector<std::uint32_t> words) {
  const std::size_t bytes = words.size() * sizeof(std::uint32_t);
  return make(context, bytes, std::move(words), 0);
}

std::shared_ptr<GlStorage> GlStorage::staging(const std::shared_ptr<GlContext>& context, std::size_t bytes,
                                              bool to_device) {
  return make(context, bytes, {}, to_device ? GL_MAP_WRITE_BIT : GL_MAP_READ_BIT);
}

std::shared_ptr<GlStorage> GlStorage::staging_both_ways(const std::shared_ptr<GlContext>& context, std::size_t bytes) {
  return make(context, bytes, {}, GL_MAP_READ_BIT | GL_MAP_WRITE_BIT);
}

GlStorage::~GlStorage() {
  context_->discard([name = name_](GlState& state) { state.gl.DeleteBuffers(1, &name); });
}

std::shared_ptr<GlStorage> StoragePool::take(std::size_t bytes) {
  {
    const std::scoped_lock lock(mutex_);
    // The best fit; one more than twice too large would starve the run that needs it.
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it)
      if ((*it)->bytes() >= bytes && (*it)->bytes() / 2 <= bytes &&
          (best == free_.end() || (*it)->bytes() < (*best)->bytes()))
        best = it;
    if (best != free_.end()) {
      auto found = std::move(*best);
      free_.erase(best);
      return found;
    }
  }
  return GlStorage::device_local(context_, bytes);
}

void StoragePool::give_back(std::shared_ptr<GlStorage> storage) {
  constexpr std::size_t kKept = 8;    // a few concurrent runs of src and dst
  std::shared_ptr<GlStorage> oldest;  // let go outside the lock
  const std::scoped_lock lock(mutex_);
  free_.push_back(std::move(storage));
  if (free_.size() <= kKept) return;
  oldest = std::move(free_.front());
  free_.erase(free_.begin());
}

}  // namespace convrt::gl
