#include "gl/device_copy.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>

#include "core/fail.hpp"
#include "core/log.hpp"

namespace convrt::gl {
namespace {

constexpr GLuint kThreads = 256, kVectorsPerThread = 4, kGroupsBeside = 16;
constexpr const char* kText = R"(#version 430 core
layout(local_size_x = 256) in;
layout(std430, binding = 0) readonly restrict buffer From { uvec4 from[]; };
layout(std430, binding = 1) writeonly restrict buffer To { uvec4 to[]; };
layout(location = 0) uniform uint vectors;
void main() {
  uint step = 256u * gl_NumWorkGroups.x, i = gl_GlobalInvocationID.x;
  // Four loads in flight before the first store: the bus is far away.
  for (; i + 3u * step < vectors; i += 4u * step) {
    uvec4 a = from[i], b = from[i + step], c = from[i + 2u * step], d = from[i + 3u * step];
    to[i] = a; to[i + step] = b; to[i + 2u * step] = c; to[i + 3u * step] = d;
  }
  for (; i < vectors; i += step) to[i] = from[i];
}
)";

// What the self-test copies: enough to tell the forms apart, little enough for a slow driver.
constexpr GLsizeiptr kTest_bytes = GLsizeiptr{1} << 20;

}  // namespace

DeviceCopy::DeviceCopy(GlContext& context) {
  context.call([this](GlState& state) {
    build(state);
    choose(state);
  });
}

void DeviceCopy::build(GlState& state) {
  const GladGLContext& gl = state.gl;
  program_ = gl.CreateShaderProgramv(GL_COMPUTE_SHADER, 1, &kText);
  GLint linked = GL_FALSE;
  if (program_ != 0) gl.GetProgramiv(program_, GL_LINK_STATUS, &linked);
  if (linked == GL_TRUE) return;
  state.check("building the copy shader");
  core::fail(ErrorCode::unsupported, "the OpenGL driver ", state.info.renderer, " does not compile the copy shader");
}

// Some drivers' own copies run at memory speed (Mesa's software device), others at a fraction of what a shader reaches.
void DeviceCopy::choose(GlState& state) {
  const GladGLContext& gl = state.gl;
  std::array<GLuint, 2> buffers = {};
  gl.GenBuffers(2, buffers.data());
  const std::array<GLbitfield, 2> flags = {
      GL_MAP_WRITE_BIT | GL_MAP_PERSISTENT_BIT | GL_MAP_COHERENT_BIT | GL_CLIENT_STORAGE_BIT, 0};
  for (std::size_t i = 0; i < 2; ++i) {
    gl.BindBuffer(GL_COPY_WRITE_BUFFER, buffers[i]);
    gl.BufferStorage(GL_COPY_WRITE_BUFFER, kTest_bytes, nullptr, flags[i]);
  }
  double best = std::numeric_limits<double>::infinity();
  for (const Form form : {Form{64}, Form{0}}) {
    for (int run = 0; run < 3; ++run) {
      const auto start = std::chrono::steady_clock::now();
      encode(form, state, buffers[0], 0, buffers[1], 0, kTest_bytes);
      gl.Finish();
      const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (run > 0 && s < best) {
        best = s;
        form_ = form;
      }
    }
  }
  gl.DeleteBuffers(2, buffers.data());
  state.hazards.clear();
  state.check("timing the copy forms");
  core::log(LogLevel::debug, state.info.renderer, ": copies by ", form_.groups == 0 ? "the driver" : "shader", ", ",
            static_cast<double>(kTest_bytes) / best * 1e-9, " GB/s");
}

void DeviceCopy::encode(GlState& state, GLuint from, std::size_t from_offset, GLuint to, std::size_t to_offset,
                        std::size_t bytes) const {
  encode(form_, state, from, from_offset, to, to_offset, bytes);
}

void DeviceCopy::encode_beside(GlState& state, GLuint from, GLuint to, std::size_t bytes) const {
  encode({std::min(form_.groups, kGroupsBeside)}, state, from, 0, to, 0, bytes);
}

void DeviceCopy::encode_by_driver(GlState& state, GLuint from, GLuint to, std::size_t bytes) {
  state.gl.BindBuffer(GL_COPY_READ_BUFFER, from);
  state.gl.BindBuffer(GL_COPY_WRITE_BUFFER, to);
  state.gl.CopyBufferSubData(GL_COPY_READ_BUFFER, GL_COPY_WRITE_BUFFER, 0, 0,
                             static_cast<GLsizeiptr>((bytes + 15) / 16 * 16));
}

void DeviceCopy::encode(Form form, GlState& state, GLuint from, std::size_t from_offset, GLuint to,
                        std::size_t to_offset, std::size_t bytes) const {
  const GladGLContext& gl = state.gl;
  const auto size = static_cast<GLsizeiptr>((bytes + 15) / 16 * 16);
  if (form.groups == 0) {
    // The driver orders its copies after one another and before later dispatches, not after earlier ones.
    if (state.hazards.note({&from, 1}, {&to, 1}))
      gl.MemoryBarrier(GL_SHADER_STORAGE_BARRIER_BIT | GL_BUFFER_UPDATE_BARRIER_BIT);
    gl.BindBuffer(GL_COPY_READ_BUFFER, from);
    gl.BindBuffer(GL_COPY_WRITE_BUFFER, to);
    gl.CopyBufferSubData(GL_COPY_READ_BUFFER, GL_COPY_WRITE_BUFFER, static_cast<GLintptr>(from_offset),
                         static_cast<GLintptr>(to_offset), size);
    return;
  }
  const auto vectors = static_cast<GLuint>(size / 16);
  state.touch({&from, 1}, {&to, 1});
  state.use(program_);
  gl.Uniform1ui(0, vectors);
  gl.BindBufferRange(GL_SHADER_STORAGE_BUFFER, 0, from, static_cast<GLintptr>(from_offset), size);
  gl.BindBufferRange(GL_SHADER_STORAGE_BUFFER, 1, to, static_cast<GLintptr>(to_offset), size);
  constexpr GLuint kPerGroup = kThreads * kVectorsPerThread;
  gl.DispatchCompute(std::clamp((vectors + kPerGroup - 1) / kPerGroup, 1U, form.groups), 1, 1);
}

}  // namespace convrt::gl
