#include "gl/stream_form.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <deque>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "core/fail.hpp"
#include "core/log.hpp"
#include "core/tune_cache.hpp"
#include "core/verify.hpp"

namespace convrt::gl {
namespace {

using Clock = std::chrono::steady_clock;

// A convolution and its copies of about equal length on a card with 30 TFLOP/s and 40 GB/s, and what a device much
// slower gets instead.
constexpr const char* kProblem = "n32c256h14w14k256r3s3ph1pw1";
constexpr const char* kSlowProblem = "n1c16h14w14k16r3s3ph1pw1";
constexpr double kSlow_ms = 2;

// Of one form's series of items.
constexpr double kSeries_ms = 5;
// Passes over all forms, for clocks rise during the first, and after how long no further series of each starts.
constexpr std::array<double, 2> kPass_ms = {1000, 100};
constexpr const char* kNotReached = "over budget";
// Within this of the fastest, forms are alike here, and their order in kStreamForms decides: the convolution of this
// test is short, and what copy dispatches take from a long one does not show (bench/NOTES.md: 73 to 90 % instead of 95
// to 99).
constexpr double kAlike = 1.1;
constexpr std::size_t kSlots = 4, kLine = 16;  // floats of a cache line: one of them is looked at

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Small integers without a pattern that a shifted copy would repeat: sums are exact in any order.
std::vector<float> integers(std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>(static_cast<int>((static_cast<std::uint32_t>(i) * 2654435761U) >> 29U) - 4);
  return values;
}

/// The self-test: every slot holds the same image times a power of two of its own, so that any kernel's results are
/// known to the bit, and a job that took another one's memory shows.
class Trial {
 public:
  Trial(core::Backend& backend, const Conv2dDesc& desc)
      : desc_(desc), src_(integers(desc.src_size())), expected_(desc.dst_size()) {
    const std::vector<float> weights = integers(desc.weights_size());
    const std::string kernel = backend.kernels(desc, 0).at(0);
    conv_ = backend.prepare({.desc = desc_, .kernel = kernel, .weights = weights, .bias = {}});
    conv_->run(src_, expected_);  // the first run is not the one to time
    run_ms_ = conv_->run(src_, expected_).device_ms;
    const auto check =
        core::verify({.desc = desc_, .kernel = kernel, .weights = weights, .bias = {}, .src = src_}, expected_, 64);
    if (!check.ok()) core::fail(ErrorCode::internal, kernel, ": ", check.str());
  }
  const std::shared_ptr<const core::PreparedConv>& conv() const { return conv_; }
  double run_ms() const { return run_ms_; }

  /// Notes in `result` what an item takes, or that results are wrong.
  void measure(core::Stream& stream, TuneResult& result) {
    if (slots_.empty() || !stream.usable(slots_[0])) fill(stream);
    run(stream, kSlots);  // opens what is opened late
    const double warm_ms = run(stream, kSlots);
    for (const core::StreamMemory& slot : slots_)
      for (std::size_t i = 0; i < slot.dst.size(); i += kLine) slot.dst[i] = -1;  // results are even
    const double ms = run(stream, static_cast<std::size_t>(std::clamp(kSeries_ms / warm_ms, 4.0, 100.0)));
    const double best = result.ms > 0 ? std::min(result.ms, ms) : ms;
    if (result.ms > 0) result.spread = std::abs(result.ms - ms) / best;
    result.ms = best;
    result.rejected = right() ? "" : "wrong result";
  }

 private:
  void fill(core::Stream& stream) {
    slots_.clear();
    for (std::size_t s = 0; s < kSlots; ++s) {
      slots_.push_back(stream.allocate());
      const float scale = std::ldexp(1.0F, static_cast<int>(s) + 1);
      for (std::size_t i = 0; i < src_.size(); ++i) slots_[s].src[i] = scale * src_[i];
    }
  }

  // Milliseconds an item.
  double run(core::Stream& stream, std::size_t items) {
    const auto start = Clock::now();
    std::deque<std::function<core::StreamTimes()>> pending;
    std::exception_ptr error;
    const auto finish_one = [&] {
      try {
        pending.front()();
      } catch (...) {
        error = std::current_exception();
      }
      pending.pop_front();
    };
    for (std::size_t i = 0; i < items && !error; ++i) {
      if (pending.size() == kSlots) finish_one();
      pending.push_back(stream.submit(slots_[i % kSlots]));
    }
    while (!pending.empty()) finish_one();
    if (error) std::rethrow_exception(error);
    return ms_since(start) / static_cast<double>(items);
  }

  bool right() const {
    for (std::size_t s = 0; s < kSlots; ++s) {
      const float scale = std::ldexp(1.0F, static_cast<int>(s) + 1);
      for (std::size_t i = 0; i < expected_.size(); i += kLine)
        if (slots_[s].dst[i] != scale * expected_[i]) return false;
    }
    return true;
  }

  const Conv2dDesc desc_;
  const std::vector<float> src_;
  std::vector<float> expected_;
  std::shared_ptr<const core::PreparedConv> conv_;
  double run_ms_ = 0;
  std::vector<core::StreamMemory> slots_;
};

// Of ranked results; nothing where none is right.
std::optional<StreamForm> preferred(const std::vector<TuneResult>& ranked) {
  for (const StreamForm& form : kStreamForms)
    for (const TuneResult& result : ranked)
      if (result.kernel == form.name && result.rejected.empty() && result.ms <= kAlike * ranked[0].ms) return form;
  return std::nullopt;
}

}  // namespace

std::optional<StreamForm> stream_form(std::string_view name) {
  const auto* const found =
      std::find_if(kStreamForms.begin(), kStreamForms.end(), [&](const StreamForm& form) { return name == form.name; });
  if (found == kStreamForms.end()) return std::nullopt;
  return *found;
}

StreamForm fastest_stream_form(
    core::Backend& backend,
    const std::function<std::unique_ptr<core::Stream>(std::shared_ptr<const core::PreparedConv> conv, StreamForm form)>&
        open) {
  const StreamForm otherwise = *stream_form("epochs");
  const std::string& device = backend.info().name;
  const Conv2dDesc desc = Conv2dDesc::parse(backend.info().software ? kSlowProblem : kProblem);
  core::TuneKey key = core::tune_key(backend, desc, 0);
  key.problem = "stream " + key.problem;

  std::vector<TuneResult> results = core::user_tune_cache().find(key);
  const bool known = results.size() == kStreamForms.size();
  const auto start = Clock::now();
  try {
    if (!known) {
      auto trial = std::make_unique<Trial>(backend, desc);
      if (trial->run_ms() > kSlow_ms) trial = std::make_unique<Trial>(backend, Conv2dDesc::parse(kSlowProblem));
      results.clear();
      for (const StreamForm& form : kStreamForms) results.push_back({.kernel = form.name, .rejected = kNotReached});
      const auto first = Clock::now();
      for (const double most_ms : kPass_ms)
        for (std::size_t i = 0; i < results.size() && ms_since(first) < most_ms; ++i) {
          if (!results[i].rejected.empty() && results[i].rejected != kNotReached) continue;
          try {
            trial->measure(*open(trial->conv(), kStreamForms[i]), results[i]);
          } catch (const Error& e) {
            results[i] = {.kernel = results[i].kernel, .rejected = e.what()};
          }
        }
      core::rank(results);
    }
  } catch (const Error& e) {
    core::log(LogLevel::warning, device, ": the executor's self-test failed, executors run in epochs: ", e.what());
    return otherwise;
  }
  std::string text;
  for (const TuneResult& r : results)
    text += std::string(text.empty() ? "" : ", ") + r.kernel + ' ' +
            (r.rejected.empty() ? core::number_text(std::round(r.ms * 1e4) * 1e-4) + " ms" : r.rejected);
  core::log(LogLevel::info, device, ": an item of an executor takes: ", text,
            known ? " (remembered)" : " (measured in " + core::number_text(std::round(ms_since(start))) + " ms)");
  // What went wrong now may go right another time.
  const bool lasting = std::all_of(results.begin(), results.end(), [](const TuneResult& r) { return r.ms > 0; });
  if (!known && lasting)
    for (const TuneResult& r : results) core::user_tune_cache().store(key, r);
  return preferred(results).value_or(otherwise);
}

}  // namespace convrt::gl
