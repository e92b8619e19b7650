// What only a process of its own shows: machines without a usable driver, and processes that share a cache. The tests
// run this program again with another environment.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <vector>

#include "convrt/convrt.hpp"

namespace {

namespace fs = std::filesystem;
using convrt::LogLevel;

std::string log_text;

// As the parent set it up: 0 = the CPU is the only device and the log says why.
int check_cpu_alone() {
  const auto all = convrt::devices();
  const bool alone = all.size() == 1 && all[0].info().id == "cpu" && convrt::find_device("best").info().id == "cpu";
  const bool explained = log_text.find("left out: ") != std::string::npos ||
                         log_text.find("no GL device: ") != std::string::npos ||
                         log_text.find("EGL enumerates no device: ") != std::string::npos;
  std::printf("%s", log_text.c_str());
  return alone && explained ? 0 : 1;
}

// 0 = a plan on the first GL device is right, 77 = there is none, 1 = it is wrong.
int check_gl_plan() {
  for (const convrt::Device& device : convrt::devices()) {
    if (!device.info().id.starts_with("gl:")) continue;
    const auto desc = convrt::Conv2dDesc::parse("n1c3h9w8k5r3s3ph1pw1");
    std::vector<float> weights(desc.weights_size()), src(desc.src_size()), found(desc.dst_size()), expected = found;
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i % 7) - 3;
    for (std::size_t i = 0; i < src.size(); ++i) src[i] = static_cast<float>(i % 5) - 2;
    convrt::Conv2dPlan(device, desc, weights).run(src, found);
    convrt::Conv2dPlan(convrt::find_device("cpu"), desc, weights, {}, {.kernel = "cpu.reference"}).run(src, expected);
    std::printf("%s", log_text.c_str());
    return found == expected ? 0 : 1;
  }
  return 77;
}

struct Child {
  FILE* pipe = nullptr;
  std::string output;
  int status = -1;

  Child(const std::string& variables, const std::string& role) {
    const std::string program = fs::read_symlink("/proc/self/exe").string();
    pipe = popen(("env " + variables + " CONVRT_TEST_ROLE=" + role + " '" + program + "' 2>&1").c_str(), "r");
  }
  void wait() {
    std::array<char, 4096> part = {};
    while (const std::size_t count = std::fread(part.data(), 1, part.size(), pipe)) output.append(part.data(), count);
    status = pclose(pipe);
    status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  }
};

TEST(NoGlDriver, NoVendorLibraryLeavesTheCpu) {
  Child child("__EGL_VENDOR_LIBRARY_FILENAMES=/nonexistent", "cpu_alone");
  child.wait();
  EXPECT_EQ(child.status, 0) << child.output;
  EXPECT_NE(child.output.find("__EGL_VENDOR_LIBRARY_FILENAMES=/nonexistent"), std::string::npos) << child.output;
}

TEST(NoGlDriver, ADriverBelowOpenGl43LeavesTheCpu) {
  Child child("GALLIUM_DRIVER=softpipe LIBGL_ALWAYS_SOFTWARE=1 EGL_LOG_LEVEL=fatal", "cpu_alone");
  child.wait();
  if (child.output.find("softpipe") == std::string::npos && child.output.find("4.3") == std::string::npos)
    GTEST_SKIP() << "Mesa's software driver is not what serves EGL here";
  EXPECT_EQ(child.status, 0) << child.output;
}

TEST(NoGlDriver, TheDeviceFilterKeepsTheDriverUnopened) {
  Child child("CONVRT_DEVICES=cpu", "gl_plan");
  child.wait();
  EXPECT_EQ(child.status, 77) << child.output;
}

class SharedCache : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("convrt-shared-cache-" + std::to_string(getpid()));
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  Child start(const std::string& more = "") const {
    return {"CONVRT_CACHE_DIR='" + folder_.string() + "' MESA_SHADER_CACHE_DIR='" + folder_.string() + "/mesa' " + more,
            "gl_plan"};
  }
  std::vector<fs::path> entries() const {
    std::vector<fs::path> files;
    if (fs::exists(folder_ / "programs"))
      for (const auto& entry : fs::directory_iterator(folder_ / "programs")) files.push_back(entry.path());
    return files;
  }

  fs::path folder_;
};

TEST_F(SharedCache, TwoProcessesFillItAndDamageMeansCompiling) {
  std::vector<Child> together = {start(), start()};
  for (Child& child : together) child.wait();
  if (together[0].status == 77) GTEST_SKIP() << "no GL device here (CONVRT_VERBOSE=info says why)";
  for (const Child& child : together) EXPECT_EQ(child.status, 0) << child.output;
  if (entries().empty()) GTEST_SKIP() << "this driver has no program binaries";

  // Well-formed for convrt is not well-formed for the driver: both kinds of damage.
  for (const fs::path& file : entries()) {
    EXPECT_EQ(file.extension(), ".program");
    fs::resize_file(file, fs::file_size(file) / 2);
  }
  Child truncated = start();
  truncated.wait();
  EXPECT_EQ(truncated.status, 0) << truncated.output;
  EXPECT_NE(truncated.output.find("compiling instead"), std::string::npos) << truncated.output;

  Child warm = start();
  warm.wait();
  EXPECT_EQ(warm.status, 0) << warm.output;
  EXPECT_EQ(warm.output.find("compiling instead"), std::string::npos) << warm.output;
}

TEST_F(SharedCache, ADriverWithoutBinaryFormatsStillWorks) {
  Child child = start("MESA_SHADER_CACHE_DISABLE=true");
  child.wait();
  if (child.status == 77) GTEST_SKIP() << "no GL device here (CONVRT_VERBOSE=info says why)";
  EXPECT_EQ(child.status, 0) << child.output;
}

}  // namespace

int main(int argc, char** argv) {
  if (const char* role = std::getenv("CONVRT_TEST_ROLE")) {
    convrt::set_log(LogLevel::info, [](LogLevel, std::string_view line) { log_text.append(line).push_back('\n'); });
    return std::string(role) == "cpu_alone" ? check_cpu_alone() : check_gl_plan();
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
