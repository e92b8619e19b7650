#include "cpu/gemm_source.hpp"

namespace convrt::cpu::gemm_detail {
namespace {

// A block that is turned at once: whole lines of either order, that fit L1 twice.
constexpr Index kBlockPixels = 64, kBlockChannels = 16;

}  // namespace

Source SourceReader::in_place(Index n, Index g) const {
  const Index depth_step = s_.nhwc ? 1 : s_.h * s_.w, w_step = s_.nhwc ? s_.c : 1;
  return {src_ + n * s_.c * s_.h * s_.w + g * s_.group_c * depth_step, 0, 0, s_.w * w_step, w_step, depth_step};
}

Source SourceReader::turned(const Pixels& of, Index g, float* to) const {
  if (s_.gathered) return gathered(of, g, to);
  // Source rows and columns that taps of these pixels meet.
  const auto meets = [](Index first, Index last, Index stride, Index pad, Index reach, Index extent) {
    const Index begin = std::clamp<Index>(first * stride - pad, 0, extent);
    return Shape::Range{begin, std::clamp<Index>((last - 1) * stride - pad + reach + 1, begin, extent)};
  };
  const Shape::Range h = meets(of.p_first, of.p_last, s_.stride_h, s_.pad_top, (s_.r - 1) * s_.dilation_h, s_.h);
  const Shape::Range w = meets(of.q_first, of.q_last, s_.stride_w, s_.pad_left, (s_.s - 1) * s_.dilation_w, s_.w);
  const Index width = w.last - w.first, plane = s_.h * s_.w;
  const float* planes = src_ + (of.n * s_.c + g * s_.group_c) * plane;
  if (width == s_.w)  // whole rows: one run of pixels
    turn(planes + h.first * s_.w, plane, (h.last - h.first) * s_.w, to);
  else
    for (Index row = h.first; row < h.last; ++row)
      turn(planes + row * s_.w + w.first, plane, width, to + (row - h.first) * width * pitch_);
  return {to, h.first, w.first, width * pitch_, pitch_, 1};
}

// `pixels` neighbours of every channel.
void SourceReader::turn(const float* planes, Index plane, Index pixels, float* to) const {
  for (Index x = 0; x < pixels; x += kBlockPixels)
    for (Index c = 0; c < s_.group_c; c += kBlockChannels) {
      const Index columns = std::min(kBlockPixels, pixels - x), channels = std::min(kBlockChannels, s_.group_c - c);
      const float* block = planes + c * plane + x;
      // The hardware does not guess such short rows.
      for (Index i = 0; i < std::min(kBlockChannels, s_.group_c - c - channels); ++i)
        for (Index ahead = 0; ahead < columns; ahead += 16) __builtin_prefetch(block + (channels + i) * plane + ahead);
      kernels_.transpose_near({block, plane, to + x * pitch_ + c, pitch_, channels, columns});
    }
}

Source SourceReader::gathered(const Pixels& of, Index g, float* to) const {
  const Shape::Grid& grid = s_.grid;
  for (Index q = of.q_first, pixels = 0; q < of.q_last; q += pixels) {
    const Index row = q / grid.q, column = q % grid.q;
    pixels = std::min(grid.q - column, of.q_last - q);
    float* out = to + (q - of.q_first) * pitch_;
    if (s_.nhwc) {
      const Index image = row / grid.p, h = row % grid.p * grid.stride_h, step = grid.stride_w * s_.c;
      const float* from = src_ + (image * grid.h + h) * grid.w * s_.c + column * step + g * s_.group_c;
      for (Index x = 0; x < pixels; ++x) std::copy_n(from + x * step, s_.group_c, out + x * pitch_);
    } else {
      const Index h = ((of.n * s_.c + g * s_.group_c) * grid.h + row * grid.stride_h);
      gather(src_ + h * grid.w + column * grid.stride_w, pixels, out);
    }
  }
  return {to, 0, of.q_first, 0, pitch_, 1};
}

// `pixels` of a row of every channel's plane, a stride apart.
void SourceReader::gather(const float* planes, Index pixels, float* to) const {
  const Index plane = s_.grid.h * s_.grid.w, stride = s_.grid.stride_w;
  alignas(64) float rows[kBlockChannels * kBlockPixels];
  const Index most = std::min(kBlockPixels, Index{4} * kernels_.lanes);  // the most that `copy` takes with vectors
  for (Index x = 0; x < pixels; x += most)
    for (Index c = 0; c < s_.group_c; c += kBlockChannels) {
      const Index columns = std::min(most, pixels - x), channels = std::min(kBlockChannels, s_.group_c - c);
      kernels_.copy({rows, kBlockPixels, planes + c * plane + x * stride, plane, src_ + s_.n * s_.c * plane, channels,
                     columns, stride});
      kernels_.transpose_near({rows, kBlockPixels, to + x * pitch_ + c, pitch_, channels, columns});
    }
}

}  // namespace convrt::cpu::gemm_detail
