/// \file
/// Which dispatches need a barrier between them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

namespace convrt::gl {

/// What was touched since the last barrier. OpenGL orders dispatches against one another only by barriers: reading or
/// overwriting what an earlier dispatch wrote needs one, and so does overwriting what it reads.
class Hazards {
 public:
  /// Notes a dispatch; true if a barrier must stand before it.
  bool note(std::span<const std::uint32_t> reads, std::span<const std::uint32_t> writes) {
    const auto any = [](std::span<const std::uint32_t> names, const std::vector<std::uint32_t>& touched) {
      return std::any_of(names.begin(), names.end(), [&](std::uint32_t name) {
        return std::find(touched.begin(), touched.end(), name) != touched.end();
      });
    };
    const bool barrier = any(reads, written_) || any(writes, written_) || any(writes, read_);
    if (barrier) clear();
    read_.insert(read_.end(), reads.begin(), reads.end());
    written_.insert(written_.end(), writes.begin(), writes.end());
    return barrier;
  }

  /// A barrier happened.
  void clear() {
    read_.clear();
    written_.clear();
  }

 private:
  // A handful of names between two barriers: linear search beats a hash table.
  std::vector<std::uint32_t> read_, written_;
};

}  // namespace convrt::gl
