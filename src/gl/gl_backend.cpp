#include "gl/gl_backend.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <future>
#include <string_view>
#include <utility>

#include "core/fail.hpp"
#include "core/log.hpp"
#include "gl/custom.hpp"
#include "gl/gl_conv.hpp"
#include "gl/gl_stream.hpp"
#include "gl/shader_text.hpp"
#include "gl/stragglers.hpp"
#include "gl/variants.hpp"

namespace convrt::gl {
namespace {

std::chrono::milliseconds milliseconds_from(const char* variable, int fallback) {
  const char* text = std::getenv(variable);
  if (text == nullptr) return std::chrono::milliseconds(fallback);
  const std::string_view digits = text;
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error == std::errc() && end == digits.data() + digits.size() && value > 0)
    return std::chrono::milliseconds(value);
  core::log(LogLevel::warning, variable, " must be a positive number of milliseconds, found \"", text, "\"; using ",
            fallback);
  return std::chrono::milliseconds(fallback);
}

// A single dispatch is split to about 50 ms, but a software device may take minutes for what a GPU does in that time.
GlContext::Options library_options() { return {.timeout = milliseconds_from("CONVRT_GL_TIMEOUT_MS", 120'000)}; }

GlContext::Options custom_options() {
  return {.robust_access = true, .timeout = milliseconds_from("CONVRT_CUSTOM_TIMEOUT_MS", 10'000)};
}

struct Found {
  EglDevice egl;
  std::shared_ptr<GlDevice> device;
  GlInfo info;
};

// Opens `egl` and appends it unless it is one of `found` seen through another driver.
void open_device(const EglDevice& egl, std::vector<Found>& found) {
  const auto same_hardware = [&](const Found& f) { return !egl.identity.empty() && f.egl.identity == egl.identity; };
  if (std::any_of(found.begin(), found.end(), same_hardware)) {
    core::log(LogLevel::info, egl.label, " left out: another driver serves the same hardware");
    return;
  }
  try {
    auto device = std::make_shared<GlDevice>(egl, library_options());
    const GlInfo info = device->session()->context->info();
    if (info.software && std::any_of(found.begin(), found.end(), [](const Found& f) { return f.info.software; })) {
      core::log(LogLevel::info, egl.label, " left out: ", info.renderer, " is a second software device");
      return;
    }
    core::log(LogLevel::info, egl.label, ": ", info.renderer, ", ", info.version, ", ", info.arch);
    found.push_back({egl, std::move(device), info});
  } catch (const Error& e) {
    core::log(LogLevel::info, egl.label, " left out: ", e.what());
  }
}

}  // namespace

GlBackend::GlBackend(EglDevice egl, std::shared_ptr<GlDevice> device, std::string id)
    : egl_(std::move(egl)), device_(std::move(device)), gl_info_(device_->session()->context->info()) {
  info_.id = std::move(id);
  info_.name = gl_info_.renderer;
  info_.arch = gl_info_.arch;
  info_.driver = gl_info_.version;
  info_.software = gl_info_.software;
  info_.memory_bytes = gl_info_.memory_bytes;
  info_.compute_units = gl_info_.compute_units;
}

std::vector<std::string> GlBackend::kernels(const Conv2dDesc& desc, int) const {
  std::vector<std::string> names;
  for (Config& config : configs(desc, gl_info_)) names.push_back(std::move(config.name));
  return names;
}

std::shared_ptr<const core::PreparedConv> GlBackend::prepare(const core::PrepareRequest& request) {
  for (Config& config : configs(request.desc, gl_info_)) {
    if (config.name != request.kernel) continue;
    config.shares = !request.batch_invariant;
    std::vector<float> bias(request.bias.begin(), request.bias.end());
    bias.resize(static_cast<std::size_t>(request.desc.k));  // no bias is a bias of zeros
    auto weights = std::make_shared<GlWeights>(pack_weights(config, request.desc, request.weights), std::move(bias));
    return std::make_shared<GlConv>(device_, gl_info_, std::move(config), request.desc, std::move(weights));
  }
  core::fail(ErrorCode::internal, "kernel ", request.kernel, " was selected for ", request.desc.str(),
             " but is not in the list of device ", info_.id);
}

std::shared_ptr<core::BackendBuffer> GlBackend::allocate(std::size_t floats) {
  return std::make_shared<GlBuffer>(this, device_, floats);
}

// By timestamp queries. The owner thread waits at the first of them until all runs stand in its queue; then it issues
// them without a flush in between, so the driver hands them to the GPU together.
double GlBackend::device_ms(int runs, const std::function<void(int run)>& enqueue) {
  const auto queries = std::make_shared<std::array<GLuint, 2>>();
  const auto ms = std::make_shared<double>(0);
  const std::shared_ptr<GlContext> context = device_->session()->context;
  std::promise<void> all_posted;
  context->post([queries, gate = all_posted.get_future().share()](GlState& state) {
    gate.wait_for(std::chrono::seconds(1));  // bounded: an `enqueue` that waits for the queue must not hang
    state.gl.GenQueries(2, queries->data());
    state.barrier();
    state.gl.QueryCounter((*queries)[0], GL_TIMESTAMP);
  });
  for (int run = 0; run < runs; ++run) {
    enqueue(run);  // where this throws, the promise goes and opens the gate
    context->post([](GlState& state) { state.barrier(); });
  }
  std::future<void> done =
      context->submit([queries](GlState& state) { state.gl.QueryCounter((*queries)[1], GL_TIMESTAMP); },
                      [queries, ms](GlState& state) {
                        std::array<GLuint64, 2> ns = {};
                        for (std::size_t i = 0; i < 2; ++i)
                          state.gl.GetQueryObjectui64v((*queries)[i], GL_QUERY_RESULT, &ns[i]);
                        state.gl.DeleteQueries(2, queries->data());
                        *ms = static_cast<double>(ns[1] - ns[0]) * 1e-6;
                      });
  all_posted.set_value();
  device_->confirm([&] { context->wait(done); });
  return *ms;
}

std::unique_ptr<core::Stream> GlBackend::open_stream(std::vector<std::shared_ptr<const core::PreparedConv>> chain,
                                                     const core::StreamOptions& options) {
  std::vector<std::shared_ptr<const GlConv>> convs;
  for (const auto& conv : chain) convs.push_back(std::static_pointer_cast<const GlConv>(conv));
  return std::make_unique<GlStream>(device_, std::move(convs), options, stream_form());
}

StreamForm GlBackend::stream_form() {
  const char* text = std::getenv("CONVRT_GL_STREAM");
  const bool measure = text != nullptr && std::string_view(text) == "measure";
  if (text != nullptr && !measure) {
    if (const auto forced = gl::stream_form(text)) return *forced;
    core::log(LogLevel::warning, "CONVRT_GL_STREAM must be measure, or epochs, contexts or ordered with or without ",
              ".polled; found \"", text, "\", which is ignored");
  }
  if (gl_info_.software && !measure) return *gl::stream_form("epochs");
  const std::scoped_lock lock(form_mutex_);
  if (!form_)
    form_ = fastest_stream_form(*this, [this](std::shared_ptr<const core::PreparedConv> conv, StreamForm form) {
      std::vector<std::shared_ptr<const GlConv>> chain = {std::static_pointer_cast<const GlConv>(std::move(conv))};
      return std::make_unique<GlStream>(device_, std::move(chain), core::StreamOptions{}, form);
    });
  return *form_;
}

std::string GlBackend::shipped_tuning() const {
  const std::string name = "tuned/" + info_.arch + ".txt";
  for (const ShaderFile& file : embedded_shaders())
    if (file.name == name) return std::string(file.text);
  return {};
}

std::vector<std::pair<std::string, std::string>> GlBackend::details() const {
  const GlLimits& limits = gl_info_.limits;
  const auto yes_no = [](bool value) { return std::string(value ? "yes" : "no"); };
  const auto& groups = limits.max_groups;
  return {{"enumerated as", egl_.label},
          {"PCI address", egl_.pci},
          {"UUID", egl_.uuid},
          {"vendor", gl_info_.vendor_string},
          {"chip", gl_info_.chip},
          {"GLSL", gl_info_.glsl_version},
          {"work groups",
           std::to_string(groups[0]) + " x " + std::to_string(groups[1]) + " x " + std::to_string(groups[2])},
          {"invocations a group", std::to_string(limits.max_invocations)},
          {"shared memory", std::to_string(limits.max_shared_bytes >> 10U) + " KiB a group"},
          {"storage block", std::to_string(limits.max_block_bytes >> 20U) + " MiB"},
          {"subgroup operations", yes_no(gl_info_.subgroup)},
          {"parallel compile", yes_no(gl_info_.parallel_compile)}};
}

std::shared_ptr<core::CustomProgram> GlBackend::compile_custom(const ShaderSource& source) {
  std::shared_ptr<GlDevice> device;
  {
    const std::scoped_lock lock(mutex_);
    if (custom_ == nullptr) {
      // Mesa's software driver runs all shaders of a display on one set of threads, which an endless one never leaves.
      // So custom shaders use its other display.
      std::vector<EglDevice> other;
      if (gl_info_.software) other = surfaceless_device();
      const bool apart = !other.empty() && other.front().display != egl_.display;
      custom_ = std::make_shared<GlDevice>(apart ? other.front() : egl_, custom_options());
    }
    device = custom_;
  }
  return std::make_shared<GlCustom>(std::move(device), source);
}

void GlBackend::leave(std::chrono::steady_clock::time_point deadline) noexcept {
  device_->leave(deadline);
  const std::scoped_lock lock(mutex_);
  if (custom_ != nullptr) custom_->leave(deadline);
}

}  // namespace convrt::gl

namespace convrt::core {

std::vector<std::shared_ptr<Backend>> probe_gl() {
  std::vector<gl::Found> found;
  for (const gl::EglDevice& egl : gl::egl_devices()) gl::open_device(egl, found);
  if (found.empty())
    for (const gl::EglDevice& egl : gl::surfaceless_device()) gl::open_device(egl, found);
  // Real GPUs first, the larger first where the driver tells; otherwise in the driver's order.
  std::stable_sort(found.begin(), found.end(), [](const gl::Found& a, const gl::Found& b) {
    return a.info.software != b.info.software ? b.info.software : a.info.compute_units > b.info.compute_units;
  });
  std::vector<std::shared_ptr<Backend>> backends;
  for (gl::Found& f : found)
    backends.push_back(std::make_shared<gl::GlBackend>(std::move(f.egl), std::move(f.device),
                                                       "gl:" + std::to_string(backends.size())));
  // Drivers tear themselves down when the process ends; a thread of ours inside one would crash then. Registered after
  // the drivers were loaded, this runs before they do.
  static const auto* const all = new std::vector<std::shared_ptr<Backend>>(backends);
  gl::Stragglers::instance().await_leave();
  std::atexit([] {
    // For all together, however many hang.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(2);
    for (const auto& backend : *all) static_cast<gl::GlBackend&>(*backend).leave(deadline);
    gl::Stragglers::instance().leave(deadline);
  });
  return backends;
}

}  // namespace convrt::core
