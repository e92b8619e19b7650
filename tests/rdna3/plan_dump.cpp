// plan_dump PROBLEM [KERNEL]: makes a plan on the first GL device, as an application would, and runs it once, so that
// the driver's AMD_DEBUG output holds the machine code of that very plan. Prints "renderer arch kernel".
#include <cstdio>
#include <vector>

#include "convrt/convrt.hpp"

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: plan_dump PROBLEM [KERNEL]\n"), 2;
  try {
    const convrt::Conv2dDesc desc = convrt::Conv2dDesc::parse(argv[1]);
    const convrt::Device device = convrt::find_device("gl:0");
    const std::vector<float> weights(desc.weights_size(), 1.0F);
    const convrt::PlanOptions options = {.kernel = argc > 2 ? argv[2] : "", .tune = convrt::Tune::off};
    const convrt::Conv2dPlan plan(device, desc, weights, {}, options);
    const convrt::Buffer src = device.allocate(desc.src_size());
    convrt::Buffer dst = device.allocate(desc.dst_size());
    plan.enqueue(src, dst);
    device.synchronize();
    std::printf("%s | %s | %s\n", device.info().name.c_str(), device.info().arch.c_str(), plan.kernel().c_str());
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "plan_dump: %s\n", error.what()), 1;
  }
}
