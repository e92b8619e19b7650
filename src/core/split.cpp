#include "core/split.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace convrt::core {
namespace {

std::size_t product(int a, int b, int c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}

struct Rows {
  int begin, end, pad_top, pad_bottom;
};

// Source rows under output rows [part.begin, part.end).
Rows rows(const Conv2dDesc& d, const Part& part) {
  const int first = part.begin * d.stride_h - d.pad_top;
  const int end = (part.end - 1) * d.stride_h - d.pad_top + (d.r - 1) * d.dilation_h + 1;
  const int begin_in = std::max(0, first), end_in = std::min(d.h, end);
  return {begin_in, end_in, begin_in - first, end - end_in};
}

// [begin, end) of the `rows` rows of a tensor of `n` images, `channels` channels and rows of `width` pixels
Box row_box(Layout layout, int n, int channels, int height, int width, int begin, int end) {
  if (layout == Layout::nhwc)
    return {product(begin, width, channels), product(height, width, channels), product(end - begin, width, channels),
            static_cast<std::size_t>(n)};
  return {product(begin, width), product(height, width), product(end - begin, width), product(n, channels)};
}

}  // namespace

int axis_size(const Conv2dDesc& desc, Axis axis) {
  return axis == Axis::n ? desc.n : axis == Axis::k ? desc.k : desc.p();
}

bool can_split(const Conv2dDesc& d, Axis axis) {
  const std::int64_t reach = std::int64_t{d.r - 1} * d.dilation_h;
  return axis == Axis::n || (axis == Axis::k && d.groups == 1) ||
         (axis == Axis::p && d.pad_top <= reach && d.pad_bottom <= reach);
}

Conv2dDesc part_desc(const Conv2dDesc& desc, const Part& part) {
  Conv2dDesc d = desc;
  if (part.axis == Axis::n) d.n = part.size();
  if (part.axis == Axis::k) d.k = part.size();
  if (part.axis == Axis::p) {
    const Rows source = rows(desc, part);
    d.h = source.end - source.begin;
    d.pad_top = source.pad_top;
    d.pad_bottom = source.pad_bottom;
  }
  return d;
}

Box src_box(const Conv2dDesc& d, const Part& part) {
  if (part.axis == Axis::k) return {0, 0, d.src_size(), 1};
  if (part.axis == Axis::n) {
    const std::size_t image = product(d.c, d.h, d.w);
    return {image * static_cast<std::size_t>(part.begin), 0, image * static_cast<std::size_t>(part.size()), 1};
  }
  const Rows source = rows(d, part);
  return row_box(d.layout, d.n, d.c, d.h, d.w, source.begin, source.end);
}

Box dst_box(const Conv2dDesc& d, const Part& part) {
  const int p = d.p(), q = d.q();
  if (part.axis == Axis::p) return row_box(d.layout, d.n, d.k, p, q, part.begin, part.end);
  if (part.axis == Axis::n) {
    const std::size_t image = product(d.k, p, q);
    return {image * static_cast<std::size_t>(part.begin), 0, image * static_cast<std::size_t>(part.size()), 1};
  }
  if (d.layout == Layout::nhwc)
    return {static_cast<std::size_t>(part.begin), static_cast<std::size_t>(d.k), static_cast<std::size_t>(part.size()),
            product(d.n, p, q)};
  return {product(part.begin, p, q), product(d.k, p, q), product(part.size(), p, q), static_cast<std::size_t>(d.n)};
}

std::vector<Part> cut(const Part& whole, std::span<const double> rates) {
  const double total = std::accumulate(rates.begin(), rates.end(), 0.0);
  const auto busy = static_cast<int>(std::count_if(rates.begin(), rates.end(), [](double r) { return r > 0; }));
  // Register tiles want 8 filters, Winograd 4 rows; finer where that would be coarser than an eighth of a share.
  const int tile = whole.axis == Axis::k ? 8 : whole.axis == Axis::p ? 4 : 1;
  const int unit = whole.size() >= 8 * tile * std::max(1, busy) ? tile : 1;
  std::vector<Part> parts;
  double reached = 0;
  int begin = whole.begin;
  for (const double rate : rates) {
    reached += rate;
    int end = whole.end;
    if (total > 0 && reached < total)
      end = whole.begin + static_cast<int>(std::lround(reached / total * whole.size() / unit)) * unit;
    if (rate <= 0) end = begin;
    end = std::clamp(end, begin, whole.end);
    parts.push_back({whole.axis, begin, end});
    begin = end;
  }
  // Rounding in the sum may leave the rest to nobody.
  for (std::size_t i = parts.size(); begin < whole.end && i-- > 0;)
    if (rates[i] > 0) {
      parts[i].end = whole.end;
      for (std::size_t j = i + 1; j < parts.size(); ++j) parts[j].begin = parts[j].end = whole.end;
      break;
    }
  return parts;
}

double makespan(std::span<const Part> parts, std::span<const double> rates) {
  double longest = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].size() == 0) continue;
    longest = rates[i] > 0 ? std::max(longest, parts[i].size() / rates[i]) : std::numeric_limits<double>::infinity();
  }
  return longest;
}

}  // namespace convrt::core
