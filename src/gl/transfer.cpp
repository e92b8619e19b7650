#include "gl/transfer.hpp"

#include <algorithm>
#include <cstring>
#include <deque>

#include "core/fail.hpp"

namespace convrt::gl {
namespace {

constexpr std::size_t kBlock_bytes = std::size_t{8} << 20;
constexpr int kMaxBlocks = 6;

constexpr GLuint kThreads = 256, kVectorsPerThread = 4;
constexpr const char* kCopyText = R"(#version 430 core
layout(local_size_x = 256) in;
layout(std430, binding = 0) readonly restrict buffer From { uvec4 from[]; };
layout(std430, binding = 1) writeonly restrict buffer To { uvec4 to[]; };
layout(location = 0) uniform uint vectors;
void main() {
  for (uint i = gl_GlobalInvocationID.x; i < vectors; i += 256u * gl_NumWorkGroups.x) to[i] = from[i];
}
)";

GLuint build_copy_program(GlState& state) {
  const GladGLContext& gl = state.gl;
  const GLuint program = gl.CreateShaderProgramv(GL_COMPUTE_SHADER, 1, &kCopyText);
  GLint linked = GL_FALSE;
  if (program != 0) gl.GetProgramiv(program, GL_LINK_STATUS, &linked);
  if (linked == GL_TRUE) return program;
  state.check("building the copy shader");
  core::fail(ErrorCode::unsupported, "the OpenGL driver ", state.info.renderer, " does not compile the copy shader");
}

std::size_t round_up(std::size_t bytes) { return (bytes + 15) / 16 * 16; }

// Copies whole vec4s; both sides are rounded up to 16 bytes.
void encode_copy(GlState& state, GLuint program, GLuint from, std::size_t from_offset, GLuint to, std::size_t to_offset,
                 std::size_t bytes) {
  const auto size = static_cast<GLsizeiptr>(round_up(bytes));
  const auto vectors = static_cast<GLuint>(size / 16);
  state.touch({&from, 1}, {&to, 1});
  state.use(program);
  state.gl.Uniform1ui(0, vectors);
  state.gl.BindBufferRange(GL_SHADER_STORAGE_BUFFER, 0, from, static_cast<GLintptr>(from_offset), size);
  state.gl.BindBufferRange(GL_SHADER_STORAGE_BUFFER, 1, to, static_cast<GLintptr>(to_offset), size);
  constexpr GLuint kPerGroup = kThreads * kVectorsPerThread;
  state.gl.DispatchCompute((vectors + kPerGroup - 1) / kPerGroup, 1, 1);
}

}  // namespace

std::shared_ptr<GlStorage> Transfer::Blocks::take() {
  GlContext::Watch watch(*context_);
  std::unique_lock lock(mutex_);
  while (!returned_.wait_for(lock, watch.slice(), [&] { return !free_.empty() || existing_ < kMaxBlocks; })) {
    lock.unlock();
    watch.tick();
    lock.lock();
  }
  return lease(std::move(lock));
}

std::shared_ptr<GlStorage> Transfer::Blocks::try_take() {
  std::unique_lock lock(mutex_);
  if (free_.empty() && existing_ >= kMaxBlocks) return nullptr;
  return lease(std::move(lock));
}

std::shared_ptr<GlStorage> Transfer::Blocks::lease(std::unique_lock<std::mutex> lock) {
  std::shared_ptr<GlStorage> block;
  if (!free_.empty()) {
    block = std::move(free_.back());
    free_.pop_back();
  } else {
    ++existing_;
    lock.unlock();
    try {
      block = GlStorage::staging(context_, kBlock_bytes, to_device_);
    } catch (...) {
      lock.lock();
      --existing_;
      returned_.notify_one();
      throw;
    }
  }
  GlStorage* const raw = block.get();
  return {raw, [owned = std::move(block), pool = shared_from_this()](GlStorage*) mutable {
            {
              const std::scoped_lock guard(pool->mutex_);
              pool->free_.push_back(std::move(owned));
            }
            pool->returned_.notify_one();
          }};
}

Transfer::Transfer(std::shared_ptr<GlContext> context)
    : context_(std::move(context)),
      up_(std::make_shared<Blocks>(context_, true)),
      down_(std::make_shared<Blocks>(context_, false)) {
  const auto program = std::make_shared<GLuint>(0);
  context_->call([program](GlState& state) { *program = build_copy_program(state); });
  program_ = *program;  // goes with the context
}

void Transfer::upload(std::span<const float> from, const std::shared_ptr<GlStorage>& to) {
  const std::size_t total = from.size_bytes();
  for (std::size_t offset = 0; offset < total; offset += kBlock_bytes) {
    const std::size_t bytes = std::min(kBlock_bytes, total - offset);
    std::shared_ptr<GlStorage> block = up_->take();
    std::memcpy(block->mapped(), reinterpret_cast<const std::byte*>(from.data()) + offset, bytes);
    const auto job = [block, to, offset, bytes, program = program_](GlState& state) {
      encode_copy(state, program, block->name(), 0, to->name(), offset, bytes);
    };
    // The block is free for the next fill once the GPU has read it.
    context_->post(job, [block](GlState&) {});
  }
}

void Transfer::download(const std::shared_ptr<GlStorage>& from, std::span<float> to) {
  struct Part {
    std::shared_ptr<GlStorage> block;
    std::size_t offset, bytes;
    std::future<void> done;
  };
  const std::size_t total = to.size_bytes();
  std::deque<Part> parts;
  std::size_t offset = 0;
  while (offset < total || !parts.empty()) {
    // Waits for a block only while it holds none, so that downloads at once cannot block one another for ever.
    std::shared_ptr<GlStorage> block;
    if (offset < total) block = parts.empty() ? down_->take() : parts.size() < 3 ? down_->try_take() : nullptr;
    if (block != nullptr) {
      const std::size_t bytes = std::min(kBlock_bytes, total - offset);
      auto done = context_->submit([block, from, offset, bytes, program = program_](GlState& state) {
        encode_copy(state, program, from->name(), offset, block->name(), 0, bytes);
        state.gl.MemoryBarrier(GL_CLIENT_MAPPED_BUFFER_BARRIER_BIT);
      });
      parts.push_back({std::move(block), offset, bytes, std::move(done)});
      offset += bytes;
      continue;
    }
    Part part = std::move(parts.front());
    parts.pop_front();
    context_->wait(part.done);
    std::memcpy(reinterpret_cast<std::byte*>(to.data()) + part.offset, part.block->mapped(), part.bytes);
  }
}

}  // namespace convrt::gl
