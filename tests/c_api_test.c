/* The C API, used from C11: every function once, every kind of misuse, no crash. Exit status: failed checks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convrt/convrt.h"

static int failures = 0;

#define CHECK(condition)                                                                                   \
  do {                                                                                                     \
    if (!(condition)) {                                                                                    \
      fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #condition, convrt_last_error()); \
      ++failures;                                                                                          \
    }                                                                                                      \
  } while (0)
#define OK(call) CHECK((call) == CONVRT_OK)
#define FAILS(status, part, call) CHECK((call) == (status) && strstr(convrt_last_error(), part) != NULL)

enum { SRC = 2 * 5 * 6, WEIGHTS = 3 * 2 * 3 * 3, DST = 3 * 3 * 4 };

static float src[SRC], weights[WEIGHTS], bias[3], expected[DST], dst[DST];

static void make_data(void) {
  for (int i = 0; i < SRC; ++i) src[i] = (float)(i * 7 % 17 - 8);
  for (int i = 0; i < WEIGHTS; ++i) weights[i] = (float)(i * 5 % 11 - 5);
  for (int i = 0; i < 3; ++i) bias[i] = (float)i;
  for (int k = 0; k < 3; ++k)
    for (int p = 0; p < 3; ++p)
      for (int q = 0; q < 4; ++q) {
        double sum = bias[k];
        for (int c = 0; c < 2; ++c)
          for (int r = 0; r < 3; ++r)
            for (int s = 0; s < 3; ++s)
              sum += (double)weights[((k * 2 + c) * 3 + r) * 3 + s] * (double)src[(c * 5 + p + r) * 6 + q + s];
        expected[(k * 3 + p) * 4 + q] = sum > 0 ? (float)sum : 0;
      }
}

static int right(const float* found) { return memcmp(found, expected, sizeof expected) == 0; }

static convrt_conv2d_desc problem(void) {
  convrt_conv2d_desc desc = CONVRT_CONV2D_DESC_INIT;
  desc.c = 2, desc.h = 5, desc.w = 6;
  desc.k = 3, desc.r = 3, desc.s = 3;
  desc.activation = CONVRT_ACTIVATION_RELU;
  return desc;
}

static void test_description(void) {
  convrt_conv2d_desc desc = problem(), parsed = CONVRT_CONV2D_DESC_INIT;
  char text[64];
  size_t length = 0, s = 0, w = 0, d = 0;
  int p = 0, q = 0;
  OK(convrt_conv2d_desc_str(&desc, text, sizeof text, &length));
  CHECK(strcmp(text, "n1c2h5w6k3r3s3+relu") == 0 && length == strlen(text));
  OK(convrt_conv2d_desc_str(&desc, text, 5, &length));
  CHECK(strcmp(text, "n1c2") == 0 && length == 19);
  OK(convrt_conv2d_desc_str(&desc, NULL, 0, &length));
  OK(convrt_conv2d_desc_parse("n1c2h5w6k3r3s3+relu", &parsed));
  CHECK(memcmp(&parsed, &desc, sizeof desc) == 0);
  OK(convrt_conv2d_desc_parse("n4c8h9w7k6r3s2sh2sw3dh2dw4pt1pl2pb3pr4g2+nhwc+acc+clamp:-1:6", &parsed));
  CHECK(parsed.stride_w == 3 && parsed.dilation_h == 2 && parsed.dilation_w == 4 && parsed.pad_top == 1 &&
        parsed.pad_left == 2 && parsed.pad_bottom == 3 && parsed.pad_right == 4 && parsed.groups == 2 &&
        parsed.layout == CONVRT_NHWC && parsed.accumulate == 1 && parsed.activation == CONVRT_ACTIVATION_CLAMP);
  CHECK(parsed.alpha == -1.0F && parsed.beta == 6.0F);
  OK(convrt_conv2d_dst_extent(&desc, &p, &q));
  CHECK(p == 3 && q == 4);
  OK(convrt_conv2d_sizes(&desc, &s, &w, &d));
  CHECK(s == SRC && w == WEIGHTS && d == DST);
  FAILS(CONVRT_INVALID_ARGUMENT, "expected", convrt_conv2d_desc_parse("nonsense", &parsed));
  FAILS(CONVRT_INVALID_ARGUMENT, "NULL", convrt_conv2d_desc_parse(NULL, &parsed));
  desc.struct_size = 3;
  FAILS(CONVRT_INVALID_ARGUMENT, "CONVRT_CONV2D_DESC_INIT", convrt_conv2d_sizes(&desc, &s, &w, &d));
  desc = problem();
  desc.layout = 7;
  FAILS(CONVRT_INVALID_ARGUMENT, "layout must be 0 to 1, found 7", convrt_conv2d_sizes(&desc, &s, &w, &d));
  desc = problem();
  desc.h = 2;
  FAILS(CONVRT_INVALID_ARGUMENT, "height", convrt_conv2d_dst_extent(&desc, &p, &q));
}

static void test_plan(const convrt_device* device) {
  const convrt_conv2d_desc desc = problem();
  convrt_plan_options options = CONVRT_PLAN_OPTIONS_INIT;
  convrt_plan *plan = NULL, *larger = NULL;
  convrt_buffer *from = NULL, *to = NULL;
  convrt_run_stats stats = {-1, -1};
  char names[4096];
  OK(convrt_device_kernels(device, &desc, names, sizeof names, NULL));
  CHECK(strstr(names, "cpu.reference") != NULL);
  options.kernel = "cpu.reference";
  options.batch_invariant = 1;
  OK(convrt_plan_create(device, &desc, weights, WEIGHTS, bias, 3, &options, &plan));
  CHECK(strcmp(convrt_plan_kernel(plan), "cpu.reference") == 0);
  CHECK(convrt_plan_workspace_bytes(plan) == 0);
  OK(convrt_plan_run(plan, src, SRC, dst, DST, &stats));
  CHECK(right(dst) && stats.total_ms >= 0 && stats.device_ms >= 0);
  FAILS(CONVRT_INVALID_ARGUMENT, "60", convrt_plan_run(plan, src, SRC - 1, dst, DST, NULL));
  FAILS(CONVRT_INVALID_ARGUMENT, "NULL", convrt_plan_run(plan, NULL, SRC, dst, DST, NULL));
  FAILS(CONVRT_INVALID_ARGUMENT, "plan", convrt_plan_run(NULL, src, SRC, dst, DST, NULL));

  OK(convrt_buffer_create(device, SRC, &from));
  OK(convrt_buffer_create(device, DST, &to));
  CHECK(convrt_buffer_size(from) == SRC);
  memset(dst, 0, sizeof dst);
  OK(convrt_buffer_upload(from, src, SRC));
  OK(convrt_plan_enqueue(plan, from, to));
  OK(convrt_device_synchronize(device));
  OK(convrt_buffer_download(to, dst, DST));
  CHECK(right(dst));
  FAILS(CONVRT_INVALID_ARGUMENT, "floats", convrt_buffer_upload(from, src, 1));
  FAILS(CONVRT_INVALID_ARGUMENT, "src", convrt_plan_enqueue(plan, to, from));
  convrt_buffer_destroy(from);
  convrt_buffer_destroy(to);

  OK(convrt_plan_reshape(plan, 1, 7, 8, &larger));
  convrt_plan_destroy(larger);
  FAILS(CONVRT_INVALID_ARGUMENT, "h", convrt_plan_reshape(plan, 1, -1, 8, &larger));
  CHECK(larger == NULL);
  convrt_plan_destroy(plan);

  options.kernel = "cpu.nothing";
  FAILS(CONVRT_INVALID_ARGUMENT, "cpu.nothing",
        convrt_plan_create(device, &desc, weights, WEIGHTS, NULL, 0, &options, &plan));
  CHECK(plan == NULL);
  FAILS(CONVRT_INVALID_ARGUMENT, "weights", convrt_plan_create(device, &desc, weights, 1, NULL, 0, NULL, &plan));
  FAILS(CONVRT_INVALID_ARGUMENT, "plan", convrt_plan_create(device, &desc, weights, WEIGHTS, NULL, 0, NULL, NULL));
  options.struct_size = 1000;
  FAILS(CONVRT_INVALID_ARGUMENT, "struct_size",
        convrt_plan_create(device, &desc, weights, WEIGHTS, NULL, 0, &options, &plan));
}

static void test_executor(const convrt_device* device) {
  const convrt_conv2d_desc desc = problem();
  convrt_conv2d_desc next = CONVRT_CONV2D_DESC_INIT;
  convrt_plan* plans[2] = {NULL, NULL};
  convrt_executor *executor = NULL, *chain = NULL;
  convrt_ticket *ticket = NULL, *kept = NULL;
  convrt_slot* slot = NULL;
  convrt_executor_stats stats;
  convrt_run_stats run;
  size_t floats = 0;
  const float ones[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
  OK(convrt_plan_create(device, &desc, weights, WEIGHTS, bias, 3, NULL, &plans[0]));
  next.c = 3, next.h = 3, next.w = 4, next.k = 3, next.r = 1, next.s = 1;
  OK(convrt_plan_create(device, &next, ones, 9, NULL, 0, NULL, &plans[1])); /* the identity */
  OK(convrt_executor_create((const convrt_plan* const*)plans, 1, 3, &executor));
  OK(convrt_executor_create((const convrt_plan* const*)plans, 2, 2, &chain));
  convrt_plan_destroy(plans[0]); /* executors keep what they need */
  convrt_plan_destroy(plans[1]);
  for (int i = 0; i < 5; ++i) {
    memset(dst, 0, sizeof dst);
    OK(convrt_executor_submit(i % 2 == 0 ? executor : chain, src, SRC, dst, DST, &ticket));
    OK(convrt_ticket_wait(ticket, 10000, &run));
    CHECK(convrt_ticket_done(ticket) == 1 && right(dst) && run.total_ms > 0);
    CHECK(convrt_ticket_dst(ticket, &floats) == dst && floats == DST);
    convrt_ticket_destroy(ticket);
  }
  OK(convrt_executor_acquire(executor, &slot));
  CHECK(convrt_slot_src(slot, &floats) != NULL && floats == SRC);
  convrt_slot_destroy(slot);
  OK(convrt_executor_acquire(executor, &slot));
  memcpy(convrt_slot_src(slot, NULL), src, sizeof src);
  OK(convrt_executor_submit_slot(executor, slot, &kept));
  OK(convrt_executor_submit(executor, src, SRC, dst, DST, NULL));
  OK(convrt_executor_drain(executor));
  OK(convrt_executor_get_stats(executor, &stats));
  CHECK(stats.submitted == 5 && stats.completed == 5 && stats.in_flight == 0 && stats.failed == 0);
  FAILS(CONVRT_INVALID_ARGUMENT, "floats", convrt_executor_submit(executor, src, 1, dst, DST, &ticket));
  FAILS(CONVRT_INVALID_ARGUMENT, "slot", convrt_executor_submit_slot(executor, NULL, &ticket));
  convrt_executor_destroy(executor);
  convrt_executor_destroy(chain);
  OK(convrt_ticket_wait(kept, -1, NULL));
  CHECK(right(convrt_ticket_dst(kept, NULL)));
  convrt_ticket_destroy(kept);
  FAILS(CONVRT_INVALID_ARGUMENT, "plan", convrt_executor_create(NULL, 0, 3, &executor));
  FAILS(CONVRT_INVALID_ARGUMENT, "NULL", convrt_executor_create(NULL, 1, 3, &executor));
}

static void test_multi_plan(const convrt_device* device) {
  const convrt_conv2d_desc desc = problem();
  const convrt_device* devices[2] = {device, device};
  convrt_multi_plan* plan = NULL;
  convrt_ticket* ticket = NULL;
  double fraction = 0, gflops = 0;
  OK(convrt_multi_plan_create(devices, 1, &desc, weights, WEIGHTS, bias, 3, NULL, &plan));
  memset(dst, 0, sizeof dst);
  OK(convrt_multi_plan_run(plan, src, SRC, dst, DST, NULL));
  CHECK(right(dst));
  memset(dst, 0, sizeof dst);
  OK(convrt_multi_plan_submit(plan, src, SRC, dst, DST, &ticket));
  OK(convrt_ticket_wait(ticket, -1, NULL));
  CHECK(right(dst));
  convrt_ticket_destroy(ticket);
  OK(convrt_multi_plan_share(plan, 0, &fraction, &gflops));
  CHECK(fraction == 1 && gflops > 0);
  FAILS(CONVRT_INVALID_ARGUMENT, "index", convrt_multi_plan_share(plan, 1, &fraction, NULL));
  convrt_multi_plan_destroy(plan);
  FAILS(CONVRT_INVALID_ARGUMENT, "twice",
        convrt_multi_plan_create(devices, 2, &desc, weights, WEIGHTS, bias, 3, NULL, &plan));
}

static int count_and_stop(const convrt_tune_progress* progress, void* user) {
  CHECK(progress->kernel[0] != '\0' && progress->total >= progress->done);
  ++*(int*)user;
  return 1;
}

static void test_tune(const convrt_device* device) {
  const convrt_conv2d_desc desc = problem();
  convrt_tune_options options = CONVRT_TUNE_OPTIONS_INIT;
  convrt_tune_report* report = NULL;
  convrt_tune_result result;
  int calls = 0;
  options.progress = count_and_stop;
  options.user = &calls;
  OK(convrt_tune(device, &desc, &options, &report));
  CHECK(calls == 1 && convrt_tune_report_count(report) >= 1);
  OK(convrt_tune_report_at(report, 0, &result));
  CHECK(result.ms > 0 && result.error <= 1 && result.rejected[0] == '\0');
  FAILS(CONVRT_INVALID_ARGUMENT, "index", convrt_tune_report_at(report, 1000, &result));
  convrt_tune_report_destroy(report);
  options.progress = NULL;
  options.most_candidates = 1;
  OK(convrt_tune(device, &desc, &options, &report));
  CHECK(convrt_tune_report_count(report) <= 2);
  convrt_tune_report_destroy(report);
  OK(convrt_tune(device, &desc, NULL, &report));
  CHECK(convrt_tune_report_complete(report) == 1);
  convrt_tune_report_destroy(report);
}

static void test_shader(const convrt_device* cpu) {
  convrt_shader_source source = CONVRT_SHADER_SOURCE_INIT;
  convrt_shader* shader = NULL;
  const convrt_conv2d_desc desc = problem();
  char text[256];
  source.glsl = "#version 430 core\nvoid main() {}\n";
  source.label = "mine";
  FAILS(CONVRT_UNSUPPORTED, "\"mine\": device cpu", convrt_gpu_compile_custom_shader(cpu, &source, &shader));
  CHECK(shader == NULL);
  source.groups[0] = 4;
  FAILS(CONVRT_INVALID_ARGUMENT, "groups", convrt_gpu_compile_custom_shader(cpu, &source, &shader));
  source.groups[0] = 0;
  source.define_count = 1;
  FAILS(CONVRT_INVALID_ARGUMENT, "define_names", convrt_gpu_compile_custom_shader(cpu, &source, &shader));
  FAILS(CONVRT_INVALID_ARGUMENT, "shader",
        convrt_gpu_execute_conv2d_custom(NULL, &desc, src, SRC, weights, WEIGHTS, dst, DST, bias, 3, NULL));
  FAILS(CONVRT_INVALID_ARGUMENT, "no such", convrt_builtin_shader("no such", text, sizeof text, NULL));
  OK(convrt_builtin_shader(NULL, text, sizeof text, NULL));
}

static void count_message(int level, const char* message, void* user) {
  if (level > 0 && message[0] != '\0') ++*(int*)user;
}

static void test_log_and_errors(void) {
  int messages = 0;
  convrt_device* device = NULL;
  convrt_plan* plan = NULL;
  const convrt_conv2d_desc desc = problem();
  OK(convrt_set_log(CONVRT_LOG_INFO, count_message, &messages));
  OK(convrt_device_at(0, &device));
  OK(convrt_plan_create(device, &desc, weights, WEIGHTS, bias, 3, NULL, &plan));
  OK(convrt_set_log(CONVRT_LOG_OFF, NULL, NULL));
  CHECK(messages > 0);
  convrt_plan_destroy(plan);
  convrt_device_destroy(device);
  FAILS(CONVRT_INVALID_ARGUMENT, "level", convrt_set_log(9, count_message, NULL));
  FAILS(CONVRT_NO_DEVICE, "gl:77", convrt_device_open("gl:77", &device));
  FAILS(CONVRT_NO_DEVICE, "index", convrt_device_at(1000, &device));
  CHECK(strcmp(convrt_status_name(CONVRT_OK), "ok") == 0);
  CHECK(strcmp(convrt_status_name(CONVRT_DEVICE_LOST), "device_lost") == 0);
  CHECK(strcmp(convrt_version(), CONVRT_VERSION_STRING) == 0);
}

static void test_null(void) { /* freeing or asking nothing is nothing */
  convrt_device_destroy(NULL);
  convrt_buffer_destroy(NULL);
  convrt_plan_destroy(NULL);
  convrt_executor_destroy(NULL);
  convrt_ticket_destroy(NULL);
  convrt_slot_destroy(NULL);
  convrt_multi_plan_destroy(NULL);
  convrt_tune_report_destroy(NULL);
  convrt_shader_destroy(NULL);
  CHECK(convrt_plan_kernel(NULL) == NULL && convrt_buffer_size(NULL) == 0 && convrt_ticket_done(NULL) == 1);
  FAILS(CONVRT_INVALID_ARGUMENT, "NULL", convrt_executor_drain(NULL));
  FAILS(CONVRT_INVALID_ARGUMENT, "NULL", convrt_ticket_wait(NULL, 0, NULL));
  FAILS(CONVRT_INVALID_ARGUMENT, "NULL", convrt_device_count(NULL));
}

int main(void) {
  convrt_device* device = NULL;
  convrt_device_info info;
  size_t count = 0;
  CHECK(convrt_last_error()[0] == '\0');
  make_data();
  OK(convrt_device_count(&count));
  CHECK(count >= 1);
  OK(convrt_device_open("cpu", &device));
  OK(convrt_device_get_info(device, &info));
  CHECK(strcmp(info.id, "cpu") == 0 && info.software == 0);
  test_description();
  test_plan(device);
  test_executor(device);
  test_multi_plan(device);
  test_tune(device);
  test_shader(device);
  test_log_and_errors();
  test_null();
  convrt_device_destroy(device);
  if (failures == 0) printf("C API: all checks passed\n");
  return failures;
}
