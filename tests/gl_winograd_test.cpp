// The recipes of gl.winograd_*: every choice of tile sizes runs on a machine made of double-precision arrays, by the
// indexing of shaders/winograd*.comp, and must meet the definition of the convolution. No driver is needed.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <unordered_set>

#include "cases.hpp"
#include "conformance.hpp"
#include "core/activation.hpp"
#include "gl/variant_table.hpp"
#include "gl/variants.hpp"

namespace convrt::gl {
namespace {

GlInfo card() {
  GlInfo info;
  info.vendor = Vendor::nvidia;
  info.arch = "hopper";
  info.compute_units = 132;
  info.limits.max_invocations = 1024;
  info.limits.max_shared_bytes = 48 << 10;
  return info;
}

std::vector<Config> winograd_configs(const Conv2dDesc& desc, const GlInfo& info) {
  std::vector<Config> found;
  for (Config& c : configs(desc, info))
    if (c.name.find("winograd") != std::string::npos) found.push_back(std::move(c));
  return found;
}

// The uniform block of shaders/winograd.glsl.
struct Params {
  explicit Params(const Step& step) {
    int* const fields[] = {&c,           &h,        &w,        &k,          &p,          &q,
                           &pad_top,     &pad_left, &tiles_x,  &tiles_y,    &first_tile, &tile_count,
                           &tile_blocks, &c_padded, &k_padded, &src_offset, &dst_offset, &activation};
    std::size_t i = 0;
    for (int* field : fields) *field = static_cast<int>(step.params.at(i++));
    alpha = std::bit_cast<float>(step.params.at(i++));
    beta = std::bit_cast<float>(step.params.at(i++));
    src_tile_shift = static_cast<int>(step.params.at(i++));
    dst_tile_shift = static_cast<int>(step.params.at(i++));
    point_major = static_cast<int>(step.params.at(i));
  }
  int c, h, w, k, p, q, pad_top, pad_left, tiles_x, tiles_y, first_tile, tile_count, tile_blocks, c_padded, k_padded;
  int src_offset, dst_offset, activation;
  float alpha, beta;
  int src_tile_shift, dst_tile_shift, point_major;
};

// Runs a recipe. Complains about any access outside what a step binds, about what is written twice or read unwritten.
class Machine {
 public:
  Machine(const Config& config, const test::Problem& problem, const GlInfo& info)
      : desc_(problem.desc),
        info_(info),
        bm_(config.tile[0]),
        bn_(config.tile[1]),
        out_(config.tile[5]),
        in_(out_ + 2),
        recipe_(recipe(config, desc_, info)) {
    const std::vector<float> packed = pack_weights(config, desc_, problem.weights);
    memory_[Role::src].assign(problem.src.begin(), problem.src.end());
    memory_[Role::weights].assign(packed.begin(), packed.end());
    memory_[Role::bias].assign(static_cast<std::size_t>(desc_.k), 0.0);
    std::ranges::copy(problem.bias, memory_[Role::bias].begin());
    memory_[Role::dst].assign(problem.before.begin(), problem.before.end());
    memory_[Role::workspace].assign(recipe_.workspace_floats, std::numeric_limits<double>::quiet_NaN());
  }

  const Recipe& plan() const { return recipe_; }
  const std::vector<double>& dst() { return memory_[Role::dst]; }

  void run() {
    for (std::size_t i = 0; i < recipe_.steps.size(); ++i) {
      const Step& step = recipe_.steps[i];
      EXPECT_EQ(step.after_previous, i > 0);
      EXPECT_LE(step.groups[0], info_.limits.max_groups[0]);
      EXPECT_LE(step.groups[1], info_.limits.max_groups[1]);
      EXPECT_EQ(step.params.size() % 4, 0U);
      for (const Binding& b : step.buffers) {
        EXPECT_EQ(b.offset_bytes % info_.limits.block_alignment, 0U);
        EXPECT_LE(b.size_bytes, info_.limits.max_block_bytes);
        EXPECT_LE(b.offset_bytes + b.size_bytes, memory_[b.role].size() * 4);
      }
      written_.clear();
      const Params u(step);
      step.program == 0 ? transform_src(step, u) : step.program == 1 ? multiply(step, u) : transform_dst(step, u);
    }
  }

 private:
  double& at(const Step& step, std::uint32_t binding, std::int64_t index) {
    const auto b = std::ranges::find(step.buffers, binding, &Binding::binding);
    if (index < 0 || index >= static_cast<std::int64_t>(b->size_bytes / 4))
      ADD_FAILURE() << "element " << index << " of binding " << binding << ", which holds " << b->size_bytes / 4;
    return memory_[b->role].at(b->offset_bytes / 4 + static_cast<std::size_t>(index));
  }
  void write(const Step& step, std::int64_t index, double value) {
    double& element = at(step, 2, index);
    if (!written_.insert(&element).second) ADD_FAILURE() << "element " << index << " of binding 2 is written twice";
    element = value;
  }
  std::int64_t matrix_index(std::int64_t tile, std::int64_t channel, std::int64_t channels) const {
    return (tile / bn_ * channels + channel) * in_ * in_ * bn_ + tile % bn_;
  }

  // Calls `each` for the tile and channel of every invocation of a transform with work groups of `invocations`.
  template <class Each>
  void for_each_lane(const Step& step, int shift, int invocations, int channels, const Each& each) const {
    const int a_group = invocations >> shift, groups = (channels + a_group - 1) / a_group;
    for (std::int64_t group = 0; group < std::int64_t{step.groups[0]} * step.groups[1]; ++group)
      for (int local = 0; local < invocations; ++local)
        each((group / groups << shift) + (local & ((1 << shift) - 1)), group % groups * a_group + (local >> shift));
  }

  struct Place {
    std::int64_t image, y, x;
  };
  Place place(const Params& u, std::int64_t tile) const {
    const std::int64_t index = u.first_tile + tile, tiles = std::int64_t{u.tiles_x} * u.tiles_y;
    return {index / tiles, index % tiles / u.tiles_x * out_, index % tiles % u.tiles_x * out_};
  }

  // B^T d and A^T m along one axis.
  std::vector<double> to_points(const std::vector<double>& d) const {
    if (out_ == 2) return {d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]};
    const double root = std::sqrt(2.0);
    const double even1 = d[4] - 2 * d[2], odd1 = (d[3] - 2 * d[1]) / root;
    const double even2 = d[4] - d[2] / 2, odd2 = (d[3] - d[1] / 2) * root;
    return {d[0] - 2.5 * d[2] + d[4], even1 + odd1, even1 - odd1, even2 + odd2, even2 - odd2, d[1] - 2.5 * d[3] + d[5]};
  }
  std::vector<double> from_points(const std::vector<double>& m) const {
    if (out_ == 2) return {m[0] + m[1] + m[2], m[1] - m[2] + m[3]};
    const double a = std::sqrt(0.5), b = std::sqrt(2.0);
    const double s1 = m[1] + m[2], d1 = m[1] - m[2], s2 = m[3] + m[4], d2 = m[3] - m[4];
    return {m[0] + s1 + s2, a * d1 + b * d2, s1 / 2 + 2 * s2, a / 2 * d1 + 2 * b * d2 + m[5]};
  }
  // One axis after the other; x is [rows][columns].
  template <class F>
  static std::vector<std::vector<double>> both(std::vector<std::vector<double>> x, const F& f) {
    for (int axis = 0; axis < 2; ++axis) {
      std::vector<std::vector<double>> turned;
      for (const auto& row : x) {
        const std::vector<double> done = f(row);
        turned.resize(done.size());
        for (std::size_t i = 0; i < done.size(); ++i) turned[i].push_back(done[i]);
      }
      x = std::move(turned);
    }
    return x;
  }

  void transform_src(const Step& step, const Params& u) {
    for_each_lane(step, u.src_tile_shift, 64, u.c_padded, [&](std::int64_t tile, std::int64_t channel) {
      if (tile >= u.tile_count || channel >= u.c_padded) return;
      const auto [image, top, left] = place(u, tile);
      std::vector<std::vector<double>> patch(in_, std::vector<double>(in_));
      for (int r = 0; r < in_; ++r)
        for (int s = 0; s < in_; ++s) {
          const std::int64_t y = top - u.pad_top + r, x = left - u.pad_left + s;
          if (channel >= u.c || y < 0 || y >= u.h || x < 0 || x >= u.w) continue;
          patch[r][s] =
              at(step, 0,
                 u.src_offset + (desc_.layout == Layout::nhwc ? ((image * u.h + y) * u.w + x) * u.c + channel
                                                              : ((image * u.c + channel) * u.h + y) * u.w + x));
        }
      patch = both(patch, [&](const std::vector<double>& d) { return to_points(d); });
      for (int point = 0; point < in_ * in_; ++point)
        write(step, matrix_index(tile, channel, u.c_padded) + point * bn_, patch[point / in_][point % in_]);
    });
  }

  void multiply(const Step& step, const Params& u) {
    const std::int64_t points = in_ * in_, filter_blocks = u.k_padded / bm_;
    for (std::int64_t group = 0; group < std::int64_t{step.groups[0]} * step.groups[1]; ++group) {
      const std::int64_t rest = group / filter_blocks, filter_block = group % filter_blocks;
      if (rest >= u.tile_blocks * points) continue;
      const std::int64_t point = u.point_major == 1 ? rest / u.tile_blocks : rest % points;
      const std::int64_t block = u.point_major == 1 ? rest % u.tile_blocks : rest / points;
      const auto v = [&](std::int64_t c, std::int64_t tile) {
        return ((block * u.c_padded + c) * points + point) * bn_ + tile;
      };
      const auto weight = [&](std::int64_t c, std::int64_t k) {
        return ((point * filter_blocks + filter_block) * u.c_padded + c) * bm_ + k;
      };
      at(step, 0, v(u.c_padded - 1, bn_ - 1));  // padding is read as well
      at(step, 1, weight(u.c_padded - 1, bm_ - 1));
      for (std::int64_t k = 0; k < std::min<std::int64_t>(bm_, u.k - filter_block * bm_); ++k)
        for (std::int64_t tile = 0; tile < std::min<std::int64_t>(bn_, u.tile_count - block * bn_); ++tile) {
          double sum = 0;
          for (std::int64_t c = 0; c < u.c_padded; ++c) sum += at(step, 1, weight(c, k)) * at(step, 0, v(c, tile));
          write(step, ((block * u.k_padded + filter_block * bm_ + k) * points + point) * bn_ + tile, sum);
        }
      at(step, 2, ((block * u.k_padded + filter_block * bm_ + bm_ - 1) * points + point) * bn_ + bn_ - 1);
    }
  }

  void transform_dst(const Step& step, const Params& u) {
    for_each_lane(step, u.dst_tile_shift, desc_.layout == Layout::nhwc ? 256 : 64, u.k,
                  [&](std::int64_t tile, std::int64_t k) {
                    if (tile >= u.tile_count || k >= u.k) return;
                    std::vector<std::vector<double>> m(in_, std::vector<double>(in_));
                    for (int point = 0; point < in_ * in_; ++point)
                      m[point / in_][point % in_] = at(step, 0, matrix_index(tile, k, u.k_padded) + point * bn_);
                    m = both(m, [&](const std::vector<double>& x) { return from_points(x); });
                    const auto [image, top, left] = place(u, tile);
                    for (int r = 0; r < out_ && top + r < u.p; ++r)
                      for (int s = 0; s < out_ && left + s < u.q; ++s) {
                        const std::int64_t y = top + r, x = left + s;
                        const std::int64_t to =
                            u.dst_offset + (desc_.layout == Layout::nhwc ? ((image * u.p + y) * u.q + x) * u.k + k
                                                                         : ((image * u.k + k) * u.p + y) * u.q + x);
                        double sum = m[r][s] + at(step, 4, k);
                        if (desc_.accumulate) sum += at(step, 2, to);
                        const Activation a = {static_cast<ActivationKind>(u.activation), u.alpha, u.beta};
                        write(step, to, core::activate(a, sum));
                      }
                  });
  }

  const Conv2dDesc& desc_;
  GlInfo info_;
  int bm_, bn_, out_, in_;
  Recipe recipe_;
  std::map<Role, std::vector<double>> memory_;
  std::unordered_set<const double*> written_;  // by this step
};

// The weights alone are rounded, once: far below what a float result may differ by.
void expect_right(Machine& machine, const test::Problem& problem) {
  machine.run();
  for (std::size_t i = 0; i < machine.dst().size(); ++i)
    ASSERT_NEAR(machine.dst()[i], problem.expected(i), 1e-4 * (1 + problem.magnitudes[i])) << "dst[" << i << ']';
}

const char* const kGeometries[] = {
    "n1c16h4w4k16r3s3",               // one tile and a half, no padding
    "n2c19h9w10k17r3s3ph1pw1",        // nothing is a multiple of anything
    "n3c24h8w8k33r3s3ph1pw1",         // whole tiles
    "n2c17h7w13k21r3s3ph2pw2",        // padding that whole rows of patches see
    "n1c20h11w9k18r3s3pt2pb0pl1pr2",  // askew
    "n3c16h6w12k20r3s3pt0pb1pl1pr1",  // rows of whole vec4, odd height
    "n1c16h5w8k16r3s3pt1pl1pr4",      // tiles right of the image
};
const char* const kEpilogues[] = {"",           "+relu",       "+acc",  "+acc+relu", "+leaky_relu:0.25",
                                  "+sigmoid",   "+clamp:-3:6", "+tanh", "+acc+silu", "+gelu",
                                  "+hard_swish"};

TEST(Winograd, EveryChoiceMeetsTheDefinition) {
  std::size_t turn = 0, ran = 0;
  for (const char* geometry : kGeometries)
    for (const char* layout : {"", "+nhwc"})
      for (int i = 0; i < 4; ++i) {
        const std::string text = std::string(geometry) + layout + kEpilogues[turn++ % std::size(kEpilogues)];
        const Conv2dDesc desc = Conv2dDesc::parse(text);
        const test::Problem problem(desc, test::Data::reals, test::seed_for(desc, test::seed()));
        for (const Config& config : winograd_configs(desc, card())) {
          SCOPED_TRACE(text + ' ' + config.name);
          Machine machine(config, problem, card());
          expect_right(machine, problem);
          ++ran;
          if (HasFailure()) return;
        }
      }
  EXPECT_GT(ran, 500U);
}

// Small storage blocks, few work groups, a slow device: more chunks, the same result, or a refusal with the numbers.
TEST(Winograd, AnyLimitIsKeptOrRefused) {
  const Conv2dDesc desc = Conv2dDesc::parse("n3c19h22w23k17r3s3ph1pw1+acc");
  const test::Problem problem(desc, test::Data::reals, test::seed());
  std::size_t cut = 0, refused = 0;
  for (const std::uint64_t block_bytes : {1ULL << 27U, 1'400'000ULL, 300'000ULL, 60'000ULL})
    for (const std::uint32_t groups : {65535U, 100U, 3U})
      for (const bool slow : {false, true}) {
        GlInfo info = card();
        info.limits.max_block_bytes = block_bytes;
        info.limits.max_groups = {groups, 3, 1};
        info.software = slow;
        for (const Config& config : winograd_configs(desc, info)) {
          SCOPED_TRACE(config.name + ' ' + std::to_string(block_bytes) + ' ' + std::to_string(groups));
          try {
            Machine machine(config, problem, info);
            cut += machine.plan().steps.size() > 3;
            expect_right(machine, problem);
          } catch (const Error& e) {
            ++refused;
            EXPECT_EQ(e.code(), ErrorCode::unsupported);
            EXPECT_NE(std::string(e.what()).find(std::to_string(block_bytes)), std::string::npos) << e.what();
          }
          if (HasFailure()) return;
        }
      }
  EXPECT_GT(cut, 20U);
  EXPECT_GT(refused, 20U);
}

// A plan's weights serve every size it is reshaped to.
TEST(Winograd, WeightsDoNotDependOnImagesOrTheirSize) {
  const Conv2dDesc desc = Conv2dDesc::parse("n1c19h9w10k17r3s3ph1pw1");
  Conv2dDesc larger = desc;
  larger.n = 3, larger.h = 30, larger.w = 41;
  const test::Problem problem(desc, test::Data::reals, test::seed());
  for (const Config& config : winograd_configs(desc, card()))
    EXPECT_EQ(pack_weights(config, desc, problem.weights), pack_weights(config, larger, problem.weights));
}

}  // namespace
}  // namespace convrt::gl
