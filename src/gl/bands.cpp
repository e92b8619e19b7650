// NCHW images of which not even the channels of one group fit a storage block. Rows of a plane stand together, but
// those of the next plane are a whole plane away, so no binding holds a few rows of all channels. Bands of rows are
// copied into the workspace, convolved there like an image of their own, and copied out.
#include <algorithm>

#include "core/fail.hpp"
#include "gl/variant_table.hpp"

namespace convrt::gl {
namespace {

// A band's src and dst hold up to this many floats each, if the block allows: little memory, long dispatches.
constexpr std::int64_t kBandFloats = (64LL << 20U) / 4;

std::int64_t round_up(std::int64_t value, std::int64_t step) { return ceil_div(value, step) * step; }

class Bands {
 public:
  Bands(const Config& config, const Conv2dDesc& desc, const GlInfo& info)
      : config_(config),
        desc_(desc),
        info_(info),
        alignment_(std::max<std::int64_t>(info.limits.block_alignment, 16) / 4),
        capacity_(std::min<std::int64_t>(static_cast<std::int64_t>(info.limits.max_block_bytes / 4), 1 << 30) -
                  alignment_),
        p_(desc.p()),
        q_(desc.q()),
        span_(std::int64_t{desc.dilation_h} * (desc.r - 1) + 1) {}

  Recipe run() {
    std::int64_t rows = tallest(std::min(capacity_, kBandFloats));
    if (rows < 1) rows = std::min<std::int64_t>(1, tallest(capacity_));
    if (rows < 1)
      core::fail(ErrorCode::unsupported, config_.name, " cannot run ", desc_.str(), " on ", info_.renderer,
                 ": one destination row takes ", std::int64_t{4} * desc_.k * q_, " bytes and its source ",
                 4 * std::min<std::int64_t>(span_, desc_.h) * desc_.w * desc_.c, ", a storage block holds ",
                 info_.limits.max_block_bytes, "; split the problem or use a CPU kernel");
    const std::int64_t lines = std::min<std::int64_t>(desc_.h, (rows - 1) * desc_.stride_h + span_);
    dst_at_ = round_up(lines * desc_.w * desc_.c, alignment_);
    inner_at_ = round_up(dst_at_ + rows * q_ * desc_.k, alignment_);
    recipe_.programs = {{"copy_rows.comp", {}}};
    recipe_.workspace_floats = static_cast<std::size_t>(inner_at_);
    for (int image = 0; image < desc_.n; ++image)
      for (std::int64_t begin = 0; begin < p_; begin += rows) add_band(image, begin, std::min(begin + rows, p_));
    return std::move(recipe_);
  }

 private:
  // Destination rows of a band whose src and dst hold at most `floats` each.
  std::int64_t tallest(std::int64_t floats) const {
    const std::int64_t lines = floats / (std::int64_t{desc_.w} * desc_.c);
    std::int64_t by_src = p_;
    if (lines < desc_.h) by_src = lines < span_ ? 0 : (lines - span_) / desc_.stride_h + 1;
    return std::min({by_src, floats / (q_ * desc_.k), p_});
  }

  void add_band(int image, std::int64_t begin, std::int64_t end) {
    const std::int64_t above = begin * desc_.stride_h - desc_.pad_top;  // source row of the first tap
    const std::int64_t below = (end - 1) * desc_.stride_h - desc_.pad_top + span_;
    const std::int64_t first = std::clamp<std::int64_t>(above, 0, desc_.h - 1);
    const std::int64_t last = std::clamp<std::int64_t>(below, first + 1, desc_.h);
    Conv2dDesc band = desc_;
    band.n = 1;
    band.h = static_cast<int>(last - first);
    band.pad_top = static_cast<int>(first - above);
    band.pad_bottom = static_cast<int>(below - last);  // negative where the band reads padding above the image only

    const std::int64_t src_plane = std::int64_t{desc_.h} * desc_.w, dst_plane = p_ * q_;
    const std::int64_t src_floats = std::int64_t{band.h} * desc_.w, dst_floats = (end - begin) * q_;
    const Place src = {Role::src, image * desc_.c * src_plane + first * desc_.w, src_plane};
    const Place dst = {Role::dst, image * desc_.k * dst_plane + begin * q_, dst_plane};
    const Place band_src = {Role::workspace, 0, src_floats}, band_dst = {Role::workspace, dst_at_, dst_floats};
    add_copy(src, band_src, desc_.c, src_floats);
    if (desc_.accumulate) add_copy(dst, band_dst, desc_.k, dst_floats);
    add_convolution(band);
    add_copy(band_dst, dst, desc_.k, dst_floats);
  }

  // The band's own recipe, with its memory in the workspace.
  void add_convolution(const Conv2dDesc& band) {
    const Recipe inner = recipe(config_, band, info_);
    recipe_.workspace_floats =
        std::max(recipe_.workspace_floats, static_cast<std::size_t>(inner_at_) + inner.workspace_floats);
    recipe_.counts = recipe_.counts || inner.counts;
    for (Step step : inner.steps) {
      step.program = program(inner.programs[step.program]);
      step.after_previous = true;
      for (Binding& b : step.buffers) {
        const std::int64_t at = b.role == Role::dst ? dst_at_ : b.role == Role::workspace ? inner_at_ : 0;
        b.offset_bytes += static_cast<std::uint64_t>(at) * 4;
        if (b.role == Role::src || b.role == Role::dst) b.role = Role::workspace;
      }
      recipe_.steps.push_back(std::move(step));
    }
  }

  // Bands of different heights mostly share their programs.
  std::size_t program(const ProgramSpec& spec) {
    const auto same = [&](const ProgramSpec& p) { return p.file == spec.file && p.defines == spec.defines; };
    const auto found = std::find_if(recipe_.programs.begin(), recipe_.programs.end(), same);
    const auto index = static_cast<std::size_t>(found - recipe_.programs.begin());
    if (found == recipe_.programs.end()) recipe_.programs.push_back(spec);
    return index;
  }

  // `count` floats in each of several planes.
  struct Place {
    Role role;
    std::int64_t begin, plane;  // floats: of the first, and from one plane to the next
  };

  void add_copy(const Place& from, const Place& to, std::int64_t planes, std::int64_t count) {
    const std::int64_t most = (capacity_ - count) / std::max(from.plane, to.plane) + 1;
    for (std::int64_t first = 0; first < planes; first += most) {
      const std::int64_t now = std::min(most, planes - first);
      std::uint32_t from_offset = 0, to_offset = 0;
      Step step;
      step.buffers = {bind(0, from, first, now, count, from_offset), bind(2, to, first, now, count, to_offset)};
      const std::int64_t groups = std::min<std::int64_t>(ceil_div(now * count, 1024), info_.limits.max_groups[0]);
      step.groups = {static_cast<std::uint32_t>(groups), 1, 1};
      const auto word = [](std::int64_t value) { return static_cast<std::uint32_t>(value); };
      const bool one = now == 1;  // whose distance may be more than a word holds
      step.params = {
          word(now), word(count), word(one ? 0 : from.plane), word(one ? 0 : to.plane), from_offset, to_offset, 0, 0};
      step.after_previous = !recipe_.steps.empty();
      recipe_.steps.push_back(std::move(step));
    }
  }

  Binding bind(std::uint32_t binding, const Place& place, std::int64_t first, std::int64_t planes, std::int64_t count,
               std::uint32_t& offset) const {
    const std::int64_t begin = place.begin + first * place.plane, end = begin + (planes - 1) * place.plane + count;
    const std::int64_t start = begin / alignment_ * alignment_;
    offset = static_cast<std::uint32_t>(begin - start);
    return {binding, place.role, static_cast<std::uint64_t>(start) * 4, static_cast<std::uint64_t>(end - start) * 4};
  }

  const Config& config_;
  const Conv2dDesc& desc_;
  const GlInfo& info_;
  const std::int64_t alignment_, capacity_, p_, q_, span_;
  std::int64_t dst_at_ = 0, inner_at_ = 0;
  Recipe recipe_;
};

}  // namespace

Recipe banded_recipe(const Config& config, const Conv2dDesc& desc, const GlInfo& info) {
  return Bands(config, desc, info).run();
}

}  // namespace convrt::gl
