/// \file
/// The text of shaders/, and what becomes of it before a driver sees it. Pure text: no OpenGL call is made here.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gl/variants.hpp"

namespace convrt::gl {

struct ShaderFile {
  std::string_view name, text;
};

/// Every file of shaders/, sorted by name, as it stood when the library was built (generated at build time).
std::span<const ShaderFile> embedded_shaders();

/// One file of shaders/: from the directory CONVRT_SHADER_DIR where that is set (for development), else the embedded
/// text. Throws Error{io_error} where there is none.
std::string shader_file(std::string_view name);

/// What a driver compiles: `file` with its #include lines replaced by the files they name (each once) and `defines`
/// behind #version. #line directives keep the numbering of the files; as GLSL has no file names there, the source
/// string number stands for the file (see name_sources). Throws Error: io_error (no such file), internal (no #version).
std::string shader_text(std::string_view file, const Defines& defines);

/// The variants that also meet the contract of custom shaders (convrt/shader.hpp) for every convolution, unchanged:
/// those are what convrt::builtin_shader offers.
std::vector<std::string> contract_shaders();
/// The text of one of them, e.g. "lds_64": as shader_text without defines, and without #line, as it is to be edited.
std::string contract_shader(std::string_view name);

/// Puts `defines` behind the #version line of any shader text. Throws Error{invalid_argument} where there is none.
std::string with_defines(std::string_view text, const Defines& defines);

/// A driver's log for a text of shader_text, with file names in place of source string numbers: "3:12(7): error" (Mesa)
/// and "3(12) : error" (NVIDIA) become "common.glsl:12(7): error" and "common.glsl(12) : error".
std::string name_sources(std::string_view log);

}  // namespace convrt::gl
