// One fault at every place: each row of kFaults is a way in which an EGL or OpenGL call can fail, and the sweep lets
// its first call fail, its second, ... until a whole use of a device (open, plan, run, enqueue, read, custom shader,
// close) meets no further one. Whatever fails: an Error with a code of the row or a right result, never a wrong one,
// never a hang; the device works again afterwards; and what was made is deleted.
#include <gtest/gtest.h>

#include <glad/egl.h>
// after glad's
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>

#include "convrt/convrt.hpp"
#include "core/access.hpp"
#include "gl/gl_backend.hpp"
#include "temporary_directory.hpp"

namespace {

using namespace std::chrono_literals;
using convrt::Conv2dDesc;
using convrt::Conv2dPlan;
using convrt::Error;
using convrt::ErrorCode;

enum class Kind {
  none,
  initialize,
  platform_display,
  bind_api,
  create_context,
  make_current,
  no_functions,
  storage,
  map,
  compile,
  link,
  no_program,
  binary,
  no_fence,
  fence_fails,
  fence_hangs,
  reset,
  out_of_memory,
  invalid
};

struct Fault {
  Kind kind;
  const char* name;
  std::set<ErrorCode> codes;  // what callers may hear
  bool stays = false;         // every further call fails too, until somebody heard of it
  bool harmless = false;      // the library has another way: nobody need hear of it
};

const Fault kFaults[] = {
    {Kind::initialize, "eglInitialize", {}, true, true},
    {Kind::platform_display, "eglGetPlatformDisplay", {}, true, true},
    {Kind::bind_api, "eglBindAPI", {ErrorCode::unsupported}},
    {Kind::create_context, "eglCreateContext", {ErrorCode::unsupported}, true},
    {Kind::make_current, "eglMakeCurrent", {ErrorCode::unsupported}},
    {Kind::no_functions, "eglGetProcAddress", {ErrorCode::unsupported}, true},
    {Kind::storage, "glBufferStorage", {ErrorCode::out_of_memory}},
    {Kind::map, "glMapBufferRange", {ErrorCode::out_of_memory}},
    {Kind::compile, "glCompileShader", {ErrorCode::compile_failed}},
    {Kind::link, "glLinkProgram", {ErrorCode::compile_failed, ErrorCode::unsupported}},
    {Kind::no_program, "glCreateProgram", {ErrorCode::compile_failed, ErrorCode::internal}},
    {Kind::binary, "glProgramBinary", {}, true, true},
    {Kind::no_fence, "glFenceSync", {ErrorCode::internal}},
    {Kind::fence_fails, "glClientWaitSync fails", {ErrorCode::device_lost}},
    {Kind::fence_hangs, "glClientWaitSync hangs", {ErrorCode::timeout, ErrorCode::device_lost}, true},
    {Kind::reset, "glGetGraphicsResetStatus", {ErrorCode::device_lost}},
    {Kind::out_of_memory, "GL_OUT_OF_MEMORY", {ErrorCode::out_of_memory}},
    {Kind::invalid, "GL_INVALID_OPERATION", {ErrorCode::internal}},
};
std::ostream& operator<<(std::ostream& out, const Fault& fault) { return out << fault.name; }

// The fault that is armed: which call of its kind fails, counted from 0.
struct Armed {
  std::atomic<const Fault*> fault = nullptr;
  std::atomic<int> left = 0;
  std::atomic<int> hits = 0;
};
Armed armed;

bool fails(Kind kind) {
  const Fault* fault = armed.fault;
  if (fault == nullptr || fault->kind != kind) return false;
  const int left = armed.left--;
  if (left > 0 || (left < 0 && !fault->stays)) return false;
  ++armed.hits;
  return true;
}
void arm(const Fault& fault, int place) {
  armed.left = place;
  armed.hits = 0;
  armed.fault = &fault;
}
void disarm() { armed.fault = nullptr; }

// What exists in each context.
struct Objects {
  std::mutex mutex;
  std::map<void*, std::map<std::string, int>> contexts;
  void add(const char* what, int count) {
    const std::scoped_lock lock(mutex);
    const auto context = contexts.find(glad_eglGetCurrentContext());
    if (context != contexts.end()) context->second[what] += count;
  }
  std::map<std::string, int> all() {
    const std::scoped_lock lock(mutex);
    std::map<std::string, int> sum = {{"contexts", static_cast<int>(contexts.size())}};
    for (const auto& [context, counts] : contexts)
      for (const auto& [what, count] : counts) sum[what] += count;
    return sum;
  }
};
Objects& objects() {
  static Objects* const instance = new Objects;  // contexts of the library's own devices outlive main
  return *instance;
}

// Stands between the library and the driver: the function of `name`, or a stand-in that may fail and counts objects.
using Function = __eglMustCastToProperFunctionPointerType;
PFNEGLGETPROCADDRESSPROC driver_function = nullptr;
template <class Type>
Type real_of(const char* name) {
  return reinterpret_cast<Type>(driver_function(name));
}

std::atomic<bool> pending_out_of_memory = false;

struct StandIn {
  const char* name;
  void (*function)();
};
#define STAND_IN(type, name, ...) \
  { name, reinterpret_cast<void (*)()>(static_cast<type>(__VA_ARGS__)) }
const StandIn kStandIns[] = {
    STAND_IN(PFNEGLGETPLATFORMDISPLAYEXTPROC, "eglGetPlatformDisplayEXT",
             [](EGLenum platform, void* native, const EGLint* attributes) -> EGLDisplay {
               return fails(Kind::platform_display) ? EGL_NO_DISPLAY
                                                    : real_of<PFNEGLGETPLATFORMDISPLAYEXTPROC>(
                                                          "eglGetPlatformDisplayEXT")(platform, native, attributes);
             }),
    STAND_IN(PFNGLBUFFERSTORAGEPROC, "glBufferStorage",
             [](GLenum target, GLsizeiptr size, const void* data, GLbitfield flags) {
               if (fails(Kind::storage))
                 pending_out_of_memory = true;
               else
                 real_of<PFNGLBUFFERSTORAGEPROC>("glBufferStorage")(target, size, data, flags);
             }),
    STAND_IN(PFNGLMAPBUFFERRANGEPROC, "glMapBufferRange",
             [](GLenum target, GLintptr offset, GLsizeiptr length, GLbitfield access) -> void* {
               return fails(Kind::map)
                          ? nullptr
                          : real_of<PFNGLMAPBUFFERRANGEPROC>("glMapBufferRange")(target, offset, length, access);
             }),
    STAND_IN(PFNGLGETSHADERIVPROC, "glGetShaderiv",
             [](GLuint shader, GLenum name, GLint* value) {
               real_of<PFNGLGETSHADERIVPROC>("glGetShaderiv")(shader, name, value);
               if (name == GL_COMPILE_STATUS && fails(Kind::compile)) *value = GL_FALSE;
             }),
    STAND_IN(PFNGLGETPROGRAMIVPROC, "glGetProgramiv",
             [](GLuint program, GLenum name, GLint* value) {
               real_of<PFNGLGETPROGRAMIVPROC>("glGetProgramiv")(program, name, value);
               if (name == GL_LINK_STATUS && fails(Kind::link)) *value = GL_FALSE;
             }),
    STAND_IN(PFNGLPROGRAMBINARYPROC, "glProgramBinary",
             [](GLuint program, GLenum format, const void* binary, GLsizei length) {
               const GLsizei used = fails(Kind::binary) ? length / 2 : length;
               real_of<PFNGLPROGRAMBINARYPROC>("glProgramBinary")(program, format, binary, used);
             }),
    STAND_IN(PFNGLFENCESYNCPROC, "glFenceSync",
             [](GLenum condition, GLbitfield flags) -> GLsync {
               if (fails(Kind::no_fence)) return nullptr;
               objects().add("fences", 1);
               return real_of<PFNGLFENCESYNCPROC>("glFenceSync")(condition, flags);
             }),
    STAND_IN(PFNGLDELETESYNCPROC, "glDeleteSync",
             [](GLsync sync) {
               objects().add("fences", -1);
               real_of<PFNGLDELETESYNCPROC>("glDeleteSync")(sync);
             }),
    STAND_IN(PFNGLCLIENTWAITSYNCPROC, "glClientWaitSync",
             [](GLsync sync, GLbitfield flags, GLuint64 timeout_ns) -> GLenum {
               if (fails(Kind::fence_fails)) return GL_WAIT_FAILED;
               if (fails(Kind::fence_hangs)) {
                 std::this_thread::sleep_for(1ms);
                 return GL_TIMEOUT_EXPIRED;
               }
               return real_of<PFNGLCLIENTWAITSYNCPROC>("glClientWaitSync")(sync, flags, timeout_ns);
             }),
    STAND_IN(PFNGLGETGRAPHICSRESETSTATUSPROC, "glGetGraphicsResetStatus",
             []() -> GLenum { return fails(Kind::reset) ? GL_INNOCENT_CONTEXT_RESET : GL_NO_ERROR; }),
    STAND_IN(PFNGLGETERRORPROC, "glGetError",
             []() -> GLenum {
               if (pending_out_of_memory.exchange(false) || fails(Kind::out_of_memory)) return GL_OUT_OF_MEMORY;
               if (fails(Kind::invalid)) return GL_INVALID_OPERATION;
               return real_of<PFNGLGETERRORPROC>("glGetError")();
             }),
    STAND_IN(PFNGLCREATEPROGRAMPROC, "glCreateProgram",
             []() -> GLuint {
               if (fails(Kind::no_program)) return 0;
               objects().add("programs", 1);
               return real_of<PFNGLCREATEPROGRAMPROC>("glCreateProgram")();
             }),
    STAND_IN(PFNGLDELETEPROGRAMPROC, "glDeleteProgram",
             [](GLuint program) {
               if (program != 0) objects().add("programs", -1);
               real_of<PFNGLDELETEPROGRAMPROC>("glDeleteProgram")(program);
             }),
    STAND_IN(PFNGLCREATESHADERPROC, "glCreateShader",
             [](GLenum type) {
               objects().add("shaders", 1);
               return real_of<PFNGLCREATESHADERPROC>("glCreateShader")(type);
             }),
    STAND_IN(PFNGLDELETESHADERPROC, "glDeleteShader",
             [](GLuint shader) {
               objects().add("shaders", -1);
               real_of<PFNGLDELETESHADERPROC>("glDeleteShader")(shader);
             }),
    STAND_IN(PFNGLGENBUFFERSPROC, "glGenBuffers",
             [](GLsizei count, GLuint* names) {
               objects().add("buffers", count);
               real_of<PFNGLGENBUFFERSPROC>("glGenBuffers")(count, names);
             }),
    STAND_IN(PFNGLDELETEBUFFERSPROC, "glDeleteBuffers",
             [](GLsizei count, const GLuint* names) {
               objects().add("buffers", -count);
               real_of<PFNGLDELETEBUFFERSPROC>("glDeleteBuffers")(count, names);
             }),
    STAND_IN(PFNGLGENQUERIESPROC, "glGenQueries",
             [](GLsizei count, GLuint* names) {
               objects().add("queries", count);
               real_of<PFNGLGENQUERIESPROC>("glGenQueries")(count, names);
             }),
    STAND_IN(PFNGLDELETEQUERIESPROC, "glDeleteQueries",
             [](GLsizei count, const GLuint* names) {
               objects().add("queries", -count);
               real_of<PFNGLDELETEQUERIESPROC>("glDeleteQueries")(count, names);
             }),
};
#undef STAND_IN

PFNEGLINITIALIZEPROC real_initialize;
PFNEGLBINDAPIPROC real_bind_api;
PFNEGLCREATECONTEXTPROC real_create_context;
PFNEGLDESTROYCONTEXTPROC real_destroy_context;
PFNEGLMAKECURRENTPROC real_make_current;

void put_stand_ins() {
  static std::once_flag once;
  std::call_once(once, [] {
    driver_function = std::exchange(glad_eglGetProcAddress, [](const char* name) -> Function {
      if (std::string_view(name) == "glBufferStorage" && fails(Kind::no_functions)) return nullptr;
      const Function real = driver_function(name);
      for (const StandIn& in : kStandIns)
        if (real != nullptr && std::strcmp(in.name, name) == 0) return in.function;
      return real;
    });
    real_initialize = std::exchange(glad_eglInitialize, [](EGLDisplay display, EGLint* major, EGLint* minor) {
      return fails(Kind::initialize) ? EGLBoolean{EGL_FALSE} : real_initialize(display, major, minor);
    });
    real_bind_api = std::exchange(glad_eglBindAPI, [](EGLenum api) {
      return fails(Kind::bind_api) ? EGLBoolean{EGL_FALSE} : real_bind_api(api);
    });
    real_create_context = std::exchange(
        glad_eglCreateContext,
        [](EGLDisplay display, EGLConfig config, EGLContext share, const EGLint* attributes) -> EGLContext {
          if (fails(Kind::create_context)) return EGL_NO_CONTEXT;
          const EGLContext made = real_create_context(display, config, share, attributes);
          const std::scoped_lock lock(objects().mutex);
          if (made != EGL_NO_CONTEXT) objects().contexts[made];
          return made;
        });
    real_destroy_context = std::exchange(glad_eglDestroyContext, [](EGLDisplay display, EGLContext context) {
      const std::scoped_lock lock(objects().mutex);
      objects().contexts.erase(context);
      return real_destroy_context(display, context);
    });
    real_make_current = std::exchange(
        glad_eglMakeCurrent, [](EGLDisplay display, EGLSurface draw, EGLSurface read, EGLContext context) {
          return fails(Kind::make_current) ? EGLBoolean{EGL_FALSE} : real_make_current(display, draw, read, context);
        });
  });
}

constexpr const char* kTwice = R"(#version 430 core
layout(local_size_x = 64) in;
layout(std430, binding = 0) readonly buffer Src { float src[]; };
layout(std430, binding = 2) writeonly buffer Dst { float dst[]; };
void main() {
  uint i = gl_GlobalInvocationID.x;
  if (i < uint(dst.length())) dst[i] = 2.0 * src[i];
}
)";

std::vector<float> ramp(std::size_t count, int modulus) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>(static_cast<int>(i) % modulus - modulus / 2);
  return values;
}

class GlFaultSweep : public testing::TestWithParam<Fault> {
 protected:
  void SetUp() override {
    const auto all = convrt::devices();  // opens what the process keeps open, before anything can fail
    if (std::none_of(all.begin(), all.end(), [](const auto& d) { return d.info().id.starts_with("gl:"); }))
      GTEST_SKIP() << "no GL device here (CONVRT_VERBOSE=info says why)";
    put_stand_ins();
    Conv2dPlan(convrt::find_device("cpu"), desc_, weights_, bias_, {.kernel = "cpu.reference"}).run(src_, once_);
    Conv2dPlan(convrt::find_device("cpu"), desc_, weights_, bias_, {.kernel = "cpu.reference"}).run(once_, twice_);
  }
  void TearDown() override { disarm(); }

  // Runs `step`; notes the code of its Error, which nobody hears twice.
  void attempt(const char* step, const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& e) {
      EXPECT_TRUE(GetParam().codes.contains(e.code())) << step << ": " << static_cast<int>(e.code()) << ' ' << e.what();
      EXPECT_NE(armed.fault.load(), nullptr) << step << ": " << e.what();
      EXPECT_GT(std::strlen(e.what()), 20U);
      heard_.insert(e.code());
      if (GetParam().stays) disarm();
    }
  }

  void open() {
    auto found = convrt::gl::egl_devices();
    if (found.empty()) found = convrt::gl::surfaceless_device();
    if (found.empty()) return;  // the CPU is left, and the log says why
    const std::chrono::milliseconds limit = GetParam().kind == Kind::fence_hangs ? 1s : 60s;
    auto device =
        std::make_shared<convrt::gl::GlDevice>(found.back(), convrt::gl::GlContext::Options{.timeout = limit});
    device_.emplace(convrt::core::Access::device(
        std::make_shared<convrt::gl::GlBackend>(found.back(), std::move(device), "gl:test")));
  }

  // A full name, so that there is no other kernel to take instead.
  std::string kernel(const char* prefix) const {
    for (const std::string& name : device_->kernels(desc_))
      if (name.starts_with(prefix)) return name;
    return prefix;
  }

  // Everything a program does with a device. Each step either throws or is right.
  void use() {
    attempt("plan and run", [&] {
      const Conv2dPlan plan(*device_, desc_, weights_, bias_, {.kernel = kernel("gl.lds_64")});
      std::vector<float> dst(desc_.dst_size(), -1);
      plan.run(src_, dst);
      EXPECT_EQ(dst, once_);
    });
    attempt("enqueue and read", [&] {
      const Conv2dPlan plan(*device_, desc_, weights_, bias_, {.kernel = kernel("gl.basic_64")});
      convrt::Buffer a = device_->allocate(src_.size()), b = device_->allocate(src_.size());
      a.upload(src_);
      plan.enqueue(a, b);
      plan.enqueue(b, a);
      std::vector<float> dst(src_.size(), -1);
      a.download(dst);
      EXPECT_EQ(dst, twice_);
    });
    attempt("custom shader", [&] {
      convrt::ShaderSource source;
      source.glsl = kTwice;
      const auto shader = gpu_compile_custom_shader(*device_, source);
      std::vector<float> dst(src_.size(), -1), expected = src_;
      for (float& x : expected) x *= 2;
      gpu_execute_conv2d_custom(shader, desc_, src_, weights_, dst);
      EXPECT_EQ(dst, expected);
    });
    attempt("synchronize", [&] { device_->synchronize(); });
  }

  // Waits until no more exists than `most`: objects are deleted in the order of their queues, behind our back.
  static void expect_at_most(const std::map<std::string, int>& most) {
    const auto exceeded = [&] {
      std::string text;
      for (const auto& [what, count] : objects().all())
        if (const auto limit = most.find(what); count > (limit == most.end() ? 0 : limit->second))
          text += std::to_string(count) + ' ' + what + "; ";
      return text;
    };
    for (int i = 0; i < 500 && !exceeded().empty(); ++i) std::this_thread::sleep_for(10ms);
    EXPECT_EQ(exceeded(), "");
  }

  const Conv2dDesc desc_ = Conv2dDesc::parse("n2c4h6w7k4r3s3ph1pw1");
  const std::vector<float> weights_ = ramp(desc_.weights_size(), 5), src_ = ramp(desc_.src_size(), 7),
                           bias_ = ramp(4, 3);
  std::vector<float> once_ = std::vector<float>(desc_.dst_size()), twice_ = once_;
  std::optional<convrt::Device> device_;
  std::set<ErrorCode> heard_;
};

TEST_P(GlFaultSweep, IsAnErrorOrHarmlessAtEveryPlace) {
  const Fault& fault = GetParam();
  // A warm cache, but for the faults of compiling.
  const TemporaryDirectory cache;
  const bool compiles = fault.kind == Kind::compile || fault.kind == Kind::link || fault.kind == Kind::no_program;
  const Environment folder("CONVRT_CACHE_DIR", compiles ? "/dev/null/none" : cache.path.c_str());
  const Environment patience("CONVRT_CUSTOM_TIMEOUT_MS", fault.kind == Kind::fence_hangs ? "1000" : "60000");

  const std::map<std::string, int> before = objects().all();
  open();
  use();
  use();
  std::map<std::string, int> in_use = objects().all();
  in_use["buffers"] += 12;  // pools of staging blocks and of runs' memory grow as timing has it; others do not
  device_.reset();
  expect_at_most(before);
  ASSERT_FALSE(HasFailure()) << "without any fault";

  int place = 0, met = 0;
  for (; place < 400; ++place) {
    SCOPED_TRACE(testing::Message() << fault.name << " at call " << place);
    arm(fault, place);
    attempt("open", [&] { open(); });
    if (device_) use();
    const bool hit = armed.hits > 0;
    disarm();
    met += hit ? 1 : 0;
    // What nobody has heard yet is no part of what follows.
    if (device_) attempt("clear", [&] { arm(fault, 1 << 30), device_->synchronize(); });
    disarm();
    if (!device_) open();
    ASSERT_TRUE(device_);
    use();
    expect_at_most(in_use);
    device_.reset();
    expect_at_most(before);
    if (!hit || HasFailure()) break;
  }
  EXPECT_GT(met, 0);
  EXPECT_EQ(heard_.empty(), fault.harmless);
  RecordProperty("places", place);
}

INSTANTIATE_TEST_SUITE_P(Calls, GlFaultSweep, testing::ValuesIn(kFaults),
                         [](const auto& fault) { return "Kind" + std::to_string(static_cast<int>(fault.param.kind)); });

}  // namespace
