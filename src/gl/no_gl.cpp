// Built instead of the OpenGL backend where convrt is configured without it: no GL devices, no shaders.
#include "core/backend.hpp"

namespace convrt::core {

std::vector<std::shared_ptr<Backend>> probe_gl() { return {}; }
std::vector<std::string> gl_shader_names() { return {}; }
std::string gl_shader(std::string_view) { return {}; }

}  // namespace convrt::core
