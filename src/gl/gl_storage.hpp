/// \file
/// Device memory: buffer objects with owners, and a pool of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "gl/gl_context.hpp"

namespace convrt::gl {

/// An immutable buffer object. Deleted by the context's thread once nothing refers to it; the driver keeps the memory
/// until work in flight is done.
class GlStorage {
 public:
  /// Device-local memory, never mapped; `bytes` is rounded up to 16 so that vec4 accesses may touch the tail.
  /// Throws Error{out_of_memory}.
  static std::shared_ptr<GlStorage> device_local(const std::shared_ptr<GlContext>& context, std::size_t bytes);
  /// Small device-local memory with this content, for parameters.
  static std::shared_ptr<GlStorage> constant(const std::shared_ptr<GlContext>& context,
                                             std::vector<std::uint32_t> words);
  /// Host memory that stays mapped: written by the host if `to_device`, otherwise read by it.
  static std::shared_ptr<GlStorage> staging(const std::shared_ptr<GlContext>& context, std::size_t bytes,
                                            bool to_device);
  /// The same, read and written by the host.
  static std::shared_ptr<GlStorage> staging_both_ways(const std::shared_ptr<GlContext>& context, std::size_t bytes);

  GlStorage(std::shared_ptr<GlContext> context, GLuint name, std::size_t bytes, void* mapped = nullptr)
      : context_(std::move(context)), name_(name), bytes_(bytes), mapped_(mapped) {}
  GlStorage(const GlStorage&) = delete;
  GlStorage& operator=(const GlStorage&) = delete;
  ~GlStorage();

  GLuint name() const { return name_; }
  std::size_t bytes() const { return bytes_; }
  void* mapped() const { return mapped_; }
  const std::shared_ptr<GlContext>& context() const { return context_; }

 private:
  static std::shared_ptr<GlStorage> make(const std::shared_ptr<GlContext>& context, std::size_t bytes,
                                         std::vector<std::uint32_t> words, GLbitfield access);

  std::shared_ptr<GlContext> context_;
  GLuint name_;
  std::size_t bytes_;
  void* mapped_;
};

/// Device memory of finished runs, kept for the next ones. Bounded; thread-safe.
class StoragePool {
 public:
  explicit StoragePool(std::shared_ptr<GlContext> context) : context_(std::move(context)) {}
  std::shared_ptr<GlStorage> take(std::size_t bytes);
  void give_back(std::shared_ptr<GlStorage> storage);

 private:
  std::shared_ptr<GlContext> context_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<GlStorage>> free_;  // oldest first
};

}  // namespace convrt::gl
