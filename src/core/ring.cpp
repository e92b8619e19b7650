#include "core/ring.hpp"

#include <utility>

#include "core/fail.hpp"

namespace convrt {
namespace core {

std::shared_ptr<StreamMemory> lend(const std::shared_ptr<Ring>& ring, StreamMemory memory) {
  return {new StreamMemory(std::move(memory)), [ring](StreamMemory* back) {
            const std::unique_ptr<StreamMemory> owned(back);
            const std::scoped_lock lock(ring->mutex);
            if (ring->spare.size() < ring->depth) ring->spare.push_back(std::move(*owned));  // capacity is reserved
          }};
}

SlotState::~SlotState() {
  if (submitted) return;
  const std::scoped_lock lock(ring->mutex);
  --ring->slots_taken;
  ring->changed.notify_all();
}

}  // namespace core

Slot::Slot(std::shared_ptr<core::SlotState> state) noexcept : state_(std::move(state)) {}
Slot::Slot(Slot&&) noexcept = default;
Slot& Slot::operator=(Slot&&) noexcept = default;
Slot::~Slot() = default;

std::span<float> Slot::src() {
  if (!state_) core::fail(ErrorCode::invalid_argument, "this Slot was submitted or moved from");
  return state_->memory->src;
}

}  // namespace convrt
