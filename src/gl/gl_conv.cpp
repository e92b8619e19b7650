#include "gl/gl_conv.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/fail.hpp"
#include "gl/shader_text.hpp"

namespace convrt::gl {
namespace {

constexpr std::size_t kRoles = 6;
constexpr GLuint kParamsBinding = 3;

std::size_t round_up(std::size_t value, std::size_t to) { return (value + to - 1) / to * to; }

}  // namespace

GlBuffer::GlBuffer(const core::Backend* backend, std::shared_ptr<GlDevice> device, std::size_t floats)
    : backend_(backend),
      device_(std::move(device)),
      floats_(floats),
      storage_(GlStorage::device_local(device_->session()->context, floats * sizeof(float))) {}

std::shared_ptr<GlStorage> GlBuffer::storage(GlSession& session, bool keep_content) {
  const std::scoped_lock lock(mutex_);
  if (storage_->context() == session.context) return storage_;
  if (keep_content)
    core::fail(ErrorCode::device_lost, "a buffer of ", floats_,
               " floats lost its content with the OpenGL context that ", "held it; upload or compute it again");
  storage_ = GlStorage::device_local(session.context, floats_ * sizeof(float));
  return storage_;
}

void GlBuffer::upload(std::span<const float> from) {
  const std::shared_ptr<GlSession> session = device_->session();
  session->transfer.upload(from, storage(*session, false));
}

void GlBuffer::download(std::span<float> to) {
  device_->confirm([&] {
    const std::shared_ptr<GlSession> session = device_->session();
    session->transfer.download(storage(*session, true), to);
  });
}

GlWeights::OnDevice GlWeights::in(GlSession& session) {
  const std::scoped_lock lock(mutex_);
  if (on_device_.weights != nullptr && on_device_.weights->context() == session.context) return on_device_;
  OnDevice made{GlStorage::device_local(session.context, packed_.size() * sizeof(float)),
                GlStorage::device_local(session.context, bias_.size() * sizeof(float))};
  const auto errors = std::make_shared<ErrorSlot>();
  session.transfer.upload(packed_, made.weights, errors);
  session.transfer.upload(bias_, made.bias, errors);
  // Waits, for a plan whose weights did not arrive would compute nonsense ever after.
  std::future<void> done = session.context->submit([](GlState&) {});
  session.context->wait(done);
  errors->rethrow();
  return on_device_ = std::move(made);
}

/// One dispatch with everything that does not depend on the call worked out.
struct GlConv::Launch {
  std::size_t program = 0;
  std::array<std::uint32_t, 3> groups = {};
  GLintptr params_offset = 0;
  GLsizeiptr params_bytes = 0;
  bool after_previous = false;
  // Bindings first, first + 1, ... as glBindBuffersRange takes them; a hole has no role.
  GLuint first = 0;
  std::vector<int> roles;
  std::vector<GLintptr> offsets;
  std::vector<GLsizeiptr> sizes;
};

GlConv::GlConv(std::shared_ptr<GlDevice> device, GlInfo info, Config config, const Conv2dDesc& desc,
               std::shared_ptr<GlWeights> weights)
    : device_(std::move(device)),
      info_(std::move(info)),
      config_(std::move(config)),
      desc_(desc),
      weights_(std::move(weights)) {
  if (desc_.n > 0) recipe_ = recipe(config_, desc_, info_);
  for (const ProgramSpec& program : recipe_.programs)
    sources_.push_back(
        {shader_text(program.file, program.defines), config_.name + " (" + program.file + ") for " + desc_.str()});
  plan_launches();
  (void)ready();
}

void GlConv::plan_launches() {
  const std::array<std::size_t, kRoles> floats = {desc_.src_size(),         weights_->packed_floats(),
                                                  desc_.dst_size(),         static_cast<std::size_t>(desc_.k),
                                                  recipe_.workspace_floats, static_cast<std::size_t>(kCounters)};
  auto launches = std::make_shared<std::vector<Launch>>();
  for (const Step& step : recipe_.steps) {
    Launch launch;
    launch.program = step.program;
    launch.groups = step.groups;
    launch.after_previous = step.after_previous;
    launch.params_offset = static_cast<GLintptr>(params_.size() * sizeof(std::uint32_t));
    params_.insert(params_.end(), step.params.begin(), step.params.end());
    params_.resize(round_up(params_.size(), 4));
    launch.params_bytes = static_cast<GLsizeiptr>(params_.size() * sizeof(std::uint32_t)) - launch.params_offset;
    params_.resize(round_up(params_.size(), info_.limits.uniform_alignment / sizeof(std::uint32_t)));

    GLuint last = 0;
    launch.first = ~GLuint{0};
    for (const Binding& b : step.buffers) {
      launch.first = std::min(launch.first, b.binding);
      last = std::max(last, b.binding);
    }
    const std::size_t count = last - launch.first + 1;
    launch.roles.assign(count, -1);
    launch.offsets.assign(count, 0);
    launch.sizes.assign(count, 16);  // of a hole: ignored, but must be positive
    for (const Binding& b : step.buffers) {
      const auto role = static_cast<std::size_t>(b.role);
      const std::size_t i = b.binding - launch.first;
      launch.roles[i] = static_cast<int>(role);
      launch.offsets[i] = static_cast<GLintptr>(b.offset_bytes);
      const std::size_t bytes =
          b.size_bytes != 0 ? b.size_bytes : std::max<std::size_t>(floats[role] * sizeof(float), 16) - b.offset_bytes;
      launch.sizes[i] = static_cast<GLsizeiptr>(round_up(bytes, 16));
    }
    launches->push_back(std::move(launch));
  }
  launches_ = std::move(launches);
}

std::shared_ptr<const GlConv::Ready> GlConv::ready() const {
  std::shared_ptr<GlSession> session = device_->session();
  const std::scoped_lock lock(mutex_);
  if (ready_ != nullptr && ready_->session == session) return ready_;
  auto made = std::make_shared<Ready>();
  made->programs = session->programs.get(sources_);
  made->weights = weights_->in(*session);
  if (!params_.empty()) made->params = GlStorage::constant(session->context, params_);
  made->session = std::move(session);
  return ready_ = std::move(made);
}

// Everything the job needs lives in what it captures, so it may outlive this plan.
std::function<void(GlState&)> GlConv::job(std::shared_ptr<const Ready> ready, std::shared_ptr<GlStorage> src,
                                          std::shared_ptr<GlStorage> dst) const {
  std::shared_ptr<GlStorage> workspace = ready->session->workspace(workspace_bytes());
  std::shared_ptr<GlStorage> counters = recipe_.counts ? ready->session->counters() : nullptr;
  return [ready = std::move(ready), launches = launches_, src = std::move(src), dst = std::move(dst),
          workspace = std::move(workspace), counters = std::move(counters),
          accumulate = desc_.accumulate](GlState& state) {
    const GladGLContext& gl = state.gl;
    const std::array<GLuint, kRoles> names = {src->name(),
                                              ready->weights.weights->name(),
                                              dst->name(),
                                              ready->weights.bias->name(),
                                              workspace ? workspace->name() : 0,
                                              counters ? counters->name() : 0};
    const std::array<GLuint, 5> reads = {names[0], names[1], names[3], workspace ? names[4] : names[0],
                                         accumulate ? names[2] : names[0]};
    const std::array<GLuint, 3> writes = {names[2], workspace ? names[4] : names[2], counters ? names[5] : names[2]};
    state.touch(reads, writes);
    for (const Launch& launch : *launches) {
      if (launch.after_previous) {
        state.barrier();
        state.touch(reads, writes);
      }
      std::array<GLuint, 16> buffers = {};
      const std::size_t count = launch.roles.size();
      for (std::size_t i = 0; i < count; ++i)
        buffers[i] = launch.roles[i] < 0 ? 0 : names[static_cast<std::size_t>(launch.roles[i])];
      if (gl.BindBuffersRange != nullptr) {
        gl.BindBuffersRange(GL_SHADER_STORAGE_BUFFER, launch.first, static_cast<GLsizei>(count), buffers.data(),
                            launch.offsets.data(), launch.sizes.data());
      } else {
        for (std::size_t i = 0; i < count; ++i)
          if (buffers[i] != 0)
            gl.BindBufferRange(GL_SHADER_STORAGE_BUFFER, launch.first + static_cast<GLuint>(i), buffers[i],
                               launch.offsets[i], launch.sizes[i]);
      }
      gl.BindBufferRange(GL_UNIFORM_BUFFER, kParamsBinding, ready->params->name(), launch.params_offset,
                         launch.params_bytes);
      state.use(ready->programs[launch.program]->name());
      gl.DispatchCompute(launch.groups[0], launch.groups[1], launch.groups[2]);
    }
  };
}

std::function<void(GlState&)> GlConv::dispatches(const GlSession& session, std::shared_ptr<GlStorage> src,
                                                 std::shared_ptr<GlStorage> dst) const {
  std::shared_ptr<const Ready> now = ready();
  if (now->session.get() != &session)
    core::fail(ErrorCode::device_lost, "the OpenGL context was lost while ", desc_.str(), " was being prepared");
  return job(std::move(now), std::move(src), std::move(dst));
}

void GlConv::enqueue(const std::shared_ptr<core::BackendBuffer>& src,
                     const std::shared_ptr<core::BackendBuffer>& dst) const {
  std::shared_ptr<const Ready> now = ready();
  GlSession& session = *now->session;
  auto from = static_cast<GlBuffer&>(*src).storage(session, true);
  auto to = static_cast<GlBuffer&>(*dst).storage(session, desc_.accumulate);
  session.context->dispatch(job(std::move(now), std::move(from), std::move(to)));
}

RunStats GlConv::run(std::span<const float> src, std::span<float> dst) const {
  const auto start = std::chrono::steady_clock::now();
  const std::shared_ptr<const Ready> now = ready();
  GlSession& session = *now->session;
  std::shared_ptr<GlStorage> from = session.pool.take(src.size_bytes()), to = session.pool.take(dst.size_bytes());
  const auto errors = std::make_shared<ErrorSlot>();
  session.transfer.upload(src, from, errors);
  if (desc_.accumulate) session.transfer.upload(dst, to, errors);

  const auto ms = std::make_shared<double>(0);
  std::future<void> done = session.context->submit_timed(job(now, from, to), ms);
  session.transfer.download(to, dst);
  session.context->wait(done);
  errors->rethrow();
  session.pool.give_back(std::move(from));
  session.pool.give_back(std::move(to));
  return {std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count(), *ms};
}

std::shared_ptr<const core::PreparedConv> GlConv::reshaped(const Conv2dDesc& desc) const {
  return std::make_shared<GlConv>(device_, info_, config_, desc, weights_);
}

std::size_t GlConv::workspace_bytes() const { return recipe_.workspace_floats * sizeof(float); }

std::size_t GlConv::packed_bytes() const { return weights_->packed_floats() * sizeof(float); }

}  // namespace convrt::gl
