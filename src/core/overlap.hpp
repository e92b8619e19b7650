/// \file
/// Do two spans share memory?
#pragma once

#include <functional>
#include <span>

namespace convrt::core {

inline bool overlap(std::span<const float> a, std::span<const float> b) {
  const std::less<const float*> before;  // orders unrelated pointers, which < does not
  return !a.empty() && !b.empty() && before(a.data(), b.data() + b.size()) && before(b.data(), a.data() + a.size());
}

}  // namespace convrt::core
