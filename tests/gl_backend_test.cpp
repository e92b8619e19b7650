// The GL runtime on whatever driver this machine has (llvmpipe in CI): buffers, chains, threads, faults.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <thread>

#include "convrt/convrt.hpp"
#include "core/access.hpp"
#include "gl/gl_backend.hpp"
#include "gl/gl_conv.hpp"
#include "temporary_directory.hpp"

namespace {

using convrt::Conv2dDesc;
using convrt::Conv2dPlan;
using convrt::Device;
using convrt::Error;
using convrt::ErrorCode;

// Small integers: sums are exact in any order, so results compare bit for bit.
std::vector<float> integers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> value(-4, 4);
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return static_cast<float>(value(random)); });
  return values;
}

std::vector<float> oracle(const Conv2dDesc& desc, const std::vector<float>& weights, const std::vector<float>& bias,
                          const std::vector<float>& src, std::vector<float> dst = {}) {
  dst.resize(desc.dst_size());
  Conv2dPlan(convrt::find_device("cpu"), desc, weights, bias, {.kernel = "cpu.reference"}).run(src, dst);
  return dst;
}

std::optional<ErrorCode> code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.code();
  }
  return std::nullopt;
}

class GlBackend : public testing::Test {
 protected:
  static const Device* device() {
    static const std::vector<Device> all = convrt::devices();
    for (const Device& d : all)
      if (d.info().id.starts_with("gl:")) return &d;
    return nullptr;
  }
  void SetUp() override {
    if (device() == nullptr) GTEST_SKIP() << "no GL device here (CONVRT_VERBOSE=info says why)";
  }
};

TEST_F(GlBackend, BuffersKeepWhatWasUploaded) {
  // Sizes around the vec4 tail and the 8 MiB staging block.
  for (const std::size_t size : {1U, 3U, 4U, 5U, 1023U, (2U << 20) - 1U, (2U << 20) + 1U, (7U << 20) + 3U}) {
    convrt::Buffer buffer = device()->allocate(size);
    std::vector<float> in(size), out(size, -1);
    std::iota(in.begin(), in.end(), static_cast<float>(size));
    buffer.upload(in);
    buffer.download(out);
    EXPECT_EQ(in, out) << size;
  }
}

TEST_F(GlBackend, RunMatchesTheOracle) {
  for (const char* problem : {"n2c5h9w7k6r3s3ph1pw1", "n1c8h6w6k4r1s1g2+nhwc+relu", "n3c4h11w5k4r3s2sh2sw3g4"}) {
    Conv2dDesc desc = Conv2dDesc::parse(problem);
    const auto weights = integers(desc.weights_size(), 1), src = integers(desc.src_size(), 2),
               bias = integers(static_cast<std::size_t>(desc.k), 3);
    const Conv2dPlan plan(*device(), desc, weights, bias);
    std::vector<float> dst(desc.dst_size(), NAN);
    const convrt::RunStats stats = plan.run(src, dst);
    EXPECT_EQ(dst, oracle(desc, weights, bias, src)) << problem << ' ' << plan.kernel();
    EXPECT_GT(stats.total_ms, 0);
    EXPECT_GT(stats.device_ms, 0);
    EXPECT_LE(stats.device_ms, stats.total_ms);
  }
}

TEST_F(GlBackend, TellsItsOwnTimeOfEnqueuedRuns) {
  const Conv2dDesc desc = Conv2dDesc::parse("n2c5h9w7k6r3s3ph1pw1");
  const auto weights = integers(desc.weights_size(), 1), src = integers(desc.src_size(), 2);
  const Conv2dPlan plan(*device(), desc, weights);
  convrt::Buffer from = device()->allocate(src.size()), to = device()->allocate(desc.dst_size());
  from.upload(src);
  convrt::core::Backend& backend = *convrt::core::Access::backend(*device());
  std::vector<int> runs;
  const auto start = std::chrono::steady_clock::now();
  const double ms = backend.device_ms(3, [&](int run) {
    runs.push_back(run);
    plan.enqueue(from, to);
  });
  EXPECT_GT(ms, 0);
  const std::chrono::duration<double, std::milli> wall = std::chrono::steady_clock::now() - start;
  EXPECT_LE(ms, wall.count());
  EXPECT_EQ(runs, (std::vector<int>{0, 1, 2}));
  std::vector<float> dst(desc.dst_size(), NAN);
  to.download(dst);
  EXPECT_EQ(dst, oracle(desc, weights, {}, src));
  // What cannot be enqueued is the caller's error, and the queue goes on.
  EXPECT_THROW(backend.device_ms(2, [&](int) { plan.enqueue(to, to); }), convrt::Error);
  EXPECT_GT(backend.device_ms(1, [&](int) { plan.enqueue(from, to); }), 0);
}

TEST_F(GlBackend, TenLayersChainOnTheDevice) {
  std::vector<Conv2dPlan> on_gl, on_cpu;
  Conv2dDesc desc = Conv2dDesc::parse("n2c3h12w10k5r3s3ph1pw1+clamp:-8:8");
  for (unsigned layer = 0; layer < 10; ++layer) {
    const auto weights = integers(desc.weights_size(), 10 + layer),
               bias = integers(static_cast<std::size_t>(desc.k), 30 + layer);
    on_gl.emplace_back(*device(), desc, weights, bias);
    on_cpu.emplace_back(convrt::find_device("cpu"), desc, weights, bias,
                        convrt::PlanOptions{.kernel = "cpu.reference"});
    desc.c = desc.k;
    desc.h = on_gl.back().desc().p();
    desc.w = on_gl.back().desc().q();
    desc.k = 3 + static_cast<int>(layer);
  }
  std::vector<float> expected = integers(on_gl.front().desc().src_size(), 5);
  convrt::Buffer src = device()->allocate(expected.size());
  src.upload(expected);
  for (std::size_t layer = 0; layer < on_gl.size(); ++layer) {
    convrt::Buffer dst = device()->allocate(on_gl[layer].desc().dst_size());
    on_gl[layer].enqueue(src, dst);
    src = std::move(dst);  // the old one is let go while the work is in flight
    std::vector<float> next(on_cpu[layer].desc().dst_size());
    on_cpu[layer].run(expected, next);
    expected = std::move(next);
  }
  std::vector<float> found(src.size());
  src.download(found);
  EXPECT_EQ(found, expected);
  EXPECT_GT(std::count_if(found.begin(), found.end(), [](float x) { return x != 0; }), std::ssize(found) / 4);
}

TEST_F(GlBackend, ManyThreadsShareOnePlan) {
  const Conv2dDesc desc = Conv2dDesc::parse("n1c4h9w9k8r3s3");
  const auto weights = integers(desc.weights_size(), 1);
  const Conv2dPlan plan(*device(), desc, weights);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (unsigned t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < 8; ++i) {
        const auto src = integers(desc.src_size(), 100 * t + i);
        std::vector<float> dst(desc.dst_size());
        plan.run(src, dst);
        wrong[t] += dst != oracle(desc, weights, {}, src);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST_F(GlBackend, AccumulatesAndReshapes) {
  const Conv2dDesc desc = Conv2dDesc::parse("n1c3h8w8k4r3s3ph1pw1+acc");
  const auto weights = integers(desc.weights_size(), 1), bias = integers(static_cast<std::size_t>(desc.k), 2);
  const Conv2dPlan plan = Conv2dPlan(*device(), desc, weights, bias).reshaped(3, 5, 11);
  const auto src = integers(plan.desc().src_size(), 3), before = integers(plan.desc().dst_size(), 4);
  std::vector<float> dst = before;
  plan.run(src, dst);
  EXPECT_EQ(dst, oracle(plan.desc(), weights, bias, src, before));
}

TEST_F(GlBackend, AllocationBeyondTheMachineIsOutOfMemory) {
  EXPECT_EQ(code_of([&] { (void)device()->allocate(std::size_t{1} << 44); }), ErrorCode::out_of_memory);
  convrt::Buffer buffer = device()->allocate(5);
  buffer.upload(integers(5, 1));
  std::vector<float> out(5);
  buffer.download(out);
  EXPECT_EQ(out, integers(5, 1));
}

// As on a device whose storage blocks hold little: what does not fit is cut along images, filters, rows, bands of rows.
TEST_F(GlBackend, ProblemsLargerThanAStorageBlockAreCut) {
  auto& backend = static_cast<convrt::gl::GlBackend&>(*convrt::core::Access::backend(*device()));
  const std::shared_ptr<convrt::gl::GlDevice> gl(&backend.device(), [](auto*) {});
  int banded = 0;
  for (const char* problem : {"n2c6h61w47k5r3s3ph1pw1", "n1c6h61w47k5r3s3ph1pw1+acc+relu",
                              "n1c8h57w53k12r5s3sh2sw2ph2pw1g2", "n1c4h63w49k4r3s3dh2dw2pt5pl1g4", "n1c5h60w44k8r1s1",
                              "n2c6h61w47k5r3s3ph1pw1+nhwc", "n1c8h61w47k8r3s3ph1pw1g8+nhwc"}) {
    const Conv2dDesc desc = Conv2dDesc::parse(problem);
    const auto weights = integers(desc.weights_size(), 1), src = integers(desc.src_size(), 2),
               bias = integers(static_cast<std::size_t>(desc.k), 3), before = integers(desc.dst_size(), 4);
    const std::vector<float> expected = oracle(desc, weights, bias, src, before);
    for (const std::uint64_t block_bytes : {40000U, 12000U}) {
      convrt::gl::GlInfo info = backend.gl_info();
      info.limits.max_block_bytes = block_bytes;
      std::set<std::string> families;  // one kernel of each
      for (const convrt::gl::Config& config : configs(desc, info)) {
        if (!families.insert(config.name.substr(0, config.name.rfind('.'))).second) continue;
        SCOPED_TRACE(std::string(problem) + ' ' + config.name + ' ' + std::to_string(block_bytes));
        try {
          const auto packed =
              std::make_shared<convrt::gl::GlWeights>(convrt::gl::pack_weights(config, desc, weights), bias);
          const convrt::gl::GlConv conv(gl, info, config, desc, packed);
          std::vector<float> dst = before;
          conv.run(src, dst);
          EXPECT_EQ(dst, expected);
          banded += conv.workspace_bytes() > 0 ? 1 : 0;
        } catch (const Error& e) {
          EXPECT_EQ(e.code(), ErrorCode::unsupported) << e.what();
          EXPECT_NE(std::string(e.what()).find(std::to_string(block_bytes)), std::string::npos) << e.what();
        }
      }
    }
  }
  EXPECT_GT(banded, 20);
}

// Faults: a device of the test's own, single OpenGL functions replaced.
class GlFaults : public GlBackend {
 protected:
  void SetUp() override {
    GlBackend::SetUp();
    if (IsSkipped()) return;
    auto found = convrt::gl::egl_devices();
    if (found.empty()) found = convrt::gl::surfaceless_device();
    gl_ = std::make_shared<convrt::gl::GlDevice>(
        found.back(), convrt::gl::GlContext::Options{.timeout = std::chrono::milliseconds(4000)});
    mine_ = convrt::core::Access::device(std::make_shared<convrt::gl::GlBackend>(found.back(), gl_, "gl:test"));
    plan_.emplace(*mine_, desc_, weights_);
    reset_after_ = -1;
  }
  void replace(void (*change)(GladGLContext&)) {
    gl_->session()->context->call([change](convrt::gl::GlState& state) { change(state.gl); });
  }
  void expect_right() {
    std::vector<float> dst(desc_.dst_size());
    plan_->run(src_, dst);
    EXPECT_EQ(dst, oracle(desc_, weights_, {}, src_));
  }
  static GLenum reset_status() {
    return reset_after_ >= 0 && reset_after_-- == 0 ? GL_GUILTY_CONTEXT_RESET : GL_NO_ERROR;
  }
  static inline std::atomic<int> reset_after_ = -1;

  const Environment no_cache_ = {"CONVRT_CACHE_DIR", "/dev/null/none"};  // programs are compiled, whatever ran before
  const Conv2dDesc desc_ = Conv2dDesc::parse("n1c3h7w6k4r3s3ph1pw1");
  const std::vector<float> weights_ = integers(desc_.weights_size(), 1), src_ = integers(desc_.src_size(), 2);
  std::shared_ptr<convrt::gl::GlDevice> gl_;
  std::optional<Device> mine_;
  std::optional<Conv2dPlan> plan_;
};

TEST_F(GlFaults, AHungFenceIsATimeoutAndTheDeviceReopens) {
  replace([](GladGLContext& gl) {
    gl.ClientWaitSync = [](GLsync, GLbitfield, GLuint64) -> GLenum {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return GL_TIMEOUT_EXPIRED;
    };
  });
  std::vector<float> dst(desc_.dst_size());
  EXPECT_EQ(code_of([&] { plan_->run(src_, dst); }), ErrorCode::timeout);
  expect_right();
}

TEST_F(GlFaults, AFailedFenceIsALostDevice) {
  replace([](GladGLContext& gl) {
    gl.ClientWaitSync = [](GLsync, GLbitfield, GLuint64) -> GLenum { return GL_WAIT_FAILED; };
  });
  std::vector<float> dst(desc_.dst_size());
  EXPECT_EQ(code_of([&] { plan_->run(src_, dst); }), ErrorCode::device_lost);
  expect_right();
}

TEST_F(GlFaults, AResetAtAnyPointFailsTheWorkAndOnlyThat) {
  int failed = 0;
  for (int point = 0; point < 12; ++point) {
    replace([](GladGLContext& gl) { gl.GetGraphicsResetStatus = [] { return reset_status(); }; });
    reset_after_ = point;
    std::vector<float> dst(desc_.dst_size(), 99);
    const auto code = code_of([&] { plan_->run(src_, dst); });
    if (code) {
      ++failed;
      EXPECT_EQ(*code, ErrorCode::device_lost) << point;
    } else {
      EXPECT_EQ(dst, oracle(desc_, weights_, {}, src_)) << point;
    }
    reset_after_ = -1;
    // One that is found when the run already has its result is told to whoever comes next.
    const auto later = code_of([&] { mine_->synchronize(); });
    EXPECT_EQ(later.value_or(ErrorCode::device_lost), ErrorCode::device_lost) << point;
    expect_right();
  }
  EXPECT_GT(failed, 0);
}

TEST_F(GlFaults, EnqueuedWorkReportsItsLossOnceAndBuffersLoseTheirContent) {
  convrt::Buffer src = mine_->allocate(desc_.src_size()), dst = mine_->allocate(desc_.dst_size());
  src.upload(src_);
  replace([](GladGLContext& gl) { gl.GetGraphicsResetStatus = [] { return reset_status(); }; });
  plan_->enqueue(src, dst);
  reset_after_ = 0;
  EXPECT_EQ(code_of([&] { mine_->synchronize(); }), ErrorCode::device_lost);
  EXPECT_EQ(code_of([&] { mine_->synchronize(); }), std::nullopt);
  std::vector<float> out(desc_.dst_size());
  EXPECT_EQ(code_of([&] { dst.download(out); }), ErrorCode::device_lost);
  EXPECT_EQ(code_of([&] { plan_->enqueue(src, dst); }), ErrorCode::device_lost);
  src.upload(src_);
  plan_->enqueue(src, dst);
  dst.download(out);
  EXPECT_EQ(out, oracle(desc_, weights_, {}, src_));
}

TEST_F(GlFaults, OutOfMemoryAndNoMappingAreErrors) {
  replace([](GladGLContext& gl) {
    gl.MapBufferRange = [](GLenum, GLintptr, GLsizeiptr, GLbitfield) -> void* { return nullptr; };
  });
  std::vector<float> dst(desc_.dst_size());
  const auto code = code_of([&] { plan_->run(src_, dst); });  // its first download maps a block
  EXPECT_EQ(code, ErrorCode::out_of_memory);
  replace([](GladGLContext& gl) {
    static std::atomic<bool> reported;
    reported = false;
    gl.BufferStorage = [](GLenum, GLsizeiptr, const void*, GLbitfield) { reported = true; };
    gl.GetError = []() -> GLenum { return reported.exchange(false) ? GL_OUT_OF_MEMORY : GL_NO_ERROR; };
  });
  EXPECT_EQ(code_of([&] { (void)mine_->allocate(64); }), ErrorCode::out_of_memory);
}

TEST_F(GlFaults, AProgramThatDoesNotLinkIsCompileFailed) {
  replace([](GladGLContext& gl) {
    static PFNGLGETPROGRAMIVPROC real;
    real = gl.GetProgramiv;
    gl.GetProgramiv = [](GLuint program, GLenum name, GLint* value) {
      real(program, name, value);
      if (name == GL_LINK_STATUS) *value = GL_FALSE;
    };
  });
  const Conv2dDesc other = Conv2dDesc::parse("n1c2h7w6k4r5s2");
  EXPECT_EQ(code_of([&] { Conv2dPlan(*mine_, other, integers(other.weights_size(), 1)); }), ErrorCode::compile_failed);
  expect_right();
}

TEST_F(GlFaults, AKernelThatDoesNotCompileGivesWayToTheNext) {
  static std::atomic<int> refusals;
  replace([](GladGLContext& gl) {
    static PFNGLGETSHADERIVPROC real;
    real = gl.GetShaderiv;
    gl.GetShaderiv = [](GLuint shader, GLenum name, GLint* value) {
      real(shader, name, value);
      if (name == GL_COMPILE_STATUS && refusals-- > 0) *value = GL_FALSE;
    };
  });
  Conv2dDesc other = Conv2dDesc::parse("n1c5h7w6k9r5s3");
  const auto weights = integers(other.weights_size(), 1), src = integers(other.src_size(), 2);
  const std::vector<std::string> kernels = mine_->kernels(other);
  ASSERT_GT(kernels.size(), 2U);
  std::vector<std::string> lines;
  convrt::set_log(convrt::LogLevel::warning,
                  [&](convrt::LogLevel, std::string_view line) { lines.emplace_back(line); });
  refusals = 2;
  const Conv2dPlan plan(*mine_, other, weights, {}, {.tune = convrt::Tune::off});
  convrt::set_log(convrt::LogLevel::warning, nullptr);
  EXPECT_EQ(plan.kernel(), kernels[2]);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_NE(lines[0].find(kernels[0] + " left out: shader "), std::string::npos) << lines[0];
  EXPECT_NE(lines[1].find(kernels[1] + " left out: shader "), std::string::npos) << lines[1];
  std::vector<float> dst(other.dst_size());
  plan.run(src, dst);
  EXPECT_EQ(dst, oracle(other, weights, {}, src));
}

TEST_F(GlFaults, ThreadsThatNeedTheSameProgramCompileItOnce) {
  static std::atomic<int> compilations;
  replace([](GladGLContext& gl) {
    static PFNGLCOMPILESHADERPROC real;
    real = gl.CompileShader;
    gl.CompileShader = [](GLuint shader) {
      ++compilations;
      real(shader);
    };
  });
  const Conv2dDesc other = Conv2dDesc::parse("n1c5h7w6k9r3s5");
  const auto weights = integers(other.weights_size(), 1), src = integers(other.src_size(), 2);
  const std::vector<float> expected = oracle(other, weights, {}, src);
  std::vector<std::vector<float>> results(6, std::vector<float>(other.dst_size()));
  compilations = 0;
  std::vector<std::thread> threads;
  for (std::vector<float>& result : results)
    threads.emplace_back([&] { Conv2dPlan(*mine_, other, weights, {}, {.kernel = "gl.basic_64"}).run(src, result); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(compilations, 1);
  for (const std::vector<float>& result : results) EXPECT_EQ(result, expected);
}

// Work groups that share a tile meet at counters that all plans of the device use. Whoever arrives last, the bits stay
// the same, and the counters are left as they were found: many runs of plans by turns, one with a workspace of other
// use, all planned for a card with many processors.
TEST_F(GlFaults, SharedTilesGiveTheSameBitsWhoeverArrivesLast) {
  using namespace convrt::gl;
  struct Layer {
    Conv2dDesc desc;
    std::shared_ptr<GlConv> conv;
    std::shared_ptr<GlBuffer> src, dst;
    std::vector<float> result;
  };
  GlInfo info = gl_->session()->context->info();
  info.compute_units = 64;
  info.software = false;
  const auto backend = convrt::core::Access::backend(*mine_);
  const auto layer = [&](const char* problem, std::string_view kernel, bool whole) {
    const Conv2dDesc desc = Conv2dDesc::parse(problem);
    const auto reals = [](std::size_t count) {
      std::minstd_rand random(7);
      std::vector<float> values(count);
      for (float& v : values) v = static_cast<float>(random() % 2001) / 1000.0F - 1.0F;
      return values;
    };
    const auto weights = whole ? integers(desc.weights_size(), 1) : reals(desc.weights_size());
    const auto src = whole ? integers(desc.src_size(), 2) : reals(desc.src_size());
    const auto list = configs(desc, info);
    const auto found = std::find_if(list.begin(), list.end(), [&](const Config& c) { return c.name == kernel; });
    if (found == list.end()) throw std::runtime_error("no kernel " + std::string(kernel));
    const Config config = *found;
    const auto packed = std::make_shared<GlWeights>(pack_weights(config, desc, weights),
                                                    std::vector<float>(static_cast<std::size_t>(desc.k), 0.0F));
    EXPECT_GT(recipe(config, desc, info).workspace_floats, 0U) << kernel;
    Layer made{desc, std::make_shared<GlConv>(gl_, info, config, desc, packed),
               std::make_shared<GlBuffer>(backend.get(), gl_, desc.src_size()),
               std::make_shared<GlBuffer>(backend.get(), gl_, desc.dst_size()), std::vector<float>(desc.dst_size())};
    made.src->upload(src);
    made.conv->enqueue(made.src, made.dst);
    made.dst->download(made.result);
    if (whole) {
      EXPECT_EQ(made.result, oracle(desc, weights, {}, src)) << kernel;
    }
    return made;
  };
  std::vector<Layer> layers;
  for (const bool whole : {true, false}) {
    layers.push_back(layer("n1c512h4w4k70r1s1+relu", "gl.pointwise_split.64x64x8", whole));
    layers.push_back(layer("n1c96h5w5k40r3s3ph1pw1+nhwc", "gl.lds_64.32x32x16", whole));
    layers.push_back(layer("n1c40h9w9k33r3s3ph1pw1", "gl.winograd_f4x4.64x64x8.8x8", false));
    layers.push_back(layer("n1c700h3w5k130r1s1sh2sw2", "gl.pointwise_split.32x32x32.rolled8", whole));
  }
  std::vector<float> again;
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i <= round % 3; ++i)
      for (Layer& l : layers) l.conv->enqueue(l.src, l.dst);
    for (Layer& l : layers) {
      again.assign(l.result.size(), -1);
      l.dst->download(again);
      ASSERT_EQ(again, l.result) << l.desc.str() << " round " << round;
    }
  }
}

// Whole tiles, then stretches that end tiles, hold some and begin others, as cards of so many processors have them.
TEST_F(GlFaults, StretchesOfEveryKindGiveTheExactSums) {
  using namespace convrt::gl;
  const auto backend = convrt::core::Access::backend(*mine_);
  int mixed = 0, shared = 0;
  struct Case {
    std::string problem, kernel;
    std::uint64_t block_bytes = 1U << 27U;  // small ones: images in bands, each with stretches of its own
  };
  for (const Case& c : {Case{"n1c1600h9w12k440r1s1+relu", "gl.pointwise.64x128x8"},
                        Case{"n1c1500h11w13k300r1s1sh2sw2", "gl.pointwise.64x64x8.8x4"},
                        Case{"n1c1500h11w13k300r1s1+nhwc", "gl.pointwise_split.64x64x8"},
                        Case{"n2c1700h13w11k270r1s1sh2sw2", "gl.pointwise_split.64x64x8"},
                        Case{"n1c2100h9w11k130r1s1", "gl.pointwise_split.32x32x32.rolled8"},
                        Case{"n1c170h12w14k250r3s3ph1pw1+acc", "gl.medium_128.64x64x8"},
                        Case{"n1c360h9w11k68r3s3ph1pw1g2+nhwc", "gl.lds_64.32x32x16"},
                        Case{"n1c6h31w31k70r13s13ph3pw3", "gl.flattened.32x64x8"},
                        Case{"n1c900h10w10k70r3s3ph1pw1", "gl.winograd_f4x4.64x64x8.8x4"},
                        Case{"n1c900h24w24k64r1s1", "gl.pointwise.64x64x8.8x4", 1U << 20U},
                        Case{"n1c300h30w24k64r3s3ph1pw1", "gl.medium_128.64x64x8", 800U << 10U}})
    for (const int processors : {2, 3, 5, 7, 12, 40}) {
      SCOPED_TRACE(c.problem + ' ' + c.kernel + ' ' + std::to_string(processors));
      const Conv2dDesc desc = Conv2dDesc::parse(c.problem);
      GlInfo info = gl_->session()->context->info();
      info.compute_units = processors;
      info.software = false;
      info.limits.max_block_bytes = std::min(info.limits.max_block_bytes, c.block_bytes);
      const auto list = configs(desc, info);
      const auto config =
          std::find_if(list.begin(), list.end(), [&](const Config& found) { return found.name == c.kernel; });
      ASSERT_NE(config, list.end());
      const auto weights = integers(desc.weights_size(), 1), src = integers(desc.src_size(), 2),
                 before = integers(desc.dst_size(), 3);
      const Recipe made = recipe(*config, desc, info);
      shared += made.counts;
      mixed += made.counts && std::any_of(made.steps.begin(), made.steps.end(), [](const Step& step) {
                 return step.buffers.size() > 4 && step.params.size() > 29 && step.params[29] > 0;  // conv.whole
               });
      const auto packed = std::make_shared<GlWeights>(pack_weights(*config, desc, weights),
                                                      std::vector<float>(static_cast<std::size_t>(desc.k), 0.0F));
      const GlConv conv(gl_, info, *config, desc, packed);
      const auto from = std::make_shared<GlBuffer>(backend.get(), gl_, desc.src_size());
      const auto to = std::make_shared<GlBuffer>(backend.get(), gl_, desc.dst_size());
      from->upload(src);
      to->upload(before);
      conv.enqueue(from, to);
      std::vector<float> result(desc.dst_size());
      to->download(result);
      const std::vector<float> expected =
          oracle(desc, weights, {}, src, desc.accumulate ? before : std::vector<float>());
      if (!config->name.starts_with("gl.winograd")) {
        ASSERT_EQ(result, expected);
        continue;
      }
      for (std::size_t i = 0; i < result.size(); ++i)
        ASSERT_NEAR(result[i], expected[i], 0.5) << i;  // of sums up to 130,000
    }
  EXPECT_GT(shared, 24);
  EXPECT_GT(mixed, 1);
}

TEST_F(GlFaults, TwoContextsWorkInTwoThreads) {
  const Conv2dPlan other(*device(), desc_, weights_);
  std::thread beside([&] {
    for (int i = 0; i < 6; ++i) expect_right();
  });
  for (int i = 0; i < 6; ++i) {
    std::vector<float> dst(desc_.dst_size());
    other.run(src_, dst);
    EXPECT_EQ(dst, oracle(desc_, weights_, {}, src_));
  }
  beside.join();
}

}  // namespace
