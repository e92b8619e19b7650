/// \file
/// Is a kernel right? Runs one kernel on one problem against an oracle of the tests' own (double precision, seven
/// loops), with a bound derived from the arithmetic and guards around every buffer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "convrt/convrt.hpp"

namespace convrt::test {

enum class Data {
  integers,  ///< small ones: every sum is exact in any order, so the result has no excuse
  reals      ///< within the rounding bound of `check_kernel`
};

/// One problem with data and the right answer. Data depend on (desc, data, seed) alone.
struct Problem {
  Problem(const Conv2dDesc& desc, Data data, std::uint64_t seed);

  Conv2dDesc desc;
  Data data;
  std::uint64_t seed;
  std::vector<float> src, weights;
  std::vector<float> bias;         ///< empty for every other problem
  std::vector<float> before;       ///< what dst holds before the run: summands if accumulate, else NaN
  std::vector<double> sums;        ///< before the activation, in dst's order
  std::vector<double> magnitudes;  ///< sum of |w||x|, |bias| and |before|, in dst's order

  /// The right answer for dst[i].
  double expected(std::size_t i) const;

  /// How far a right kernel may be from `expected`, for every element of dst. u = 2^-24, n = terms of the sum:
  ///   direct summation      0 for integers, else min(n, 16 + 4 sqrt(n)) * u * sum|w||x|
  ///   Winograd F(2x2,3x3)   0 for integers, else 8 * u * the largest sum|w||x| around the tile
  ///   Winograd F(4x4,3x3)   64 * u * the largest sum|w||x| around the tile
  /// times the activation's steepest slope, plus the activation's own error. The first is the worst case of recursive
  /// summation (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2) capped by a statistical one.
  std::vector<double> bounds(std::string_view kernel) const;
};

/// Runs `kernel` on `problem` and returns every complaint (wrong values, NaN left in dst, memory touched outside the
/// buffers) with the command that reproduces it; empty means right. The plan is made for `problem.desc`, or for a
/// larger source and then reshaped. A read or write outside a buffer ends the process; the command is printed before.
struct CheckOptions {
  int threads = 1;
  bool reshaped = false;
  /// Once with the data at the front of a page and once at the end; else at the end only.
  bool both_ends = true;
};
std::string check_kernel(const Device& device, const std::string& kernel, const Problem& problem,
                         const CheckOptions& options = {});

/// Every kernel of the device that lists `desc` (and starts with `prefix`): both kinds of data, direct and reshaped,
/// one thread and several. For kernels' own tests: EXPECT_EQ(check_kernels(...), ""). A GPU's plans are dear (each
/// compiles a program) and it sees copies of the buffers alone, so there two plans per kernel have to do: integers, and
/// reals reshaped. `wanted`, where given, is asked once for each kernel, in the device's order.
std::string check_kernels(const Device& device, const Conv2dDesc& desc, std::uint64_t seed,
                          std::string_view prefix = {},
                          const std::function<bool(const std::string& kernel)>& wanted = {});

/// The command that repeats one check.
std::string reproduce(const Device& device, std::string_view kernel, const Conv2dDesc& desc, std::uint64_t seed);

}  // namespace convrt::test
