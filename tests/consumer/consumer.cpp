// Uses convrt from outside: a convolution by hand, and an error caught by its type.
#include <cstdio>
#include <vector>

#include "convrt/convrt.hpp"

int main() {
  convrt::Conv2dDesc desc = convrt::Conv2dDesc::parse("n1c1h3w3k1r2s2");
  const std::vector<float> weights = {1, 2, 3, 4}, src = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  std::vector<float> dst(desc.dst_size());
  convrt::Conv2dPlan(convrt::find_device("cpu"), desc, weights).run(src, dst);
  if (dst != std::vector<float>{37, 47, 67, 77}) {
    std::puts("wrong result");
    return 1;
  }
  try {
    desc.k = -1;
    desc.validate();
  } catch (const convrt::Error& error) {  // by type: its type information is one across the library's border
    if (error.code() == convrt::ErrorCode::invalid_argument) {
      std::puts("convrt works here");
      return 0;
    }
  }
  std::puts("the error did not arrive");
  return 1;
}
