#include "gl/custom.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

#include "core/fail.hpp"
#include "gl/shader_text.hpp"

namespace convrt::gl {
namespace {

// The std140 block of the contract: scalars only, so word after word.
std::vector<std::uint32_t> params_of(const Conv2dDesc& d) {
  std::vector<std::uint32_t> words;
  for (const int value : {d.n,
                          d.c,
                          d.h,
                          d.w,
                          d.k,
                          d.r,
                          d.s,
                          d.p(),
                          d.q(),
                          d.stride_h,
                          d.stride_w,
                          d.pad_top,
                          d.pad_left,
                          d.pad_bottom,
                          d.pad_right,
                          d.dilation_h,
                          d.dilation_w,
                          d.groups,
                          static_cast<int>(d.layout),
                          static_cast<int>(d.activation.kind)})
    words.push_back(static_cast<std::uint32_t>(value));
  for (const float value : {d.activation.alpha, d.activation.beta})
    words.push_back(std::bit_cast<std::uint32_t>(value));
  return words;
}

}  // namespace

GlCustom::GlCustom(std::shared_ptr<GlDevice> device, const ShaderSource& source)
    : device_(std::move(device)),
      label_(source.label.empty() ? "without a label" : source.label),
      source_(source.glsl),
      text_(with_defines(source.glsl, source.defines)),
      groups_(source.groups) {
  (void)ready();
}

GlCustom::Ready GlCustom::ready() {
  std::shared_ptr<GlSession> session = device_->session();
  const std::scoped_lock lock(mutex_);
  if (ready_.session == session) return ready_;
  Compiled compiled = std::move(compile(session->context, {text_}).front());
  if (compiled.program == nullptr) core::fail(ErrorCode::compile_failed, compile_report(label_, source_, compiled.log));
  log_ = compiled.log;
  const auto local = std::make_shared<std::array<GLint, 3>>();
  session->context->call([local, program = compiled.program](GlState& state) {
    state.gl.GetProgramiv(program->name(), GL_COMPUTE_WORK_GROUP_SIZE, local->data());
    state.check("reading a custom shader's group size");
  });
  ready_.program = std::move(compiled.program);
  std::copy(local->begin(), local->end(), ready_.local_size.begin());
  ready_.session = std::move(session);
  return ready_;
}

// {0,0,0}: one invocation per dst element in x; what is beyond the device's limit goes to y.
std::array<std::uint32_t, 3> GlCustom::groups(const Conv2dDesc& desc, const Ready& now) const {
  const auto& limit = now.session->context->info().limits.max_groups;
  std::array<std::uint64_t, 3> wanted = {groups_[0], groups_[1], groups_[2]};
  if (groups_[0] == 0) {
    const std::uint64_t per_group = std::uint64_t{now.local_size[0]} * now.local_size[1] * now.local_size[2];
    const std::uint64_t total = (desc.dst_size() + per_group - 1) / per_group;
    const std::uint64_t rows = (total + limit[0] - 1) / limit[0];
    wanted = {(total + rows - 1) / rows, rows, 1};
  }
  for (std::size_t i = 0; i < 3; ++i)
    if (wanted[i] > limit[i])
      core::fail(ErrorCode::unsupported, "custom shader ", label_, ", convolution ", desc.str(), ": a launch of ",
                 wanted[0], " x ", wanted[1], " x ", wanted[2], " work groups exceeds the device's ", limit[0], " x ",
                 limit[1], " x ", limit[2], "; use larger work groups or a smaller problem");
  return {static_cast<std::uint32_t>(wanted[0]), static_cast<std::uint32_t>(wanted[1]),
          static_cast<std::uint32_t>(wanted[2])};
}

RunStats GlCustom::run(const Conv2dDesc& desc, std::span<const float> src, std::span<const float> weights,
                       std::span<float> dst, std::span<const float> bias) {
  const auto start = std::chrono::steady_clock::now();
  const Ready now = ready();
  GlSession& session = *now.session;
  const std::array<std::uint32_t, 3> launch = groups(desc, now);
  const std::vector<float> zeros(bias.empty() ? static_cast<std::size_t>(desc.k) : 0);
  const std::span<const float> bias_or_zeros = bias.empty() ? std::span<const float>(zeros) : bias;
  // dst goes in too: what the shader leaves out keeps the caller's values instead of showing somebody else's memory.
  const std::array<std::span<const float>, 5> content = {src, weights, dst, {}, bias_or_zeros};
  std::array<std::shared_ptr<GlStorage>, 5> memory;  // by binding
  const auto errors = std::make_shared<ErrorSlot>();
  for (std::size_t i = 0; i < content.size(); ++i) {
    if (i == 3) continue;
    if (content[i].size_bytes() > session.context->info().limits.max_block_bytes)
      core::fail(ErrorCode::unsupported, "custom shader ", label_, ", convolution ", desc.str(), ": the buffer at ",
                 "binding ", i, " needs ", content[i].size_bytes(), " bytes, the device binds at most ",
                 session.context->info().limits.max_block_bytes, "; split the problem along n");
    memory[i] = session.pool.take(content[i].size_bytes());
    session.transfer.upload(content[i], memory[i], errors);
  }
  memory[3] = GlStorage::constant(session.context, params_of(desc));

  const auto ms = std::make_shared<double>(0);
  std::array<GLsizeiptr, 5> bytes = {};
  for (std::size_t i = 0; i < content.size(); ++i) bytes[i] = static_cast<GLsizeiptr>(content[i].size_bytes());
  const auto job = [memory, bytes, launch, program = now.program](GlState& state) {
    // A bad shader may write anywhere it can reach.
    for (const auto& storage : memory) {
      const GLuint name = storage->name();
      state.touch({&name, 1}, {&name, 1});
    }
    for (const GLuint binding : {0U, 1U, 2U, 4U})
      state.gl.BindBufferRange(GL_SHADER_STORAGE_BUFFER, binding, memory[binding]->name(), 0, bytes[binding]);
    state.gl.BindBufferRange(GL_UNIFORM_BUFFER, 3, memory[3]->name(), 0, static_cast<GLsizeiptr>(memory[3]->bytes()));
    state.use(program->name());
    state.gl.DispatchCompute(launch[0], launch[1], launch[2]);
  };
  std::future<void> done = session.context->submit_timed(job, ms);
  session.transfer.download(memory[2], dst);
  session.context->wait(done);
  errors->rethrow();
  for (const std::size_t i : {0U, 1U, 2U, 4U}) session.pool.give_back(std::move(memory[i]));
  return {std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count(), *ms};
}

}  // namespace convrt::gl
