// Every device x every kernel x every problem. One problem again: CONVRT_TEST_PROBLEM, CONVRT_TEST_DEVICE,
// CONVRT_TEST_KERNEL (a prefix), CONVRT_TEST_SEED; a failure prints the line. ctest runs this program in shards.
//
// A GL family has many choices of tiles, each a program to compile. The choice that comes first for a problem is tried
// on every problem, the others on one in CONVRT_TEST_GL_SHARE (4) of the problems each, by chance that the seed
// decides. At 8 and above the first choices take turns too, on one problem in a fourth of that number: the lanes that
// repeat the plain one's tests under other tools.
#include "conformance.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <set>

#include "cases.hpp"

namespace convrt::test {
namespace {

struct Given {
  Device device;
  Conv2dDesc desc;
};

std::vector<Given> given(std::string_view family) {
  const std::string only = environment("CONVRT_TEST_DEVICE");
  std::vector<Given> all;
  for (const Device& device : devices()) {
    const std::string& id = device.info().id;
    if (id.substr(0, id.find(':')) != family || (!only.empty() && only != id)) continue;
    for (const Conv2dDesc& desc : conformance_cases(family == "cpu" ? 60 : 12)) all.push_back({device, desc});
  }
  return all;
}

class Conformance : public testing::TestWithParam<Given> {};

// "gl.pointwise" of gl.pointwise.64x64x8.
std::string family_of(const std::string& kernel) { return kernel.substr(0, kernel.find('.', kernel.find('.') + 1)); }

std::size_t kernels_checked = 0;

TEST_P(Conformance, EveryKernelIsRight) {
  const Conv2dDesc& desc = GetParam().desc;
  const std::string only = environment("CONVRT_TEST_KERNEL");
  std::function<bool(const std::string&)> wanted = [](const std::string&) { return ++kernels_checked > 0; };
  std::set<std::string> families;
  if (GetParam().device.info().id != "cpu" && only.empty() && environment("CONVRT_TEST_PROBLEM").empty()) {
    const std::size_t share = std::stoul(environment("CONVRT_TEST_GL_SHARE", "4"));
    wanted = [&, share](const std::string& kernel) {
      const bool first = families.insert(family_of(kernel)).second;
      const std::size_t chance = std::hash<std::string>()(kernel + desc.str() + std::to_string(seed()));
      if (chance % std::max<std::size_t>(1, first ? share / 4 : share) != 0) return false;
      return ++kernels_checked > 0;
    };
  }
  EXPECT_EQ(check_kernels(GetParam().device, desc, seed(), only, wanted), "");
}

// gtest allows letters, digits and underscores only; the index keeps names apart.
std::string name(const testing::TestParamInfo<Given>& info) {
  std::string text = std::to_string(info.index) + "_" + info.param.device.info().id + "_" + info.param.desc.str();
  std::ranges::replace_if(
      text, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return text;
}

void PrintTo(const Given& g, std::ostream* out) { *out << g.desc.str() << " on " << g.device.info().id; }

INSTANTIATE_TEST_SUITE_P(cpu, Conformance, testing::ValuesIn(given("cpu")), name);
INSTANTIATE_TEST_SUITE_P(gl, Conformance, testing::ValuesIn(given("gl")), name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Conformance);

TEST(Cases, AreValidAndDistinct) {
  std::vector<std::string> seen;
  for (const Conv2dDesc& d : hand_picked_cases()) {
    d.validate();
    seen.push_back(d.str());
  }
  std::ranges::sort(seen);
  EXPECT_EQ(std::ranges::adjacent_find(seen), seen.end());
}

}  // namespace
}  // namespace convrt::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  std::printf("CONVRT_TEST_SEED=%llu\n", static_cast<unsigned long long>(convrt::test::seed()));
  // tests/CMakeLists.txt looks for this sentence to report the GL shards as skipped.
  if (GTEST_FLAG_GET(filter).starts_with("gl") && convrt::test::given("gl").empty())
    std::puts("no GL device here: GL kernels are not tested");
  const int status = RUN_ALL_TESTS();
  const std::string only = convrt::test::environment("CONVRT_TEST_KERNEL");
  // A shard of many may well hold none of them; a single run without any has tested nothing.
  if (!only.empty() && convrt::test::kernels_checked == 0 && std::getenv("GTEST_TOTAL_SHARDS") == nullptr) {
    std::fprintf(stderr, "CONVRT_TEST_KERNEL: expected a kernel or its first parts, e.g. gl.lds_64, found \"%s\"\n",
                 only.c_str());
    return 1;
  }
  return status;
}
