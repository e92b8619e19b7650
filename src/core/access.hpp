/// \file
/// Core's key to the public value types: makes them from, and takes them apart to, what they share.
#pragma once

#include <memory>
#include <utility>

#include "convrt/device.hpp"
#include "convrt/executor.hpp"
#include "convrt/plan.hpp"
#include "convrt/shader.hpp"
#include "core/backend.hpp"

namespace convrt::core {

class Access {
 public:
  static Device device(std::shared_ptr<Backend> b) { return Device(std::move(b)); }
  static const std::shared_ptr<Backend>& backend(const Device& d) { return d.impl_; }
  static const std::shared_ptr<BackendBuffer>& buffer(const Buffer& b) { return b.impl_; }
  static Buffer make_buffer(std::shared_ptr<BackendBuffer> impl) {
    Buffer b;
    b.impl_ = std::move(impl);
    return b;
  }
  static const std::shared_ptr<const PreparedConv>& prepared(const Conv2dPlan& plan);
  /// Whether runs of `plan` must go through it: CONVRT_VALIDATE looks at each.
  static bool validated(const Conv2dPlan& plan);
  /// For runs that do not go through the plan: notes one in the history, if there is one.
  static void count(const Conv2dPlan& plan, double device_ms) noexcept;
  static Ticket ticket(std::shared_ptr<TicketState> s) { return Ticket(std::move(s)); }
  static Slot slot(std::shared_ptr<SlotState> s) { return Slot(std::move(s)); }
  static std::shared_ptr<SlotState>& slot_state(Slot& s) { return s.state_; }
  static CustomShader custom_shader(std::shared_ptr<CustomProgram> p) { return CustomShader(std::move(p)); }
  static CustomProgram& program(const CustomShader& s) { return *s.impl_; }
};

}  // namespace convrt::core
