// The register loops behind peak.hpp, compiled once per instruction set.
#include "peak_kernels.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "peak_kernels.cpp"
#include "cpu/kernels/targets.hpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::bench::HWY_NAMESPACE {
#if CONVRT_TARGET

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Enough independent chains to hide the latency of a fused multiply-add (4 to 5 cycles on 2 to 4 ports), few enough to
// stay in registers: the 16 of AVX2 hold 12 chains and 2 operands. Named, not an array: compilers keep arrays in
// memory.
#undef CONVRT_CHAINS
#undef CONVRT_CHAIN_COUNT
#define CONVRT_12_CHAINS(X, a) \
  X(a##0) X(a##1) X(a##2) X(a##3) X(a##4) X(a##5) X(a##6) X(a##7) X(a##8) X(a##9) X(a##a) X(a##b)
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4
#define CONVRT_CHAINS(X) CONVRT_12_CHAINS(X, c)
#define CONVRT_CHAIN_COUNT 12
#else
#define CONVRT_CHAINS(X) CONVRT_12_CHAINS(X, c) CONVRT_12_CHAINS(X, d)
#define CONVRT_CHAIN_COUNT 24
#endif

// Every chain starts at its own value: the compiler merges chains that it can prove equal, and the loop then measures
// half the work. 2 flops a lane, chain and trip; the sum of all chains goes to `sink`, so none is dead.
double fma_loop(const float* start, float* sink, std::int64_t trips) {
  const D tag;
  const V x = hn::Set(tag, start[0]), y = hn::Set(tag, start[1]);
  const float* next = start + 2;
#define CONVRT_BEGIN(chain) V chain = hn::Set(tag, *next++);
#define CONVRT_STEP(chain) chain = hn::MulAdd(x, y, chain);
#define CONVRT_SUM(chain) total = hn::Add(total, chain);
  CONVRT_CHAINS(CONVRT_BEGIN)
  for (std::int64_t i = 0; i < trips; ++i) {
    CONVRT_CHAINS(CONVRT_STEP)
  }
  V total = hn::Zero(tag);
  CONVRT_CHAINS(CONVRT_SUM)
#undef CONVRT_BEGIN
#undef CONVRT_STEP
#undef CONVRT_SUM
  hn::StoreU(total, tag, sink);
  return 2.0 * CONVRT_CHAIN_COUNT * static_cast<double>(hn::Lanes(tag)) * static_cast<double>(trips);
}

void read_loop(const float* from, std::size_t floats, float* sink) {
  const D tag;
  const std::size_t step = hn::Lanes(tag);
  V a = hn::Zero(tag), b = a, c = a, d = a, e = a, f = a, g = a, h = a;
  for (std::size_t i = 0; i + 8 * step <= floats; i += 8 * step) {
    a = hn::Add(a, hn::Load(tag, from + i));
    b = hn::Add(b, hn::Load(tag, from + i + step));
    c = hn::Add(c, hn::Load(tag, from + i + 2 * step));
    d = hn::Add(d, hn::Load(tag, from + i + 3 * step));
    e = hn::Add(e, hn::Load(tag, from + i + 4 * step));
    f = hn::Add(f, hn::Load(tag, from + i + 5 * step));
    g = hn::Add(g, hn::Load(tag, from + i + 6 * step));
    h = hn::Add(h, hn::Load(tag, from + i + 7 * step));
  }
  a = hn::Add(hn::Add(hn::Add(a, b), hn::Add(c, d)), hn::Add(hn::Add(e, f), hn::Add(g, h)));
  hn::StoreU(a, tag, sink);
}

constexpr PeakKernels kPeakKernels = {fma_loop, read_loop};

#endif
}  // namespace convrt::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace convrt::bench {

using cpu::Isa;
const PeakKernels* peak_kernels(Isa isa) { CONVRT_FIND_TARGET(isa, kPeakKernels); }

}  // namespace convrt::bench
#endif
