/* Uses convrt's C API from outside, as C11. */
#include <stdio.h>
#include <string.h>

#include "convrt/convrt.h"

int main(void) {
  const float weights[4] = {1, 2, 3, 4}, src[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, expected[4] = {37, 47, 67, 77};
  float dst[4] = {0};
  convrt_conv2d_desc desc = CONVRT_CONV2D_DESC_INIT;
  convrt_device* device = NULL;
  convrt_plan* plan = NULL;

  if (convrt_conv2d_desc_parse("n1c1h3w3k1r2s2", &desc) != 0 || convrt_device_open("cpu", &device) != 0 ||
      convrt_plan_create(device, &desc, weights, 4, NULL, 0, NULL, &plan) != 0 ||
      convrt_plan_run(plan, src, 9, dst, 4, NULL) != 0) {
    printf("failed: %s\n", convrt_last_error());
    return 1;
  }
  convrt_plan_destroy(plan);
  convrt_device_destroy(device);
  if (memcmp(dst, expected, sizeof dst) != 0) {
    puts("wrong result");
    return 1;
  }
  if (convrt_device_open("no such device", &device) == 0 || strstr(convrt_last_error(), "no such device") == NULL) {
    puts("the error did not arrive");
    return 1;
  }
  puts("convrt works in C");
  return 0;
}
