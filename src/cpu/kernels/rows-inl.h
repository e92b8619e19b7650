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

#include "convrt/conv2d.hpp"
#include "cpu/kernels/targets.hpp"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {
#if CONVRT_TARGET

namespace hn = hwy::HWY_NAMESPACE;

constexpr bool kManyRegisters = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON;  // 32, otherwise 16

/// The pointer, of which the compiler no longer knows where it comes from: else it keeps every multiple of a stride, or
/// code for every origin, in registers that the tile needs.
template <class T>
HWY_INLINE T* opaque(T* pointer) {
  __asm__("" : "+r"(pointer));
  return pointer;
}

/// Activations too long to be inlined after every accumulator: they would crowd the kernels out of the instruction
/// cache. They run as a second pass (activate_row) over what was just stored.
HWY_INLINE bool is_long(const Activation& a) {
  return a.kind != ActivationKind::none && a.kind != ActivationKind::relu;
}

/// activation(v) unless it is long.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V activate_short(D d, const Activation& a, V v) {
  return a.kind == ActivationKind::relu ? hn::IfThenZeroElse(hn::Le(v, hn::Zero(d)), v) : v;
}

// Masked loads and stores that touch no memory outside the mask.
#undef CONVRT_MASKED_LOADS
#define CONVRT_MASKED_LOADS (HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2)

/// The first `count` lanes of `v`, all if there are fewer. Masks only where the hardware has them: elsewhere Highway's
/// masked forms access whole vectors.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store_first(D d, V v, float* to, std::ptrdiff_t count) {
  if (count >= static_cast<std::ptrdiff_t>(hn::MaxLanes(d))) {
    hn::StoreU(v, d, to);
    return;
  }
#if CONVRT_MASKED_LOADS
  hn::BlendedStore(v, hn::FirstN(d, static_cast<std::size_t>(count)), d, to);
#else
  HWY_ALIGN float lanes[hn::MaxLanes(d)];
  hn::Store(v, d, lanes);
  for (std::ptrdiff_t i = 0; i < count; ++i) to[i] = lanes[i];
#endif
}

#if CONVRT_MASKED_LOADS
/// Lanes of a vector at column `at` that stand inside [0, width).
template <class D>
HWY_INLINE auto columns_inside(D d, std::ptrdiff_t at, std::ptrdiff_t width) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  const auto end = hn::FirstN(d, static_cast<std::size_t>(std::clamp<std::ptrdiff_t>(width - at, 0, lanes)));
  return hn::AndNot(hn::FirstN(d, static_cast<std::size_t>(std::clamp<std::ptrdiff_t>(-at, 0, lanes))), end);
}
#endif

/// The first `count` floats, all lanes if there are fewer; zero in the other lanes.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V load_first(D d, const float* from, std::ptrdiff_t count) {
  if (count >= static_cast<std::ptrdiff_t>(hn::MaxLanes(d))) return hn::LoadU(d, from);
#if CONVRT_MASKED_LOADS
  return hn::MaskedLoad(hn::FirstN(d, static_cast<std::size_t>(count)), d, from);
#else
  HWY_ALIGN float lanes[hn::MaxLanes(d)] = {};
  for (std::ptrdiff_t i = 0; i < count; ++i) lanes[i] = from[i];
  return hn::Load(d, lanes);
#endif
}

/// Stores activation(sum + what stands there if `accumulate`) into the first `count` lanes; long activations are left
/// to the caller.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void finish(D d, V sum, bool accumulate, const Activation& activation, float* to, std::ptrdiff_t count) {
  if (accumulate) sum = hn::Add(sum, load_first(d, to, count));
  store_first(d, activate_short(d, activation, sum), to, count);
}

/// finish() for raw sums: `rows` times `row_floats`, the first `count` of each.
template <class D>
HWY_NOINLINE void finish_raw(D d, const float* raw, int rows, std::ptrdiff_t row_floats, std::ptrdiff_t count,
                             bool accumulate, const Activation& activation, float* dst, std::ptrdiff_t stride) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  HWY_UNROLL(1)
  for (int row = 0; row < rows; ++row, raw += row_floats, dst += stride) {
    HWY_UNROLL(1)
    for (std::ptrdiff_t i = 0; i < count; i += lanes)
      finish(d, hn::Load(d, raw + i), accumulate, activation, dst + i, count - i);
  }
}

/// Whether ROWS rows of NV vectors, of which `rows` rows of `count` floats exist, are stored as they are.
template <int ROWS, int NV, class D>
HWY_INLINE bool is_whole(D d, int rows, std::ptrdiff_t count, bool accumulate) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  return rows == ROWS && count >= (CONVRT_MASKED_LOADS ? (NV - 1) * lanes + 1 : NV * lanes) && !accumulate;
}

/// Stores the sums of a tile, activated, to rows of `count` floats, `stride` apart, where it is whole, else to `raw`
/// for finish_raw. With more code around each sum the compiler would hold all of them on the stack from the start,
/// which costs short tiles a fifth of their time.
template <int ROWS, int NV, class D>
HWY_INLINE void store_tile(D d, hn::Vec<D> (&sum)[ROWS][NV], bool whole, std::ptrdiff_t count,
                           const Activation& activation, float* dst, std::ptrdiff_t stride, float* raw) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d)), row_floats = NV * lanes;
  if (whole && activation.kind == ActivationKind::relu) {
    HWY_UNROLL(16)
    for (int row = 0; row < ROWS; ++row) {
      HWY_UNROLL(8)
      for (int v = 0; v < NV; ++v) sum[row][v] = activate_short(d, activation, sum[row][v]);
    }
  }
  float* to = opaque(whole ? dst : raw);
  const std::ptrdiff_t step = whole ? stride : row_floats;
  [[maybe_unused]] const std::ptrdiff_t last = whole ? count - (row_floats - lanes) : lanes;
  HWY_UNROLL(16)
  for (int row = 0; row < ROWS; ++row, to = opaque(to + step)) {
    HWY_UNROLL(8)
    for (int v = 0; v + 1 < NV; ++v) hn::StoreU(sum[row][v], d, to + v * lanes);
#if CONVRT_MASKED_LOADS
    store_first(d, sum[row][NV - 1], to + (NV - 1) * lanes, last);
#else
    hn::StoreU(sum[row][NV - 1], d, to + (NV - 1) * lanes);
#endif
  }
}

/// finish() for the sums of a tile: the first `rows` of its ROWS rows, `count` floats of each, `stride` apart.
template <int ROWS, int NV, class D>
HWY_INLINE void finish_tile(D d, hn::Vec<D> (&sum)[ROWS][NV], int rows, std::ptrdiff_t count, bool accumulate,
                            const Activation& activation, float* dst, std::ptrdiff_t stride) {
  constexpr std::ptrdiff_t row_floats = NV * static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  HWY_ALIGN float raw[ROWS * row_floats];
  const bool whole = is_whole<ROWS, NV>(d, rows, count, accumulate);
  store_tile(d, sum, whole, count, activation, dst, stride, raw);
  if (!whole) finish_raw(d, raw, rows, row_floats, std::min(count, row_floats), accumulate, activation, dst, stride);
}

/// One vector from column `at` of a row of `width`; zero in lanes outside [0, width), which are not read.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V load_inside(D d, const float* row, std::ptrdiff_t at, std::ptrdiff_t width) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  if (at >= 0 && at + lanes <= width) return hn::LoadU(d, row + at);
#if CONVRT_MASKED_LOADS
  return hn::MaskedLoad(columns_inside(d, at, width), d, row + at);
#else
  HWY_ALIGN float buffer[hn::MaxLanes(d)] = {};
  for (std::ptrdiff_t i = std::max<std::ptrdiff_t>(0, -at); i < std::min(lanes, width - at); ++i)
    buffer[i] = row[at + i];
  return hn::Load(d, buffer);
#endif
}

/// Phase f of `row` goes to to[f * phase_size], `length` floats: element i is row[i * stride + f - pad_left], zero
/// outside [0, width). A null row is all padding.
inline void pad_row(const float* row, std::ptrdiff_t width, std::ptrdiff_t pad_left, std::ptrdiff_t stride, int phases,
                    std::ptrdiff_t phase_size, std::ptrdiff_t length, float* to) {
  const hn::ScalableTag<float> d;
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  if (row == nullptr) {
    for (int f = 0; f < phases; ++f) std::fill_n(to + f * phase_size, length, 0.0F);
  } else if (stride == 1) {
    for (std::ptrdiff_t i = 0; i < length; i += lanes)
      store_first(d, load_inside(d, row, i - pad_left, width), to + i, length - i);
  } else if (stride == 2) {
    for (std::ptrdiff_t i = 0; i < length; i += lanes) {
      const auto low = load_inside(d, row, 2 * i - pad_left, width);
      const auto high = load_inside(d, row, 2 * i - pad_left + lanes, width);
      store_first(d, hn::ConcatEven(d, high, low), to + i, length - i);
      if (phases == 2) store_first(d, hn::ConcatOdd(d, high, low), to + phase_size + i, length - i);
    }
  } else {
    for (int f = 0; f < phases; ++f)
      for (std::ptrdiff_t i = 0, w = f - pad_left; i < length; ++i, w += stride)
        to[f * phase_size + i] = w >= 0 && w < width ? row[w] : 0.0F;
  }
}

/// NHWC: `count` channels of every pixel of a row to to[w + pad_left][pitch], zeros in pixels [0, length) outside the
/// image. Channels from `count` to `pitch` are not touched. A null row is all padding.
inline void pad_pixels(const float* row, std::ptrdiff_t width, std::ptrdiff_t pixel_stride, std::ptrdiff_t count,
                       std::ptrdiff_t pad_left, std::ptrdiff_t length, std::ptrdiff_t pitch, float* to) {
  const std::ptrdiff_t lead = std::min(length, row == nullptr ? length : pad_left);
  const std::ptrdiff_t end = std::min(length, lead + width);
  std::fill_n(to, lead * pitch, 0.0F);
  if (lead < end) {
    if (count == pixel_stride && count == pitch) {
      std::copy_n(row, (end - lead) * pitch, to + lead * pitch);
    } else {
      const hn::ScalableTag<float> d;
      const std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::Lanes(d));
      for (std::ptrdiff_t w = lead; w < end; ++w, row += pixel_stride) {
        std::ptrdiff_t i = 0;
        for (; i + lanes <= count; i += lanes) hn::StoreU(hn::LoadU(d, row + i), d, to + w * pitch + i);
        for (; i < count; ++i) to[w * pitch + i] = row[i];
      }
    }
  }
  std::fill_n(to + end * pitch, (length - end) * pitch, 0.0F);
}

#endif  // CONVRT_TARGET
}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
