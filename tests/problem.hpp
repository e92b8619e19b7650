/// \file
/// What tests of plans and executors set up again and again: data, a problem with its expected results, an error's
/// code.
#pragma once

#include <gtest/gtest.h>

#include <concepts>
#include <cstddef>
#include <random>
#include <vector>

#include "convrt/convrt.hpp"

namespace convrt::test {

/// Small integers: sums are exact in any order, so results compare bit for bit.
inline std::vector<float> integers(std::size_t count, std::integral auto seed) {
  std::minstd_rand random(static_cast<unsigned>(seed) + 1);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(static_cast<int>(random() % 9) - 4);
  return values;
}

/// A problem with weights and bias, its plan on `device`, and what the CPU reference makes of it.
struct Problem {
  Conv2dDesc desc;
  std::vector<float> weights, bias;
  Conv2dPlan plan, reference;

  Problem(const Device& device, const char* problem, int seed = 1)
      : desc(Conv2dDesc::parse(problem)),
        weights(integers(desc.weights_size(), seed)),
        bias(integers(static_cast<std::size_t>(desc.k), seed + 3)),
        plan(device, desc, weights, bias),
        reference(find_device("cpu"), desc, weights, bias, {.kernel = "cpu.reference"}) {}

  std::vector<float> expected(const std::vector<float>& src, std::vector<float> dst = {}) const {
    dst.resize(desc.dst_size());
    reference.run(src, dst);
    return dst;
  }
};

/// Which Error `action` throws; a failure where it throws none.
inline ErrorCode code_of(const auto& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.code();
  }
  ADD_FAILURE() << "no error was thrown";
  return ErrorCode::internal;
}

}  // namespace convrt::test
