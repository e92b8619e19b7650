/// \file
/// Depthwise 3x3 on planes (nchw) where masked loads cost nothing and registers are many (AVX-512). Lanes are pixels of
/// a row. A window of three source rows slides down the plane: each row is loaded once, as the three vectors its tap
/// columns need, and these, the nine weights and a sum stay in registers.
///
///     wide     stride 1: a strip of one vector of columns, whose tap columns are loaded.
///     rows     up to four vectors of columns row by row, so that memory is read in its order: stride 2; with stride 1,
///              whose strips load less, where planes come from beyond the last cache. Stride 2 loads two neighbours
///              that hold the odd tap columns and derives the first one, which loads that split lines cost more than.
///     narrow   rows shorter than a vector: one load, and each tap column is a permutation of it. The last lane is
///              always zero and stands for every column outside the image.
///     paired   rows shorter than half a vector, or with stride 2 than a whole one: two planes at once, one in each
///              half.

#if defined(CONVRT_DEPTHWISE_WINDOW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CONVRT_DEPTHWISE_WINDOW_INL_H_
#undef CONVRT_DEPTHWISE_WINDOW_INL_H_
#else
#define CONVRT_DEPTHWISE_WINDOW_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "cpu/kernels/activation-inl.h"
#include "cpu/kernels/depthwise_kernels.hpp"
#include "cpu/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {

#undef CONVRT_WINDOW
#define CONVRT_WINDOW (HWY_TARGET == HWY_AVX3)
#if CONVRT_WINDOW

namespace hn = hwy::HWY_NAMESPACE;

// Of a lambda with vectors: called from two places and not inlined it would take them through memory.
#undef CONVRT_INLINED
#define CONVRT_INLINED HWY_ATTR __attribute__((always_inline))

// Slides down destination rows [first_p, last_p) of a plane. columns(row, x): the three tap columns of a source row;
// store(sum) takes one row after another.
template <int ST, class D, class Columns, class Store>
HWY_INLINE void slide_window(D, const DepthwisePlanes& a, const float* src, const hn::Vec<D> (&w)[9], hn::Vec<D> bias,
                             const Columns& columns, const Store& store) {
  const std::ptrdiff_t width = a.w;
  std::ptrdiff_t h = a.first_p * ST - a.pad_top;
  const float* row = src + h * width;
  hn::Vec<D> x0[3] = {bias, bias, bias}, x1[3] = {bias, bias, bias}, x2[3] = {bias, bias, bias};
  const auto inside = [&](std::ptrdiff_t at)
                          HWY_ATTR { return static_cast<std::size_t>(at) < static_cast<std::size_t>(a.h); };
  const auto next = [&](hn::Vec<D>(&x)[3]) HWY_ATTR {
    if (inside(h)) columns(row, x);
    ++h;
    row += width;
  };
  next(x0);
  if (ST == 1) next(x1);
  HWY_UNROLL(1)
  for (std::ptrdiff_t p = a.first_p; p < a.last_p; ++p) {
    if (ST == 2) next(x1);
    next(x2);
    hn::Vec<D> sum = bias;
    if (inside(h - 3)) sum = hn::MulAdd(w[2], x0[2], hn::MulAdd(w[1], x0[1], hn::MulAdd(w[0], x0[0], sum)));
    if (inside(h - 2)) sum = hn::MulAdd(w[5], x1[2], hn::MulAdd(w[4], x1[1], hn::MulAdd(w[3], x1[0], sum)));
    if (inside(h - 1)) sum = hn::MulAdd(w[8], x2[2], hn::MulAdd(w[7], x2[1], hn::MulAdd(w[6], x2[0], sum)));
    store(sum);
    HWY_UNROLL(3)
    for (int s = 0; s < 3; ++s) {
      x0[s] = ST == 1 ? x1[s] : x2[s];
      if (ST == 1) x1[s] = x2[s];
    }
  }
}

// The same for a whole plane of ROWS rows under a filter of stride 1 that is padded by one row and column: no loop, no
// check.
template <int ROWS, class D, class Columns, class Store>
HWY_INLINE void slide_whole(D, const DepthwisePlanes& a, const float* row, const hn::Vec<D> (&w)[9], hn::Vec<D> bias,
                            const Columns& columns, const Store& store) {
  hn::Vec<D> x[3][3];
  columns(row, x[1]);
  HWY_UNROLL(8)
  for (int p = 0; p < ROWS; ++p) {
    hn::Vec<D> sum = bias;
    if (p > 0) {
      HWY_UNROLL(3)
      for (int s = 0; s < 3; ++s) sum = hn::MulAdd(w[s], x[p % 3][s], sum);
    }
    HWY_UNROLL(3)
    for (int s = 0; s < 3; ++s) sum = hn::MulAdd(w[3 + s], x[(p + 1) % 3][s], sum);
    if (p + 1 < ROWS) {
      columns(row += a.w, x[(p + 2) % 3]);
      HWY_UNROLL(3)
      for (int s = 0; s < 3; ++s) sum = hn::MulAdd(w[6 + s], x[(p + 2) % 3][s], sum);
    }
    store(sum);
  }
}

// Stride 1: `count` columns of plane i from q0 on, at most a vector.
template <class D>
HWY_NOINLINE void window_strip(D d, const DepthwisePlanes& a, std::ptrdiff_t i, std::ptrdiff_t q0,
                               std::ptrdiff_t count) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  hn::Vec<D> w[9];
  const float *weights = a.weights_of(i), *src = a.src_of(i);
  const hn::Vec<D> bias = hn::Set(d, a.bias[i]);
  HWY_UNROLL(9)
  for (int tap = 0; tap < 9; ++tap) w[tap] = hn::Set(d, weights[tap]);
  const std::ptrdiff_t at = q0 - a.pad_left;
  const auto stored = hn::FirstN(d, static_cast<std::size_t>(count));
  const bool accumulate = a.accumulate, relu = a.activation.kind == ActivationKind::relu;
  float* to = a.dst_of(i) + a.first_p * a.q + q0;
  const std::ptrdiff_t to_step = a.q;
  const auto store = [&](hn::Vec<D> sum) HWY_ATTR {
    if (accumulate) sum = hn::Add(sum, hn::MaskedLoad(stored, d, to));
    if (relu) sum = activate_short(d, a.activation, sum);
    hn::BlendedStore(sum, stored, d, to);
    to += to_step;
  };
  const auto in0 = columns_inside(d, at, a.w), in1 = columns_inside(d, at + 1, a.w),
             in2 = columns_inside(d, at + 2, a.w);
  slide_window<1>(
      d, a, src + at, w, bias,
      [&](const float* row, hn::Vec<D>(&x)[3]) HWY_ATTR {
        x[0] = hn::MaskedLoad(in0, d, row);
        x[1] = hn::MaskedLoad(in1, d, row + 1);
        x[2] = hn::MaskedLoad(in2, d, row + 2);
      },
      store);
}

// For TableLookupLanes: every lane takes what stands in the one before, the first lane what stands in the last.
template <class D>
HWY_INLINE auto lane_before(D d) {
  const hn::RebindToUnsigned<D> du;
  constexpr auto last = hn::MaxLanes(d) - 1;
  return hn::IndicesFromVec(d, hn::And(hn::Add(hn::Iota(du, 0), hn::Set(du, last)), hn::Set(du, last)));
}

// `count` columns of plane i from q0 on, more than NV - 1 vectors and at most NV. Row by row instead of down a strip,
// so that memory is read in its order: each source row goes into the sums that it belongs to.
template <int ST, int NV, class D>
HWY_NOINLINE void window_rows(D d, const DepthwisePlanes& a, std::ptrdiff_t i, std::ptrdiff_t q0,
                              std::ptrdiff_t count) {
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  hn::Vec<D> w[9];
  const float* weights = a.weights_of(i);
  const hn::Vec<D> bias = hn::Set(d, a.bias[i]);
  HWY_UNROLL(9)
  for (int tap = 0; tap < 9; ++tap) w[tap] = hn::Set(d, weights[tap]);
  const std::ptrdiff_t at = q0 * ST - a.pad_left, width = a.w, last_at = at + (NV - 1) * ST * lanes;
  const auto stored = hn::FirstN(d, static_cast<std::size_t>(count - (NV - 1) * lanes));
  // Of the last vector; and of the first tap column of the first one.
  [[maybe_unused]] const auto in0 = columns_inside(d, last_at, width), in1 = columns_inside(d, last_at + 1, width),
                              in2 = columns_inside(d, last_at + (ST == 1 ? 2 : 1 + lanes), width),
                              edge = columns_inside(d, at, width);
  // Stride 2: a first tap column is the last one a lane up; what that leaves empty is the element before the vector.
  // Outside of the image a constant zero is read in its place.
  [[maybe_unused]] const auto up = lane_before(d);
  [[maybe_unused]] const auto first_lane = hn::FirstN(d, 1);
  static constexpr float zero = 0;
  [[maybe_unused]] const bool first_in = at >= 0 && at < width;
  const bool accumulate = a.accumulate, relu = a.activation.kind == ActivationKind::relu;
  // visit(v, x0, x1, x2) for every vector's three tap columns of a row.
  const auto columns = [&](const float* row, const auto& visit) CONVRT_INLINED {
    [[maybe_unused]] const float* left = first_in ? row : &zero;
    HWY_UNROLL(4)
    for (int v = 0; v < NV; ++v) {
      const float* from = row + v * ST * lanes;
      const bool last = v + 1 == NV;
      if constexpr (ST == 1) {
        visit(v,
              last     ? hn::MaskedLoad(in0, d, from)
              : v == 0 ? hn::MaskedLoad(edge, d, from)
                       : hn::LoadU(d, from),
              last ? hn::MaskedLoad(in1, d, from + 1) : hn::LoadU(d, from + 1),
              last ? hn::MaskedLoad(in2, d, from + 2) : hn::LoadU(d, from + 2));
      } else {
        const hn::Vec<D> low = last ? hn::MaskedLoad(in1, d, from + 1) : hn::LoadU(d, from + 1);
        const hn::Vec<D> high = last ? hn::MaskedLoad(in2, d, from + 1 + lanes) : hn::LoadU(d, from + 1 + lanes);
        const hn::Vec<D> even = hn::ConcatEven(d, high, low), odd = hn::ConcatOdd(d, high, low);
        visit(v, hn::IfThenElse(first_lane, hn::Set(d, *left), hn::TableLookupLanes(odd, up)), even, odd);
        left = from + 2 * lanes;
      }
    }
  };
  const auto taps = [&](int r, hn::Vec<D> sum, hn::Vec<D> x0, hn::Vec<D> x1, hn::Vec<D> x2) CONVRT_INLINED {
    return hn::MulAdd(w[3 * r + 2], x2, hn::MulAdd(w[3 * r + 1], x1, hn::MulAdd(w[3 * r], x0, sum)));
  };
  std::ptrdiff_t h = a.first_p * ST - a.pad_top;
  const float* row = a.src_of(i) + at + h * width;
  float* to = a.dst_of(i) + a.first_p * a.q + q0;
  const auto inside = [&](std::ptrdiff_t at_h)
                          HWY_ATTR { return static_cast<std::size_t>(at_h) < static_cast<std::size_t>(a.h); };
  // Sums of this destination row, of the next, and with stride 1 of the one after that.
  hn::Vec<D> now[NV], next[NV], later[NV];
  HWY_UNROLL(4)
  for (int v = 0; v < NV; ++v) now[v] = next[v] = bias;
  if (inside(h))
    columns(row, [&](int v, hn::Vec<D> x0, hn::Vec<D> x1, hn::Vec<D> x2)
                     CONVRT_INLINED { now[v] = taps(0, bias, x0, x1, x2); });
  if (ST == 1 && inside(h + 1))
    columns(row + width, [&](int v, hn::Vec<D> x0, hn::Vec<D> x1, hn::Vec<D> x2) CONVRT_INLINED {
      now[v] = taps(1, now[v], x0, x1, x2);
      next[v] = taps(0, bias, x0, x1, x2);
    });
  HWY_UNROLL(1)
  for (std::ptrdiff_t p = a.first_p; p < a.last_p; ++p, h += ST, row += ST * width, to += a.q) {
    if (ST == 2 && inside(h + 1))
      columns(row + width, [&](int v, hn::Vec<D> x0, hn::Vec<D> x1, hn::Vec<D> x2)
                               CONVRT_INLINED { now[v] = taps(1, now[v], x0, x1, x2); });
    HWY_UNROLL(4)
    for (int v = 0; v < NV; ++v) later[v] = bias;
    if (inside(h + 2))
      columns(row + 2 * width, [&](int v, hn::Vec<D> x0, hn::Vec<D> x1, hn::Vec<D> x2) CONVRT_INLINED {
        now[v] = taps(2, now[v], x0, x1, x2);
        if (ST == 1) next[v] = taps(1, next[v], x0, x1, x2);
        later[v] = taps(0, bias, x0, x1, x2);
      });
    HWY_UNROLL(4)
    for (int v = 0; v < NV; ++v) {
      const bool whole = v + 1 < NV;
      float* out = to + v * lanes;
      hn::Vec<D> sum = now[v];
      if (accumulate) sum = hn::Add(sum, whole ? hn::LoadU(d, out) : hn::MaskedLoad(stored, d, out));
      if (relu) sum = hn::IfThenZeroElse(hn::Le(sum, hn::Zero(d)), sum);
      if (whole)
        hn::StoreU(sum, d, out);
      else
        hn::BlendedStore(sum, stored, d, out);
      now[v] = ST == 1 ? next[v] : later[v];
      next[v] = later[v];
    }
  }
}

// Columns of plane i as far as window_rows does them: where all but the last vector lie inside the image, but for the
// first tap column of the first. Returns how many.
template <int ST>
std::ptrdiff_t window_rows_of_plane(const DepthwisePlanes& task, std::ptrdiff_t i) {
  const hn::ScalableTag<float> d;
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d)), most = 4;
  std::ptrdiff_t q0 = 0;
  while (q0 < task.q) {
    const std::ptrdiff_t count = std::min(task.q - q0, most * lanes), vectors = (count + lanes - 1) / lanes;
    const std::ptrdiff_t at = q0 * ST - task.pad_left, whole = at + (vectors - 1) * ST * lanes + (ST == 1 ? 2 : 1);
    if (vectors < 2 || at < -1 || whole > task.w) break;
    if (vectors == 2) window_rows<ST, 2>(d, task, i, q0, count);
    if (vectors == 3) window_rows<ST, 3>(d, task, i, q0, count);
    if (vectors == 4) window_rows<ST, 4>(d, task, i, q0, count);
    q0 += count;
  }
  return q0;
}

// Which column of the source row a lane takes for tap column s; the last lane holds zero.
template <int ST, class D>
HWY_INLINE auto narrow_columns(D d, const DepthwisePlanes& a, int s) {
  const hn::RebindToSigned<D> di;
  const hn::RebindToUnsigned<D> du;
  const auto column =
      hn::Add(hn::Mul(hn::Iota(di, 0), hn::Set(di, ST)), hn::Set(di, static_cast<std::int32_t>(s - a.pad_left)));
  // Unsigned: columns left of the image are huge numbers, and lanes from w on hold zeros.
  return hn::Min(hn::BitCast(du, column), hn::Set(du, hn::MaxLanes(d) - 1));
}

// Stride 1. All planes of the task.
inline void window_narrow(const DepthwisePlanes& task) {
  const hn::ScalableTag<float> d;
  using D = decltype(d);
  const auto in = hn::FirstN(d, static_cast<std::size_t>(task.w));
  const auto stored = hn::FirstN(d, static_cast<std::size_t>(task.q));
  const auto from0 = hn::IndicesFromVec(d, narrow_columns<1>(d, task, 0));
  const auto from1 = hn::IndicesFromVec(d, narrow_columns<1>(d, task, 1));
  const auto from2 = hn::IndicesFromVec(d, narrow_columns<1>(d, task, 2));
  const bool accumulate = task.accumulate, relu = task.activation.kind == ActivationKind::relu;
  const std::ptrdiff_t to_step = task.q;
  HWY_UNROLL(1)
  for (std::ptrdiff_t i = 0; i < task.count; ++i) {
    const float* weights = task.weights_of(i);
    hn::Vec<D> w[9];
    HWY_UNROLL(9)
    for (int tap = 0; tap < 9; ++tap) w[tap] = hn::Set(d, weights[tap]);
    float* to = task.dst_of(i) + task.first_p * to_step;
    slide_window<1>(
        d, task, task.src_of(i), w, hn::Set(d, task.bias[i]),
        [&](const float* row, hn::Vec<D>(&x)[3]) HWY_ATTR {
          const hn::Vec<D> v = hn::MaskedLoad(in, d, row);
          x[0] = hn::TableLookupLanes(v, from0);
          x[1] = hn::TableLookupLanes(v, from1);
          x[2] = hn::TableLookupLanes(v, from2);
        },
        [&](hn::Vec<D> sum) HWY_ATTR {
          if (accumulate) sum = hn::Add(sum, hn::MaskedLoad(stored, d, to));
          if (relu) sum = activate_short(d, task.activation, sum);
          hn::BlendedStore(sum, stored, d, to);
          to += to_step;
        });
  }
}

// All planes of the task, two at a time; a last single one stands in both halves. FOLDED: stride 2 and one column of
// padding, rows of up to a whole vector, whose even and odd columns then fill half of one.
template <int ST, bool FOLDED>
void window_paired(const DepthwisePlanes& task) {
  static_assert(!FOLDED || ST == 2);
  const hn::ScalableTag<float> d;
  const hn::Half<decltype(d)> dh;
  using D = decltype(d);
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToUnsigned<decltype(dh)> duh;
  const auto in = hn::FirstN(dh, static_cast<std::size_t>(task.w));
  // Whole vectors of which one half is stored: GCC 12 fuses storing a half under a mask into vextractf32x8, which
  // faults on lanes outside the mask.
  constexpr std::ptrdiff_t half = static_cast<std::ptrdiff_t>(hn::MaxLanes(dh));
  const auto stored = hn::FirstN(d, static_cast<std::size_t>(task.q));
  const auto other_stored = hn::AndNot(hn::FirstN(d, half), hn::FirstN(d, static_cast<std::size_t>(half + task.q)));
  const auto both = [&](auto low) HWY_ATTR {
    return hn::IndicesFromVec(d, hn::Combine(du, hn::Add(low, hn::Set(duh, hn::MaxLanes(dh))), low));
  };
  const auto from0 = both(narrow_columns<ST>(dh, task, 0)), from1 = both(narrow_columns<ST>(dh, task, 1)),
             from2 = both(narrow_columns<ST>(dh, task, 2));
  [[maybe_unused]] const auto in_folded = hn::FirstN(d, static_cast<std::size_t>(task.w));
  // A first tap column is the last one a lane up, but for the first lane of each half.
  [[maybe_unused]] const auto up = lane_before(d);
  [[maybe_unused]] const auto outside =
      hn::Or(hn::FirstN(d, 1), hn::AndNot(hn::FirstN(d, half), hn::FirstN(d, half + 1)));
  const bool accumulate = task.accumulate, relu = task.activation.kind == ActivationKind::relu;
  const std::ptrdiff_t to_step = task.q;
  const bool whole =
      task.h == 7 && task.pad_left == 1 && task.p == 7 && task.pad_top == 1 && task.first_p == 0 && task.last_p == 7;
  HWY_UNROLL(1)
  for (std::ptrdiff_t i = 0; i < task.count; i += 2) {
    const std::ptrdiff_t other = std::min(i + 1, task.count - 1);
    const float *weights = task.weights_of(i), *other_weights = task.weights_of(other), *src = task.src_of(i);
    hn::Vec<D> w[9];
    HWY_UNROLL(9)
    for (int tap = 0; tap < 9; ++tap)
      w[tap] = hn::Combine(d, hn::Set(dh, other_weights[tap]), hn::Set(dh, weights[tap]));
    float* to = task.dst_of(i) + task.first_p * to_step;
    const std::ptrdiff_t src_step = task.src_of(other) - src, other_to = task.dst_of(other) - task.dst_of(i) - half;
    const hn::Vec<D> bias = hn::Combine(d, hn::Set(dh, task.bias[other]), hn::Set(dh, task.bias[i]));
    const auto columns = [&](const float* row, hn::Vec<D>(&x)[3]) CONVRT_INLINED {
      if constexpr (FOLDED) {
        const hn::Vec<D> low = hn::MaskedLoad(in_folded, d, row), high = hn::MaskedLoad(in_folded, d, row + src_step);
        x[1] = hn::ConcatEven(d, high, low);
        x[2] = hn::ConcatOdd(d, high, low);
        x[0] = hn::IfThenZeroElse(outside, hn::TableLookupLanes(x[2], up));
        return;
      }
      const hn::Vec<D> v = hn::Combine(d, hn::MaskedLoad(in, dh, row + src_step), hn::MaskedLoad(in, dh, row));
      x[0] = hn::TableLookupLanes(v, from0);
      x[1] = hn::TableLookupLanes(v, from1);
      x[2] = hn::TableLookupLanes(v, from2);
    };
    const auto store = [&](hn::Vec<D> sum) CONVRT_INLINED {
      if (accumulate) {
        sum = hn::Add(sum, hn::MaskedLoad(stored, d, to));
        sum = hn::Add(sum, hn::MaskedLoad(other_stored, d, to + other_to));
      }
      if (relu) sum = hn::IfThenZeroElse(hn::Le(sum, hn::Zero(d)), sum);
      hn::BlendedStore(sum, stored, d, to);
      hn::BlendedStore(sum, other_stored, d, to + other_to);
      to += to_step;
    };
    if (ST == 1 && whole)
      slide_whole<7>(
          d, task, src, w, bias,
          [&](const float* row, hn::Vec<D>(&x)[3]) CONVRT_INLINED {
            x[1] = hn::Combine(d, hn::MaskedLoad(in, dh, row + src_step), hn::MaskedLoad(in, dh, row));
            x[0] = hn::TableLookupLanes(x[1], from0);
            x[2] = hn::TableLookupLanes(x[1], from2);
          },
          store);
    else
      slide_window<ST>(d, task, src, w, bias, columns, store);
  }
}

template <int ST>
void window_planes(const DepthwisePlanes& task) {
  const hn::ScalableTag<float> d;
  const hn::Half<decltype(d)> half;
  constexpr std::ptrdiff_t lanes = static_cast<std::ptrdiff_t>(hn::MaxLanes(d));
  const std::ptrdiff_t widest = std::max(task.w + 1, task.q);
  if (widest <= lanes / 2) {
    window_paired<ST, false>(task);
  } else if (ST == 2 && task.pad_left == 1 && task.w <= lanes && task.q <= lanes / 2) {
    window_paired<ST, ST == 2>(task);
  } else if (ST == 1 && widest <= lanes) {
    window_narrow(task);
  } else {
    for (std::ptrdiff_t i = 0; i < task.count; ++i) {
      std::ptrdiff_t q0 = 0;
      if (ST == 2 || task.from_memory) q0 = window_rows_of_plane<ST>(task, i);
      // What is left, a vector at a time.
      const auto single = [&](auto tag, std::ptrdiff_t count) CONVRT_INLINED {
        if constexpr (ST == 1)
          window_strip(tag, task, i, q0, count);
        else
          window_rows<ST, 1>(tag, task, i, q0, count);
      };
      for (; task.q - q0 > lanes / 2; q0 += lanes) single(d, std::min(lanes, task.q - q0));
      if (q0 < task.q) single(half, task.q - q0);
    }
  }
}

#endif  // CONVRT_WINDOW
}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
