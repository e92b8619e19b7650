// gl_floor: what a dispatch costs before it computes anything, by what stands between it and the one before it.
//
// usage: gl_floor [--device=gl:0] [--dispatches=2000]
//
// Each case is a chain of dispatches that count, so that the result tells whether all of them ran. Microseconds of GPU
// time a dispatch (two timestamps around the chain, behind enough work that the GPU never waits for the driver),
// median of 9 chains. A layer at N = 1 cannot take less than the case with its barrier, bindings and code size.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "convrt/convrt.hpp"
#include "core/access.hpp"
#include "core/fail.hpp"
#include "gl/gl_backend.hpp"

namespace {

using namespace convrt;

struct Case {
  const char* name;
  int groups = 1;
  bool barrier = true;
  bool bind_storage = false;  // the same range again
  bool ping_pong = false;     // reads one buffer, writes the other
  bool bind_uniform = false;  // another range each time
  bool reads_uniform = false;
  int code = 0;      // multiply-adds written out one after another that every invocation runs
  int rounds = 1;    // through them
  int programs = 1;  // that differ in a constant, used in turn
};

constexpr int kLocal = 128, kUniformRanges = 16;
constexpr Case kCases[] = {
    {.name = "no barrier", .barrier = false},
    {.name = "barrier"},
    {.name = "barrier, 132 groups", .groups = 132},
    {.name = "barrier, 1056 groups", .groups = 1056},
    {.name = "no barrier, storage bound again", .barrier = false, .bind_storage = true},
    {.name = "barrier, storage bound again", .bind_storage = true},
    {.name = "barrier, two buffers in turn", .bind_storage = true, .ping_pong = true},
    {.name = "barrier, uniforms read", .reads_uniform = true},
    {.name = "no barrier, uniforms bound and read", .barrier = false, .bind_uniform = true, .reads_uniform = true},
    {.name = "barrier, uniforms bound and read", .bind_uniform = true, .reads_uniform = true},
    {.name = "barrier, all bound",
     .bind_storage = true,
     .ping_pong = true,
     .bind_uniform = true,
     .reads_uniform = true},
    {.name = "all bound, 132 groups",
     .groups = 132,
     .bind_storage = true,
     .ping_pong = true,
     .bind_uniform = true,
     .reads_uniform = true},
    {.name = "all bound, two programs in turn",
     .groups = 132,
     .bind_storage = true,
     .ping_pong = true,
     .bind_uniform = true,
     .reads_uniform = true,
     .programs = 2},
    {.name = "8192 multiply-adds, 128 x 64 rounds", .groups = 132, .code = 128, .rounds = 64},
    {.name = "8192 multiply-adds, 1024 x 8 rounds", .groups = 132, .code = 1024, .rounds = 8},
    {.name = "8192 multiply-adds, 8192 x 1", .groups = 132, .code = 8192},
    {.name = "the same, two programs in turn", .groups = 132, .code = 8192, .programs = 2},
    {.name = "2048 multiply-adds, 128 x 16 rounds", .groups = 132, .code = 128, .rounds = 16},
    {.name = "2048 multiply-adds, 2048 x 1", .groups = 132, .code = 2048},
    {.name = "the same, two programs in turn", .groups = 132, .code = 2048, .programs = 2},
};

// dst = src + 1, on any number of invocations; the multiply-adds in front add zeros, which only the uniforms say.
std::string text(const Case& c, int program) {
  constexpr int kChains = 8;  // as many that do not wait for one another
  std::ostringstream code;
  code << "#version 430 core\nlayout(local_size_x = " << kLocal
       << ") in;\nlayout(std430, binding = 0) buffer Src { float src[]; };\n"
          "layout(std430, binding = 1) buffer Dst { float dst[]; };\n"
          "layout(std140, binding = 0) uniform Params { float one, zero; int rounds; };\n"
          "void main() {\n  uint i = gl_GlobalInvocationID.x;\n  float x = src[i];\n";
  if (c.code > 0) {
    for (int j = 0; j < kChains; ++j) code << "  float z" << j << " = " << program << ".0;\n";
    code << "  for (int r = 0; r < rounds; ++r) {\n";
    for (int j = 0; j < c.code; ++j) code << "    z" << j % kChains << " = fma(x, zero, z" << j % kChains << ");\n";
    code << "  }\n  x += zero * (z0 + z1 + z2 + z3 + z4 + z5 + z6 + z7);\n";
  }
  code << "  dst[i] = x + " << (c.reads_uniform ? "one" : "1.0") << ";\n}\n";
  return code.str();
}

GLuint compile(const GladGLContext& gl, const std::string& source) {
  const GLuint shader = gl.CreateShader(GL_COMPUTE_SHADER), program = gl.CreateProgram();
  const char* const text = source.c_str();
  gl.ShaderSource(shader, 1, &text, nullptr);
  gl.CompileShader(shader);
  gl.AttachShader(program, shader);
  gl.LinkProgram(program);
  gl.DeleteShader(shader);
  GLint linked = 0;
  gl.GetProgramiv(program, GL_LINK_STATUS, &linked);
  if (linked == 0) core::fail(ErrorCode::internal, "gl_floor: a shader does not link");
  return program;
}

void measure(gl::GlState& state, const Case& c, int dispatches) {
  const GladGLContext& gl = state.gl;
  const auto floats = static_cast<std::size_t>(c.groups) * kLocal;
  const auto bytes = static_cast<GLsizeiptr>(floats * sizeof(float));
  const auto alignment = static_cast<GLintptr>(state.info.limits.uniform_alignment);
  const auto range = std::max<GLintptr>(alignment, 16);
  GLuint buffers[3] = {};
  gl.GenBuffers(3, buffers);
  for (int i = 0; i < 2; ++i) {
    gl.BindBuffer(GL_SHADER_STORAGE_BUFFER, buffers[i]);
    gl.BufferStorage(GL_SHADER_STORAGE_BUFFER, bytes, nullptr, GL_DYNAMIC_STORAGE_BIT);
  }
  struct Params {
    float one = 1, zero = 0;
    int rounds = 1;
  };
  std::vector<char> params(static_cast<std::size_t>(range * kUniformRanges));
  const Params values = {.rounds = c.rounds};
  for (int i = 0; i < kUniformRanges; ++i) std::memcpy(params.data() + range * i, &values, sizeof values);
  gl.BindBuffer(GL_UNIFORM_BUFFER, buffers[2]);
  gl.BufferStorage(GL_UNIFORM_BUFFER, static_cast<GLsizeiptr>(params.size()), params.data(), 0);
  gl.BindBufferRange(GL_UNIFORM_BUFFER, 0, buffers[2], 0, 16);
  std::vector<GLuint> programs;
  for (int i = 0; i < c.programs; ++i) programs.push_back(compile(gl, text(c, i)));

  const auto chain = [&] {
    for (int i = 0; i < dispatches; ++i) {
      if (i == 0 || c.bind_storage) {
        const int from = c.ping_pong ? i % 2 : 0, to = c.ping_pong ? 1 - from : 0;
        gl.BindBufferRange(GL_SHADER_STORAGE_BUFFER, 0, buffers[from], 0, bytes);
        gl.BindBufferRange(GL_SHADER_STORAGE_BUFFER, 1, buffers[to], 0, bytes);
      }
      if (c.bind_uniform) gl.BindBufferRange(GL_UNIFORM_BUFFER, 0, buffers[2], range * (i % kUniformRanges), 16);
      if (i == 0 || c.programs > 1) gl.UseProgram(programs[static_cast<std::size_t>(i % c.programs)]);
      if (c.barrier) gl.MemoryBarrier(GL_SHADER_STORAGE_BARRIER_BIT);
      gl.DispatchCompute(static_cast<GLuint>(c.groups), 1, 1);
    }
  };
  const std::vector<float> zeros(floats);
  const auto clear = [&] {
    for (int i = 0; i < 2; ++i) {
      gl.BindBuffer(GL_SHADER_STORAGE_BUFFER, buffers[i]);
      gl.BufferSubData(GL_SHADER_STORAGE_BUFFER, 0, bytes, zeros.data());
    }
  };
  std::vector<double> us;
  bool right = true;
  for (int run = 0; run < 10; ++run) {
    clear();
    chain();  // keeps the GPU busy while the timed one is handed over; the first also warms the clock up
    gl.MemoryBarrier(GL_ALL_BARRIER_BITS);
    clear();
    GLuint stamps[2] = {};
    GLuint64 ns[2] = {};
    gl.GenQueries(2, stamps);
    gl.QueryCounter(stamps[0], GL_TIMESTAMP);
    chain();
    gl.QueryCounter(stamps[1], GL_TIMESTAMP);
    for (int i = 0; i < 2; ++i) gl.GetQueryObjectui64v(stamps[i], GL_QUERY_RESULT, &ns[i]);
    gl.DeleteQueries(2, stamps);
    if (run > 0) us.push_back(static_cast<double>(ns[1] - ns[0]) * 1e-3 / dispatches);
    std::vector<float> found(floats);
    gl.MemoryBarrier(GL_BUFFER_UPDATE_BARRIER_BIT);
    gl.BindBuffer(GL_SHADER_STORAGE_BUFFER, buffers[c.ping_pong ? dispatches % 2 : 0]);
    gl.GetBufferSubData(GL_SHADER_STORAGE_BUFFER, 0, bytes, found.data());
    // Without barriers a dispatch may start from an old value: at least one counted, and none twice.
    for (const float x : found)
      right =
          right && (c.barrier ? x == static_cast<float>(dispatches) : x >= 1 && x <= static_cast<float>(dispatches));
  }
  for (const GLuint program : programs) gl.DeleteProgram(program);
  gl.DeleteBuffers(3, buffers);
  state.check("gl_floor");
  std::sort(us.begin(), us.end());
  std::printf("  %-40s %7.2f us a dispatch (%.2f to %.2f; %s)\n", c.name, us[us.size() / 2], us.front(), us.back(),
              right ? "checked" : "WRONG");
  std::fflush(stdout);
  if (!right) core::fail(ErrorCode::internal, "a chain's result is wrong");
}

}  // namespace

int main(int argc, char** argv) {
  std::string id = "gl:0";
  int dispatches = 2000;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("--device="))
      id = argument.substr(9);
    else if (argument.starts_with("--dispatches="))
      dispatches = std::stoi(argument.substr(13));
    else
      return std::fprintf(stderr, "usage: gl_floor [--device=gl:0] [--dispatches=2000]\n"), 2;
  }
  try {
    const Device device = find_device(id);
    std::printf("%s | %s | %s\n", device.info().name.c_str(), device.info().arch.c_str(), device.info().driver.c_str());
    gl::GlContext& context = *static_cast<gl::GlBackend&>(*core::Access::backend(device)).device().session()->context;
    for (const Case& c : kCases) context.call([&](gl::GlState& state) { measure(state, c, dispatches); });
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "gl_floor: %s\n", error.what()), 1;
  }
}
