/// \file
/// Which Highway targets our kernels are compiled for, and how a table of one target is found by Isa. Include this
/// before hwy/foreach_target.h. The form of a kernel file:
///
///     #undef HWY_TARGET_INCLUDE
///     #define HWY_TARGET_INCLUDE "cpu/kernels/foo_kernels.cpp"
///     #include "cpu/kernels/targets.hpp"
///     #include "hwy/foreach_target.h"  // re-includes this file once per target
///     #include "hwy/highway.h"
///     HWY_BEFORE_NAMESPACE();
///     namespace convrt::cpu::HWY_NAMESPACE {
///     #if CONVRT_TARGET
///     ...kernels; they end in a table of pointer-only functions and tile sizes:
///     constexpr FooKernels kFooKernels = {...};
///     #endif
///     }  // namespace convrt::cpu::HWY_NAMESPACE
///     HWY_AFTER_NAMESPACE();
///     #if HWY_ONCE
///     namespace convrt::cpu {
///     const FooKernels* foo_kernels(Isa isa) { CONVRT_FIND_TARGET(isa, kFooKernels); }
///     }  // namespace convrt::cpu
///     #endif
///
/// Only Highway's headers are used: cpu_probe asks the CPU what it can, so nothing of libhwy is linked.
#pragma once

// Highway's own debug checks (unoptimised and sanitizer builds) end in hwy::Abort, which is in libhwy and ends the
// process.
#ifndef HWY_IS_DEBUG_BUILD
#define HWY_IS_DEBUG_BUILD 0
#endif

// SSSE3 and AVX3_DL add compile time and no speed for fp32.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)

// False in Highway's scalar and emulated baselines: where no vector target fits, cpu.reference runs.
#define CONVRT_TARGET \
  (HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON)

#if defined(__x86_64__)
#define CONVRT_FIND_TARGET(isa, table)       \
  switch (isa) {                             \
    case Isa::avx512: return &N_AVX3::table; \
    case Isa::avx2: return &N_AVX2::table;   \
    case Isa::sse4: return &N_SSE4::table;   \
    default: return nullptr;                 \
  }
#elif defined(__aarch64__)
#define CONVRT_FIND_TARGET(isa, table) return (isa) == Isa::neon ? &N_NEON::table : nullptr
#else
#define CONVRT_FIND_TARGET(isa, table) return nullptr
#endif
