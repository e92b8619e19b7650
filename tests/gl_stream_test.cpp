// Executors on whatever GL driver this machine has (llvmpipe in CI): overlap changes no result, faults stay bounded.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <thread>

#include "convrt/convrt.hpp"
#include "core/access.hpp"
#include "core/cache_file.hpp"
#include "core/tune_cache.hpp"
#include "fake_backend.hpp"
#include "gl/gl_backend.hpp"
#include "problem.hpp"
#include "temporary_directory.hpp"

namespace {

using namespace std::chrono_literals;
using convrt::Conv2dPlan;
using convrt::Device;
using convrt::Error;
using convrt::ErrorCode;
using convrt::Executor;
using convrt::Slot;
using convrt::Ticket;
using convrt::test::code_of;
using convrt::test::Gate;
using convrt::test::integers;
using convrt::test::Problem;

class GlStream : public testing::Test {
 protected:
  // A device of the tests' own: its OpenGL functions may be replaced.
  void SetUp() override {
    auto found = convrt::gl::egl_devices();
    if (found.empty()) found = convrt::gl::surfaceless_device();
    if (found.empty()) GTEST_SKIP() << "no GL device here (CONVRT_VERBOSE=info says why)";
    gl_ = std::make_shared<convrt::gl::GlDevice>(found.back(), convrt::gl::GlContext::Options{.timeout = 4000ms});
    egl_ = found.back();
    backend_ = std::make_shared<convrt::gl::GlBackend>(egl_, gl_, "gl:test");
    device_ = convrt::core::Access::device(backend_);
    reset_after_ = -1;
  }
  void replace(void (*change)(GladGLContext&)) {
    gl_->session()->context->call([change](convrt::gl::GlState& state) { change(state.gl); });
  }
  static void inject_resets(GladGLContext& gl) {
    gl.GetGraphicsResetStatus = []() -> GLenum {
      return reset_after_ >= 0 && reset_after_-- == 0 ? GL_GUILTY_CONTEXT_RESET : GL_NO_ERROR;
    };
  }
  static inline std::atomic<int> reset_after_ = -1;
  convrt::gl::EglDevice egl_;
  std::shared_ptr<convrt::gl::GlDevice> gl_;
  std::shared_ptr<convrt::gl::GlBackend> backend_;
  std::optional<Device> device_;
};

constexpr const char* kSmall = "n1c3h7w9k4r3s3ph1pw1+relu";

TEST_F(GlStream, EveryDepthKeepsResultsWithTheirSubmissions) {
  const Problem problem(*device_, kSmall);
  for (const int depth : {1, 2, 3, 7}) {
    Executor executor(problem.plan, depth);
    std::vector<std::vector<float>> src, dst(50, std::vector<float>(problem.desc.dst_size()));
    std::vector<Ticket> tickets;
    src.reserve(dst.size());
    for (unsigned i = 0; i < dst.size(); ++i) {
      src.push_back(integers(problem.desc.src_size(), i));
      tickets.push_back(executor.submit(src.back(), dst[i]));
    }
    for (std::size_t i = 0; i < tickets.size(); ++i) {
      const auto stats = tickets[i].wait();
      EXPECT_GT(stats.device_ms, 0);
      EXPECT_GE(stats.total_ms, stats.device_ms);
      ASSERT_EQ(dst[i], problem.expected(src[i])) << "depth " << depth << ", submission " << i;
    }
    executor.drain();
    const auto stats = executor.stats();
    EXPECT_EQ(stats.completed, dst.size());
    EXPECT_EQ(stats.bytes_uploaded, dst.size() * 4 * problem.desc.src_size());
    EXPECT_GT(stats.device_busy_share, 0);
    EXPECT_LE(stats.device_busy_share, 1);
  }
}

TEST_F(GlStream, ChainsAccumulateAndLargeTensors) {
  const Problem a(*device_, "n2c3h65w63k8r3s3ph1pw1+relu", 1), b(*device_, "n2c8h65w63k16r1s1", 2),
      c(*device_, "n2c16h65w63k5r3s3sh2sw2+acc", 3);
  Executor executor(std::vector<Conv2dPlan>{a.plan, b.plan, c.plan});
  const auto before = integers(c.desc.dst_size(), 9);
  std::vector<std::vector<float>> src, dst(9, before);
  std::vector<Ticket> tickets;
  src.reserve(dst.size());
  for (unsigned i = 0; i < dst.size(); ++i) {
    src.push_back(integers(a.desc.src_size(), i));
    tickets.push_back(executor.submit(src.back(), dst[i]));
  }
  for (std::size_t i = 0; i < dst.size(); ++i) {
    tickets[i].wait();
    ASSERT_EQ(dst[i], c.expected(b.expected(a.expected(src[i])), before)) << i;
  }
}

TEST_F(GlStream, SlotsAreTheMemoryTheDeviceReads) {
  const Problem problem(*device_, kSmall);
  std::vector<Ticket> kept;
  std::vector<std::vector<float>> src;
  {
    Executor executor(problem.plan, 2);
    for (unsigned i = 0; i < 9; ++i) {
      Slot slot = executor.acquire();
      src.push_back(integers(problem.desc.src_size(), i));
      std::copy(src.back().begin(), src.back().end(), slot.src().begin());
      kept.push_back(executor.submit(std::move(slot)));
    }
  }
  for (std::size_t i = 0; i < kept.size(); ++i) {  // beyond the executor's life
    kept[i].wait();
    const auto dst = kept[i].dst();
    ASSERT_EQ(std::vector<float>(dst.begin(), dst.end()), problem.expected(src[i])) << i;
  }
}

TEST_F(GlStream, AResetFailsTicketsWithDeviceLostAndTheExecutorGoesOn) {
  const Problem problem(*device_, kSmall);
  Executor executor(problem.plan);
  const auto src = integers(problem.desc.src_size(), 1), expected = problem.expected(src);
  int lost = 0;
  for (int round = 0; round < 12; ++round) {
    replace(inject_resets);
    reset_after_ = round;
    std::vector<std::vector<float>> dst(8, std::vector<float>(expected.size(), 99));
    std::vector<Ticket> tickets;
    for (auto& d : dst) tickets.push_back(executor.submit(src, d));
    for (std::size_t i = 0; i < tickets.size(); ++i) {
      try {
        tickets[i].wait(20s);
        ASSERT_EQ(dst[i], expected) << "round " << round << ", submission " << i;
      } catch (const Error& e) {
        ASSERT_EQ(e.code(), ErrorCode::device_lost) << e.what();
        ++lost;
      }
    }
    reset_after_ = -1;
    std::vector<float> again(expected.size());
    executor.submit(src, again).wait(20s);
    ASSERT_EQ(again, expected) << "after round " << round;
  }
  EXPECT_GT(lost, 12);
}

TEST_F(GlStream, ASlotOfALostContextSaysSo) {
  const Problem problem(*device_, kSmall);
  Executor executor(problem.plan);
  Slot slot = executor.acquire();
  const auto src = integers(problem.desc.src_size(), 1);
  replace(inject_resets);
  reset_after_ = 0;
  std::vector<float> dst(problem.desc.dst_size());
  EXPECT_THROW(executor.submit(src, dst).wait(20s), Error);
  const Ticket ticket = executor.submit(std::move(slot));
  try {
    ticket.wait(20s);
    ADD_FAILURE() << "its memory was gone";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::device_lost) << e.what();
  }
  executor.submit(src, dst).wait(20s);
  EXPECT_EQ(dst, problem.expected(src));
}

TEST_F(GlStream, AHungDriverIsATimeoutAndNothingHangs) {
  const Problem problem(*device_, kSmall);
  const auto src = integers(problem.desc.src_size(), 1);
  std::vector<float> dst(problem.desc.dst_size());
  Executor executor(problem.plan);
  replace([](GladGLContext& gl) {
    gl.ClientWaitSync = [](GLsync, GLbitfield, GLuint64) -> GLenum {
      std::this_thread::sleep_for(1ms);
      return GL_TIMEOUT_EXPIRED;
    };
  });
  const Ticket first = executor.submit(src, dst);
  const auto code = [&] {
    try {
      first.wait(30s);
    } catch (const Error& e) {
      return e.code();
    }
    return ErrorCode::internal;
  }();
  EXPECT_EQ(code, ErrorCode::timeout);
  executor.submit(src, dst).wait(30s);
  EXPECT_EQ(dst, problem.expected(src));
}

TEST_F(GlStream, ATraceIsJsonWithEveryStage) {
  const std::string path = testing::TempDir() + "convrt_trace_" + std::to_string(getpid()) + ".json";
  ASSERT_EQ(setenv("CONVRT_TRACE", path.c_str(), 1), 0);
  {
    const Problem problem(*device_, kSmall);
    for (int executors = 0; executors < 2; ++executors) {  // the second goes on in the same file
      Executor executor(problem.plan);
      const auto src = integers(problem.desc.src_size(), 1);
      std::vector<float> dst(problem.desc.dst_size());
      for (int i = 0; i < 5; ++i) executor.submit(src, dst);
      executor.drain();
    }
  }
  unsetenv("CONVRT_TRACE");
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  std::remove(path.c_str());
  EXPECT_EQ(text.substr(0, 2), "[\n");
  EXPECT_EQ(text.substr(text.size() - 3), "\n]\n");
  for (const char* stage :
       {"copy in 4", "upload 4", "compute 4", "download 4", "fence 4", "copy out 4", "dispatch 4"}) {
    const std::string name = '"' + std::string(stage) + '"';
    const auto first = text.find(name);
    ASSERT_NE(first, std::string::npos) << stage << " is missing in\n" << text;
    EXPECT_NE(text.find(name, first + 1), std::string::npos) << "the second executor's " << stage;
  }
}

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

TEST_F(GlStream, StressTenThousandSubmissionsLeaveNothingBehind) {
  const Problem problem(*device_, "n1c2h5w5k2r3s3");
  static std::atomic<int> buffers, syncs, queries;
  buffers = syncs = queries = 0;
  replace([](GladGLContext& gl) {
    static PFNGLGENBUFFERSPROC gen_buffers;
    static PFNGLDELETEBUFFERSPROC delete_buffers;
    static PFNGLFENCESYNCPROC fence;
    static PFNGLDELETESYNCPROC delete_sync;
    static PFNGLGENQUERIESPROC gen_queries;
    static PFNGLDELETEQUERIESPROC delete_queries;
    gen_buffers = gl.GenBuffers;
    delete_buffers = gl.DeleteBuffers;
    fence = gl.FenceSync;
    delete_sync = gl.DeleteSync;
    gen_queries = gl.GenQueries;
    delete_queries = gl.DeleteQueries;
    gl.GenBuffers = [](GLsizei n, GLuint* names) { buffers += n, gen_buffers(n, names); };
    gl.DeleteBuffers = [](GLsizei n, const GLuint* names) { buffers -= n, delete_buffers(n, names); };
    gl.FenceSync = [](GLenum what, GLbitfield flags) { return ++syncs, fence(what, flags); };
    gl.DeleteSync = [](GLsync sync) { --syncs, delete_sync(sync); };
    gl.GenQueries = [](GLsizei n, GLuint* names) { queries += n, gen_queries(n, names); };
    gl.DeleteQueries = [](GLsizei n, const GLuint* names) { queries -= n, delete_queries(n, names); };
  });
  std::optional<Executor> executor(std::in_place, problem.plan, 3);
  const auto thousand = [&] {
    std::vector<std::jthread> producers;
    std::atomic<int> wrong = 0;
    for (int t = 0; t < 4; ++t)
      producers.emplace_back([&, t] {
        const auto src = integers(problem.desc.src_size(), t), expected = problem.expected(src);
        std::vector<float> dst(expected.size());
        for (int i = 0; i < 250; ++i) {
          if ((i + t) % 3 == 0) {
            Slot slot = executor->acquire();
            std::copy(src.begin(), src.end(), slot.src().begin());
            const Ticket ticket = executor->submit(std::move(slot));
            if (i % 2 == 0) continue;  // dropped
            ticket.wait();
            wrong += !std::equal(expected.begin(), expected.end(), ticket.dst().begin());
          } else {
            executor->submit(src, dst).wait();
            wrong += dst != expected;
          }
        }
      });
    producers.clear();
    EXPECT_EQ(wrong, 0);
  };
  thousand();
  executor->drain();
  gl_->synchronize();
  const int buffers_before = buffers, queries_before = queries;
  const std::size_t resident_before = resident_bytes();
  for (int i = 0; i < 9; ++i) thousand();
  executor->drain();
  gl_->synchronize();
  EXPECT_EQ(executor->stats().completed, 10000U);
  EXPECT_LE(buffers, buffers_before + 6);  // staging of a slot or two more; never per submission
  EXPECT_LE(queries, queries_before + 12);
  EXPECT_LE(syncs, 2);
#if !defined(__SANITIZE_ADDRESS__)  // which keeps freed memory in quarantine, and reports leaks itself
  EXPECT_LT(resident_bytes(), resident_before + (std::size_t{8} << 20));
#else
  static_cast<void>(resident_before);
#endif
  executor.reset();
  // A copying context's thread may still be on its way out of the last job, with the stream in its hands.
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  do {
    std::this_thread::sleep_for(1ms);
    gl_->synchronize();
  } while ((buffers != 0 || queries != 0 || syncs != 0) && std::chrono::steady_clock::now() < deadline);
  EXPECT_EQ(buffers, 0);
  EXPECT_EQ(queries, 0);
  EXPECT_EQ(syncs, 0);
}

TEST_F(GlStream, StressRandomDestructionAndLoss) {
  const Problem problem(*device_, kSmall);
  const auto src = integers(problem.desc.src_size(), 1), expected = problem.expected(src);
  std::minstd_rand random(5);
  std::map<bool, int> failed;  // by being cancelled
  for (int round = 0; round < 40; ++round) {
    const bool lossy = round % 5 == 4, held = round % 5 == 2;
    if (lossy) {
      replace(inject_resets);
      reset_after_ = static_cast<int>(random() % 60);
    }
    std::vector<std::vector<float>> dst(12, std::vector<float>(expected.size()));
    std::vector<Ticket> tickets;
    try {
      // Left to itself, whether anything remains to be cancelled is a race that the device may always win. Held, it has
      // memory for some of the jobs, and the others have not begun.
      Gate gate;
      std::optional<Executor> executor(std::in_place, problem.plan, held ? 12 : 1 + round % 12);
      std::vector<Slot> slots;
      if (held) {
        for (std::size_t i = 0; i < dst.size(); ++i) {
          slots.push_back(executor->acquire());
          std::copy(src.begin(), src.end(), slots[i].src().begin());
        }
        gl_->session()->context->post([&gate](convrt::gl::GlState&) { gate.pass(); });
        for (Slot& slot : slots) tickets.push_back(executor->submit(std::move(slot)));
      } else {
        for (auto& d : dst) tickets.push_back(executor->submit(src, d));
      }
      const std::jthread destruction([&] { executor.reset(); });
      if (held) std::this_thread::sleep_for(20ms);
      gate.open();
    } catch (const Error& e) {  // lost while the executor was being made
      ASSERT_EQ(e.code(), ErrorCode::device_lost) << e.what();
    }
    for (std::size_t i = 0; i < tickets.size(); ++i) {
      ASSERT_TRUE(tickets[i].done()) << "the destructor left work behind";
      try {
        tickets[i].wait();
        ASSERT_TRUE(std::ranges::equal(tickets[i].dst(), expected));
      } catch (const Error& e) {
        ASSERT_TRUE(e.code() == ErrorCode::cancelled || (lossy && e.code() == ErrorCode::device_lost)) << e.what();
        ++failed[e.code() == ErrorCode::cancelled];
      }
    }
    reset_after_ = -1;
  }
  EXPECT_GT(failed[false], 0);
  EXPECT_GT(failed[true], 0);
}

TEST_F(GlStream, DestructionCancelsWhatHasNotBegun) {
  const Problem problem(*device_, kSmall);
  std::optional<Executor> executor(std::in_place, problem.plan, 16);
  std::vector<Slot> slots;
  std::vector<std::vector<float>> src;
  for (unsigned i = 0; i < 16; ++i) {
    slots.push_back(executor->acquire());
    src.push_back(integers(problem.desc.src_size(), i));
    std::copy(src[i].begin(), src[i].end(), slots[i].src().begin());
  }
  Gate gate;  // before which the convolutions' thread stands: nothing gets done
  gl_->session()->context->post([&gate](convrt::gl::GlState&) { gate.pass(); });
  std::vector<Ticket> tickets;
  for (Slot& slot : slots) tickets.push_back(executor->submit(std::move(slot)));
  {
    const std::jthread destruction([&] { executor.reset(); });
    // The last one has not begun, so its cancellation need not wait for the device; the ring hears of it in turn.
    std::this_thread::sleep_for(50ms);
    gate.open();
  }
  std::size_t done = 0;
  for (; done < tickets.size(); ++done) {
    try {
      tickets[done].wait(20s);
      const auto dst = tickets[done].dst();
      ASSERT_EQ(std::vector<float>(dst.begin(), dst.end()), problem.expected(src[done])) << done;
    } catch (const Error& e) {
      ASSERT_EQ(e.code(), ErrorCode::cancelled) << e.what();
      break;
    }
  }
  EXPECT_GE(done, 1U);
  EXPECT_LE(done, 8U) << "more than the device has memory for at once";
  for (std::size_t i = done; i < tickets.size(); ++i)
    EXPECT_EQ(code_of([&] { tickets[i].wait(20s); }), ErrorCode::cancelled) << i;
}

/// Lets executors measure their forms, with a cache of the test's own.
class GlStreamForm : public GlStream {
 protected:
  std::string chosen() { return backend_->stream_form().name; }
  std::vector<std::string> remembered() const { return convrt::core::read_lines(convrt::core::cache_path("tune")); }
  // Another process's view of the same device.
  void forget() { backend_ = std::make_shared<convrt::gl::GlBackend>(egl_, gl_, "gl:test"); }
  void break_copies() {
    for (const auto& context : gl_->beside(*gl_->session()))
      context->call([](convrt::gl::GlState& state) {
        state.gl.CopyBufferSubData = [](GLenum, GLenum, GLintptr, GLintptr, GLsizeiptr) {};
      });
  }
  TemporaryDirectory directory_;
  Environment cache_{"CONVRT_CACHE_DIR", directory_.path.c_str()};
  Environment measure_{"CONVRT_GL_STREAM", "measure"};
};

TEST_F(GlStreamForm, IsMeasuredOnceAndRemembered) {
  const std::string first = chosen();
  EXPECT_TRUE(convrt::gl::stream_form(first)) << first;
  EXPECT_EQ(chosen(), first);
  EXPECT_EQ(remembered().size(), convrt::gl::kStreamForms.size());
  forget();
  break_copies();  // measured again, most forms would fail
  EXPECT_EQ(chosen(), first);
}

TEST_F(GlStreamForm, CopiesByCopyEnginesWinUnlessAnotherFormIsClearlyFaster) {
  const char* const problem = backend_->info().software ? "n1c16h14w14k16r3s3ph1pw1" : "n32c256h14w14k256r3s3ph1pw1";
  convrt::core::TuneKey key = convrt::core::tune_key(*backend_, convrt::Conv2dDesc::parse(problem), 0);
  key.problem = "stream " + key.problem;
  for (const auto& [epochs_ms, winner] : {std::pair(0.95, "ordered"), std::pair(0.7, "epochs")}) {
    for (const auto& form : convrt::gl::kStreamForms) {
      convrt::TuneResult result;
      result.kernel = form.name;
      result.ms = result.kernel == "epochs" ? epochs_ms : 1;
      convrt::core::user_tune_cache().store(key, result);
    }
    forget();
    EXPECT_EQ(chosen(), winner);
  }
}

TEST_F(GlStreamForm, IsNeverOneWithWrongResults) {
  break_copies();
  EXPECT_TRUE(chosen().starts_with("epochs")) << chosen();
}

TEST_F(GlStreamForm, ALossDuringTheMeasurementIsSurvivedAndNotRemembered) {
  const Problem problem(*device_, kSmall);
  replace(inject_resets);
  reset_after_ = 60;
  EXPECT_TRUE(convrt::gl::stream_form(chosen()));
  EXPECT_EQ(reset_after_, -1) << "no reset happened";
  EXPECT_EQ(remembered().size(), 0U);
  Executor executor(problem.plan);
  const auto src = integers(problem.desc.src_size(), 1);
  std::vector<float> dst(problem.desc.dst_size());
  executor.submit(src, dst).wait(20s);
  EXPECT_EQ(dst, problem.expected(src));
}

TEST_F(GlStreamForm, IsWhatTheVariableSays) {
  for (const auto& form : convrt::gl::kStreamForms) {
    const Environment forced("CONVRT_GL_STREAM", form.name);
    EXPECT_EQ(chosen(), form.name);
  }
  const Environment unknown("CONVRT_GL_STREAM", "quickly");
  EXPECT_TRUE(convrt::gl::stream_form(chosen())) << "as without the variable";
  if (backend_->info().software) {
    EXPECT_EQ(chosen(), "epochs");
    EXPECT_TRUE(remembered().empty());
  }
}

}  // namespace
