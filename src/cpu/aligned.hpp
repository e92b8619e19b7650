/// \file
/// Float storage for packed weights and scratch.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "core/fail.hpp"

namespace convrt::cpu {

/// Uninitialised floats, aligned to a cache line; from 2 MiB up to a huge page, which the kernel is asked to use
/// (fewer TLB misses when packed panels stream).
class AlignedFloats {
 public:
  AlignedFloats() = default;
  explicit AlignedFloats(std::size_t floats) : size_(floats) {
    constexpr std::size_t line = 64, huge = std::size_t{2} << 20;
    if (floats == 0) return;
    if (floats > std::size_t{PTRDIFF_MAX} / sizeof(float))  // the byte count would wrap around
      core::fail(ErrorCode::out_of_memory, "could not allocate ", floats, " floats of host memory");
    const std::size_t alignment = floats * sizeof(float) >= huge ? huge : line;
    const std::size_t bytes = (floats * sizeof(float) + alignment - 1) / alignment * alignment;
    data_.reset(static_cast<float*>(std::aligned_alloc(alignment, bytes)));
    if (!data_) core::fail(ErrorCode::out_of_memory, "could not allocate ", bytes, " bytes of host memory");
    if (alignment == huge) madvise(data_.get(), bytes, MADV_HUGEPAGE);
  }
  float* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace convrt::cpu
