// A MultiDevicePlan over every GPU of the machine, or, where there is only one, over contexts of its own on it: one is
// lost in the middle of a run.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <string_view>
#include <utility>

#include "convrt/multi_device.hpp"
#include "core/access.hpp"
#include "gl/gl_backend.hpp"
#include "problem.hpp"

namespace {

using namespace std::chrono_literals;
using convrt::Conv2dDesc;
using convrt::Conv2dPlan;
using convrt::Device;
using convrt::MultiDevicePlan;
using convrt::gl::GlBackend;
using convrt::test::integers;

class GlDevices : public testing::Test {
 protected:
  void SetUp() override {
    for (const Device& device : convrt::devices()) {
      const auto backend = std::dynamic_pointer_cast<GlBackend>(convrt::core::Access::backend(device));
      if (backend && !backend->gl_info().software) add(backend);
    }
    if (backends_.size() > 1) return;
    backends_.clear();
    auto found = convrt::gl::egl_devices();
    if (found.empty()) found = convrt::gl::surfaceless_device();
    if (found.empty()) GTEST_SKIP() << "no GL device here (CONVRT_VERBOSE=info says why)";
    for (int i = 0; i < 3; ++i)
      add(std::make_shared<GlBackend>(
          found.back(),
          std::make_shared<convrt::gl::GlDevice>(found.back(), convrt::gl::GlContext::Options{.timeout = 10s}),
          "gl:test" + std::to_string(i)));
  }

  void TearDown() override {
    convrt::set_log(convrt::LogLevel::off, {});
    if (!backends_.empty()) on_victim([](GladGLContext& gl) { gl.GetGraphicsResetStatus = original_; });
  }

  void add(std::shared_ptr<GlBackend> backend) { backends_.push_back(std::move(backend)); }

  std::vector<Device> devices() const {
    std::vector<Device> list;
    for (const auto& backend : backends_) list.push_back(convrt::core::Access::device(backend));
    return list;
  }

  // The next but `checks` look at the second device's context finds it reset.
  void lose_second(int checks) {
    on_victim([](GladGLContext& gl) {
      if (gl.GetGraphicsResetStatus == injected) return;
      original_ = gl.GetGraphicsResetStatus;
      gl.GetGraphicsResetStatus = injected;
    });
    reset_after_ = checks;
  }

  std::vector<std::shared_ptr<GlBackend>> backends_;

 private:
  void on_victim(void (*change)(GladGLContext&)) {
    backends_[1]->device().session()->context->call([change](convrt::gl::GlState& state) { change(state.gl); });
  }
  static GLenum GLAD_API_PTR injected() {
    return reset_after_ >= 0 && reset_after_-- == 0 ? GL_GUILTY_CONTEXT_RESET : GL_NO_ERROR;
  }
  static inline PFNGLGETGRAPHICSRESETSTATUSPROC original_ = nullptr;
  static inline std::atomic<int> reset_after_ = -1;
};

TEST_F(GlDevices, OneLostInTheMiddleOfARunIsReplacedByTheOthers) {
  // Several submissions of its executor a device: four megabytes each, on GPUs 12.8.
  const auto d = Conv2dDesc::parse(backends_[0]->gl_info().software ? "n160c16h28w28k16r1s1+relu"
                                                                    : "n256c64h56w56k64r3s3ph1pw1+relu");
  const auto weights = integers(d.weights_size(), 1), src = integers(d.src_size(), 2);
  const convrt::PlanOptions options = {.accuracy = convrt::Accuracy::strict};  // integers stay exact
  std::vector<float> expected(d.dst_size());
  Conv2dPlan(convrt::find_device("cpu"), d, weights, {}, options).run(src, expected);

  MultiDevicePlan plan(devices(), d, weights, {}, options);
  const auto run = [&] {
    std::vector<float> dst(d.dst_size(), 99);
    plan.run(src, dst);
    return dst == expected;
  };
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(run()) << "run " << i;

  std::string said;
  convrt::set_log(convrt::LogLevel::warning, [&](convrt::LogLevel, std::string_view text) { said += text; });
  lose_second(2);      // of the few checks that a busy host leaves to a device whose share is small
  ASSERT_TRUE(run());  // of the first three, in which all take part
  EXPECT_NE(said.find("drops out"), std::string::npos) << said;
  EXPECT_NE(said.find(backends_[1]->info().id), std::string::npos) << said;
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(run());  // the fastest alone, then all that are left
  const auto shares = plan.shares();
  double rest = 0;
  for (std::size_t i = 0; i < shares.size(); ++i)
    if (i != 1) rest += shares[i].fraction;
  EXPECT_EQ(shares[1].fraction, 0);
  EXPECT_NEAR(rest, 1, 1e-9);
}

}  // namespace
