// The Winograd kernels of every target: two tile sizes in two layouts.
#include "cpu/kernels/winograd_kernels.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/kernels/winograd_kernels.cpp"
#include "cpu/kernels/targets.hpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#if CONVRT_TARGET
#include "cpu/kernels/winograd_form-inl.h"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {

constexpr WinogradKernels kWinogradKernels = {Winograd<2, true>::form(), Winograd<2, false>::form(),
                                              Winograd<4, true>::form(), Winograd<4, false>::form()};

}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#if HWY_ONCE
namespace convrt::cpu {

const WinogradKernels* winograd_kernels(Isa isa) { CONVRT_FIND_TARGET(isa, kWinogradKernels); }

}  // namespace convrt::cpu
#endif
