// gl.winograd_f4x4 and gl.winograd_f2x2: three dispatches a chunk of tiles; see shaders/winograd.glsl. Chunks only
// bound memory and time: keeping V and M in the L2 of an H200 by small ones cost more in launches than it saved.
#include <algorithm>
#include <bit>

#include "core/fail.hpp"
#include "core/winograd.hpp"
#include "gl/variant_table.hpp"

namespace convrt::gl {
namespace {

constexpr std::int64_t kWorkspaceFloats = (512LL << 20U) / 4;  // of V and M together
constexpr double kDispatchSeconds = 0.05;
// A launch of the transforms covers this many tiles and channels a work group (shaders/winograd.glsl).
struct Lanes {
  int tiles, channels;
};
Lanes lanes(const Conv2dDesc& d) { return d.layout == Layout::nhwc ? Lanes{8, 8} : Lanes{64, 1}; }

std::int64_t round_up(std::int64_t value, std::int64_t step) { return ceil_div(value, step) * step; }

// Extents of V, U and M, and the size of a chunk.
struct Shape {
  int out, points;  // outputs a tile and axis; Winograd points
  int tiles_x, tiles_y;
  std::int64_t c, k;    // padded
  std::int64_t images;  // a src and a dst binding hold
  std::int64_t tiles;   // most in a chunk, a multiple of BN

  Shape(const Config& config, const Conv2dDesc& d, const GlInfo& info)
      : out(config.tile[5]),
        points(core::winograd_points(out)),
        tiles_x(static_cast<int>(ceil_div(d.q(), out))),
        tiles_y(static_cast<int>(ceil_div(d.p(), out))),
        c(round_up(d.c, 8)),
        k(round_up(d.k, config.tile[0])) {
    const std::int64_t capacity = std::min<std::int64_t>(
        static_cast<std::int64_t>(info.limits.max_block_bytes - info.limits.block_alignment) / 4, 1 << 30);
    const std::int64_t image = std::max({std::int64_t{d.c} * d.h * d.w, std::int64_t{d.k} * d.p() * d.q()});
    const std::int64_t step = config.tile[1];
    images = capacity / image;
    const double processors = info.compute_units > 0 ? info.compute_units : 4;
    const double seconds_a_tile = 2.0 * points * static_cast<double>(c * k) / (info.software ? 2e9 : 20e9 * processors);
    const std::int64_t most = std::min({capacity / points / std::max(c, k), kWorkspaceFloats / points / (c + k),
                                        static_cast<std::int64_t>(kDispatchSeconds / seconds_a_tile),
                                        std::int64_t{info.limits.max_groups[0]} * lanes(d).tiles});
    tiles = std::max(most / step * step, step);
    if (images == 0 || points * step * std::max(c, k) > capacity || points * c * k > capacity ||
        ceil_div(std::max(c, k), lanes(d).channels) > info.limits.max_groups[1])
      core::fail(ErrorCode::unsupported, config.name, " cannot run ", d.str(), " on ", info.renderer, ": an image of ",
                 image * 4, " bytes, ", points * c * k * 4, " bytes of transformed weights or ",
                 points * step * std::max(c, k) * 4,
                 " bytes of transformed tiles exceed the device's limits (storage block ", info.limits.max_block_bytes,
                 " bytes); use another kernel");
  }
};

class Builder {
 public:
  Builder(const Config& config, const Conv2dDesc& desc, const GlInfo& info)
      : config_(config),
        desc_(desc),
        info_(info),
        shape_(config, desc, info),
        alignment_(std::max<std::int64_t>(info.limits.block_alignment, 16) / 4) {}

  Recipe run() {
    add_programs();
    const std::int64_t tiles_an_image = std::int64_t{shape_.tiles_x} * shape_.tiles_y;
    for (std::int64_t image = 0; image < desc_.n; image += shape_.images) {
      const std::int64_t images = std::min<std::int64_t>(shape_.images, desc_.n - image);
      const std::int64_t tiles = images * tiles_an_image;
      const std::int64_t chunks = ceil_div(tiles, shape_.tiles);
      for (std::int64_t i = 0; i < chunks; ++i) add_chunk(image, images, tiles * i / chunks, tiles * (i + 1) / chunks);
    }
    return std::move(recipe_);
  }

 private:
  bool nhwc() const { return desc_.layout == Layout::nhwc; }

  void add_programs() {
    const Variant& variant = variants()[config_.row];
    const Defines transform = {{"OUT", std::to_string(shape_.out)}, {"NHWC", nhwc() ? "1" : "0"}};
    Defines finish = transform;
    finish.emplace_back("ACCUMULATE", desc_.accumulate ? "1" : "0");
    finish.emplace_back("ACTIVATION", std::to_string(static_cast<int>(desc_.activation.kind)));
    if (!nhwc() && shape_.out == 4 && desc_.q() % 4 == 0) finish.emplace_back("DST_VEC4", "1");
    recipe_.programs = {{"winograd_src.comp", transform},
                        {variant.file, variant.defines(desc_, config_.tile, info_)},
                        {"winograd_dst.comp", finish}};
  }

  // Floats [begin, end) of a memory; `zero` becomes what the shader adds to an index that counts from begin.
  Binding bind(std::uint32_t binding, Role role, std::int64_t begin, std::int64_t end, std::uint32_t& zero) const {
    const std::int64_t start = begin / alignment_ * alignment_;
    zero = static_cast<std::uint32_t>(begin - start);
    return {binding, role, static_cast<std::uint64_t>(start) * 4, static_cast<std::uint64_t>(end - start) * 4};
  }

  void add_chunk(std::int64_t first_image, std::int64_t images, std::int64_t begin, std::int64_t end) {
    const auto& t = config_.tile;
    const std::int64_t padded = round_up(end - begin, t[1]);
    const std::int64_t v = shape_.points * shape_.c * padded, m = shape_.points * shape_.k * padded;
    const std::int64_t m_at = round_up(v, alignment_);
    recipe_.workspace_floats = std::max(recipe_.workspace_floats, static_cast<std::size_t>(m_at + m));

    const std::int64_t src_image = std::int64_t{desc_.c} * desc_.h * desc_.w;
    const std::int64_t dst_image = std::int64_t{desc_.k} * desc_.p() * desc_.q();
    std::uint32_t src_zero = 0, dst_zero = 0, none = 0;
    const Binding src = bind(0, Role::src, first_image * src_image, (first_image + images) * src_image, src_zero);
    const Binding dst = bind(2, Role::dst, first_image * dst_image, (first_image + images) * dst_image, dst_zero);
    const auto workspace = [&](std::uint32_t binding, std::int64_t at, std::int64_t floats) {
      return bind(binding, Role::workspace, at, at + floats, none);
    };

    std::vector<std::uint32_t> params;
    for (const std::int64_t word :
         {std::int64_t{desc_.c}, std::int64_t{desc_.h}, std::int64_t{desc_.w}, std::int64_t{desc_.k},
          std::int64_t{desc_.p()}, std::int64_t{desc_.q()}, std::int64_t{desc_.pad_top}, std::int64_t{desc_.pad_left},
          std::int64_t{shape_.tiles_x}, std::int64_t{shape_.tiles_y}, begin, end - begin, padded, shape_.c, shape_.k,
          std::int64_t{src_zero}, std::int64_t{dst_zero}, static_cast<std::int64_t>(desc_.activation.kind)})
      params.push_back(static_cast<std::uint32_t>(word));
    params.push_back(std::bit_cast<std::uint32_t>(desc_.activation.alpha));
    params.push_back(std::bit_cast<std::uint32_t>(desc_.activation.beta));

    const auto groups = [](std::int64_t x, std::int64_t y, std::int64_t z) {
      return std::array{static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(y), static_cast<std::uint32_t>(z)};
    };
    const Lanes lane = lanes(desc_);
    // Each step waits for the one before it: it reads what that wrote, or overwrites what that read.
    recipe_.steps.push_back({0,
                             groups(ceil_div(padded, lane.tiles), ceil_div(shape_.c, lane.channels), 1),
                             {src, workspace(2, 0, v)},
                             params,
                             !recipe_.steps.empty()});
    recipe_.steps.push_back({1,
                             groups(padded / t[1], shape_.k / t[0], shape_.points),
                             {workspace(0, 0, v), bind(1, Role::weights, 0, shape_.points * shape_.c * shape_.k, none),
                              workspace(2, m_at, m)},
                             params,
                             true});
    recipe_.steps.push_back({2,
                             groups(ceil_div(end - begin, lane.tiles), ceil_div(desc_.k, lane.channels), 1),
                             {workspace(0, m_at, m), dst, bind(4, Role::bias, 0, desc_.k, none)},
                             params,
                             true});
  }

  const Config& config_;
  const Conv2dDesc& desc_;
  const GlInfo& info_;
  Shape shape_;
  std::int64_t alignment_;
  Recipe recipe_;
};

}  // namespace

bool winograd_fits(const Conv2dDesc& d) {
  return d.r == 3 && d.s == 3 && d.stride_h == 1 && d.stride_w == 1 && d.dilation_h == 1 && d.dilation_w == 1 &&
         d.groups == 1 && d.c >= 16 && d.k >= 16;
}

Recipe winograd_recipe(const Config& config, const Conv2dDesc& desc, const GlInfo& info) {
  return Builder(config, desc, info).run();
}

// U[point][C][K], padded with zeros.
std::vector<float> winograd_weights(const Config& config, const Conv2dDesc& d, std::span<const float> weights) {
  const int out = config.tile[5];
  const std::int64_t c_end = round_up(d.c, 8), k_end = round_up(d.k, config.tile[0]);
  std::vector<float> u(static_cast<std::size_t>(core::winograd_points(out) * c_end * k_end), 0.0F);
  for (std::int64_t k = 0; k < d.k; ++k)
    for (std::int64_t c = 0; c < d.c; ++c)
      core::transform_filter(out, weights.data() + (k * d.c + c) * 9, u.data() + c * k_end + k, c_end * k_end);
  return u;
}

}  // namespace convrt::gl
