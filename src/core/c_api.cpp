// convrt.h over the C++ API: one border where exceptions become status codes.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "convrt/convrt.h"
#include "convrt/convrt.hpp"
#include "core/fail.hpp"
#include "core/ticket.hpp"

using convrt::ErrorCode;
using convrt::core::fail;

// What the handles hold: the C++ value, and strings that C borrows.
struct convrt_device {
  convrt::Device value;
};
struct convrt_buffer {
  convrt::Buffer value;
};
struct convrt_plan {
  convrt::Conv2dPlan value;
  std::string kernel;
  explicit convrt_plan(convrt::Conv2dPlan plan) : value(std::move(plan)), kernel(value.kernel()) {}
};
struct convrt_executor {
  convrt::Executor value;
};
struct convrt_ticket {
  convrt::Ticket value;
};
struct convrt_slot {
  convrt::Slot value;
};
struct convrt_multi_plan {
  convrt::MultiDevicePlan value;
};
struct convrt_tune_report {
  convrt::TuneReport value;
};
struct convrt_shader {
  convrt::CustomShader value;
};

namespace {

static_assert(CONVRT_INTERNAL == static_cast<int>(ErrorCode::internal) + 1, "one status for every code");
static_assert(CONVRT_ACTIVATION_HARD_SWISH == static_cast<int>(convrt::ActivationKind::hard_swish));
static_assert(CONVRT_NHWC == static_cast<int>(convrt::Layout::nhwc));
static_assert(CONVRT_TUNE_MEASURE == static_cast<int>(convrt::Tune::measure));
static_assert(CONVRT_ACCURACY_NORMAL == static_cast<int>(convrt::Accuracy::normal));
static_assert(CONVRT_LOG_DEBUG == static_cast<int>(convrt::LogLevel::debug));

thread_local std::string last_error;

/// The border: runs `action`, turns what it throws into a status and the thread's message.
template <class Action>
convrt_status guarded(const Action& action) noexcept {
  try {
    action();
    return CONVRT_OK;
  } catch (...) {
    const convrt::Error error = convrt::core::as_error(std::current_exception());
    try {
      last_error = error.what();
    } catch (...) {
      last_error.clear();  // no memory even for the message: the status must do
    }
    return static_cast<convrt_status>(static_cast<int>(error.code()) + 1);
  }
}

template <class T>
T& given(T* pointer, const char* what) {
  if (pointer == nullptr) fail(ErrorCode::invalid_argument, what, ": expected a pointer, found NULL");
  return *pointer;
}

template <class T>
T* element(T* const* list, std::size_t index, const char* what) {
  return (&given(list, what))[index];
}

template <class T>
std::span<T> span(T* data, std::size_t floats, const char* what) {
  if (data == nullptr && floats != 0)
    fail(ErrorCode::invalid_argument, what, ": expected ", floats, " floats, found NULL");
  return {data, floats};
}

/// Enumerators arrive as int: any value may stand there.
template <class Enum>
Enum enumerator(int value, Enum last, const char* what) {
  if (value < 0 || value > static_cast<int>(last))
    fail(ErrorCode::invalid_argument, what, " must be 0 to ", static_cast<int>(last), ", found ", value);
  return static_cast<Enum>(value);
}

void check_size(std::size_t found, std::size_t expected, const char* what, const char* init) {
  if (found != expected)
    fail(ErrorCode::invalid_argument, what, ": struct_size must be ", expected, ", found ", found,
         "; initialise it with ", init, " and link the library that belongs to this header");
}

convrt::Conv2dDesc to_cpp(const convrt_conv2d_desc* desc) {
  const convrt_conv2d_desc& c = given(desc, "desc");
  check_size(c.struct_size, sizeof c, "convrt_conv2d_desc", "CONVRT_CONV2D_DESC_INIT");
  convrt::Conv2dDesc d;
  d.n = c.n, d.c = c.c, d.h = c.h, d.w = c.w;
  d.k = c.k, d.r = c.r, d.s = c.s;
  d.stride_h = c.stride_h, d.stride_w = c.stride_w;
  d.dilation_h = c.dilation_h, d.dilation_w = c.dilation_w;
  d.pad_top = c.pad_top, d.pad_left = c.pad_left, d.pad_bottom = c.pad_bottom, d.pad_right = c.pad_right;
  d.groups = c.groups;
  d.layout = enumerator(c.layout, convrt::Layout::nhwc, "layout");
  d.accumulate = c.accumulate != 0;
  d.activation = {enumerator(c.activation, convrt::ActivationKind::hard_swish, "activation"), c.alpha, c.beta};
  return d;
}

convrt_conv2d_desc to_c(const convrt::Conv2dDesc& d) {
  convrt_conv2d_desc c = CONVRT_CONV2D_DESC_INIT;
  c.n = d.n, c.c = d.c, c.h = d.h, c.w = d.w;
  c.k = d.k, c.r = d.r, c.s = d.s;
  c.stride_h = d.stride_h, c.stride_w = d.stride_w;
  c.dilation_h = d.dilation_h, c.dilation_w = d.dilation_w;
  c.pad_top = d.pad_top, c.pad_left = d.pad_left, c.pad_bottom = d.pad_bottom, c.pad_right = d.pad_right;
  c.groups = d.groups;
  c.layout = static_cast<int>(d.layout);
  c.accumulate = d.accumulate ? 1 : 0;
  c.activation = static_cast<int>(d.activation.kind);
  c.alpha = d.activation.alpha, c.beta = d.activation.beta;
  return c;
}

convrt::PlanOptions to_cpp(const convrt_plan_options* options) {
  convrt::PlanOptions o;
  if (options == nullptr) return o;
  check_size(options->struct_size, sizeof *options, "convrt_plan_options", "CONVRT_PLAN_OPTIONS_INIT");
  if (options->kernel != nullptr) o.kernel = options->kernel;
  o.tune = enumerator(options->tune, convrt::Tune::measure, "tune");
  o.accuracy = enumerator(options->accuracy, convrt::Accuracy::normal, "accuracy");
  o.threads = options->threads;
  o.batch_invariant = options->batch_invariant != 0;
  return o;
}

/// Makes an object for the caller; `out` is checked before it is made, and NULL where making it failed.
template <class T, class Make>
void put(T** out, const char* what, const Make& make) {
  T*& place = given(out, what);
  place = nullptr;
  place = make();
}

void put_text(const std::string& from, char* text, std::size_t size, std::size_t* length) {
  if (length != nullptr) *length = from.size();
  if (size == 0) return;
  given(text, "text");
  const std::size_t copied = std::min(size - 1, from.size());
  std::memcpy(text, from.data(), copied);
  text[copied] = '\0';
}

std::string lines(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text.append(text.empty() ? "" : "\n").append(word);
  return text;
}

void put_stats(const convrt::RunStats& from, convrt_run_stats* stats) {
  if (stats != nullptr) *stats = {from.total_ms, from.device_ms};
}

void put_ticket(convrt::Ticket from, convrt_ticket** ticket) {
  if (ticket != nullptr) *ticket = new convrt_ticket{std::move(from)};
}

}  // namespace

const char* convrt_last_error(void) { return last_error.c_str(); }
const char* convrt_version(void) { return CONVRT_VERSION_STRING; }

const char* convrt_status_name(convrt_status status) {
  if (status == CONVRT_OK) return "ok";
  return convrt::to_string(static_cast<ErrorCode>(static_cast<int>(status) - 1));
}

convrt_status convrt_conv2d_desc_parse(const char* problem, convrt_conv2d_desc* desc) {
  return guarded([&] { given(desc, "desc") = to_c(convrt::Conv2dDesc::parse(&given(problem, "problem"))); });
}

convrt_status convrt_conv2d_desc_str(const convrt_conv2d_desc* desc, char* text, size_t size, size_t* length) {
  return guarded([&] { put_text(to_cpp(desc).str(), text, size, length); });
}

convrt_status convrt_conv2d_dst_extent(const convrt_conv2d_desc* desc, int* p, int* q) {
  return guarded([&] {
    const convrt::Conv2dDesc d = to_cpp(desc);
    d.validate();
    if (p != nullptr) *p = d.p();
    if (q != nullptr) *q = d.q();
  });
}

convrt_status convrt_conv2d_sizes(const convrt_conv2d_desc* desc, size_t* src, size_t* weights, size_t* dst) {
  return guarded([&] {
    const convrt::Conv2dDesc d = to_cpp(desc);
    d.validate();
    if (src != nullptr) *src = d.src_size();
    if (weights != nullptr) *weights = d.weights_size();
    if (dst != nullptr) *dst = d.dst_size();
  });
}

convrt_status convrt_device_count(size_t* count) {
  return guarded([&] { given(count, "count") = convrt::devices().size(); });
}

convrt_status convrt_device_at(size_t index, convrt_device** device) {
  return guarded([&] {
    const std::vector<convrt::Device> all = convrt::devices();
    if (index >= all.size()) fail(ErrorCode::no_device, "device index must be below ", all.size(), ", found ", index);
    put(device, "device", [&] { return new convrt_device{all[index]}; });
  });
}

convrt_status convrt_device_open(const char* id, convrt_device** device) {
  return guarded(
      [&] { put(device, "device", [&] { return new convrt_device{convrt::find_device(&given(id, "id"))}; }); });
}

void convrt_device_destroy(convrt_device* device) { delete device; }

convrt_status convrt_device_get_info(const convrt_device* device, convrt_device_info* info) {
  return guarded([&] {
    const convrt::DeviceInfo& i = given(device, "device").value.info();
    given(info, "info") = {i.id.c_str(),       i.name.c_str(), i.arch.c_str(), i.driver.c_str(),
                           i.software ? 1 : 0, i.memory_bytes, i.compute_units};
  });
}

convrt_status convrt_device_kernels(const convrt_device* device, const convrt_conv2d_desc* desc, char* text,
                                    size_t size, size_t* length) {
  return guarded([&] { put_text(lines(given(device, "device").value.kernels(to_cpp(desc))), text, size, length); });
}

convrt_status convrt_device_synchronize(const convrt_device* device) {
  return guarded([&] { given(device, "device").value.synchronize(); });
}

convrt_status convrt_buffer_create(const convrt_device* device, size_t floats, convrt_buffer** buffer) {
  return guarded([&] {
    put(buffer, "buffer", [&] { return new convrt_buffer{given(device, "device").value.allocate(floats)}; });
  });
}

void convrt_buffer_destroy(convrt_buffer* buffer) { delete buffer; }

convrt_status convrt_buffer_upload(convrt_buffer* buffer, const float* from, size_t floats) {
  return guarded([&] { given(buffer, "buffer").value.upload(span(from, floats, "from")); });
}

convrt_status convrt_buffer_download(const convrt_buffer* buffer, float* to, size_t floats) {
  return guarded([&] { given(buffer, "buffer").value.download(span(to, floats, "to")); });
}

size_t convrt_buffer_size(const convrt_buffer* buffer) { return buffer == nullptr ? 0 : buffer->value.size(); }

convrt_status convrt_plan_create(const convrt_device* device, const convrt_conv2d_desc* desc, const float* weights,
                                 size_t weights_floats, const float* bias, size_t bias_floats,
                                 const convrt_plan_options* options, convrt_plan** plan) {
  return guarded([&] {
    put(plan, "plan", [&] {
      return new convrt_plan(convrt::Conv2dPlan(given(device, "device").value, to_cpp(desc),
                                                span(weights, weights_floats, "weights"),
                                                span(bias, bias_floats, "bias"), to_cpp(options)));
    });
  });
}

void convrt_plan_destroy(convrt_plan* plan) { delete plan; }

convrt_status convrt_plan_run(const convrt_plan* plan, const float* src, size_t src_floats, float* dst,
                              size_t dst_floats, convrt_run_stats* stats) {
  return guarded([&] {
    put_stats(given(plan, "plan").value.run(span(src, src_floats, "src"), span(dst, dst_floats, "dst")), stats);
  });
}

convrt_status convrt_plan_enqueue(const convrt_plan* plan, const convrt_buffer* src, convrt_buffer* dst) {
  return guarded([&] { given(plan, "plan").value.enqueue(given(src, "src").value, given(dst, "dst").value); });
}

convrt_status convrt_plan_reshape(const convrt_plan* plan, int n, int h, int w, convrt_plan** reshaped) {
  return guarded(
      [&] { put(reshaped, "reshaped", [&] { return new convrt_plan(given(plan, "plan").value.reshaped(n, h, w)); }); });
}

const char* convrt_plan_kernel(const convrt_plan* plan) { return plan == nullptr ? nullptr : plan->kernel.c_str(); }

size_t convrt_plan_workspace_bytes(const convrt_plan* plan) {
  return plan == nullptr ? 0 : plan->value.workspace_bytes();
}

convrt_status convrt_executor_create(const convrt_plan* const* plans, size_t count, int depth,
                                     convrt_executor** executor) {
  return guarded([&] {
    std::vector<convrt::Conv2dPlan> chain;
    for (size_t i = 0; i < count; ++i) chain.push_back(given(element(plans, i, "plans"), "plan").value);
    put(executor, "executor", [&] { return new convrt_executor{convrt::Executor(std::move(chain), depth)}; });
  });
}

void convrt_executor_destroy(convrt_executor* executor) { delete executor; }

convrt_status convrt_executor_submit(convrt_executor* executor, const float* src, size_t src_floats, float* dst,
                                     size_t dst_floats, convrt_ticket** ticket) {
  return guarded([&] {
    put_ticket(given(executor, "executor").value.submit(span(src, src_floats, "src"), span(dst, dst_floats, "dst")),
               ticket);
  });
}

convrt_status convrt_executor_acquire(convrt_executor* executor, convrt_slot** slot) {
  return guarded(
      [&] { put(slot, "slot", [&] { return new convrt_slot{given(executor, "executor").value.acquire()}; }); });
}

float* convrt_slot_src(convrt_slot* slot, size_t* floats) {
  if (slot == nullptr) return nullptr;
  const std::span<float> src = slot->value.src();
  if (floats != nullptr) *floats = src.size();
  return src.data();
}

void convrt_slot_destroy(convrt_slot* slot) { delete slot; }

convrt_status convrt_executor_submit_slot(convrt_executor* executor, convrt_slot* slot, convrt_ticket** ticket) {
  return guarded([&] {
    const std::unique_ptr<convrt_slot> owned(slot);
    put_ticket(given(executor, "executor").value.submit(std::move(given(slot, "slot").value)), ticket);
  });
}

convrt_status convrt_executor_drain(convrt_executor* executor) {
  return guarded([&] { given(executor, "executor").value.drain(); });
}

convrt_status convrt_executor_get_stats(const convrt_executor* executor, convrt_executor_stats* stats) {
  return guarded([&] {
    const convrt::ExecutorStats s = given(executor, "executor").value.stats();
    given(stats, "stats") = {s.submitted,         s.completed,    s.failed,         s.cancelled,       s.in_flight,
                             s.device_busy_share, s.host_wait_ms, s.bytes_uploaded, s.bytes_downloaded};
  });
}

int convrt_ticket_done(const convrt_ticket* ticket) { return ticket == nullptr || ticket->value.done() ? 1 : 0; }

convrt_status convrt_ticket_wait(const convrt_ticket* ticket, int64_t timeout_ms, convrt_run_stats* stats) {
  return guarded([&] {
    const convrt::Ticket& t = given(ticket, "ticket").value;
    // A longer limit than the clock can count is none.
    constexpr int64_t longest = int64_t{1000} * 3600 * 24 * 365;
    put_stats(timeout_ms < 0 || timeout_ms > longest ? t.wait() : t.wait(std::chrono::milliseconds(timeout_ms)), stats);
  });
}

const float* convrt_ticket_dst(const convrt_ticket* ticket, size_t* floats) {
  if (ticket == nullptr) return nullptr;
  const std::span<const float> dst = ticket->value.dst();
  if (floats != nullptr) *floats = dst.size();
  return dst.data();
}

void convrt_ticket_destroy(convrt_ticket* ticket) { delete ticket; }

convrt_status convrt_multi_plan_create(const convrt_device* const* devices, size_t count,
                                       const convrt_conv2d_desc* desc, const float* weights, size_t weights_floats,
                                       const float* bias, size_t bias_floats, const convrt_plan_options* options,
                                       convrt_multi_plan** plan) {
  return guarded([&] {
    std::vector<convrt::Device> list;
    for (size_t i = 0; i < count; ++i) list.push_back(given(element(devices, i, "devices"), "device").value);
    put(plan, "plan", [&] {
      return new convrt_multi_plan{convrt::MultiDevicePlan(std::move(list), to_cpp(desc),
                                                           span(weights, weights_floats, "weights"),
                                                           span(bias, bias_floats, "bias"), to_cpp(options))};
    });
  });
}

void convrt_multi_plan_destroy(convrt_multi_plan* plan) { delete plan; }

convrt_status convrt_multi_plan_run(convrt_multi_plan* plan, const float* src, size_t src_floats, float* dst,
                                    size_t dst_floats, convrt_run_stats* stats) {
  return guarded([&] {
    put_stats(given(plan, "plan").value.run(span(src, src_floats, "src"), span(dst, dst_floats, "dst")), stats);
  });
}

convrt_status convrt_multi_plan_submit(convrt_multi_plan* plan, const float* src, size_t src_floats, float* dst,
                                       size_t dst_floats, convrt_ticket** ticket) {
  return guarded([&] {
    put_ticket(given(plan, "plan").value.submit(span(src, src_floats, "src"), span(dst, dst_floats, "dst")), ticket);
  });
}

convrt_status convrt_multi_plan_share(const convrt_multi_plan* plan, size_t index, double* fraction, double* gflops) {
  return guarded([&] {
    const std::vector<convrt::Share> shares = given(plan, "plan").value.shares();
    if (index >= shares.size())
      fail(ErrorCode::invalid_argument, "index must be below ", shares.size(), ", found ", index);
    if (fraction != nullptr) *fraction = shares[index].fraction;
    if (gflops != nullptr) *gflops = shares[index].gflops;
  });
}

convrt_status convrt_tune(const convrt_device* device, const convrt_conv2d_desc* desc,
                          const convrt_tune_options* options, convrt_tune_report** report) {
  return guarded([&] {
    convrt::TuneOptions o;
    std::stop_source stop;
    if (options != nullptr) {
      check_size(options->struct_size, sizeof *options, "convrt_tune_options", "CONVRT_TUNE_OPTIONS_INIT");
      o.budget_ms = options->budget_ms;
      o.most_candidates = options->most_candidates;
      o.cancel = stop.get_token();
      if (options->progress != nullptr)
        o.progress = [options, &stop](const convrt::TuneProgress& p) {
          const convrt_tune_progress progress = {p.done,         p.total,   p.kernel.c_str(),
                                                 p.best.c_str(), p.best_ms, p.elapsed_ms};
          if (options->progress(&progress, options->user) != 0) stop.request_stop();
        };
    }
    convrt::TuneReport found = convrt::tune(given(device, "device").value, to_cpp(desc), o);
    if (report != nullptr) *report = new convrt_tune_report{std::move(found)};
  });
}

size_t convrt_tune_report_count(const convrt_tune_report* report) {
  return report == nullptr ? 0 : report->value.results.size();
}

int convrt_tune_report_complete(const convrt_tune_report* report) {
  return report != nullptr && report->value.complete ? 1 : 0;
}

convrt_status convrt_tune_report_at(const convrt_tune_report* report, size_t index, convrt_tune_result* result) {
  return guarded([&] {
    const std::vector<convrt::TuneResult>& all = given(report, "report").value.results;
    if (index >= all.size()) fail(ErrorCode::invalid_argument, "index must be below ", all.size(), ", found ", index);
    const convrt::TuneResult& r = all[index];
    given(result, "result") = {r.kernel.c_str(), r.ms, r.spread, r.error, r.rejected.c_str()};
  });
}

void convrt_tune_report_destroy(convrt_tune_report* report) { delete report; }

convrt_status convrt_gpu_compile_custom_shader(const convrt_device* device, const convrt_shader_source* source,
                                               convrt_shader** shader) {
  return guarded([&] {
    const convrt_shader_source& c = given(source, "source");
    check_size(c.struct_size, sizeof c, "convrt_shader_source", "CONVRT_SHADER_SOURCE_INIT");
    convrt::ShaderSource s;
    s.glsl = &given(c.glsl, "glsl");
    if (c.label != nullptr) s.label = c.label;
    for (size_t i = 0; i < c.define_count; ++i) {
      const char& name = given(element(c.define_names, i, "define_names"), "define name");
      const char& value = given(element(c.define_values, i, "define_values"), "define value");
      s.defines.emplace_back(&name, &value);
    }
    std::copy(std::begin(c.groups), std::end(c.groups), s.groups.begin());
    put(shader, "shader",
        [&] { return new convrt_shader{convrt::gpu_compile_custom_shader(given(device, "device").value, s)}; });
  });
}

const char* convrt_shader_log(const convrt_shader* shader) {
  return shader == nullptr ? "" : shader->value.log().c_str();
}

void convrt_shader_destroy(convrt_shader* shader) { delete shader; }

convrt_status convrt_gpu_execute_conv2d_custom(const convrt_shader* shader, const convrt_conv2d_desc* desc,
                                               const float* src, size_t src_floats, const float* weights,
                                               size_t weights_floats, float* dst, size_t dst_floats, const float* bias,
                                               size_t bias_floats, convrt_run_stats* stats) {
  return guarded([&] {
    put_stats(convrt::gpu_execute_conv2d_custom(given(shader, "shader").value, to_cpp(desc),
                                                span(src, src_floats, "src"), span(weights, weights_floats, "weights"),
                                                span(dst, dst_floats, "dst"), span(bias, bias_floats, "bias")),
              stats);
  });
}

convrt_status convrt_builtin_shader(const char* name, char* text, size_t size, size_t* length) {
  return guarded([&] {
    put_text(name == nullptr ? lines(convrt::builtin_shader_names()) : convrt::builtin_shader(name), text, size,
             length);
  });
}

convrt_status convrt_set_log(int level, convrt_log_callback callback, void* user) {
  return guarded([&] {
    const auto cpp_level = enumerator(level, convrt::LogLevel::debug, "level");
    if (callback == nullptr) return convrt::set_log(cpp_level, {});
    convrt::set_log(cpp_level, [callback, user](convrt::LogLevel at, std::string_view message) {
      callback(static_cast<int>(at), std::string(message).c_str(), user);
    });
  });
}
