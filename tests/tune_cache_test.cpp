// The tune cache and the files below the cache directory: what is stored is found again, by this process and others,
// and whatever else stands in the file costs no more than a new measurement.
#include "core/tune_cache.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <random>
#include <thread>

#include "temporary_directory.hpp"

namespace {

namespace fs = std::filesystem;
using convrt::TuneResult;
using convrt::core::read_lines;
using convrt::core::shipped_kernels;
using convrt::core::TuneCache;
using convrt::core::TuneKey;
using convrt::core::update_lines;

const TuneKey kKey = {"a device zen4", "avx512 avx2", 2, "n1c3h8w8k4r3s3+relu"};

TuneResult result(std::string kernel, double ms, std::string rejected = {}) {
  return {std::move(kernel), ms, 0.01, 0.25, std::move(rejected)};
}

void write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(TuneCache, FindsWhatAnotherProcessStored) {
  const TemporaryDirectory dir;
  const fs::path file = dir.path / "deep" / "tune.txt";
  TuneCache writer(file), reader(file);
  EXPECT_TRUE(reader.find(kKey).empty());
  writer.store(kKey, result("cpu.b", 2.5));
  writer.store(kKey, result("cpu.c", 0, "wrong result:\tdst[0]\nis off"));
  writer.store(kKey, result("cpu.a", 0.125));
  writer.store({"another", "driver", 0, kKey.problem}, result("gl.x", 1));
  const auto found = reader.find(kKey);
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[0].kernel, "cpu.a");
  EXPECT_EQ(found[0].ms, 0.125);
  EXPECT_EQ(found[0].spread, 0.01);
  EXPECT_EQ(found[0].error, 0.25);
  EXPECT_EQ(found[1].kernel, "cpu.b");
  EXPECT_EQ(found[2].rejected, "wrong result: dst[0] is off");
  writer.store(kKey, result("cpu.b", 0.1));  // measured anew
  EXPECT_EQ(reader.find(kKey)[0].kernel, "cpu.b");
  for (TuneKey other : {kKey, kKey, kKey, kKey}) {
    static int which = 0;
    switch (which++) {
      case 0: other.driver = "new driver"; break;
      case 1: other.device += "+"; break;
      case 2: other.threads = 1; break;
      default: other.problem = "n2c3h8w8k4r3s3+relu";
    }
    EXPECT_TRUE(reader.find(other).empty()) << "a result of something else was believed";
  }
}

TEST(TuneCache, GarbageCostsOnlyWhatItCovers) {
  const TemporaryDirectory dir;
  const fs::path file = dir.path / "tune.txt";
  TuneCache(file).store(kKey, result("cpu.a", 1));
  const std::string good = read(file);
  write(file,
        "\x01\xff garbage\n" + good + "a\tb\tc\n" + std::string(100, '\t') + "\n" + good.substr(0, good.size() / 2));
  EXPECT_EQ(TuneCache(file).find(kKey).size(), 1U);
  TuneCache(file).store(kKey, result("cpu.b", 2));  // the next store cleans up
  EXPECT_EQ(read_lines(file).size(), 2U);

  for (const char* number : {"nan", "-1", "inf", "1e999", "", "1x", "0"}) {
    std::string line = good;
    const std::size_t at = line.find("\t1\t");
    ASSERT_NE(at, std::string::npos);
    write(file, line.replace(at, 3, "\t" + std::string(number) + "\t"));
    EXPECT_TRUE(TuneCache(file).find(kKey).empty()) << "believed a time of " << number;
  }
}

TEST(TuneCache, EveryTruncationIsReadable) {
  const TemporaryDirectory dir;
  const fs::path file = dir.path / "tune.txt";
  TuneCache(file).store(kKey, result("cpu.a", 1.5));
  TuneCache(file).store(kKey, result("cpu.b", 2.5));
  const std::string text = read(file);
  for (std::size_t size = 0; size <= text.size(); ++size) {
    write(file, text.substr(0, size));
    const auto found = TuneCache(file).find(kKey);
    for (const TuneResult& r : found) ASSERT_EQ(r.ms, r.kernel == "cpu.a" ? 1.5 : 2.5) << "cut at " << size;
    ASSERT_EQ(found.size(), static_cast<std::size_t>(
                                std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(size), '\n')));
  }
}

TEST(TuneCache, RandomBytesNeverThrow) {
  const TemporaryDirectory dir;
  const fs::path file = dir.path / "tune.txt";
  TuneCache(file).store(kKey, result("cpu.a", 1.5));
  const std::string good = read(file);
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    std::string text = good + good;
    for (int change = 0; change < 1 + round % 9; ++change) text[random() % text.size()] = static_cast<char>(random());
    write(file, text);
    for (const TuneResult& r : TuneCache(file).find(kKey)) ASSERT_TRUE(r.ms > 0 || !r.rejected.empty());
  }
}

TEST(TuneCache, IsBoundedAndForgetsTheOldest) {
  const TemporaryDirectory dir;
  const fs::path file = dir.path / "tune.txt";
  TuneCache cache(file, 10);
  for (int i = 0; i < 25; ++i) cache.store({"d", "v", 0, std::string("n").append(std::to_string(i))}, result("k", 1));
  EXPECT_EQ(read_lines(file).size(), 10U);
  EXPECT_TRUE(TuneCache(file, 10).find({"d", "v", 0, "n14"}).empty());
  EXPECT_EQ(TuneCache(file, 10).find({"d", "v", 0, "n24"}).size(), 1U);
}

TEST(TuneCache, WhereNothingCanBeWrittenItRemembersInMemory) {
  const TemporaryDirectory dir;
  write(dir.path / "file", "not a directory");
  fs::create_directories(dir.path / "tune.txt" / "occupied");
  for (const fs::path& file : {dir.path / "file" / "tune.txt", dir.path / "tune.txt", fs::path()}) {
    TuneCache cache(file);
    cache.store(kKey, result("cpu.a", 1));
    EXPECT_EQ(cache.find(kKey).size(), 1U) << file;
  }
}

TEST(TuneCache, ConcurrentProcessesAndThreadsLoseNothing) {
  const TemporaryDirectory dir;
  const fs::path file = dir.path / "tune.txt";
  constexpr int kWriters = 3, kEach = 15;
  const auto write_some = [&](int writer) {
    TuneCache cache(file);
    for (int i = 0; i < kEach; ++i) cache.store(kKey, result(std::to_string(writer) + "." + std::to_string(i), 1 + i));
  };
  std::vector<pid_t> children;
  for (int writer = 0; writer < kWriters; ++writer) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      write_some(writer);
      _exit(0);
    }
    children.push_back(child);
  }
  std::thread reader([&] {
    TuneCache cache(file);
    for (int i = 0; i < 200; ++i)
      for (const TuneResult& r : cache.find(kKey)) ASSERT_GT(r.ms, 0);
  });
  std::thread writer([&] { write_some(kWriters); });
  reader.join();
  writer.join();
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(TuneCache(file).find(kKey).size(), static_cast<std::size_t>((kWriters + 1) * kEach));
}

TEST(CacheFile, AThrowingChangeLeavesTheFileAsItWas) {
  const TemporaryDirectory dir;
  const fs::path file = dir.path / "lines.txt";
  ASSERT_TRUE(update_lines(file, [](auto) { return convrt::core::Lines{"one", "two"}; }));
  EXPECT_FALSE(update_lines(file, [](auto) -> convrt::core::Lines { throw std::bad_alloc(); }));
  EXPECT_EQ(read_lines(file), (convrt::core::Lines{"one", "two"}));
}

TEST(CacheFile, TheDirectoryComesFromTheEnvironment) {
  const Environment none_here("CONVRT_CACHE_DIR", nullptr), none_there("XDG_CACHE_HOME", nullptr),
      home("HOME", "/home/somebody");
  EXPECT_EQ(convrt::core::cache_directory(), "/home/somebody/.cache/convrt");
  const Environment relative("XDG_CACHE_HOME", "relative");
  EXPECT_EQ(convrt::core::cache_directory(), "/home/somebody/.cache/convrt");
  const Environment base("XDG_CACHE_HOME", "/base");
  EXPECT_EQ(convrt::core::cache_directory(), "/base/convrt");
  const Environment here("CONVRT_CACHE_DIR", "/here");
  EXPECT_EQ(convrt::core::cache_directory(), "/here");
}

TEST(ShippedTuning, TakesTheNearestBatchAndAnyEpilogue) {
  const std::string text =
      "# measured on a card\n"
      "n1c3h8w8k4r3s3 gl.a gl.b  # comment\n"
      "n32c3h8w8k4r3s3 gl.c\n"
      "broken+line gl.d\n"
      "n1c4h8w8k4r3s3 gl.e\n";
  const auto best = [&](const char* problem) { return shipped_kernels(text, convrt::Conv2dDesc::parse(problem)); };
  EXPECT_EQ(best("n1c3h8w8k4r3s3"), (std::vector<std::string>{"gl.a", "gl.b"}));
  EXPECT_EQ(best("n16c3h8w8k4r3s3"), (std::vector<std::string>{"gl.c"}));
  EXPECT_EQ(best("n64c3h8w8k4r3s3"), (std::vector<std::string>{"gl.c"}));
  EXPECT_EQ(best("n1024c3h8w8k4r3s3"), (std::vector<std::string>{"gl.c"})) << "a full card stays full";
  EXPECT_EQ(best("n4c3h8w8k4r3s3"), (std::vector<std::string>{"gl.a", "gl.b"}));
  EXPECT_TRUE(best("n7c3h8w8k4r3s3").empty()) << "far from both";
  EXPECT_EQ(best("n1c3h8w8k4r3s3+acc+relu"), (std::vector<std::string>{"gl.a", "gl.b"})) << "any epilogue";
  EXPECT_TRUE(best("n1c3h8w8k4r3s3+nhwc").empty()) << "but the layout matters";
  EXPECT_TRUE(shipped_kernels("", convrt::Conv2dDesc::parse("n1c3h8w8k4r3s3")).empty());
}

}  // namespace
