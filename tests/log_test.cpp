// The log: levels, callback, the default's silence.
#include "convrt/log.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "convrt/convrt.hpp"
#include "core/log.hpp"

namespace convrt::test {
namespace {

class Log : public testing::Test {
 protected:
  void TearDown() override {
    unsetenv("CONVRT_VERBOSE");
    set_log(LogLevel::off, {});
  }
};

TEST_F(Log, ACallbackGetsWhatIsUpToItsLevel) {
  std::vector<std::string> heard;
  set_log(LogLevel::warning, [&](LogLevel level, std::string_view text) {
    heard.push_back(std::to_string(static_cast<int>(level)) + std::string(text));
  });
  core::log(LogLevel::error, "a", 1);
  core::log(LogLevel::warning, "b", 2.5);
  core::log(LogLevel::info, "c");
  core::log(LogLevel::debug, "d");
  EXPECT_EQ(heard, (std::vector<std::string>{"1a1", "2b2.5"}));
  heard.clear();
  set_log(LogLevel::off, [&](LogLevel, std::string_view text) { heard.emplace_back(text); });
  core::log(LogLevel::error, "e");
  EXPECT_TRUE(heard.empty());
}

TEST_F(Log, APlanSaysWhichKernelItChose) {
  std::string heard;
  set_log(LogLevel::info, [&](LogLevel, std::string_view text) { heard.append(text).append("\n"); });
  const Conv2dPlan plan(find_device("cpu"), Conv2dDesc::parse("n1c1h4w4k1r1s1"), std::vector<float>{1});
  EXPECT_NE(heard.find("n1c1h4w4k1r1s1 on cpu: " + plan.kernel()), std::string::npos) << heard;
}

TEST_F(Log, TheDefaultIsSilence) {
  set_log(LogLevel::off, {});
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  core::log(LogLevel::error, "unheard");
  (void)Conv2dPlan(find_device("cpu"), Conv2dDesc::parse("n1c1h4w4k1r1s1"), std::vector<float>{1});
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
}

TEST_F(Log, TheVariableNamesALevel) {
  const auto printed = [](const char* level) {
    setenv("CONVRT_VERBOSE", level, 1);
    set_log(LogLevel::off, {});  // back to the default, which reads the variable
    testing::internal::CaptureStderr();
    core::log(LogLevel::warning, "careful");
    core::log(LogLevel::debug, "detail");
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(printed("warning"), "convrt: warning: careful\n");
  EXPECT_EQ(printed("debug"), "convrt: warning: careful\nconvrt: debug: detail\n");
  EXPECT_EQ(printed("error"), "");
  EXPECT_EQ(printed("0"), "");
  EXPECT_EQ(printed("1"), "convrt: warning: careful\n");
}

TEST_F(Log, CallsComeOneAtATime) {
  std::atomic<int> inside = 0, most = 0, calls = 0;
  set_log(LogLevel::debug, [&](LogLevel, std::string_view) {
    most = std::max(most.load(), ++inside);
    std::this_thread::yield();
    --inside;
    ++calls;
  });
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([] {
      for (int i = 0; i < 200; ++i) core::log(LogLevel::info, "message ", i);
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(calls, 800);
  EXPECT_EQ(most, 1);
}

// A part of a message that counts how often it is turned into text.
struct Part {
  int* formatted;
};
std::ostream& operator<<(std::ostream& out, const Part& part) {
  ++*part.formatted;
  return out;
}

TEST_F(Log, NothingIsFormattedWhenNobodyListens) {
  int formatted = 0;
  set_log(LogLevel::warning, [](LogLevel, std::string_view) {});
  core::log(LogLevel::info, Part{&formatted});
  EXPECT_EQ(formatted, 0);
  core::log(LogLevel::warning, Part{&formatted});
  EXPECT_EQ(formatted, 1);
}

}  // namespace
}  // namespace convrt::test
