// How a kernel runs a convolution: one dispatch where it fits, else chunks that each fit one storage block (images, or
// rows, or filter blocks) and dispatches that each stay short.
#include <algorithm>
#include <bit>

#include "core/fail.hpp"
#include "gl/depth_share.hpp"
#include "gl/variant_table.hpp"

namespace convrt::gl {
namespace {

using core::fail;

constexpr std::int64_t kDispatchBytes = 512LL << 20U;  // beyond, address translation halves NVIDIA's bandwidth

struct Range {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

// A part of the convolution whose memory fits the device's storage blocks.
struct Chunk {
  Range images, rows, blocks;
};

class Planner {
 public:
  Planner(const Config& config, const Conv2dDesc& desc, const GlInfo& info)
      : config_(config),
        desc_(desc),
        info_(info),
        variant_(variants()[config.row]),
        blocking_(variant_.blocking(desc, config.tile)),
        alignment_(std::max<std::int64_t>(info.limits.block_alignment, 16) / 4),
        // Aligning a binding's start down costs up to one alignment; 2^30 floats keep every index an int.
        capacity_(std::min<std::int64_t>(static_cast<std::int64_t>(info.limits.max_block_bytes / 4), 1 << 30) -
                  alignment_),
        p_(desc.p()),
        q_(desc.q()),
        blocks_(block_count(blocking_, desc)),
        src_image_(std::int64_t{desc.c} * desc.h * desc.w),
        dst_image_(std::int64_t{desc.k} * p_ * q_) {}

  // A single filter block needs more planes of an NCHW image than a storage block holds.
  bool needs_bands() const {
    if (!by_planes() || block_floats(blocking_, desc_) > capacity_) return false;
    for (Range one{0, 1}; one.begin < blocks_; one = {one.end, one.end + 1})
      if (planes(one).size() * p_ * q_ > capacity_ || channels(one).size() * desc_.h * desc_.w > capacity_) return true;
    return false;
  }

  Recipe run() {
    Recipe recipe;
    Defines defines = variant_.defines(desc_, config_.tile, info_);
    const std::vector<Range> bands = row_ranges();
    if (variant_.extents != nullptr && bands.size() == 1) {
      const Defines more = variant_.extents(desc_, blocking_);
      defines.insert(defines.end(), more.begin(), more.end());
    }
    recipe.programs = {{variant_.file, std::move(defines)}};
    for (const Range images : image_ranges())
      for (const Range rows : bands)
        for (const Range blocks : block_ranges()) add_steps(recipe, {images, rows, blocks});
    return recipe;
  }

 private:
  bool image_fits() const { return src_image_ <= capacity_ && dst_image_ <= capacity_; }
  bool nhwc() const { return desc_.layout == Layout::nhwc; }

  [[noreturn]] void refuse(const char* what, std::int64_t floats) const {
    fail(ErrorCode::unsupported, config_.name, " cannot run ", desc_.str(), " on ", info_.renderer, ": ", what,
         " takes ", floats * 4, " bytes, a storage block holds ", info_.limits.max_block_bytes,
         "; split the problem or use a CPU kernel");
  }

  static std::vector<Range> cut(std::int64_t size, std::int64_t step) {
    std::vector<Range> ranges;
    for (std::int64_t begin = 0; begin < size; begin += step) ranges.push_back({begin, std::min(begin + step, size)});
    return ranges;
  }

  std::vector<Range> image_ranges() const {
    const std::int64_t largest = std::max<std::int64_t>({src_image_, dst_image_, 1});
    return cut(desc_.n, std::max<std::int64_t>(1, capacity_ / largest));
  }

  // NHWC rows are contiguous, so an image too large for a storage block is cut into bands of rows.
  std::vector<Range> row_ranges() const {
    if (image_fits() || !nhwc()) return {{0, p_}};
    const std::int64_t src_row = std::int64_t{desc_.w} * desc_.c, dst_row = std::int64_t{q_} * desc_.k;
    const std::int64_t span = std::int64_t{desc_.dilation_h} * (desc_.r - 1) + 1;
    const std::int64_t tallest = std::min<std::int64_t>(desc_.h, capacity_ / src_row);
    if (std::min<std::int64_t>(span, desc_.h) > tallest)
      refuse("the source of one row", std::min<std::int64_t>(span, desc_.h) * src_row);
    if (dst_row > capacity_) refuse("one destination row", dst_row);
    const std::int64_t by_src = tallest == desc_.h ? p_ : (tallest - span) / desc_.stride_h + 1;
    return cut(p_, std::max<std::int64_t>(1, std::min(by_src, capacity_ / dst_row)));
  }

  std::int64_t filter(std::int64_t block) const { return first_filter(blocking_, desc_, block); }

  // Where NCHW needs it, a chunk binds only the planes of its filters and of their groups' channels.
  Range planes(const Range& blocks) const { return {filter(blocks.begin), filter(blocks.end)}; }
  Range channels(const Range& blocks) const {
    const Range k = planes(blocks);
    const std::int64_t per_group = filters_per_group(desc_), width = channels_per_group(desc_);
    return {k.begin / per_group * width, ((k.end - 1) / per_group + 1) * width};
  }
  bool by_planes() const { return !nhwc() && !image_fits(); }

  std::vector<Range> block_ranges() const {
    const std::int64_t block = block_floats(blocking_, desc_);
    const std::int64_t src_plane = std::int64_t{desc_.h} * desc_.w, dst_plane = std::int64_t{p_} * q_;
    const auto fits = [&](const Range& blocks) {
      return blocks.size() * block <= capacity_ && (!by_planes() || (planes(blocks).size() * dst_plane <= capacity_ &&
                                                                     channels(blocks).size() * src_plane <= capacity_));
    };
    std::vector<Range> ranges;
    for (Range next{0, 1}; next.begin < blocks_; next = {next.end, next.end + 1}) {
      if (!fits(next))
        refuse("the part of one filter block", std::max({block, by_planes() ? planes(next).size() * dst_plane : 0,
                                                         by_planes() ? channels(next).size() * src_plane : 0}));
      while (next.end < blocks_ && fits({next.begin, next.end + 1})) ++next.end;
      ranges.push_back(next);
    }
    return ranges;
  }

  // Floats [begin, end) of a memory at a binding; sets what the shader adds to an index whose zero is `origin`.
  Binding bind(std::uint32_t binding, Role role, const Range& floats, std::int64_t origin,
               std::uint32_t& offset) const {
    const std::int64_t start = floats.begin / alignment_ * alignment_;
    offset = static_cast<std::uint32_t>(origin - start);  // modulo 2^32, as the shader's arithmetic is
    return {binding, role, static_cast<std::uint64_t>(start) * 4, static_cast<std::uint64_t>(floats.end - start) * 4};
  }

  void add_steps(Recipe& recipe, const Chunk& chunk) const {
    const std::int64_t above = chunk.rows.begin * desc_.stride_h - desc_.pad_top;  // source row of the first tap
    const std::int64_t below =
        (chunk.rows.end - 1) * desc_.stride_h - desc_.pad_top + std::int64_t{desc_.dilation_h} * (desc_.r - 1) + 1;
    Range lines = {0, desc_.h};
    int pad_top = desc_.pad_top;
    if (chunk.rows.size() < p_) {
      lines.begin = std::clamp<std::int64_t>(above, 0, desc_.h - 1);
      lines.end = std::clamp<std::int64_t>(below, lines.begin + 1, desc_.h);
      pad_top = static_cast<int>(lines.begin - above);
    }

    const std::int64_t src_zero = chunk.images.begin * src_image_ + (nhwc() ? lines.begin * desc_.w * desc_.c : 0);
    const std::int64_t dst_zero = chunk.images.begin * dst_image_ + (nhwc() ? chunk.rows.begin * q_ * desc_.k : 0);
    Range src = {src_zero, src_zero + chunk.images.size() * src_image_};
    Range dst = {dst_zero, dst_zero + chunk.images.size() * dst_image_};
    if (by_planes()) {
      const std::int64_t src_plane = std::int64_t{desc_.h} * desc_.w, dst_plane = std::int64_t{p_} * q_;
      src = {src_zero + channels(chunk.blocks).begin * src_plane, src_zero + channels(chunk.blocks).end * src_plane};
      dst = {dst_zero + planes(chunk.blocks).begin * dst_plane, dst_zero + planes(chunk.blocks).end * dst_plane};
    } else if (chunk.rows.size() < p_) {
      src.end = src_zero + lines.size() * desc_.w * desc_.c;
      dst.end = dst_zero + chunk.rows.size() * q_ * desc_.k;
    }
    const std::int64_t block = block_floats(blocking_, desc_);

    Step step;
    std::uint32_t src_offset = 0, weights_offset = 0, dst_offset = 0, bias_offset = 0;
    step.buffers = {bind(0, Role::src, src, src_zero, src_offset),
                    bind(1, Role::weights, {chunk.blocks.begin * block, chunk.blocks.end * block}, 0, weights_offset),
                    bind(2, Role::dst, dst, dst_zero, dst_offset), bind(4, Role::bias, {0, desc_.k}, 0, bias_offset)};

    const std::int64_t pixels =
        chunk.images.size() * ceil_div(chunk.rows.size(), blocking_.rows) * ceil_div(q_, blocking_.columns);
    const std::int64_t tiles = ceil_div(pixels, blocking_.pixels) * chunk.blocks.size();
    const std::vector<Range> dispatches = cut(tiles, tiles_a_dispatch(chunk));
    // Dispatches that share the workspace would need barriers, and what is cut up has tiles enough.
    const bool alone = recipe.steps.empty() && dispatches.size() == 1 && chunk.images.size() == desc_.n &&
                       chunk.rows.size() == p_ && chunk.blocks.size() == blocks_;
    const std::int64_t steps = depth(blocking_, desc_) / blocking_.depth;
    DepthShare share = {tiles, 0};
    if (alone && config_.shares) share = best_share(blocking_, info_, {tiles, steps});
    if (share.stretches > 0) {  // room for sums, and a counter a tile
      recipe.workspace_floats = static_cast<std::size_t>(partial_floats(blocking_, share));
      recipe.counts = true;
      step.buffers.push_back({5, Role::workspace, 0, recipe.workspace_floats * sizeof(float)});
      step.buffers.push_back({6, Role::counters, 0, kCounters * sizeof(float)});
    }
    for (const Range part : dispatches) {
      if (share.stretches == 0) share.whole = part.size();
      const std::uint32_t count = static_cast<std::uint32_t>(share.whole + share.stretches);
      const std::uint32_t x = std::min(count, info_.limits.max_groups[0]);
      step.groups = {x, (count + x - 1) / x, 1};
      step.params = base_params(static_cast<int>(chunk.images.size()), static_cast<int>(lines.size()),
                                static_cast<int>(chunk.rows.size()), pad_top);
      const auto word = [](std::int64_t v) { return static_cast<std::uint32_t>(v); };
      step.params.insert(step.params.end(), {word(part.begin), word(part.end), word(chunk.blocks.begin),
                                             word(chunk.blocks.end), src_offset, weights_offset, dst_offset});
      append(step.params, share, {part.size(), steps});
      step.params.resize((step.params.size() + 3) / 4 * 4);  // std140 rounds a block up to 16 bytes
      recipe.steps.push_back(step);
    }
  }

  // The public parameter block (include/convrt/shader.hpp) for a part of the problem.
  std::vector<std::uint32_t> base_params(int n, int h, int p, int pad_top) const {
    const Conv2dDesc& d = desc_;
    std::vector<std::uint32_t> words;
    for (const int v : {n,
                        d.c,
                        h,
                        d.w,
                        d.k,
                        d.r,
                        d.s,
                        p,
                        q_,
                        d.stride_h,
                        d.stride_w,
                        pad_top,
                        d.pad_left,
                        d.pad_bottom,
                        d.pad_right,
                        d.dilation_h,
                        d.dilation_w,
                        d.groups,
                        static_cast<int>(d.layout),
                        static_cast<int>(d.activation.kind)})
      words.push_back(static_cast<std::uint32_t>(v));
    words.push_back(std::bit_cast<std::uint32_t>(d.activation.alpha));
    words.push_back(std::bit_cast<std::uint32_t>(d.activation.beta));
    return words;
  }

  // As many tiles as stay within the launch limits, longest_dispatch_flops and 512 MiB of src and dst.
  std::int64_t tiles_a_dispatch(const Chunk& chunk) const {
    const double pixels = static_cast<double>(blocking_.pixels) * blocking_.rows * blocking_.columns;
    const double flops = 2.0 * pixels * static_cast<double>(block_floats(blocking_, desc_));
    const double bytes = 4.0 * pixels * static_cast<double>(src_image_ + dst_image_) /
                         (static_cast<double>(p_) * q_ * static_cast<double>(chunk.blocks.size()));
    const double launch = static_cast<double>(info_.limits.max_groups[0]) * info_.limits.max_groups[1];
    const double most = std::min({longest_dispatch_flops(info_) / flops, kDispatchBytes / bytes, launch, 2e9});
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(most));
  }

  const Config& config_;
  const Conv2dDesc& desc_;
  const GlInfo& info_;
  const Variant& variant_;
  Blocking blocking_;
  std::int64_t alignment_, capacity_;
  int p_, q_;
  std::int64_t blocks_, src_image_, dst_image_;
};

}  // namespace

Recipe recipe(const Config& config, const Conv2dDesc& desc, const GlInfo& info) {
  if (const auto own = variants()[config.row].recipe) return own(config, desc, info);
  Planner planner(config, desc, info);
  return planner.needs_bands() ? banded_recipe(config, desc, info) : planner.run();
}

}  // namespace convrt::gl
