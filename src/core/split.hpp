/// \file
/// Cutting one convolution into independent ones along N, K or the output rows P: pure arithmetic.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "convrt/conv2d.hpp"

namespace convrt::core {

enum class Axis { n, k, p };

/// Images, filters or output rows [begin, end) of a convolution.
struct Part {
  Axis axis = Axis::n;
  int begin = 0, end = 0;
  int size() const { return end - begin; }
  auto operator<=>(const Part&) const = default;  // NOLINT(modernize-use-nullptr): mistakes its 0 for a pointer
};

/// Where a part lies in a whole tensor: `blocks` runs of `length` floats, `stride` apart.
struct Box {
  std::size_t offset = 0, stride = 0, length = 0, blocks = 1;
  std::size_t size() const { return length * blocks; }
};

int axis_size(const Conv2dDesc& desc, Axis axis);

/// Whether `desc` can be cut along `axis`: K needs ungrouped filters, P padding that leaves every window a source row.
bool can_split(const Conv2dDesc& desc, Axis axis);

/// The part as a convolution of its own: rows get the source rows they read (the halo) and the padding that is left.
Conv2dDesc part_desc(const Conv2dDesc& desc, const Part& part);
Box src_box(const Conv2dDesc& desc, const Part& part);
Box dst_box(const Conv2dDesc& desc, const Part& part);

/// Cuts [whole.begin, whole.end) in proportion to `rates` (0: no part), in order, on multiples of a tile where there is
/// enough. Sizes may be 0.
std::vector<Part> cut(const Part& whole, std::span<const double> rates);

/// Time until all of `parts` are done, in units of one element of the axis at rate 1.
double makespan(std::span<const Part> parts, std::span<const double> rates);

}  // namespace convrt::core
