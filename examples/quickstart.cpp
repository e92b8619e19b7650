// The program of README.md: one convolution, from description to result.
#include <cstdio>
#include <vector>

#include "convrt/convrt.hpp"

int main() try {
  // A 3x3 layer of ResNet-50: 64 -> 64 channels on 56 x 56, padding 1, fused bias and ReLU.
  convrt::Conv2dDesc desc = {.n = 1, .c = 64, .h = 56, .w = 56, .k = 64, .r = 3, .s = 3};
  desc.pad_top = desc.pad_left = desc.pad_bottom = desc.pad_right = 1;
  desc.activation.kind = convrt::ActivationKind::relu;

  std::vector<float> weights(desc.weights_size(), 0.01F), bias(64, -1.0F);  // weights[K][C][R][S]
  std::vector<float> src(desc.src_size(), 0.5F), dst(desc.dst_size());      // src[N][C][H][W]

  const convrt::Conv2dPlan plan(convrt::find_device("best"), desc, weights, bias);  // prepare once ...
  const convrt::RunStats stats = plan.run(src, dst);                                // ... run many times

  std::printf("%s on %s with %s: %.2f GFLOPS\n", desc.str().c_str(), plan.device().info().name.c_str(),
              plan.kernel().c_str(), desc.flops() / stats.device_ms / 1e6);
  std::printf("dst[0][0][28][28] = %.3f (expected 64 * 9 * 0.01 * 0.5 - 1 = 1.880)\n", dst[28 * 56 + 28]);
  return 0;
} catch (const convrt::Error& error) {
  std::fprintf(stderr, "%s: %s\n", convrt::to_string(error.code()), error.what());
  return 1;
}
