// gl.winograd_f4x4 and gl.winograd_f2x2: three dispatches a chunk of tiles; see shaders/winograd.glsl. Chunks only
// bound memory and time: keeping V and M in the L2 of an H200 by small ones
// cost more in launches than it saved, and gigabytes cost more in address translation.
#include <algorithm>
#include <bit>

#include "core/fail.hpp"
#include "core/winograd.hpp"
#include "gl/depth_share.hpp"
#include "gl/variant_table.hpp"

namespace convrt::gl {
namespace {

constexpr std::int64_t kWorkspaceFloats = (256LL << 20U) / 4;  // of V and M together
// Transformed weights larger than this do not stay in a device's cache while tile blocks pass: points then run slowest.
constexpr std::int64_t kCachedWeightsFloats = (12LL << 20U) / 4;

std::int64_t round_up(std::int64_t value, std::int64_t step) { return ceil_div(value, step) * step; }

// A work group of a transform: LOCAL of its shader, and how many of them are tiles, as a power of two. Neighbouring
// tiles are neighbours in V and M, and in NCHW in src and dst as well; in NHWC neighbouring channels are.
struct Group {
  int invocations, tile_shift;
};
Group src_group(const Conv2dDesc& d, std::int64_t tiles) {
  if (d.layout == Layout::nhwc) return {64, 3};
  return {64, std::min(6, static_cast<int>(std::bit_width(static_cast<std::uint64_t>(tiles - 1))))};
}
Group dst_group(const Conv2dDesc& d, std::int64_t tiles) {
  return d.layout == Layout::nhwc ? Group{256, 4} : src_group(d, tiles);
}
std::int64_t group_count(const Group& group, std::int64_t tiles, std::int64_t channels) {
  return ceil_div(tiles, 1LL << group.tile_shift) * ceil_div(channels, group.invocations >> group.tile_shift);
}

// Extents of V, U and M, and the size of a chunk.
struct Shape {
  int out, points;  // outputs a tile and axis; Winograd points
  int tiles_x, tiles_y;
  std::int64_t c, k;    // padded
  std::int64_t images;  // a src and a dst binding hold
  std::int64_t blocks;  // of tiles, most in a chunk

  Shape(const Config& config, const Conv2dDesc& d, const GlInfo& info)
      : out(config.tile[5]),
        points(core::winograd_points(out)),
        tiles_x(static_cast<int>(ceil_div(d.q(), out))),
        tiles_y(static_cast<int>(ceil_div(d.p(), out))),
        c(round_up(d.c, config.tile[2])),
        k(round_up(d.k, config.tile[0])) {
    const std::int64_t capacity = std::min<std::int64_t>(
        static_cast<std::int64_t>(info.limits.max_block_bytes - info.limits.block_alignment) / 4, 1 << 30);
    const std::int64_t image = std::max({std::int64_t{d.c} * d.h * d.w, std::int64_t{d.k} * d.p() * d.q()});
    const std::int64_t tiles = config.tile[1], block = points * tiles * std::max(c, k);
    images = capacity / image;
    // Work groups of a tile block: of the product, or of a transform with one channel each or one tile each.
    const std::int64_t groups = std::max({points * k / config.tile[0], std::max(c, k), tiles * std::max(c, k) / 8});
    const std::int64_t launch =
        std::min<std::int64_t>(std::int64_t{info.limits.max_groups[0]} * info.limits.max_groups[1], 1 << 30);
    const double flops = 2.0 * static_cast<double>(points * tiles) * static_cast<double>(c * k);
    if (images == 0 || block > capacity || points * c * k > capacity || groups > launch)
      core::fail(ErrorCode::unsupported, config.name, " cannot run ", d.str(), " on ", info.renderer, ": an image of ",
                 image * 4, " bytes, ", points * c * k * 4, " bytes of transformed weights, ", block * 4,
                 " bytes of transformed tiles or ", groups, " work groups exceed the device's limits (storage block ",
                 info.limits.max_block_bytes, " bytes, ", launch, " work groups); use another kernel");
    blocks = std::max<std::int64_t>(
        1, std::min({capacity / block, kWorkspaceFloats / (points * tiles * (c + k)), launch / groups,
                     static_cast<std::int64_t>(longest_dispatch_flops(info) / flops)}));
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
    const std::int64_t tiles_an_image = std::int64_t{shape_.tiles_x} * shape_.tiles_y, block = config_.tile[1];
    for (std::int64_t image = 0; image < desc_.n; image += shape_.images) {
      const std::int64_t images = std::min<std::int64_t>(shape_.images, desc_.n - image);
      const std::int64_t tiles = images * tiles_an_image, blocks = ceil_div(tiles, block);
      const std::int64_t chunks = ceil_div(blocks, shape_.blocks);
      for (std::int64_t i = 0; i < chunks; ++i)
        add_chunk(image, images, blocks * i / chunks * block, std::min(tiles, blocks * (i + 1) / chunks * block));
    }
    return std::move(recipe_);
  }

 private:
  bool nhwc() const { return desc_.layout == Layout::nhwc; }

  void add_programs() {
    const Variant& variant = variants()[config_.row];
    const Defines product = variant.defines(desc_, config_.tile, info_);
    const Defines transform = {
        {"OUT", std::to_string(shape_.out)}, {"NHWC", nhwc() ? "1" : "0"}, {"BN", std::to_string(config_.tile[1])}};
    Defines begin = transform, finish = transform;
    const bool vec4_tiles = !nhwc() && shape_.out == 4;
    if (vec4_tiles && desc_.w % 4 == 0 && desc_.pad_left == 1) begin.emplace_back("SRC_VEC4", "1");
    finish.emplace_back("ACCUMULATE", desc_.accumulate ? "1" : "0");
    finish.emplace_back("ACTIVATION", std::to_string(static_cast<int>(desc_.activation.kind)));
    if (vec4_tiles && desc_.q() % 4 == 0) finish.emplace_back("DST_VEC4", "1");
    recipe_.programs = {{"winograd_src.comp", begin}, {variant.file, product}, {"winograd_dst.comp", finish}};
  }

  // Floats [begin, end) of a memory; `zero` becomes what the shader adds to an index that counts from begin.
  Binding bind(std::uint32_t binding, Role role, std::int64_t begin, std::int64_t end, std::uint32_t& zero) const {
    const std::int64_t start = begin / alignment_ * alignment_;
    zero = static_cast<std::uint32_t>(begin - start);
    return {binding, role, static_cast<std::uint64_t>(start) * 4, static_cast<std::uint64_t>(end - start) * 4};
  }

  std::array<std::uint32_t, 3> launch(std::int64_t groups) const {
    const std::int64_t x = std::min<std::int64_t>(groups, info_.limits.max_groups[0]);
    return {static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(ceil_div(groups, x)), 1};
  }

  void add_chunk(std::int64_t first_image, std::int64_t images, std::int64_t begin, std::int64_t end) {
    const auto& t = config_.tile;
    const std::int64_t blocks = ceil_div(end - begin, t[1]), floats = shape_.points * blocks * t[1];
    const std::int64_t v = shape_.c * floats, m = shape_.k * floats;
    const std::int64_t m_at = round_up(v, alignment_);
    recipe_.workspace_floats = std::max(recipe_.workspace_floats, static_cast<std::size_t>(m_at + m));

    const std::int64_t src_image = std::int64_t{desc_.c} * desc_.h * desc_.w;
    const std::int64_t dst_image = std::int64_t{desc_.k} * desc_.p() * desc_.q();
    const std::int64_t u = shape_.points * shape_.c * shape_.k;
    const Group load = src_group(desc_, end - begin), store = dst_group(desc_, end - begin);
    std::uint32_t src_zero = 0, dst_zero = 0, none = 0;
    const Binding src = bind(0, Role::src, first_image * src_image, (first_image + images) * src_image, src_zero);
    const Binding dst = bind(2, Role::dst, first_image * dst_image, (first_image + images) * dst_image, dst_zero);
    const auto workspace = [&](std::uint32_t binding, std::int64_t at, std::int64_t count) {
      return bind(binding, Role::workspace, at, at + count, none);
    };

    std::vector<std::uint32_t> params;
    for (const std::int64_t word :
         {std::int64_t{desc_.c}, std::int64_t{desc_.h}, std::int64_t{desc_.w}, std::int64_t{desc_.k},
          std::int64_t{desc_.p()}, std::int64_t{desc_.q()}, std::int64_t{desc_.pad_top}, std::int64_t{desc_.pad_left},
          std::int64_t{shape_.tiles_x}, std::int64_t{shape_.tiles_y}, begin, end - begin, blocks, shape_.c, shape_.k,
          std::int64_t{src_zero}, std::int64_t{dst_zero}, static_cast<std::int64_t>(desc_.activation.kind)})
      params.push_back(static_cast<std::uint32_t>(word));
    params.push_back(std::bit_cast<std::uint32_t>(desc_.activation.alpha));
    params.push_back(std::bit_cast<std::uint32_t>(desc_.activation.beta));
    params.push_back(static_cast<std::uint32_t>(load.tile_shift));
    params.push_back(static_cast<std::uint32_t>(store.tile_shift));
    params.push_back(u > kCachedWeightsFloats ? 1 : 0);
    const TileGrid products = {shape_.k / t[0] * blocks * shape_.points, shape_.c / t[2]};
    const Blocking blocking = variants()[config_.row].blocking(desc_, t);
    const DepthShare share = config_.shares ? best_share(blocking, info_, products) : DepthShare{products.tiles, 0};
    append(params, share, products);
    params.resize((params.size() + 3) / 4 * 4);  // std140 rounds a block up to 16 bytes

    // Each step waits for the one before it: it reads what that wrote, or overwrites what that read.
    recipe_.steps.push_back({0,
                             launch(group_count(load, end - begin, shape_.c)),
                             {src, workspace(2, 0, v)},
                             params,
                             !recipe_.steps.empty()});
    recipe_.steps.push_back({1,
                             launch(share.whole + share.stretches),
                             {workspace(0, 0, v), bind(1, Role::weights, 0, u, none), workspace(2, m_at, m)},
                             params,
                             true});
    if (share.stretches > 0) {  // room for sums, and a counter a tile
      const std::int64_t sums_at = round_up(m_at + m, alignment_), sums = partial_floats(blocking, share);
      recipe_.workspace_floats = std::max(recipe_.workspace_floats, static_cast<std::size_t>(sums_at + sums));
      recipe_.counts = true;
      recipe_.steps.back().buffers.push_back(workspace(5, sums_at, sums));
      recipe_.steps.back().buffers.push_back({6, Role::counters, 0, kCounters * sizeof(float)});
    }
    recipe_.steps.push_back({2,
                             launch(group_count(store, end - begin, desc_.k)),
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

// U[point][filter block][C][BM], padded with zeros.
std::vector<float> winograd_weights(const Config& config, const Conv2dDesc& d, std::span<const float> weights) {
  const int out = config.tile[5], bm = config.tile[0];
  const std::int64_t c_end = round_up(d.c, config.tile[2]), k_end = round_up(d.k, bm);
  std::vector<float> u(static_cast<std::size_t>(core::winograd_points(out) * c_end * k_end), 0.0F);
  for (std::int64_t k = 0; k < d.k; ++k)
    for (std::int64_t c = 0; c < d.c; ++c)
      core::transform_filter(out, weights.data() + (k * d.c + c) * 9, u.data() + (k / bm * c_end + c) * bm + k % bm,
                             c_end * k_end);
  return u;
}

}  // namespace convrt::gl
