/// \file
/// What moves the jobs of a GL stream through one session: memory, stages, order.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <vector>

#include "core/backend.hpp"
#include "gl/gl_conv.hpp"
#include "gl/gl_device.hpp"
#include "gl/stream_form.hpp"

namespace convrt::gl {

/// What a StreamMemory owns.
struct StreamStaging {
  std::shared_ptr<GlStorage> up, down;
};

/// One submission on its way: uploaded, computed and downloaded, one after another.
struct StreamJob {
  using Time = std::chrono::steady_clock::time_point;

  std::shared_ptr<StreamStaging> staging;
  std::size_t set = 0;
  core::StreamTimes times;
  std::array<std::array<GLuint, 2>, 3> stamps = {};  ///< with contexts: begin and end of each stage
  std::array<Time, 3> told = {};                     ///< when the host told the GPU of each stage
  GLsync fence = nullptr;       ///< where contexts wait for one another on the GPU: of the stage before
  std::atomic<int> stages = 3;  ///< with contexts: whose end the host has not dealt with
  std::promise<void> landed;
  std::atomic<bool> settled = false;

  void succeed() {
    if (!settled.exchange(true)) landed.set_value();
  }
  void fail(const std::exception_ptr& error) {
    if (!settled.exchange(true)) landed.set_exception(error);
  }
};

/// The stream in one session. Its lists are the owner threads', but for a context that is lost on another one.
/// stream_epochs.cpp and stream_stages.cpp hold the two ways through it.
class StreamPipeline : public std::enable_shared_from_this<StreamPipeline> {
 public:
  StreamPipeline(std::shared_ptr<GlSession> session, GlDevice& device,
                 const std::vector<std::shared_ptr<const GlConv>>& chain, const core::StreamOptions& options,
                 StreamForm form);
  ~StreamPipeline();
  StreamPipeline(const StreamPipeline&) = delete;
  StreamPipeline& operator=(const StreamPipeline&) = delete;

  GlContext& context() const { return *session_->context; }
  const std::shared_ptr<GlContext>& shared_context() const { return session_->context; }
  bool alive() const;
  /// After a time-out: contexts that wait for one another go together.
  void give_up() const;
  void submit(std::shared_ptr<StreamJob> job);
  /// Fails the jobs that no stage of has begun with Error{cancelled}.
  void cancel();

 private:
  /// The jobs that one epoch moves on by a stage; nullptr: none. An epoch that goes without being retired takes the
  /// pipeline with it.
  struct Epoch {
    std::shared_ptr<StreamPipeline> pipeline;
    std::shared_ptr<StreamJob> up, compute, down;
    std::array<GLuint, 2> stamps = {};  ///< its begin and end
    bool retired = false;
    ~Epoch();
  };
  /// With contexts: a job in one of its stages (0 upload, 1 compute, 2 download). As with an epoch.
  struct Stage {
    std::shared_ptr<StreamPipeline> pipeline;
    std::shared_ptr<StreamJob> job;
    std::size_t number;
    bool retired = false;
    ~Stage();
  };
  bool apart() const { return contexts_[0] != nullptr; }

  // stream_stages.cpp
  void start_jobs();
  void start_ready();
  void start_stage(std::shared_ptr<StreamJob> job, std::size_t number);
  void encode(Stage& stage, GlState& state);
  void retire(Stage& stage, GlState& state);

  // stream_epochs.cpp
  void advance();
  void encode(Epoch& epoch, GlState& state);
  void retire(Epoch& epoch, GlState& state);

  void break_down(const std::exception_ptr& error);
  /// A query of this moment on the GPU, from those of a stage's context. 0: no time is to be taken of this stage.
  GLuint stamp(GlState& state, std::size_t stage);
  /// What lies between two stamps, which are free again; nothing where they are 0.
  core::StreamTimes::Span read(GlState& state, std::size_t stage, std::array<GLuint, 2>& stamps);

  const std::shared_ptr<GlSession> session_;
  const core::StreamOptions options_;
  const bool accumulate_;
  StreamOrder order_;
  std::array<std::shared_ptr<GlContext>, 3> contexts_;  ///< of the stages; in epochs the middle one alone
  struct Set {
    std::shared_ptr<GlStorage> src, dst;
    std::vector<std::function<void(GlState&)>> convolutions;
  };
  std::vector<Set> sets_;
  std::atomic<bool> broken_ = false;

  std::mutex in_order_;  ///< what is put together first reaches its context first
  std::mutex mutex_;
  std::deque<std::shared_ptr<StreamJob>> waiting_, uploaded_, computed_;
  std::size_t started_ = 0, done_ = 0;  ///< jobs that took, and gave back, a set
  int epochs_ = 0;
  // Where the host orders the stages: what waits for each, how many convolutions the present row still gets and how
  // many the GPU has, and copies that are being told.
  std::array<std::deque<std::shared_ptr<StreamJob>>, 3> ready_;
  std::size_t row_ = 0;
  int computing_ = 0, telling_ = 0;
  std::size_t count_ = 0;  ///< jobs that were given a set

  std::array<std::vector<GLuint>, 3> queries_;          ///< free ones of each context, its thread's own
  std::array<StreamJob::Time, 3> seen_ = {};            ///< the last end of each stage, likewise
  std::chrono::steady_clock::duration clock_offset_{};  ///< steady_clock minus the GPU's
};

/// The error of jobs that a lost context took along.
std::exception_ptr stream_lost();

}  // namespace convrt::gl
