// What the GL runtime keeps without a driver: hazards, and program binaries on disk.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gl/hazards.hpp"
#include "gl/program_cache.hpp"

namespace {

namespace fs = std::filesystem;
using convrt::gl::Hazards;
using convrt::gl::ProgramBinary;
using convrt::gl::ProgramCache;

TEST(GlHazards, OnlyDependentDispatchesNeedABarrier) {
  Hazards hazards;
  const auto note = [&](std::vector<std::uint32_t> reads, std::vector<std::uint32_t> writes) {
    return hazards.note(reads, writes);
  };
  EXPECT_FALSE(note({1}, {2}));
  EXPECT_FALSE(note({1}, {3}));  // shared reads
  EXPECT_TRUE(note({2}, {4}));   // read after write
  EXPECT_FALSE(note({3}, {5}));  // the barrier covered 3
  EXPECT_TRUE(note({1}, {5}));   // write after write
  EXPECT_TRUE(note({6}, {1}));   // write after read
  EXPECT_TRUE(note({}, {6}));
  hazards.clear();
  EXPECT_FALSE(note({6}, {1}));
}

class GlProgramCache : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("convrt-program-cache-" + std::to_string(getpid()));
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  static std::string content(const fs::path& file) {
    std::ostringstream text;
    text << std::ifstream(file, std::ios::binary).rdbuf();
    return text.str();
  }
  static void overwrite(const fs::path& file, const std::string& text) {
    std::ofstream(file, std::ios::binary) << text;
  }
  std::uintmax_t bytes() const {
    std::uintmax_t sum = 0;
    for (const auto& entry : fs::directory_iterator(folder_)) sum += entry.file_size();
    return sum;
  }

  fs::path folder_;
};

TEST_F(GlProgramCache, KeepsBinariesForOneDriverAndText) {
  const ProgramCache cache(folder_, "vendor\ndriver 1\n");
  EXPECT_FALSE(cache.load("text"));
  const std::string binary("\0binary\n\xff", 9);
  cache.store("text", {0x875F, binary});
  const auto found = cache.load("text");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->format, 0x875FU);
  EXPECT_EQ(found->bytes, binary);
  EXPECT_FALSE(cache.load("text "));
  EXPECT_FALSE(ProgramCache(folder_, "vendor\ndriver 2\n").load("text"));
  cache.remove("text");
  EXPECT_FALSE(cache.load("text"));
}

TEST_F(GlProgramCache, EveryDamagedByteAndEveryTruncationIsAbsent) {
  const ProgramCache cache(folder_, "driver\n");
  cache.store("a shader", {7, "the binary"});
  const fs::path file = cache.file_of("a shader");
  const std::string good = content(file);
  ASSERT_TRUE(cache.load("a shader"));
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    overwrite(file, bad);
    EXPECT_FALSE(cache.load("a shader")) << "byte " << i;
    overwrite(file, good.substr(0, i));
    EXPECT_FALSE(cache.load("a shader")) << "cut at " << i;
  }
  overwrite(file, good + "x");
  EXPECT_FALSE(cache.load("a shader"));
  cache.store("a shader", {7, "the binary"});
  EXPECT_TRUE(cache.load("a shader"));
}

TEST_F(GlProgramCache, AnotherProgramUnderTheSameNameIsNotHandedOut) {
  const ProgramCache cache(folder_, "driver\n");
  cache.store("one", {1, "binary of one"});
  cache.store("two", {1, "binary of two"});
  fs::copy_file(cache.file_of("one"), cache.file_of("two"), fs::copy_options::overwrite_existing);
  EXPECT_FALSE(cache.load("two"));
}

TEST_F(GlProgramCache, StaysBelowItsSizeAndKeepsWhatWasUsedLast) {
  const ProgramCache cache(folder_, "driver\n", 20'000);
  for (int i = 0; i < 40; ++i) {
    cache.store("shader " + std::to_string(i), {1, std::string(1000, 'x')});
    const fs::path first = cache.file_of("shader 0");
    ASSERT_TRUE(cache.load("shader 0")) << i;  // a use, which makes it the newest
    fs::last_write_time(first, fs::file_time_type::clock::now() + std::chrono::seconds(i));
    EXPECT_LE(bytes(), 20'000U);
  }
  EXPECT_FALSE(cache.load("shader 1"));
  EXPECT_TRUE(cache.load("shader 39"));
}

TEST_F(GlProgramCache, ConcurrentWritersLeaveWholeEntries) {
  std::vector<std::thread> writers;
  for (int t = 0; t < 4; ++t)
    writers.emplace_back([&, t] {
      const ProgramCache cache(folder_, "driver\n");
      for (int i = 0; i < 50; ++i) {
        cache.store("text", {static_cast<std::uint32_t>(t), std::string(5000, static_cast<char>('a' + t))});
        const auto found = cache.load("text");
        ASSERT_TRUE(found);
        ASSERT_EQ(found->bytes, std::string(5000, static_cast<char>('a' + found->format)));
      }
    });
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);  // no drafts left behind
}

TEST_F(GlProgramCache, AFolderThatCannotBeMadeCachesNothing) {
  overwrite(folder_, "a file stands where the folder should be");
  const ProgramCache cache(folder_ / "programs", "driver\n");
  cache.store("text", {1, "binary"});
  EXPECT_FALSE(cache.load("text"));
  const ProgramCache none(fs::path(), "driver\n");
  none.store("text", {1, "binary"});
  EXPECT_FALSE(none.load("text"));
}

}  // namespace
