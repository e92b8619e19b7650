/**
 * \file
 * convrt in C: the same library as convrt.hpp, behind opaque handles and status codes. C11; also includes from C++.
 *
 * Every function that can fail returns a convrt_status; the message is convrt_last_error(). No exception leaves a
 * function. Objects are made by ..._create or ..._open and freed by ..._destroy, which takes NULL; an object may be
 * freed while others made from it live. Lengths are in floats. Strings are UTF-8 and NUL-terminated.
 *
 * Functions that return text write at most `size` bytes (NUL included) to `text` and the full length (NUL not included)
 * to `*length`; `text` may be NULL where size is 0, `length` may be NULL.
 */
#ifndef CONVRT_CONVRT_H
#define CONVRT_CONVRT_H

#include <stddef.h>
#include <stdint.h>

#include "convrt/export.h"
#include "convrt/version.h"

#ifdef __cplusplus
extern "C" {
#endif

/** One for every convrt::ErrorCode. */
typedef enum convrt_status {
  CONVRT_OK = 0,
  CONVRT_INVALID_ARGUMENT = 1, /**< the caller's descriptor, length, name or option is wrong; the message names it */
  CONVRT_UNSUPPORTED = 2,      /**< valid, but this device or kernel cannot do it */
  CONVRT_NO_DEVICE = 3,        /**< no device of that id exists here; the message lists those that do */
  CONVRT_COMPILE_FAILED = 4,   /**< a shader did not compile or link; the message carries the driver's log */
  CONVRT_OUT_OF_MEMORY = 5,    /**< host or device memory ran out */
  CONVRT_DEVICE_LOST = 6,      /**< the GPU context was reset; its work has failed */
  CONVRT_TIMEOUT = 7,          /**< a bounded wait ran out; the work itself goes on */
  CONVRT_CANCELLED = 8,        /**< the work was withdrawn before it started */
  CONVRT_IO_ERROR = 9,         /**< a file could not be read or written */
  CONVRT_INTERNAL = 10         /**< a defect of convrt; please report it with the message */
} convrt_status;

/** The message of the latest failure on this thread, "" if there was none; valid until the next failure on it. */
CONVRT_API const char* convrt_last_error(void);
CONVRT_API const char* convrt_status_name(convrt_status status); /**< "ok", "invalid_argument", ... */
CONVRT_API const char* convrt_version(void);                     /**< of the library that runs: "0.1.0" */

/* ---- describe ---------------------------------------------------------------------------------------------------- */

typedef enum convrt_layout { CONVRT_NCHW = 0, CONVRT_NHWC = 1 } convrt_layout;

typedef enum convrt_activation {
  CONVRT_ACTIVATION_NONE = 0,
  CONVRT_ACTIVATION_RELU = 1,
  CONVRT_ACTIVATION_CLAMP = 2,
  CONVRT_ACTIVATION_LEAKY_RELU = 3,
  CONVRT_ACTIVATION_SIGMOID = 4,
  CONVRT_ACTIVATION_TANH = 5,
  CONVRT_ACTIVATION_SILU = 6,
  CONVRT_ACTIVATION_GELU = 7,
  CONVRT_ACTIVATION_HARD_SWISH = 8
} convrt_activation;

/** convrt::Conv2dDesc, field by field (see conv2d.hpp). Start from CONVRT_CONV2D_DESC_INIT. */
typedef struct convrt_conv2d_desc {
  size_t struct_size; /**< sizeof(convrt_conv2d_desc): fields may be added behind the last in later versions */
  int n, c, h, w;
  int k, r, s;
  int stride_h, stride_w, dilation_h, dilation_w;
  int pad_top, pad_left, pad_bottom, pad_right;
  int groups;
  int layout;     /**< convrt_layout */
  int accumulate; /**< 0 or 1 */
  int activation; /**< convrt_activation */
  float alpha, beta;
} convrt_conv2d_desc;

#define CONVRT_CONV2D_DESC_INIT \
  { sizeof(convrt_conv2d_desc), 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0.0F, 0.0F }

/** Fills `desc` from a problem string, e.g. "n1c64h56w56k64r3s3ph1pw1+relu" (grammar: conv2d.hpp). */
CONVRT_API convrt_status convrt_conv2d_desc_parse(const char* problem, convrt_conv2d_desc* desc);
CONVRT_API convrt_status convrt_conv2d_desc_str(const convrt_conv2d_desc* desc, char* text, size_t size,
                                                size_t* length);
/** Validates `desc`; writes the destination's height and width. Either pointer may be NULL. */
CONVRT_API convrt_status convrt_conv2d_dst_extent(const convrt_conv2d_desc* desc, int* p, int* q);
/** Validates `desc`; writes the floats in each tensor. Any pointer may be NULL. */
CONVRT_API convrt_status convrt_conv2d_sizes(const convrt_conv2d_desc* desc, size_t* src, size_t* weights, size_t* dst);

/* ---- devices and buffers ----------------------------------------------------------------------------------------- */

typedef struct convrt_device convrt_device;
typedef struct convrt_buffer convrt_buffer;

typedef struct convrt_device_info {
  const char *id, *name, *arch, *driver; /**< valid while the device handle lives */
  int software;                          /**< 1: a GL driver that runs on the CPU */
  size_t memory_bytes;                   /**< 0 where unknown */
  int compute_units;
} convrt_device_info;

CONVRT_API convrt_status convrt_device_count(size_t* count);
CONVRT_API convrt_status convrt_device_at(size_t index, convrt_device** device);     /**< index 0 is the CPU */
CONVRT_API convrt_status convrt_device_open(const char* id, convrt_device** device); /**< "cpu", "gl:0", "best" */
CONVRT_API void convrt_device_destroy(convrt_device* device);
CONVRT_API convrt_status convrt_device_get_info(const convrt_device* device, convrt_device_info* info);
/** Names of the kernels able to run `desc`, best guess first, one a line. */
CONVRT_API convrt_status convrt_device_kernels(const convrt_device* device, const convrt_conv2d_desc* desc, char* text,
                                               size_t size, size_t* length);
/** Waits for everything enqueued on the device; fails with the first error of it, once. */
CONVRT_API convrt_status convrt_device_synchronize(const convrt_device* device);

CONVRT_API convrt_status convrt_buffer_create(const convrt_device* device, size_t floats, convrt_buffer** buffer);
CONVRT_API void convrt_buffer_destroy(convrt_buffer* buffer); /**< safe while enqueued work still uses it */
CONVRT_API convrt_status convrt_buffer_upload(convrt_buffer* buffer, const float* from, size_t floats);
CONVRT_API convrt_status convrt_buffer_download(const convrt_buffer* buffer, float* to, size_t floats);
CONVRT_API size_t convrt_buffer_size(const convrt_buffer* buffer);

/* ---- plans ------------------------------------------------------------------------------------------------------- */

typedef struct convrt_plan convrt_plan;

typedef enum convrt_accuracy { CONVRT_ACCURACY_STRICT = 0, CONVRT_ACCURACY_NORMAL = 1 } convrt_accuracy;
typedef enum convrt_tune_mode { CONVRT_TUNE_OFF = 0, CONVRT_TUNE_CACHED = 1, CONVRT_TUNE_MEASURE = 2 } convrt_tune_mode;

/** convrt::PlanOptions (see plan.hpp). NULL instead of a pointer to it means the defaults. */
typedef struct convrt_plan_options {
  size_t struct_size;
  const char* kernel;  /**< full name or prefix; NULL: chosen for you */
  int tune;            /**< convrt_tune_mode */
  int accuracy;        /**< convrt_accuracy */
  int threads;         /**< CPU: most threads one run may use; 0: all cores */
  int batch_invariant; /**< not 0: an image's bits do not depend on the batch */
} convrt_plan_options;

#define CONVRT_PLAN_OPTIONS_INIT \
  { sizeof(convrt_plan_options), NULL, CONVRT_TUNE_CACHED, CONVRT_ACCURACY_NORMAL, 0, 0 }

typedef struct convrt_run_stats {
  double total_ms, device_ms;
} convrt_run_stats;

/** `weights`: KCRS. `bias`: k floats, or NULL and 0. Both are copied. */
CONVRT_API convrt_status convrt_plan_create(const convrt_device* device, const convrt_conv2d_desc* desc,
                                            const float* weights, size_t weights_floats, const float* bias,
                                            size_t bias_floats, const convrt_plan_options* options, convrt_plan** plan);
CONVRT_API void convrt_plan_destroy(convrt_plan* plan);
/** Blocks. `stats` may be NULL. Thread-safe. */
CONVRT_API convrt_status convrt_plan_run(const convrt_plan* plan, const float* src, size_t src_floats, float* dst,
                                         size_t dst_floats, convrt_run_stats* stats);
CONVRT_API convrt_status convrt_plan_enqueue(const convrt_plan* plan, const convrt_buffer* src, convrt_buffer* dst);
/** The same weights and kernel at another source size, as a plan of its own. */
CONVRT_API convrt_status convrt_plan_reshape(const convrt_plan* plan, int n, int h, int w, convrt_plan** reshaped);
CONVRT_API const char* convrt_plan_kernel(const convrt_plan* plan); /**< valid while the handle lives; NULL for NULL */
CONVRT_API size_t convrt_plan_workspace_bytes(const convrt_plan* plan);

/* ---- executor: convrt::Executor ---------------------------------------------------------------------------------- */

typedef struct convrt_executor convrt_executor;
typedef struct convrt_ticket convrt_ticket;
typedef struct convrt_slot convrt_slot;

typedef struct convrt_executor_stats {
  size_t submitted, completed, failed, cancelled, in_flight;
  double device_busy_share, host_wait_ms;
  size_t bytes_uploaded, bytes_downloaded;
} convrt_executor_stats;

/** A chain of `count` plans on one device, each one's dst the next one's src; depth 3 is triple buffering. */
CONVRT_API convrt_status convrt_executor_create(const convrt_plan* const* plans, size_t count, int depth,
                                                convrt_executor** executor);
/** Cancels what has not started; blocks until no caller memory is in use. */
CONVRT_API void convrt_executor_destroy(convrt_executor* executor);
/** src and dst must live until the work is done. `ticket` may be NULL: then only drain tells the end. */
CONVRT_API convrt_status convrt_executor_submit(convrt_executor* executor, const float* src, size_t src_floats,
                                                float* dst, size_t dst_floats, convrt_ticket** ticket);
CONVRT_API convrt_status convrt_executor_acquire(convrt_executor* executor, convrt_slot** slot);
CONVRT_API float* convrt_slot_src(convrt_slot* slot, size_t* floats);
CONVRT_API void convrt_slot_destroy(convrt_slot* slot); /**< gives an unsubmitted place back */
/** Frees `slot`, whether it succeeds or not. The result is read with convrt_ticket_dst. */
CONVRT_API convrt_status convrt_executor_submit_slot(convrt_executor* executor, convrt_slot* slot,
                                                     convrt_ticket** ticket);
CONVRT_API convrt_status convrt_executor_drain(convrt_executor* executor);
CONVRT_API convrt_status convrt_executor_get_stats(const convrt_executor* executor, convrt_executor_stats* stats);

CONVRT_API int convrt_ticket_done(const convrt_ticket* ticket); /**< 1: finished, failed or cancelled */
/** Waits; fails as the work failed. timeout_ms < 0: without limit. `stats` may be NULL. */
CONVRT_API convrt_status convrt_ticket_wait(const convrt_ticket* ticket, int64_t timeout_ms, convrt_run_stats* stats);
CONVRT_API const float* convrt_ticket_dst(const convrt_ticket* ticket, size_t* floats);
CONVRT_API void convrt_ticket_destroy(convrt_ticket* ticket); /**< the work goes on */

/* ---- several devices: convrt::MultiDevicePlan -------------------------------------------------------------------- */

typedef struct convrt_multi_plan convrt_multi_plan;

CONVRT_API convrt_status convrt_multi_plan_create(const convrt_device* const* devices, size_t count,
                                                  const convrt_conv2d_desc* desc, const float* weights,
                                                  size_t weights_floats, const float* bias, size_t bias_floats,
                                                  const convrt_plan_options* options, convrt_multi_plan** plan);
CONVRT_API void convrt_multi_plan_destroy(convrt_multi_plan* plan);
CONVRT_API convrt_status convrt_multi_plan_run(convrt_multi_plan* plan, const float* src, size_t src_floats, float* dst,
                                               size_t dst_floats, convrt_run_stats* stats);
CONVRT_API convrt_status convrt_multi_plan_submit(convrt_multi_plan* plan, const float* src, size_t src_floats,
                                                  float* dst, size_t dst_floats, convrt_ticket** ticket);
/** Of device `index` of the list: its part of the latest run and its measured rate. Either pointer may be NULL. */
CONVRT_API convrt_status convrt_multi_plan_share(const convrt_multi_plan* plan, size_t index, double* fraction,
                                                 double* gflops);

/* ---- tuning ------------------------------------------------------------------------------------------------------ */

typedef struct convrt_tune_report convrt_tune_report;

typedef struct convrt_tune_progress {
  size_t done, total;
  const char *kernel, *best; /**< valid during the call */
  double best_ms, elapsed_ms;
} convrt_tune_progress;

typedef struct convrt_tune_options {
  size_t struct_size;
  double budget_ms;
  /** After each candidate; NULL: none. Returning other than 0 ends the search. Must not call convrt_tune. */
  int (*progress)(const convrt_tune_progress* progress, void* user);
  void* user;
  size_t most_candidates; /**< only the first so many Winograd kernels and so many others; 0: all */
} convrt_tune_options;

#define CONVRT_TUNE_OPTIONS_INIT \
  { sizeof(convrt_tune_options), 2000.0, NULL, NULL, 0 }

typedef struct convrt_tune_result {
  const char* kernel; /**< strings are valid while the report lives */
  double ms, spread, error;
  const char* rejected; /**< "" or why */
} convrt_tune_result;

/** `options` and `report` may be NULL; the results are in the user's tune cache in any case. */
CONVRT_API convrt_status convrt_tune(const convrt_device* device, const convrt_conv2d_desc* desc,
                                     const convrt_tune_options* options, convrt_tune_report** report);
CONVRT_API size_t convrt_tune_report_count(const convrt_tune_report* report);
CONVRT_API int convrt_tune_report_complete(const convrt_tune_report* report);
/** Fastest first, rejected ones last. */
CONVRT_API convrt_status convrt_tune_report_at(const convrt_tune_report* report, size_t index,
                                               convrt_tune_result* result);
CONVRT_API void convrt_tune_report_destroy(convrt_tune_report* report);

/* ---- custom GLSL shaders (contract: shader.hpp) ------------------------------------------------------------------ */

typedef struct convrt_shader convrt_shader;

typedef struct convrt_shader_source {
  size_t struct_size;
  const char* glsl;                 /**< a whole compute shader, "#version" line included */
  const char* label;                /**< or NULL; stands in messages */
  const char* const* define_names;  /**< define_count names, put behind the "#version" line */
  const char* const* define_values; /**< and their values */
  size_t define_count;
  uint32_t groups[3]; /**< {0,0,0}: one invocation per dst element */
} convrt_shader_source;

#define CONVRT_SHADER_SOURCE_INIT                                        \
  {                                                                      \
    sizeof(convrt_shader_source), NULL, NULL, NULL, NULL, 0, { 0, 0, 0 } \
  }

CONVRT_API convrt_status convrt_gpu_compile_custom_shader(const convrt_device* device,
                                                          const convrt_shader_source* source, convrt_shader** shader);
CONVRT_API const char* convrt_shader_log(const convrt_shader* shader); /**< warnings of a successful compile */
CONVRT_API void convrt_shader_destroy(convrt_shader* shader);
/** `bias` may be NULL with bias_floats 0; `stats` may be NULL. */
CONVRT_API convrt_status convrt_gpu_execute_conv2d_custom(const convrt_shader* shader, const convrt_conv2d_desc* desc,
                                                          const float* src, size_t src_floats, const float* weights,
                                                          size_t weights_floats, float* dst, size_t dst_floats,
                                                          const float* bias, size_t bias_floats,
                                                          convrt_run_stats* stats);
/** One of the built-in shaders, complete; `name` NULL: their names, one a line. */
CONVRT_API convrt_status convrt_builtin_shader(const char* name, char* text, size_t size, size_t* length);

/* ---- log --------------------------------------------------------------------------------------------------------- */

typedef enum convrt_log_level {
  CONVRT_LOG_OFF = 0,
  CONVRT_LOG_ERROR = 1,
  CONVRT_LOG_WARNING = 2,
  CONVRT_LOG_INFO = 3,
  CONVRT_LOG_DEBUG = 4
} convrt_log_level;

typedef void (*convrt_log_callback)(int level, const char* message, void* user);

/** From any thread, one call at a time; must not call convrt. NULL restores the default (see log.hpp). */
CONVRT_API convrt_status convrt_set_log(int level, convrt_log_callback callback, void* user);

#ifdef __cplusplus
}
#endif

#endif
