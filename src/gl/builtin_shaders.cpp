// The texts behind convrt::builtin_shader().
#include "core/backend.hpp"
#include "gl/shader_text.hpp"

namespace convrt::core {

std::vector<std::string> gl_shader_names() { return gl::contract_shaders(); }
std::string gl_shader(std::string_view name) { return gl::contract_shader(name); }

}  // namespace convrt::core
