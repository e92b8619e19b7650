/* convrt from C: prepare a convolution, stream pictures through it, check every number.
 *
 *   c_api [device]      device: "cpu", "gl:0", "best" (default "cpu") */
#include <stdio.h>
#include <stdlib.h>

#include "convrt/convrt.h"

enum { PICTURES = 8, SIZE = 64 };

/* Every convrt call is checked: the message says what was expected, what was found, what to do. */
static void check(convrt_status status) {
  if (status == CONVRT_OK) return;
  fprintf(stderr, "convrt: %s: %s\n", convrt_status_name(status), convrt_last_error());
  exit(EXIT_FAILURE);
}

static float* floats(size_t count) {
  float* memory = malloc(count * sizeof *memory);
  if (memory == NULL) {
    fprintf(stderr, "no memory for %zu floats\n", count);
    exit(EXIT_FAILURE);
  }
  return memory;
}

int main(int argc, char** argv) {
  /* Describe: a 3x3 mean of one-channel pictures, borders padded with zeros. */
  convrt_conv2d_desc desc = CONVRT_CONV2D_DESC_INIT;
  desc.c = 1, desc.h = SIZE, desc.w = SIZE;
  desc.k = 1, desc.r = 3, desc.s = 3;
  desc.pad_top = desc.pad_left = desc.pad_bottom = desc.pad_right = 1;
  size_t src_size, weights_size, dst_size;
  check(convrt_conv2d_sizes(&desc, &src_size, &weights_size, &dst_size));
  float weights[9];
  for (size_t i = 0; i < weights_size; ++i) weights[i] = 1.0F / 9.0F;

  /* Pick a device, prepare once. */
  convrt_device* device;
  convrt_device_info info;
  convrt_plan* plan;
  check(convrt_device_open(argc > 1 ? argv[1] : "cpu", &device));
  check(convrt_device_get_info(device, &info));
  check(convrt_plan_create(device, &desc, weights, weights_size, NULL, 0, NULL, &plan));
  printf("%s (%s) runs %s\n", info.id, info.name, convrt_plan_kernel(plan));

  /* Stream: up to three pictures in flight; picture i is the constant i + 1. */
  convrt_executor* executor;
  const convrt_plan* chain[] = {plan};
  check(convrt_executor_create(chain, 1, 3, &executor));
  float *src[PICTURES], *dst[PICTURES];
  convrt_ticket* tickets[PICTURES];
  for (int i = 0; i < PICTURES; ++i) {
    src[i] = floats(src_size);
    dst[i] = floats(dst_size);
    for (size_t j = 0; j < src_size; ++j) src[i][j] = (float)(i + 1);
    check(convrt_executor_submit(executor, src[i], src_size, dst[i], dst_size, &tickets[i]));
  }

  /* The mean of a constant is the constant inside, 6/9 of it on an edge, 4/9 in a corner. */
  size_t wrong = 0;
  for (int i = 0; i < PICTURES; ++i) {
    check(convrt_ticket_wait(tickets[i], -1, NULL));
    for (int p = 0; p < SIZE; ++p)
      for (int q = 0; q < SIZE; ++q) {
        const float rows = p == 0 || p == SIZE - 1 ? 2.0F : 3.0F, columns = q == 0 || q == SIZE - 1 ? 2.0F : 3.0F;
        const float expected = (float)(i + 1) * rows * columns / 9.0F, found = dst[i][p * SIZE + q];
        if (!(found > expected * 0.99999F && found < expected * 1.00001F)) ++wrong;
      }
    convrt_ticket_destroy(tickets[i]);
    free(src[i]);
    free(dst[i]);
  }
  printf("%d pictures, %zu wrong numbers\n", PICTURES, wrong);

  convrt_executor_destroy(executor);
  convrt_plan_destroy(plan);
  convrt_device_destroy(device);
  return wrong == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
