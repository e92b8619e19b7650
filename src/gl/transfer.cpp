#include "gl/transfer.hpp"

#include <algorithm>
#include <cstring>
#include <deque>

#include "core/fail.hpp"

namespace convrt::gl {
namespace {

constexpr std::size_t kBlock_bytes = std::size_t{8} << 20;
constexpr int kMaxBlocks = 6;

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
      down_(std::make_shared<Blocks>(context_, false)),
      copy_(std::make_shared<const DeviceCopy>(*context_)) {}

void Transfer::upload(std::span<const float> from, const std::shared_ptr<GlStorage>& to,
                      const std::shared_ptr<ErrorSlot>& errors) {
  const std::size_t total = from.size_bytes();
  for (std::size_t offset = 0; offset < total; offset += kBlock_bytes) {
    const std::size_t bytes = std::min(kBlock_bytes, total - offset);
    std::shared_ptr<GlStorage> block = up_->take();
    std::memcpy(block->mapped(), reinterpret_cast<const std::byte*>(from.data()) + offset, bytes);
    const auto job = [block, to, offset, bytes, copy = copy_](GlState& state) {
      copy->encode(state, block->name(), 0, to->name(), offset, bytes);
    };
    // The block is free for the next fill once the GPU has read it.
    context_->post(
        job, [block](GlState&) {}, errors);
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
      auto done = context_->submit([block, from, offset, bytes, copy = copy_](GlState& state) {
        copy->encode(state, from->name(), offset, block->name(), 0, bytes);
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
