// Rules that no compiler checks: who may include whom, who may print, what the library exports.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace convrt::test {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = CONVRT_SOURCE_DIR;

std::string read(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

struct Source {
  std::string path;  // relative to the repository
  std::string text;
  std::vector<std::string> includes;
};

std::vector<Source> sources(const std::string& folder) {
  static const std::regex include("(?:^|\n)[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"]+)[>\"]");
  std::vector<Source> found;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(kRoot / folder)) {
    const std::string extension = entry.path().extension();
    if (extension != ".cpp" && extension != ".hpp" && extension != ".h" && extension != ".c") continue;
    Source s = {fs::relative(entry.path(), kRoot), read(entry.path()), {}};
    for (std::sregex_iterator i(s.text.begin(), s.text.end(), include), end; i != end; ++i)
      s.includes.push_back((*i)[1]);
    found.push_back(std::move(s));
  }
  EXPECT_FALSE(found.empty()) << folder;
  return found;
}

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> prefixes) {
  return std::ranges::any_of(prefixes, [&](std::string_view p) { return text.starts_with(p); });
}

// Headers of ours are included by their path from include/ or src/, those of the system by anything else.
bool ours(const std::string& include) {
  return starts_with_any(include, {"convrt/", "core/", "cpu/", "gl/", "mpi/", "tools/"});
}

TEST(IncludeRule, PublicHeadersNeedTheStandardLibraryAndThemselvesOnly) {
  for (const Source& s : sources("include"))
    for (const std::string& i : s.includes) {
      // Standard headers have neither folder nor suffix, but for the C library's.
      const bool standard =
          i.find('/') == std::string::npos && (i.find('.') == std::string::npos || i.starts_with("std"));
      // mpi.hpp is the optional component for programs that use MPI anyway.
      const bool optional = s.path.ends_with("mpi.hpp") && i == "mpi.h";
      EXPECT_TRUE(i.starts_with("convrt/") || standard || optional) << s.path << " includes " << i;
    }
}

TEST(IncludeRule, EveryLayerLooksDownOnly) {
  const auto check = [](const char* folder, std::initializer_list<std::string_view> allowed) {
    for (const Source& s : sources(folder))
      for (const std::string& i : s.includes)
        EXPECT_TRUE(!ours(i) || starts_with_any(i, allowed)) << s.path << " includes " << i;
  };
  check("src/core", {"convrt/", "core/"});
  check("src/cpu", {"convrt/", "core/", "cpu/"});
  check("src/gl", {"convrt/", "core/", "gl/"});
  check("src/mpi", {"convrt/", "core/"});
}

TEST(IncludeRule, OpenGlAndHighwayStayAtHome) {
  for (const Source& s : sources("src"))
    for (const std::string& i : s.includes) {
      const bool gl = starts_with_any(i, {"glad/", "EGL/", "GL/", "GLES"}), highway = i.starts_with("hwy/");
      EXPECT_TRUE(!gl || s.path.starts_with("src/gl/")) << s.path << " includes " << i;
      EXPECT_TRUE(!highway || s.path.starts_with("src/cpu/kernels/")) << s.path << " includes " << i;
    }
}

TEST(Contract, VirtualFunctionsStandInTheBackendContractAlone) {
  static const std::regex declared("\\bvirtual\\b");
  for (const char* folder : {"src", "include"})
    for (const Source& s : sources(folder))
      EXPECT_TRUE(s.path == "src/core/backend.hpp" || !std::regex_search(s.text, declared))
          << s.path << " declares a virtual function";
}

// Output of a command; empty where it could not run.
std::string output_of(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string text;
  char block[4096];
  for (std::size_t n; pipe && (n = fread(block, 1, sizeof block, pipe.get())) > 0;) text.append(block, n);
  return text;
}

TEST(Symbols, OnlyTheLogPrintsAndNothingEndsTheProcess) {
  const std::string listing = output_of("nm -A -u " CONVRT_ARCHIVE " 2>/dev/null");
  if (listing.empty()) GTEST_SKIP() << "nm is not here (package binutils)";
  const std::set<std::string> enders = {"abort", "exit", "_exit", "quick_exit", "_Exit"};
  const std::set<std::string> printers = {
      "printf", "fprintf", "puts",          "fputs",        "putchar", "vprintf",   "vfprintf",  "perror",   "fputc",
      "fwrite", "stderr",  "__fprintf_chk", "__printf_chk", "stdout",  "_ZSt4cout", "_ZSt4cerr", "_ZSt4clog"};
  std::istringstream lines(listing);
  int symbols = 0;
  for (std::string line; std::getline(lines, line); ++symbols) {
    // archive:member.o:   U symbol
    const std::string symbol = line.substr(line.rfind(' ') + 1);
    const std::string name = symbol.substr(0, symbol.find('@'));
    EXPECT_FALSE(enders.contains(name)) << line;
    const bool is_log = line.find(":log.cpp.o:") != std::string::npos;
    EXPECT_TRUE(is_log || !printers.contains(name)) << line;
  }
  EXPECT_GT(symbols, 100) << "nm listed next to nothing";
}

TEST(Symbols, TheSharedLibraryExportsOurNamesOnly) {
  const std::string library = CONVRT_LIBRARY;
  if (library.find(".so") == std::string::npos) GTEST_SKIP() << "the static library is built here";
  const std::string listing = output_of("nm -D -C --defined-only " + library);
  if (listing.empty()) GTEST_SKIP() << "nm is not here (package binutils)";
  std::istringstream lines(listing);
  int symbols = 0;
  for (std::string line; std::getline(lines, line); ++symbols) {
    const std::string name = line.substr(19);  // address, space, kind, space
    EXPECT_TRUE(starts_with_any(
        name, {"convrt::", "convrt_", "typeinfo for convrt::", "typeinfo name for convrt::", "vtable for convrt::"}))
        << name;
  }
  EXPECT_GT(symbols, 20);
}

TEST(Readme, ShowsTheQuickstartAsItIs) {
  if (!fs::exists(kRoot / "README.md")) GTEST_SKIP() << "no README.md";
  EXPECT_NE(read(kRoot / "README.md").find(read(kRoot / "examples/quickstart.cpp")), std::string::npos)
      << "the program in README.md differs from examples/quickstart.cpp";
}

}  // namespace
}  // namespace convrt::test
