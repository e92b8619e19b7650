// Custom shaders: checks that are the same for every backend, then Backend::compile_custom.
#include "convrt/shader.hpp"

#include "core/access.hpp"
#include "core/fail.hpp"

namespace convrt {
namespace {

void expect_length(const Conv2dDesc& desc, const char* what, std::size_t expected, std::size_t found) {
  if (expected != found)
    core::fail(ErrorCode::invalid_argument, "custom shader, convolution ", desc.str(), ": ", what, " must hold ",
               expected, " floats, found ", found);
}

}  // namespace

CustomShader::CustomShader(std::shared_ptr<core::CustomProgram> impl) noexcept : impl_(std::move(impl)) {}
const std::string& CustomShader::log() const { return core::Access::program(*this).log(); }

CustomShader gpu_compile_custom_shader(const Device& device, const ShaderSource& source) {
  const auto& [x, y, z] = source.groups;
  if ((x == 0) != (y == 0) || (y == 0) != (z == 0))
    core::fail(ErrorCode::invalid_argument, "custom shader \"", source.label,
               "\": groups must all be 0 (one invocation per dst element) or all at least 1, found {", x, ", ", y, ", ",
               z, "}");
  if (source.glsl.empty())
    core::fail(ErrorCode::invalid_argument, "custom shader \"", source.label,
               "\": expected a whole compute shader with its #version line, found an empty text");
  auto program = core::Access::backend(device)->compile_custom(source);
  if (!program)
    core::fail(ErrorCode::unsupported, "custom shader \"", source.label, "\": device ", device.info().id,
               " runs no GLSL; pick a \"gl:...\" device of convrt::devices()");
  return core::Access::custom_shader(std::move(program));
}

RunStats gpu_execute_conv2d_custom(const CustomShader& shader, const Conv2dDesc& desc, std::span<const float> src,
                                   std::span<const float> weights, std::span<float> dst, std::span<const float> bias) {
  desc.validate();
  expect_length(desc, "src", desc.src_size(), src.size());
  expect_length(desc, "weights (KCRS)", desc.weights_size(), weights.size());
  expect_length(desc, "dst", desc.dst_size(), dst.size());
  if (!bias.empty()) expect_length(desc, "bias", static_cast<std::size_t>(desc.k), bias.size());
  if (dst.empty()) return {};
  return core::Access::program(shader).run(desc, src, weights, dst, bias);
}

std::vector<std::string> builtin_shader_names() { return core::gl_shader_names(); }

std::string builtin_shader(std::string_view name) {
  std::string known;
  for (const std::string& each : core::gl_shader_names()) {
    if (each == name) return core::gl_shader(name);
    known.append(known.empty() ? "" : ", ").append(each);
  }
  core::fail(ErrorCode::invalid_argument, "builtin_shader: no shader is named \"", name,
             "\"; there are: ", known.empty() ? "none (convrt was built without OpenGL)" : known);
}

}  // namespace convrt
