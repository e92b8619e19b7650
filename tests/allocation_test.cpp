// `run` allocates nothing: this program counts every call of the C library's allocator, which operator new and
// aligned_alloc end in, on all threads. What the OpenMP runtime takes for a team (libgomp: one block for a team of one)
// is its own business and does not count.
#include <gtest/gtest.h>
#include <link.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "cases.hpp"
#include "convrt/convrt.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CONVRT_NO_HOOKS
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define CONVRT_NO_HOOKS
#endif
#endif

namespace {

std::atomic<long> allocations = 0;
std::atomic<std::uintptr_t> runtime_begin = 0, runtime_end = 0;  // where the OpenMP runtime's code lies

[[maybe_unused]] void count(void* caller) {
  const auto at = reinterpret_cast<std::uintptr_t>(caller);
  if (at < runtime_begin || at >= runtime_end) ++allocations;
}

void find_openmp_runtime() {
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void*) {
        if (std::strstr(info->dlpi_name, "libgomp") == nullptr && std::strstr(info->dlpi_name, "libomp") == nullptr)
          return 0;
        for (int i = 0; i < info->dlpi_phnum; ++i)
          if (const auto& h = info->dlpi_phdr[i]; h.p_type == PT_LOAD && (h.p_flags & PF_X) != 0) {
            runtime_begin = info->dlpi_addr + h.p_vaddr;
            runtime_end = runtime_begin + h.p_memsz;
          }
        return 1;
      },
      nullptr);
}

}  // namespace

#ifndef CONVRT_NO_HOOKS
// The program's own definitions come before the C library's for every caller.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void* malloc(std::size_t size) {
  count(__builtin_return_address(0));
  return __libc_malloc(size);
}
void* calloc(std::size_t number, std::size_t size) {
  count(__builtin_return_address(0));
  return __libc_calloc(number, size);
}
void* realloc(void* old, std::size_t size) {
  count(__builtin_return_address(0));
  return __libc_realloc(old, size);
}
void* memalign(std::size_t alignment, std::size_t size) {
  count(__builtin_return_address(0));
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  count(__builtin_return_address(0));
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  count(__builtin_return_address(0));
  *out = __libc_memalign(alignment, size);
  return *out != nullptr ? 0 : ENOMEM;
}
}
#endif

namespace convrt::test {
namespace {

TEST(Run, AllocatesNothing) {
#ifdef CONVRT_NO_HOOKS
  GTEST_SKIP() << "the sanitizer owns the allocator";
#endif
  const long before_probe = allocations;
  void* volatile probe = ::operator new(1);  // called by name and kept: neither may be optimised away
  ::operator delete(probe);
  probe = std::aligned_alloc(64, 64);
  std::free(probe);
  ASSERT_EQ(allocations, before_probe + 2) << "the hooks do not count";

  find_openmp_runtime();
  const Device device = find_device("cpu");
  std::vector<Conv2dDesc> cases = random_cases(seed(), 10);
  for (const char* problem : {"n1c64h28w28k64r3s3ph1pw1", "n1c64h28w28k64r3s3ph1pw1+nhwc", "n2c64h14w14k128r1s1",
                              "n1c3h64w64k32r7s7sh2sw2ph3pw3", "n1c64h28w28k64r3s3ph1pw1g64",
                              "n1c64h28w28k64r3s3ph1pw1g16", "n1c600h7w7k64r3s3ph1pw1+nhwc+silu"})
    cases.push_back(Conv2dDesc::parse(problem));
  for (const Conv2dDesc& d : cases) {
    const std::vector<float> weights(d.weights_size(), 1), src(d.src_size(), 1);
    std::vector<float> dst(d.dst_size());
    for (const std::string& kernel : device.kernels(d))
      for (const int threads : {1, 2}) {
        const Conv2dPlan plan(device, d, weights, {}, {.kernel = kernel, .threads = threads});
        for (int warm = 0; warm < 2; ++warm) plan.run(src, dst);  // the OpenMP runtime starts its threads once
        const long before = allocations;
        for (int i = 0; i < 3; ++i) plan.run(src, dst);
        EXPECT_EQ(allocations - before, 0) << kernel << " on " << d.str() << " with " << threads << " threads";
      }
  }
}

}  // namespace
}  // namespace convrt::test
