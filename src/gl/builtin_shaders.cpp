// The texts behind convrt::builtin_shader().
#include <string_view>

#include "core/backend.hpp"
#include "gl/shader_text.hpp"

namespace convrt::core {
namespace {
constexpr std::string_view kSuffix = ".comp";
}

std::vector<std::string> gl_shader_names() {
  std::vector<std::string> names;
  for (const gl::ShaderFile& file : gl::embedded_shaders())
    if (file.name.ends_with(kSuffix)) names.emplace_back(file.name.substr(0, file.name.size() - kSuffix.size()));
  return names;
}

std::string gl_shader(std::string_view name) { return gl::shader_text(std::string(name).append(kSuffix), {}); }

}  // namespace convrt::core
