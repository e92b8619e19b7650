// The table of shader variants and what it makes of a problem: pure data, so most of it is tested without a driver.
#include "gl/variants.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include "convrt/convrt.hpp"
#include "gl/depth_share.hpp"
#include "gl/shader_text.hpp"
#include "gl/variant_table.hpp"

namespace convrt::gl {
namespace {

GlInfo card(const std::string& arch, int compute_units, Vendor vendor = Vendor::amd) {
  GlInfo info;
  info.vendor = vendor;
  info.arch = arch;
  info.renderer = arch;
  info.compute_units = compute_units;
  info.limits.max_invocations = 1024;
  info.limits.max_shared_bytes = 48 << 10;
  return info;
}

GlInfo llvmpipe() {
  GlInfo info = card("llvmpipe", 0, Vendor::mesa_software);
  info.software = true;
  info.limits.max_shared_bytes = 32 << 10;
  return info;
}

const char* const kProblems[] = {
    "n3c6h9w11k8r3s2sh2dh2pt1pl2pb0pr3g2",
    "n3c6h9w11k8r3s2sh2dh2pt1pl2pb0pr3g2+nhwc",
    "n2c64h14w14k96r3s3ph1pw1",
    "n1c3h29w31k20r7s7sh2sw2ph3pw3+relu",
    "n5c24h7w7k40r1s1+nhwc+acc",
    "n2c16h13w9k16r3s3ph1pw1g16",
    "n2c16h13w9k32r3s3sh2sw2ph1pw1g16+nhwc",
    "n2c12h9w12k24r3s3pt1pl2pr1g12",
    "n3c8h16w16k8r3s3sh2sw2ph1pw1g8",
    "n1c1h1w1k1r1s1",
    "n2c512h7w7k512r1s1",
};

TEST(Table, KernelNamesAreUniqueAndFilesExist) {
  std::set<std::string> names;
  for (const Variant& v : variants()) {
    EXPECT_FALSE(shader_file(v.file).empty()) << v.file;
    for (const Variant::Choice& choice : v.choices)
      EXPECT_TRUE(names.insert(std::string(v.name) + '.' + v.suffix(choice.tile)).second) << v.name;
  }
}

TEST(Table, EveryProblemHasTheFallbackLast) {
  for (const char* problem : kProblems) {
    const auto list = configs(Conv2dDesc::parse(problem), card("hopper", 132, Vendor::nvidia));
    ASSERT_FALSE(list.empty()) << problem;
    EXPECT_TRUE(list.back().name.starts_with("gl.basic_64")) << problem;
  }
}

TEST(Table, ListedKernelsDoNotDependOnImagesOrTheirSize) {
  for (const char* problem : kProblems) {
    Conv2dDesc desc = Conv2dDesc::parse(problem);
    const auto names = [&] {
      std::set<std::string> found;
      for (const Config& c : configs(desc, llvmpipe())) found.insert(c.name);
      return found;
    };
    const auto before = names();
    desc.n += 7, desc.h += 30, desc.w += 41;
    EXPECT_EQ(before, names()) << problem;
  }
}

TEST(Table, WhatDoesNotFitTheDeviceIsNotListed) {
  GlInfo small = llvmpipe();
  small.limits.max_invocations = 128;
  small.limits.max_shared_bytes = 8 << 10;
  for (const Config& c : configs(Conv2dDesc::parse("n2c64h14w14k96r3s3ph1pw1"), small)) {
    EXPECT_FALSE(c.name.starts_with("gl.large_256")) << c.name;
    const Blocking b = variants()[c.row].blocking(Conv2dDesc::parse("n2c64h14w14k96r3s3ph1pw1"), c.tile);
    EXPECT_LE(b.shared_bytes, small.limits.max_shared_bytes) << c.name;
    EXPECT_LE(b.invocations, 128) << c.name;
  }
}

TEST(Order, DualIssueLeadsOnRdna3Alone) {
  const Conv2dDesc desc = Conv2dDesc::parse("n32c256h56w56k128r1s1");
  EXPECT_TRUE(configs(desc, card("rdna3", 96)).front().name.starts_with("gl.rdna3_dual_issue."));
  for (const GlInfo& info : {card("hopper", 132, Vendor::nvidia), card("rdna2", 80), llvmpipe(), card("unknown", 0)}) {
    const auto list = configs(desc, info);
    const auto place = [&](std::string_view prefix) {
      return std::find_if(list.begin(), list.end(), [&](const Config& c) { return c.name.starts_with(prefix); });
    };
    EXPECT_GT(place("gl.rdna3_dual_issue."), place("gl.lds_64.")) << info.arch;
    EXPECT_GT(place("gl.rdna3_dual_issue."), place("gl.pointwise.")) << info.arch;
  }
}

TEST(Order, TilesShrinkWithTheProblem) {
  const GlInfo info = card("hopper", 132, Vendor::nvidia);
  const auto tiles_of_first = [&](const char* problem) {
    const Conv2dDesc desc = Conv2dDesc::parse(problem);
    const Config first = configs(desc, info).front();
    const Blocking b = variants()[first.row].blocking(desc, first.tile);
    return b.filters * b.pixels;
  };
  EXPECT_GT(tiles_of_first("n32c256h56w56k256r1s1"), tiles_of_first("n1c256h14w14k256r1s1"));
  EXPECT_TRUE(configs(Conv2dDesc::parse("n8c64h56w56k64r3s3ph1pw1g64"), info).front().name.starts_with("gl.depthwise"));
  EXPECT_TRUE(configs(Conv2dDesc::parse("n8c3h224w224k64r7s7sh2sw2ph3pw3"), info).front().name.starts_with("gl.flatt"));
}

// What a step's parameter block says, by the offsets of shaders/common.glsl.
struct Words {
  explicit Words(const Step& step) : words(step.params) {}
  int at(std::size_t i) const { return static_cast<int>(words.at(i)); }
  int n() const { return at(0); }
  int p() const { return at(7); }
  int first_tile() const { return at(22); }
  int end_tile() const { return at(23); }
  int first_block() const { return at(24); }
  int block_end() const { return at(25); }
  int whole() const { return at(29); }
  const std::vector<std::uint32_t>& words;
};

// Replays the shaders' indexing in 64 bits: how often each dst element is written, and that every access of dst, src
// and weights lies inside what the step binds.
class Replay {
 public:
  Replay(const Config& config, const Conv2dDesc& desc, const GlInfo& info)
      : desc_(desc),
        info_(info),
        blocking_(variants()[config.row].blocking(desc, config.tile)),
        writes_(desc.dst_size()) {
    for (const Step& step : recipe(config, desc, info).steps) run(step);
  }
  bool once() const {
    return std::all_of(writes_.begin(), writes_.end(), [](int w) { return w == 1; });
  }

 private:
  const Binding& binding(const Step& step, Role role) const {
    return *std::find_if(step.buffers.begin(), step.buffers.end(), [&](const Binding& b) { return b.role == role; });
  }
  // The element of the whole memory that the shader's `index` (before its offset) means; checks the binding's range.
  std::int64_t element(const Step& step, Role role, std::size_t offset_word, std::int64_t index) {
    const Binding& b = binding(step, role);
    const auto local = static_cast<std::int32_t>(static_cast<std::uint32_t>(index) + step.params[offset_word]);
    EXPECT_GE(local, 0);
    EXPECT_LT(local, static_cast<std::int64_t>(b.size_bytes / 4));
    return static_cast<std::int64_t>(b.offset_bytes / 4) + local;
  }

  void run(const Step& step) {
    const Words w(step);
    EXPECT_LE(step.groups[0], info_.limits.max_groups[0]);
    EXPECT_LE(step.groups[1], info_.limits.max_groups[1]);
    EXPECT_EQ(w.whole(), w.end_tile() - w.first_tile());  // with shared tiles there is a workspace: not replayed here
    EXPECT_GE(std::int64_t{step.groups[0]} * step.groups[1], w.whole());
    for (const Binding& b : step.buffers) {
      EXPECT_EQ(b.offset_bytes % info_.limits.block_alignment, 0U);
      EXPECT_LE(b.size_bytes, info_.limits.max_block_bytes);
    }
    const std::int64_t block = block_floats(blocking_, desc_);
    for (int tile = w.first_tile(); tile < w.end_tile(); ++tile) {
      const int blocks = w.block_end() - w.first_block();
      const std::int64_t filter_block = w.first_block() + tile % blocks;
      element(step, Role::weights, 27, filter_block * block);
      element(step, Role::weights, 27, filter_block * block + block - 1);
      for (std::int64_t i = 0; i < blocking_.pixels; ++i)
        column(step, w, filter_block, tile / blocks * blocking_.pixels + i);
    }
  }

  // One pixel: blocking_.rows x blocking_.columns destination elements of each filter.
  void column(const Step& step, const Words& w, std::int64_t block, std::int64_t index) {
    const std::int64_t q_count = desc_.q(), strips = ceil_div(w.p(), blocking_.rows);
    const std::int64_t columns = ceil_div(q_count, blocking_.columns);
    if (index >= w.n() * strips * columns) return;
    const std::int64_t image = index / (strips * columns), strip = index / columns % strips;
    const std::int64_t first = index % columns * blocking_.columns;
    for (std::int64_t p = strip * blocking_.rows; p < std::min<std::int64_t>((strip + 1) * blocking_.rows, w.p()); ++p)
      for (std::int64_t q = first; q < std::min(first + blocking_.columns, q_count); ++q)
        for (std::int64_t k = first_filter(blocking_, desc_, block); k < first_filter(blocking_, desc_, block + 1); ++k)
          write(step, w, image, p, q, k);
  }

  void write(const Step& step, const Words& w, std::int64_t image, std::int64_t p, std::int64_t q, std::int64_t k) {
    const std::int64_t to = desc_.layout == Layout::nhwc ? ((image * w.p() + p) * desc_.q() + q) * desc_.k + k
                                                         : ((image * desc_.k + k) * w.p() + p) * desc_.q() + q;
    const std::int64_t at = element(step, Role::dst, 28, to);
    ++writes_.at(static_cast<std::size_t>(at));
    source(step, w, image, p, q, k, at);
  }

  // The corners of the source window of (p, q): inside the binding, and the elements the definition asks for.
  void source(const Step& step, const Words& w, std::int64_t image, std::int64_t p, std::int64_t q, std::int64_t k,
              std::int64_t to) {
    const bool nhwc = desc_.layout == Layout::nhwc;
    const std::int64_t h = w.at(2), per_group = channels_per_group(desc_), group = k / filters_per_group(desc_);
    const std::int64_t true_p = nhwc ? to / desc_.k / desc_.q() % desc_.p() : to / desc_.q() % desc_.p();
    const std::int64_t true_image = to / (std::int64_t{desc_.k} * desc_.p() * desc_.q());
    for (const int r : {0, desc_.r - 1})
      for (const int s : {0, desc_.s - 1}) {
        const std::int64_t y = p * desc_.stride_h - w.at(11) + r * desc_.dilation_h;
        const std::int64_t x = q * desc_.stride_w - desc_.pad_left + s * desc_.dilation_w;
        const std::int64_t true_y = true_p * desc_.stride_h - desc_.pad_top + r * desc_.dilation_h;
        EXPECT_EQ(y >= 0 && y < h, true_y >= 0 && true_y < desc_.h);
        if (y < 0 || y >= h || x < 0 || x >= desc_.w) continue;
        for (const std::int64_t c : {group * per_group, (group + 1) * per_group - 1}) {
          const auto index = [&](std::int64_t n, std::int64_t rows, std::int64_t row) {
            return nhwc ? ((n * rows + row) * desc_.w + x) * desc_.c + c
                        : ((n * desc_.c + c) * rows + row) * desc_.w + x;
          };
          EXPECT_EQ(element(step, Role::src, 26, index(image, h, y)), index(true_image, desc_.h, true_y));
        }
      }
  }

  const Conv2dDesc& desc_;
  const GlInfo& info_;
  Blocking blocking_;
  std::vector<int> writes_;
};

// Kernels that recipe() itself cuts; Winograd plans its own dispatches.
bool cut_by_blocking(const Config& c) { return variants()[c.row].recipe == nullptr; }

// A renamed kernel would silently lose what a card taught: rename it in shaders/tuned too, or tune anew.
TEST(Shipped, EveryLineNamesKernelsThatItsCardHas) {
  for (const ShaderFile& file : embedded_shaders()) {
    const std::string name(file.name);
    if (!name.starts_with("tuned/")) continue;
    GlInfo info = card(name.substr(6, name.find('.') - 6), 132, Vendor::nvidia);
    info.limits.max_invocations = 1024;
    std::istringstream lines{std::string(file.text)};
    int problems = 0;
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line.substr(0, line.find('#')));
      std::string problem, kernel;
      if (!(words >> problem)) continue;
      ++problems;
      std::set<std::string> known;
      for (const Config& config : configs(Conv2dDesc::parse(problem), info)) known.insert(config.name);
      EXPECT_TRUE(words >> kernel) << name << ": " << line;
      do EXPECT_TRUE(known.contains(kernel)) << name << ": " << problem << " has no " << kernel;
      while (words >> kernel);
    }
    EXPECT_GT(problems, 0) << name;
  }
}

bool binds_counters(const Recipe& recipe) {
  return std::any_of(recipe.steps.begin(), recipe.steps.end(), [](const Step& step) {
    return std::any_of(step.buffers.begin(), step.buffers.end(),
                       [](const Binding& binding) { return binding.role == Role::counters; });
  });
}

// Bands are recipes of their own: what those need, the whole needs.
TEST(Recipe, BandsThatShareDepthBindCounters) {
  GlInfo info = card("hopper", 3, Vendor::nvidia);
  info.limits.max_block_bytes = 1 << 20;
  info.limits.max_groups = {65535, 65535, 1};
  const Conv2dDesc desc = Conv2dDesc::parse("n1c900h24w24k64r1s1");  // an image of 2 MB, blocks of 1
  int shared = 0;
  for (const Config& c : configs(desc, info)) {
    if (!cut_by_blocking(c)) continue;
    const Recipe made = recipe(c, desc, info);
    EXPECT_GT(made.steps.size(), 2U) << c.name;
    EXPECT_EQ(made.counts, binds_counters(made)) << c.name;
    shared += made.counts;
  }
  EXPECT_GT(shared, 0);
}

TEST(Recipe, WritesEveryElementOnceUnderAnyLimit) {
  int refused = 0, split = 0, banded = 0;
  for (const char* problem : kProblems) {
    const Conv2dDesc desc = Conv2dDesc::parse(problem);
    for (const std::uint64_t block_bytes : {1ULL << 27U, 40000ULL, 9000ULL, 3000ULL})
      for (const std::uint32_t groups : {65535U, 3U}) {
        GlInfo info = card("gcn", 8);
        info.limits.max_block_bytes = block_bytes;
        info.limits.max_groups = {groups, 2, 1};
        for (const Config& c : configs(desc, info)) {
          if (!cut_by_blocking(c)) continue;
          SCOPED_TRACE(std::string(problem) + ' ' + c.name + ' ' + std::to_string(block_bytes));
          try {
            const Recipe cut = recipe(c, desc, info);
            split += cut.steps.size() > 1;
            if (cut.workspace_floats > 0) {  // gl_backend_test runs those
              ++banded;
              EXPECT_EQ(cut.counts, binds_counters(cut));
              for (const Step& step : cut.steps)
                for (const Binding& b : step.buffers) {
                  EXPECT_EQ(b.offset_bytes % info.limits.block_alignment, 0U);
                  EXPECT_LE(b.size_bytes, block_bytes);
                }
            } else {
              EXPECT_TRUE(Replay(c, desc, info).once());
            }
          } catch (const Error& e) {
            ++refused;
            EXPECT_EQ(e.code(), ErrorCode::unsupported);
            EXPECT_LT(block_bytes, 1U << 20U) << e.what();
            EXPECT_NE(std::string(e.what()).find(std::to_string(block_bytes)), std::string::npos) << e.what();
          }
          if (HasFailure()) return;
        }
      }
  }
  EXPECT_GT(refused, 0);  // the limits above are tight enough to say no ...
  EXPECT_GT(split, 100);  // ... and to split
  EXPECT_GT(banded, 10);
}

// A dispatch that sees some rows of an image has other strips than the image: its rows past the last one lie outside.
TEST(Recipe, OnlyProgramsOfWholeImagesKnowTheirStrips) {
  const Conv2dDesc desc = Conv2dDesc::parse("n2c8h64w48k8r3s3ph1pw1g8+nhwc");
  GlInfo info = card("hopper", 132, Vendor::nvidia);
  info.limits.max_groups = {65535, 65535, 1};
  int families = 0;
  for (const std::uint64_t block_bytes : {1U << 27U, 40000U}) {
    info.limits.max_block_bytes = block_bytes;
    for (const Config& c : configs(desc, info)) {
      if (!c.name.starts_with("gl.depthwise_nhwc.")) continue;
      ++families;
      const Defines defines = recipe(c, desc, info).programs.at(0).defines;
      const auto value = [&](const char* name) {
        const auto found = std::find_if(defines.begin(), defines.end(), [&](const auto& d) { return d.first == name; });
        return found == defines.end() ? "" : found->second;
      };
      const bool whole = block_bytes > 40000U;
      const int rows = std::stoi(value("ROWS"));
      EXPECT_EQ(value("STRIPS"), whole ? std::to_string((64 + rows - 1) / rows) : "") << c.name;
      EXPECT_EQ(value("TOP"), whole ? "1" : "") << c.name;  // the first strip's first row is padding
    }
  }
  EXPECT_GT(families, 4);
}

TEST(Recipe, NoImagesNeedNoDispatch) {
  const Conv2dDesc desc = Conv2dDesc::parse("n0c64h14w14k96r3s3ph1pw1");
  for (const Config& c : configs(desc, llvmpipe())) EXPECT_TRUE(recipe(c, desc, llvmpipe()).steps.empty()) << c.name;
}

TEST(Recipe, ImagesAreNoDefine) {
  Conv2dDesc desc = Conv2dDesc::parse("n1c64h14w14k96r3s3ph1pw1");
  for (const Config& c : configs(desc, llvmpipe())) {
    desc.n = 1;
    const Recipe one = recipe(c, desc, llvmpipe());
    desc.n = 37;
    const Recipe many = recipe(c, desc, llvmpipe());
    ASSERT_EQ(one.programs.size(), many.programs.size()) << c.name;
    for (std::size_t i = 0; i < one.programs.size(); ++i) EXPECT_EQ(one.programs[i].defines, many.programs[i].defines);
  }
}

// What lets work groups share tiles: room for their sums, a counter a tile, a launch of all.
TEST(Recipe, FewTilesShareTheirDepth) {
  const GlInfo info = card("hopper", 132, Vendor::nvidia);
  int shared = 0;
  for (const char* problem :
       {"n1c512h7w7k512r3s3ph1pw1", "n1c2048h7w7k512r1s1", "n1c512h7w7k512r3s3ph1pw1+nhwc", "n32c2048h7w7k512r1s1"}) {
    const Conv2dDesc desc = Conv2dDesc::parse(problem);
    for (const Config& c : configs(desc, info)) {
      if (!cut_by_blocking(c)) continue;
      const Blocking b = variants()[c.row].blocking(desc, c.tile);
      const Recipe made = recipe(c, desc, info);
      const TileGrid grid = {tile_count(b, desc), depth(b, desc) / b.depth};
      const DepthShare share = best_share(b, info, grid);
      EXPECT_EQ(made.counts, share.stretches > 0) << problem << ' ' << c.name;
      if (!made.counts) continue;
      ++shared;
      Config invariant = c;
      invariant.shares = false;
      EXPECT_FALSE(recipe(invariant, desc, info).counts) << c.name;
      ASSERT_EQ(made.steps.size(), 1U) << c.name;
      EXPECT_EQ(Words(made.steps[0]).whole(), share.whole);
      EXPECT_EQ(made.steps[0].groups[0] * made.steps[0].groups[1], share.whole + share.stretches) << c.name;
      EXPECT_EQ(static_cast<std::int64_t>(made.workspace_floats), partial_floats(b, share)) << c.name;
      for (const Role role : {Role::workspace, Role::counters})
        EXPECT_TRUE(std::any_of(made.steps[0].buffers.begin(), made.steps[0].buffers.end(),
                                [&](const Binding& binding) { return binding.role == role; }))
            << c.name;
    }
  }
  EXPECT_GT(shared, 30);
  for (const Config& c : configs(Conv2dDesc::parse("n32c256h56w56k256r1s1"), info))
    EXPECT_FALSE(recipe(c, Conv2dDesc::parse("n32c256h56w56k256r1s1"), info).counts) << c.name;
}

TEST(Recipe, LongWorkIsCutIntoShortDispatches) {
  const Conv2dDesc desc = Conv2dDesc::parse("n8c256h112w112k256r3s3ph1pw1");  // 118 GFLOP a run
  GlInfo info = card("gcn", 4);
  for (const Config& c : configs(desc, info)) {
    if (!cut_by_blocking(c)) continue;
    EXPECT_GT(recipe(c, desc, info).steps.size(), 20U) << c.name;
  }
}

TEST(Weights, EachStandsWhereTheVariantReadsIt) {
  for (const char* problem : kProblems) {
    const Conv2dDesc desc = Conv2dDesc::parse(problem);
    std::vector<float> weights(desc.weights_size());
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i + 1);
    for (const Config& c : configs(desc, llvmpipe())) {
      if (!cut_by_blocking(c)) continue;
      const Blocking b = variants()[c.row].blocking(desc, c.tile);
      const std::vector<float> packed = pack_weights(c, desc, weights);
      ASSERT_EQ(static_cast<std::int64_t>(packed.size()), block_count(b, desc) * block_floats(b, desc));
      std::map<float, int> seen;  // every weight once, zeros between
      for (const float v : packed) ++seen[v];
      EXPECT_EQ(seen.size() - seen.count(0.0F), weights.size()) << problem << ' ' << c.name;
      // The last filter's last tap and channel, by the formula at the top of shaders/common.glsl.
      const std::int64_t taps = std::int64_t{desc.r} * desc.s, last = block_count(b, desc) - 1;
      const std::int64_t channels = channels_per_group(desc);
      const std::int64_t padded = b.flat ? channels : ceil_div(channels, b.depth) * b.depth;
      const std::int64_t in_block = desc.k - 1 - first_filter(b, desc, last);
      const std::int64_t row = last * depth(b, desc) + (taps - 1) * padded + channels - 1;
      const std::int64_t at = row * b.filters + in_block;
      EXPECT_EQ(packed.at(static_cast<std::size_t>(at)), weights.back()) << problem << ' ' << c.name;
    }
  }
}

TEST(Text, IncludesAreExpandedOnceWithLinesThatNameTheirFile) {
  const std::string text = shader_text("lds_64.comp", {{"BM", "64"}});
  EXPECT_EQ(text.find("#include"), std::string::npos);
  EXPECT_TRUE(text.starts_with("#version 430 core\n#define BM 64\n#line 2 ")) << text.substr(0, 80);
  const std::string_view once = "layout(std140, binding = 3) uniform Conv";
  EXPECT_NE(text.find(once), std::string::npos);
  EXPECT_EQ(text.find(once), text.rfind(once));
}

TEST(Text, LogsNameFilesForMesaAndNvidia) {
  const auto files = embedded_shaders();
  const auto number = [&](std::string_view name) {
    const auto at = std::find_if(files.begin(), files.end(), [&](const ShaderFile& f) { return f.name == name; });
    return std::to_string(at - files.begin() + 1);
  };
  EXPECT_EQ(name_sources(number("common.glsl") + ":12(7): error: no\n"), "common.glsl:12(7): error: no\n");
  EXPECT_EQ(name_sources(number("lds_64.comp") + "(3) : error C0000"), "lds_64.comp(3) : error C0000");
  EXPECT_EQ(name_sources("0:12(7): error\n99999(1) : error\nnote\n"), "0:12(7): error\n99999(1) : error\nnote\n");
}

TEST(Text, DefinesGoBehindTheVersionAndKeepTheNumbering) {
  EXPECT_EQ(with_defines("// mine\n#version 430\nvoid main() {}\n", {{"A", "1"}}),
            "// mine\n#version 430\n#define A 1\n#line 3\nvoid main() {}\n");
  EXPECT_THROW(with_defines("void main() {}", {}), Error);
}

class OnDriver : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const Device& d : devices())
      if (d.info().id.starts_with("gl:")) device_.emplace_back(d);
    if (device_.empty()) GTEST_SKIP() << "no GL device here";
  }
  std::vector<Device> device_;
};

TEST_F(OnDriver, EveryFileCompilesAlone) {
  for (const ShaderFile& file : embedded_shaders()) {
    if (!file.name.ends_with(".comp")) continue;
    ShaderSource source;
    source.glsl = shader_text(file.name, {});
    source.label = file.name;
    EXPECT_NO_THROW(gpu_compile_custom_shader(device_.front(), source)) << file.name;
  }
}

// Integers sum exactly in any order, so the built-in texts must agree with the CPU's oracle to the bit.
TEST_F(OnDriver, BuiltinTextsRunUnderThePublicContract) {
  for (const char* problem : {"n2c5h9w7k13r3s3ph1pw1+relu", "n2c6h11w9k20r3s2sh2ph2pw1g2dh2sw2+nhwc"}) {
    const Conv2dDesc desc = Conv2dDesc::parse(problem);
    const auto fill = [](std::size_t n) {
      std::vector<float> v(n);
      for (std::size_t i = 0; i < n; ++i) v[i] = static_cast<float>(static_cast<int>(i * 7 % 11) - 5);
      return v;
    };
    const std::vector<float> src = fill(desc.src_size()), weights = fill(desc.weights_size()), bias = fill(desc.k);
    std::vector<float> expected(desc.dst_size());
    Conv2dPlan(find_device("cpu"), desc, weights, bias, {.kernel = "cpu.reference"}).run(src, expected);
    for (const std::string& name : builtin_shader_names()) {
      ShaderSource source;
      source.glsl = builtin_shader(name);
      source.label = name;
      const CustomShader shader = gpu_compile_custom_shader(device_.front(), source);
      std::vector<float> dst(desc.dst_size(), -1e30F);
      gpu_execute_conv2d_custom(shader, desc, src, weights, dst, bias);
      EXPECT_EQ(dst, expected) << name << ' ' << problem;
    }
  }
}

}  // namespace
}  // namespace convrt::gl
