/// \file
/// What the direct and depthwise kernels share, once per Highway target: partial loads and stores that touch nothing
/// beyond, and the copy of a source row into zero-padded phases.

// Toggled rather than guarded once: foreach_target.h includes this again for every target.
#if defined(CONVRT_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONVRT_ROWS_INL_H_
#undef CONVRT_ROWS_INL_H_
#else
#define CONVRT_ROWS_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// The first `count` lanes of `v`. Masks only where the hardware has them: elsewhere Highway's masked forms access
/// whole vectors.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store_first(D d, V v, float* to, std::size_t count) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  hn::BlendedStore(v, hn::FirstN(d, count), d, to);
#else
  HWY_ALIGN float lanes[hn::MaxLanes(d)];
  hn::Store(v, d, lanes);
  for (std::size_t i = 0; i < count; ++i) to[i] = lanes[i];
#endif
}

/// The first `count` floats; zero in the other lanes.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V load_first(D d, const float* from, std::size_t count) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  return hn::MaskedLoad(hn::FirstN(d, count), d, from);
#else
  HWY_ALIGN float lanes[hn::MaxLanes(d)] = {};
  for (std::size_t i = 0; i < count; ++i) lanes[i] = from[i];
  return hn::Load(d, lanes);
#endif
}

/// Phase f of `row` goes to to[f * phase_size], `length` floats: element i is row[i * stride + f - pad_left], zero
/// outside [0, width). A null row is all padding.
inline void pad_row(const float* row, int width, int pad_left, int stride, int phases, std::ptrdiff_t phase_size,
                    std::ptrdiff_t length, float* to) {
  if (row == nullptr) {
    for (int f = 0; f < phases; ++f) std::fill_n(to + f * phase_size, length, 0.0F);
    return;
  }
  // Every source element lands in phase (w + pad_left) % stride at index (w + pad_left) / stride.
  const hn::ScalableTag<float> d;
  const std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::Lanes(d));
  std::ptrdiff_t paired = 0;  // source elements already placed by the two-phase loop
  if (stride == 2 && phases == 2) {
    float* even = to + pad_left % 2 * phase_size;
    float* odd = to + (pad_left + std::ptrdiff_t{1}) % 2 * phase_size;
    const std::ptrdiff_t even_at = pad_left / 2, odd_at = (pad_left + std::ptrdiff_t{1}) / 2;
    for (; paired + 2 * lanes <= width && odd_at + paired / 2 + lanes <= length; paired += 2 * lanes) {
      hn::Vec<decltype(d)> a, b;
      hn::LoadInterleaved2(d, row + paired, a, b);
      hn::StoreU(a, d, even + even_at + paired / 2);
      hn::StoreU(b, d, odd + odd_at + paired / 2);
    }
  }
  for (int f = 0; f < phases; ++f) {
    float* out = to + f * phase_size;
    // indices below `lead` are left padding; then the elements that stand in the image, then right padding
    const std::ptrdiff_t lead =
        std::min<std::ptrdiff_t>(length, f >= pad_left ? 0 : (std::ptrdiff_t{pad_left} - f + stride - 1) / stride);
    const std::ptrdiff_t first = lead * stride + f - pad_left;
    const std::ptrdiff_t in_image = first >= width ? 0 : (width - first + stride - 1) / stride;
    const std::ptrdiff_t end = std::min(length, lead + in_image);
    std::fill_n(out, lead, 0.0F);
    if (stride == 1) {
      std::copy_n(row + first, end - lead, out + lead);
    } else {
      for (std::ptrdiff_t i = lead + paired / 2; i < end; ++i) out[i] = row[i * stride + f - pad_left];
    }
    std::fill_n(out + end, length - end, 0.0F);
  }
}

}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
