/// \file
/// Test memory that answers a step outside: pages without access on both sides, canaries in the rest.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>

namespace convrt::test {

enum class Flush {
  front,  ///< the data start at a page: a read or write before them faults
  back    ///< the data end at a page: a read or write behind them faults (and they are aligned to 4 bytes only)
};

/// `size` floats between two pages without access. Reading or writing the page beside the data faults; the slack on the
/// other side holds canaries, which are NaNs: read, they spoil the result; overwritten, `intact()` tells.
class Guarded {
 public:
  Guarded(std::size_t size, Flush flush) : size_(size) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t inner = (size * sizeof(float) / page + 1) * page;
    bytes_ = inner + 2 * page;
    void* block = mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) throw std::bad_alloc();
    block_ = static_cast<std::byte*>(block);
    mprotect(block_ + page, inner, PROT_READ | PROT_WRITE);
    inner_ = {reinterpret_cast<float*>(block_ + page), inner / sizeof(float)};
    offset_ = flush == Flush::front ? 0 : inner_.size() - size;
    for (float& f : inner_) f = canary();
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(block_, bytes_); }

  std::span<float> floats() const { return inner_.subspan(offset_, size_); }

  /// From now on a write faults too.
  void make_read_only() const { mprotect(inner_.data(), inner_.size_bytes(), PROT_READ); }

  bool intact() const {
    for (std::size_t i = 0; i < inner_.size(); ++i)
      if ((i < offset_ || i >= offset_ + size_) && std::bit_cast<std::uint32_t>(inner_[i]) != kCanary) return false;
    return true;
  }

  static float canary() { return std::bit_cast<float>(kCanary); }

 private:
  static constexpr std::uint32_t kCanary = 0x7fc0dead;  // a quiet NaN
  std::byte* block_ = nullptr;
  std::size_t bytes_ = 0, size_ = 0, offset_ = 0;
  std::span<float> inner_;
};

}  // namespace convrt::test
