/// \file
/// Is a result right? Compares a destination, or a sample of it, with the double-precision oracle, in units of the
/// documented error bound. Used by the tuner (no time counts before its numbers are checked), by the benchmark and by
/// CONVRT_VALIDATE=1.
///
/// The bound, with u = 2^-24, for a kernel that sums in the order of its choice:
///     |found - exact| <= min(n, 16 + 4 sqrt(n)) * u * (sum |w||x| + |bias| + |dst before|),   n = number of terms
/// (min: the worst case n*u of any order is rarely met; rounding errors grow like sqrt(n)). A Winograd kernel F(m, r)
/// rounds every element of its input patch into every output of the tile, so its unit is the patch:
///     kappa(m) * u * (sum over c of max |x| over the patch * sum over r, s of |w|, + ...),   kappa = 4, 32, 200
/// for m = 2, 4, 6, or the direct factor where that is larger. An activation multiplies the bound by its largest slope
/// and adds a few roundings of its own. Results below the smallest normal float may be flushed to zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "convrt/conv2d.hpp"

namespace convrt::core {

/// What was computed: valid desc, spans of its sizes. Everything is borrowed for the call.
struct VerifyCase {
  const Conv2dDesc& desc;
  std::string_view kernel;  ///< full name: "winograd" in it selects the patch bound
  std::span<const float> weights;
  std::span<const float> bias;  ///< or empty
  std::span<const float> src;
  std::span<const float> before = {};  ///< dst before the run; needed where desc.accumulate
};

struct VerifyResult {
  double error = 0;                ///< largest |found - expected| / bound; infinity for NaN against a number
  std::size_t checked = 0;         ///< elements compared
  std::size_t skipped = 0;         ///< elements whose terms overflow a float or are not finite: no bound holds there
  int n = 0, k = 0, p = 0, q = 0;  ///< the worst element
  double expected = 0, found = 0, bound = 0;

  bool ok() const { return error <= 1; }
  std::string str() const;  ///< "dst[n=0][k=3][p=7][q=0] is 1.5, expected 1.25 +- 3e-07 (8.3e+05 times the bound)"
};

/// Compares `dst` with the oracle: all of it (samples == 0 or >= dst.size()), or corners, elements beside the usual
/// tile boundaries and seeded random ones, `samples` together.
VerifyResult verify(const VerifyCase& what, std::span<const float> dst, std::size_t samples = 0,
                    std::uint64_t seed = 1);

/// Samples that cost the oracle about `multiply_adds`, at least 32.
std::size_t samples_for(const Conv2dDesc& desc, double multiply_adds);

}  // namespace convrt::core
