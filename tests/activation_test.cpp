// src/cpu/kernels/activation-inl.h on every instruction set of this machine against the double-precision form.
// This file is compiled once per target, as the kernels are.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "activation_test.cpp"
#include "cpu/kernels/targets.hpp"
// clang-format off
#include "hwy/foreach_target.h"
#include "cpu/kernels/activation-inl.h"
// clang-format on

#include "core/activation.hpp"
#include "cpu/cpu_probe.hpp"

HWY_BEFORE_NAMESPACE();
namespace convrt::cpu::HWY_NAMESPACE {
#if CONVRT_TARGET
constexpr auto kActivateRow = &activate_row;
#endif
}  // namespace convrt::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace convrt::cpu {
namespace {

using ActivateRow = void (*)(const Activation&, float*, std::size_t);

const ActivateRow* activate_row_of(Isa isa) { CONVRT_FIND_TARGET(isa, kActivateRow); }

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

const std::vector<Activation> kAll = {{ActivationKind::none},
                                      {ActivationKind::relu},
                                      {ActivationKind::clamp, -1.5F, 6},
                                      {ActivationKind::leaky_relu, 0.1F},
                                      {ActivationKind::sigmoid},
                                      {ActivationKind::tanh},
                                      {ActivationKind::silu},
                                      {ActivationKind::gelu},
                                      {ActivationKind::hard_swish}};

double bound_ulp(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::none:
    case ActivationKind::relu:
    case ActivationKind::clamp: return 0;
    case ActivationKind::leaky_relu: return 1;
    case ActivationKind::gelu: return 8;
    default: return 4;
  }
}

// Distance in units of the float spacing at `exact` (the subnormal spacing at least).
double ulp_error(float found, double exact) {
  const int exponent = exact == 0 ? -126 : std::max(-126, std::ilogb(exact));
  return std::abs(static_cast<double>(found) - exact) / std::ldexp(1.0, exponent - 23);
}

// Every sign and exponent with a few hundred mantissas, and a fine sweep where the functions bend.
std::vector<float> sweep() {
  std::vector<float> values;
  for (std::uint32_t bits = 0; bits < 0x7F800000U; bits += 0x7FF3U)
    for (const std::uint32_t sign : {0U, 0x80000000U}) values.push_back(std::bit_cast<float>(bits | sign));
  for (int i = -600000; i <= 600000; ++i) values.push_back(static_cast<float>(i) * 1.7881e-4F);
  return values;
}

class ActivationOnIsa : public testing::TestWithParam<Isa> {};

TEST_P(ActivationOnIsa, StaysWithinItsBoundOverAllFloats) {
  const ActivateRow activate_row = *activate_row_of(GetParam());
  const std::vector<float> x = sweep();
  for (const Activation& a : kAll) {
    std::vector<float> y = x;
    activate_row(a, y.data(), y.size());
    double worst = 0;
    float worst_x = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = core::activate(a, static_cast<double>(x[i]));
      const double error = ulp_error(y[i], exact);
      if (!(error <= worst)) worst = error, worst_x = x[i];
    }
    EXPECT_LE(worst, bound_ulp(a.kind)) << "kind " << static_cast<int>(a.kind) << " at x = " << worst_x;
    RecordProperty("max_ulp_kind_" + std::to_string(static_cast<int>(a.kind)), std::to_string(worst));
  }
}

TEST_P(ActivationOnIsa, KeepsNaNLimitsAndTheSignOfZero) {
  const ActivateRow activate_row = *activate_row_of(GetParam());
  for (const Activation& a : kAll) {
    const std::vector<float> x = {kNaN, -kNaN, kInfinity, -kInfinity, 0.0F, -0.0F, 3e38F, -3e38F, 1e-45F, -1e-45F};
    std::vector<float> y = x;
    activate_row(a, y.data(), y.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto exact = static_cast<float>(core::activate(a, static_cast<double>(x[i])));
      EXPECT_EQ(std::isnan(y[i]), std::isnan(exact)) << "kind " << static_cast<int>(a.kind) << " x " << x[i];
      if (std::isnan(exact)) continue;
      EXPECT_EQ(std::signbit(y[i]), std::signbit(exact)) << "kind " << static_cast<int>(a.kind) << " x " << x[i];
      if (std::isinf(exact) || exact == 0)
        EXPECT_EQ(y[i], exact) << "kind " << static_cast<int>(a.kind) << " x " << x[i];
      else
        EXPECT_LE(ulp_error(y[i], exact), bound_ulp(a.kind)) << "kind " << static_cast<int>(a.kind) << " x " << x[i];
    }
  }
}

TEST_P(ActivationOnIsa, TouchesNothingBeyondTheRow) {
  const ActivateRow activate_row = *activate_row_of(GetParam());
  for (std::size_t count = 0; count < 40; ++count) {
    std::vector<float> row(count + 40, -2);
    activate_row({ActivationKind::relu}, row.data() + 20, count);
    for (std::size_t i = 0; i < row.size(); ++i) EXPECT_EQ(row[i], i >= 20 && i < 20 + count ? 0 : -2) << count;
  }
}

std::vector<Isa> vector_isas() {
  std::vector<Isa> found;
  for (const Isa isa : cpu_info().isas)
    if (activate_row_of(isa) != nullptr) found.push_back(isa);
  return found;
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, ActivationOnIsa, testing::ValuesIn(vector_isas()),
                         [](const auto& isa) { return std::string(to_string(isa.param)); });

}  // namespace
}  // namespace convrt::cpu

#endif
