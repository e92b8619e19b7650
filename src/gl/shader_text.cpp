#include "gl/shader_text.hpp"

#include <cctype>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>

#include "core/fail.hpp"

namespace convrt::gl {
namespace {

using core::fail;

// Source string 0 is left to texts that are not ours.
std::size_t source_number(std::string_view name) {
  const auto files = embedded_shaders();
  for (std::size_t i = 0; i < files.size(); ++i)
    if (files[i].name == name) return i + 1;
  return 0;
}

std::string define_lines(const Defines& defines) {
  std::string lines;
  for (const auto& [name, value] : defines) lines.append("#define ").append(name).append(" ").append(value) += '\n';
  return lines;
}

// The file name of `#include "name"`, else nothing.
std::string_view included(std::string_view line) {
  constexpr std::string_view directive = "#include \"";
  if (line.substr(0, directive.size()) != directive) return {};
  line.remove_prefix(directive.size());
  return line.substr(0, line.find('"'));
}

class Expander {
 public:
  Expander(const Defines& defines, bool lines) : defines_(defines), lines_(lines) {}

  std::string run(std::string_view file) {
    add(file);
    if (!versioned_) fail(ErrorCode::internal, "shader ", file, " must start with a #version line");
    return std::move(text_);
  }

 private:
  void add(std::string_view file) {
    if (!seen_.emplace(file).second) return;
    const std::string source = shader_file(file);
    std::string_view rest = source;
    if (versioned_) mark(1, file);
    for (std::size_t number = 1; !rest.empty(); ++number) {
      const std::size_t length = std::min(rest.find('\n'), rest.size());
      const std::string_view line = rest.substr(0, length);
      rest.remove_prefix(std::min(length + 1, rest.size()));
      if (const std::string_view name = included(line); !name.empty()) {
        add(name);
        mark(number + 1, file);
        continue;
      }
      text_.append(line) += '\n';
      if (!versioned_ && line.substr(0, 8) == "#version") {
        versioned_ = true;
        text_ += define_lines(defines_);
        mark(number + 1, file);
      }
    }
  }

  void mark(std::size_t line, std::string_view file) {
    if (lines_)
      text_.append("#line ").append(std::to_string(line)).append(" ").append(std::to_string(source_number(file))) +=
          '\n';
  }

  const Defines& defines_;
  bool lines_;
  std::set<std::string, std::less<>> seen_;
  std::string text_;
  bool versioned_ = false;
};

}  // namespace

std::string shader_file(std::string_view name) {
  if (const char* dir = std::getenv("CONVRT_SHADER_DIR"); dir != nullptr && *dir != '\0') {
    const std::string path = std::string(dir) + '/' + std::string(name);
    std::ifstream in(path, std::ios::binary);
    if (!in) fail(ErrorCode::io_error, "cannot read shader ", path, "; unset CONVRT_SHADER_DIR for the built-in text");
    return {std::istreambuf_iterator<char>(in), {}};
  }
  for (const ShaderFile& file : embedded_shaders())
    if (file.name == name) return std::string(file.text);
  fail(ErrorCode::io_error, "no shader file named ", name);
}

std::string shader_text(std::string_view file, const Defines& defines) { return Expander(defines, true).run(file); }

std::vector<std::string> contract_shaders() { return {"basic_64", "large_256", "lds_64", "rdna3_dual_issue"}; }

std::string contract_shader(std::string_view name) {
  const Defines none;
  return Expander(none, false).run(std::string(name) + ".comp");
}

std::string with_defines(std::string_view text, const Defines& defines) {
  std::size_t at = text.substr(0, 8) == "#version" ? 0 : text.find("\n#version");
  if (at == std::string_view::npos)
    fail(ErrorCode::invalid_argument, "a shader needs a line such as \"#version 430 core\", found none");
  if (at > 0) ++at;
  const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
  std::size_t line = 1;
  for (const char c : text.substr(0, end)) line += c == '\n';
  std::string result(text.substr(0, end));
  if (result.back() != '\n') result += '\n';
  if (!defines.empty()) result += define_lines(defines) + "#line " + std::to_string(line) + "\n";
  return result.append(text.substr(end));
}

std::string name_sources(std::string_view log) {
  const auto files = embedded_shaders();
  std::string named;
  while (!log.empty()) {
    const std::size_t length = std::min(log.find('\n'), log.size() - 1) + 1;
    std::string_view line = log.substr(0, length);
    log.remove_prefix(length);
    std::size_t number = 0, digits = 0;
    while (digits < line.size() && std::isdigit(static_cast<unsigned char>(line[digits]))) ++digits;
    std::from_chars(line.data(), line.data() + digits, number);
    if (digits > 0 && digits + 1 < line.size() && (line[digits] == ':' || line[digits] == '(') &&
        std::isdigit(static_cast<unsigned char>(line[digits + 1])) && number >= 1 && number <= files.size()) {
      named.append(files[number - 1].name);
      line.remove_prefix(digits);
    }
    named.append(line);
  }
  return named;
}

}  // namespace convrt::gl
