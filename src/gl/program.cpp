#include "gl/program.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#include "core/fail.hpp"
#include "core/log.hpp"
#include "gl/shader_text.hpp"

namespace convrt::gl {
namespace {

struct InFlight {
  GLuint shader = 0, program = 0;
};

// Texts on their way to programs. What is not finished when it ends, because something else failed, is deleted.
struct Batch {
  std::shared_ptr<GlContext> context;
  std::vector<std::string> texts;
  std::vector<InFlight> made;
  std::vector<Compiled> results;
  bool complete = false;

  Batch(std::shared_ptr<GlContext> of, std::vector<std::string> sources)
      : context(std::move(of)), texts(std::move(sources)), made(texts.size()) {}
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  ~Batch() {
    context->discard([left = std::move(made)](GlState& state) {
      for (const InFlight& one : left) {
        if (one.program != 0) state.gl.DeleteProgram(one.program);
        if (one.shader != 0) state.gl.DeleteShader(one.shader);
      }
    });
  }
};

void start(const GladGLContext& gl, const std::string& text, InFlight& made) {
  made.shader = gl.CreateShader(GL_COMPUTE_SHADER);
  const GLchar* const string = text.c_str();
  gl.ShaderSource(made.shader, 1, &string, nullptr);
  gl.CompileShader(made.shader);
  made.program = gl.CreateProgram();
  gl.ProgramParameteri(made.program, GL_PROGRAM_BINARY_RETRIEVABLE_HINT, GL_TRUE);
  gl.AttachShader(made.program, made.shader);
  gl.LinkProgram(made.program);
}

std::string log_of(GLuint name, PFNGLGETSHADERIVPROC get, PFNGLGETSHADERINFOLOGPROC get_log) {
  GLint length = 0;
  get(name, GL_INFO_LOG_LENGTH, &length);
  std::string log(static_cast<std::size_t>(std::max(length, 0)), '\0');
  GLsizei written = 0;
  if (length > 0) get_log(name, length, &written, log.data());
  log.resize(static_cast<std::size_t>(written));
  return log;
}

ProgramBinary binary_of(const GladGLContext& gl, GLuint program) {
  GLint formats = 0, length = 0;
  gl.GetIntegerv(GL_NUM_PROGRAM_BINARY_FORMATS, &formats);
  if (formats <= 0) return {};
  gl.GetProgramiv(program, GL_PROGRAM_BINARY_LENGTH, &length);
  if (length <= 0) return {};
  ProgramBinary binary;
  binary.bytes.resize(static_cast<std::size_t>(length));
  GLsizei written = 0;
  GLenum format = 0;
  gl.GetProgramBinary(program, length, &written, &format, binary.bytes.data());
  binary.bytes.resize(static_cast<std::size_t>(std::max(written, 0)));
  binary.format = format;
  return binary;
}

Compiled finish(const std::shared_ptr<GlContext>& context, GlState& state, InFlight& in_flight) {
  const InFlight made = std::exchange(in_flight, {});
  const GladGLContext& gl = state.gl;
  GLint compiled = GL_FALSE, linked = GL_FALSE;
  gl.GetShaderiv(made.shader, GL_COMPILE_STATUS, &compiled);
  gl.GetProgramiv(made.program, GL_LINK_STATUS, &linked);
  Compiled result;
  result.log = log_of(made.shader, gl.GetShaderiv, gl.GetShaderInfoLog);
  // After a failed compile the link can only repeat that it has no shader.
  if (compiled == GL_TRUE) result.log += log_of(made.program, gl.GetProgramiv, gl.GetProgramInfoLog);
  gl.DetachShader(made.program, made.shader);
  gl.DeleteShader(made.shader);
  if (compiled == GL_TRUE && linked == GL_TRUE) {
    result.program = std::make_shared<Program>(context, made.program, result.log);
    result.binary = binary_of(gl, made.program);
  } else {
    gl.DeleteProgram(made.program);
  }
  return result;
}

// "12" of "0:12(7): error" (Mesa), "0(12) : error" (NVIDIA), "ERROR: 0:12: ..." (others): the line numbers of a log.
std::set<long> lines_named(std::string_view log) {
  std::set<long> lines;
  const auto digit = [&](std::size_t i) { return i < log.size() && log[i] >= '0' && log[i] <= '9'; };
  for (std::size_t i = 0; i < log.size(); ++i) {
    if (!digit(i) || (i > 0 && (digit(i - 1) || (log[i - 1] != ' ' && log[i - 1] != '\n')))) continue;
    std::size_t separator = i;
    while (digit(separator)) ++separator;
    if (separator >= log.size() || (log[separator] != ':' && log[separator] != '(') || !digit(separator + 1)) continue;
    long line = 0;
    std::from_chars(log.data() + separator + 1, log.data() + log.size(), line);
    lines.insert(line);
  }
  return lines;
}

}  // namespace

Program::~Program() {
  context_->discard([name = name_](GlState& state) {
    if (state.program == name) state.use(0);
    state.gl.DeleteProgram(name);
  });
}

std::vector<Compiled> compile(const std::shared_ptr<GlContext>& context, std::vector<std::string> texts) {
  const auto batch = std::make_shared<Batch>(context, std::move(texts));
  context->call([batch](GlState& state) {
    for (std::size_t i = 0; i < batch->texts.size(); ++i) start(state.gl, batch->texts[i], batch->made[i]);
    batch->complete = state.gl.KHR_parallel_shader_compile == 0;
  });
  // Each look is progress of the queue, so its own watch would wait for an endless compilation for ever.
  const auto give_up = std::chrono::steady_clock::now() + context->timeout();
  while (!batch->complete) {
    if (std::chrono::steady_clock::now() > give_up) context->abandon();
    context->call([batch](GlState& state) {
      batch->complete = std::all_of(batch->made.begin(), batch->made.end(), [&](const InFlight& made) {
        GLint complete = GL_FALSE;
        state.gl.GetProgramiv(made.program, GL_COMPLETION_STATUS_KHR, &complete);
        return complete == GL_TRUE;
      });
    });
    if (!batch->complete) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  context->call([batch, context](GlState& state) {
    for (InFlight& made : batch->made) batch->results.push_back(finish(context, state, made));
    state.check("compiling a program");
  });
  return std::move(batch->results);
}

std::string compile_report(std::string_view label, std::string_view text, std::string_view log) {
  constexpr long kAround = 2;
  std::ostringstream report;
  report << "shader " << label << " does not compile. The driver says:\n" << log;
  if (!log.empty() && log.back() != '\n') report << '\n';
  const std::set<long> named = lines_named(log);
  std::istringstream lines{std::string(text)};
  std::string line;
  long last = 0;
  for (long number = 1; std::getline(lines, line); ++number) {
    const auto near = named.lower_bound(number - kAround);
    if (near == named.end() || *near > number + kAround) continue;
    report << (last + 1 == number ? "" : "Source:\n") << (named.contains(number) ? "> " : "  ") << number << " | "
           << line << '\n';
    last = number;
  }
  return report.str();
}

std::vector<std::shared_ptr<Program>> ProgramStore::get(std::span<const Source> sources) {
  std::vector<std::shared_ptr<Program>> programs(sources.size());
  for (;;) {
    // What nobody else is at is this thread's to make. It waits for others only once it has made that: no two threads
    // can wait for one another.
    std::vector<std::size_t> mine;
    {
      std::unique_lock lock(mutex_);
      std::vector<const std::string*> others;
      for (std::size_t i = 0; i < sources.size(); ++i) {
        if (programs[i] != nullptr) continue;
        if (const auto found = programs_.find(sources[i].text); found != programs_.end())
          programs[i] = found->second;
        else if (in_the_making_.insert(sources[i].text).second)
          mine.push_back(i);
        else
          others.push_back(&sources[i].text);
      }
      if (mine.empty() && others.empty()) return programs;
      if (mine.empty())
        made_.wait(lock, [&] {
          return std::none_of(others.begin(), others.end(),
                              [&](const auto* text) { return in_the_making_.contains(*text); });
        });
    }
    if (!mine.empty()) make(sources, mine);
  }
}

void ProgramStore::make(std::span<const Source> sources, const std::vector<std::size_t>& which) {
  struct Claim {
    ProgramStore& store;
    std::span<const Source> sources;
    const std::vector<std::size_t>& which;
    ~Claim() {
      {
        const std::scoped_lock lock(store.mutex_);
        for (const std::size_t i : which) store.in_the_making_.erase(sources[i].text);
      }
      store.made_.notify_all();
    }
  } const claim{*this, sources, which};
  std::vector<std::size_t> missing;
  std::vector<std::string> texts;
  for (const std::size_t i : which) {
    if (load(sources[i].text)) continue;
    missing.push_back(i);
    texts.push_back(sources[i].text);
  }
  if (missing.empty()) return;
  std::vector<Compiled> compiled = compile(context_, std::move(texts));
  for (std::size_t j = 0; j < missing.size(); ++j) {
    const Source& source = sources[missing[j]];
    if (compiled[j].program == nullptr)
      core::fail(ErrorCode::compile_failed, "shader ", source.label, " does not compile on ", context_->info().renderer,
                 ":\n", name_sources(compiled[j].log));
    if (!compiled[j].binary.bytes.empty()) disk_.store(source.text, compiled[j].binary);
    remember(source.text, compiled[j].program);
  }
}

bool ProgramStore::load(const std::string& text) {
  std::optional<ProgramBinary> binary = disk_.load(text);
  if (!binary) return false;
  const auto loaded = std::make_shared<std::shared_ptr<Program>>();
  context_->call([loaded, context = context_, binary = std::move(*binary)](GlState& state) {
    const GLuint name = state.gl.CreateProgram();
    auto program = std::make_shared<Program>(context, name, std::string());
    state.gl.ProgramBinary(name, binary.format, binary.bytes.data(), static_cast<GLsizei>(binary.bytes.size()));
    GLint linked = GL_FALSE;
    state.gl.GetProgramiv(name, GL_LINK_STATUS, &linked);
    // A format that the driver no longer knows is an OpenGL error; here it is an ordinary answer.
    if (state.gl.GetError() == GL_NO_ERROR && linked == GL_TRUE) *loaded = std::move(program);
  });
  if (*loaded == nullptr) {
    core::log(LogLevel::info, "program cache: the driver refuses ", disk_.file_of(text).string(),
              ": compiling instead");
    disk_.remove(text);
    return false;
  }
  remember(text, *loaded);
  return true;
}

void ProgramStore::remember(const std::string& text, const std::shared_ptr<Program>& program) {
  constexpr std::size_t kKept = 512;
  std::vector<std::shared_ptr<Program>> dropped;  // let go outside the lock
  const std::scoped_lock lock(mutex_);
  programs_[text] = program;
  if (programs_.size() <= kKept) return;
  for (auto it = programs_.begin(); it != programs_.end();) {
    const bool unused = it->second.use_count() == 1;
    if (unused) dropped.push_back(std::move(it->second));
    it = unused ? programs_.erase(it) : std::next(it);
  }
}

}  // namespace convrt::gl
