// Built instead of the OpenGL backend where convrt is configured without it: no GL devices.
#include "core/backend.hpp"

namespace convrt::core {

std::vector<std::shared_ptr<Backend>> probe_gl() { return {}; }

}  // namespace convrt::core
