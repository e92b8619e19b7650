/// \file
/// What the suites measure: named problems of well-known networks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "convrt/conv2d.hpp"

namespace convrt::bench {

struct Workload {
  std::string name;  ///< "rn50_3x3_64-64_56": network, filter, channels in-out, source height
  Conv2dDesc desc;   ///< NCHW; the runner switches the layout
};

/// What geomeans are taken over: "1x1", "3x3" (stride 1), "3x3s2", "depthwise" or "other" (stem, grouped, dilated,
/// larger filters, few channels).
std::string_view class_of(const Conv2dDesc& desc);
const std::vector<std::string_view>& classes();

struct Suite {
  std::string_view name, about;
};
const std::vector<Suite>& suites();

/// The layers of a suite. Throws Error{invalid_argument} that lists the names.
std::vector<Workload> workloads(std::string_view suite);

}  // namespace convrt::bench
