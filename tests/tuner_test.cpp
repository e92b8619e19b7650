// tune() and the kernel choice that follows from it; CONVRT_VALIDATE and CONVRT_HISTORY.
#include "convrt/tuner.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "convrt/convrt.hpp"
#include "core/cache_file.hpp"
#include "core/history.hpp"
#include "fake_backend.hpp"
#include "temporary_directory.hpp"

namespace {

using namespace std::chrono_literals;
using convrt::Conv2dDesc;
using convrt::Conv2dPlan;
using convrt::Error;
using convrt::ErrorCode;
using convrt::Tune;
using convrt::TuneReport;
using convrt::test::FakeBackend;
using convrt::test::FakeKernel;

const Conv2dDesc kProblem = Conv2dDesc::parse("n1c3h7w9k4r3s3ph1pw1+acc+relu");

/// Every test has a cache of its own.
class Tuner : public testing::Test {
 protected:
  std::string kernel(const std::shared_ptr<FakeBackend>& backend, const convrt::PlanOptions& options = {},
                     const Conv2dDesc& desc = kProblem) const {
    const std::vector<float> weights(desc.weights_size(), 1);
    return Conv2dPlan(backend->device(), desc, weights, {}, options).kernel();
  }
  static std::shared_ptr<FakeBackend> device(std::vector<FakeKernel> kernels) {
    return std::make_shared<FakeBackend>("fake:0", std::move(kernels));
  }
  // The heuristic's favourite is slow, one kernel lies, one does not compile, one cannot be had just now.
  static std::shared_ptr<FakeBackend> mixed() {
    return device({{.name = "fake.slow", .delay = 3ms},
                   {.name = "fake.wrong", .after_run = [](std::span<float> dst) { dst.back() += 1; }},
                   {.name = "fake.broken", .on_prepare = [] { throw Error(ErrorCode::compile_failed, "line 3"); }},
                   {.name = "fake.winograd_f2x2", .delay = 300us},
                   {.name = "fake.fast", .delay = 1ms},
                   {.name = "fake.starved", .before_run = [](int) { throw std::bad_alloc(); }},
                   {.name = "fake.reference"}});
  }

  TemporaryDirectory directory_;
  Environment cache_{"CONVRT_CACHE_DIR", directory_.path.c_str()};
};

TEST_F(Tuner, RanksTheRightAndRejectsTheWrong) {
  const auto backend = mixed();
  std::vector<convrt::TuneProgress> heard;
  const TuneReport report =
      tune(backend->device(), kProblem, {.progress = [&](const convrt::TuneProgress& p) { heard.push_back(p); }});
  EXPECT_TRUE(report.complete);
  EXPECT_EQ(report.best(), "fake.winograd_f2x2");
  ASSERT_EQ(report.results.size(), 6U) << "the reference is not a candidate";
  EXPECT_EQ(report.results[1].kernel, "fake.fast");
  EXPECT_EQ(report.results[2].kernel, "fake.slow");
  EXPECT_GE(report.results[1].ms, 1);
  EXPECT_GE(report.results[2].ms, 3);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_LE(report.results[i].error, 1);
    EXPECT_EQ(report.results[i].rejected, "");
  }
  std::map<std::string, std::string> rejected;
  for (std::size_t i = 3; i < 6; ++i) rejected[report.results[i].kernel] = report.results[i].rejected;
  EXPECT_NE(rejected["fake.wrong"].find("wrong result: dst[n=0][k=3][p=6][q=8]"), std::string::npos);
  EXPECT_EQ(rejected["fake.broken"], "does not compile: line 3");
  EXPECT_NE(rejected["fake.starved"].find("out_of_memory"), std::string::npos);

  ASSERT_EQ(heard.size(), 6U);
  EXPECT_EQ(heard.back().done, 6U);
  EXPECT_EQ(heard.back().total, 6U);
  EXPECT_EQ(heard.back().best, "fake.winograd_f2x2");
  EXPECT_EQ(heard[0].kernel, "fake.slow");
}

TEST_F(Tuner, PlansFollowTheCache) {
  const auto backend = mixed();
  EXPECT_EQ(kernel(backend), "fake.slow") << "nothing is tuned yet";
  tune(backend->device(), kProblem);
  EXPECT_EQ(kernel(backend), "fake.winograd_f2x2");
  EXPECT_EQ(kernel(backend, {.accuracy = convrt::Accuracy::strict}), "fake.fast");
  EXPECT_EQ(kernel(backend, {.tune = Tune::off}), "fake.slow");
  EXPECT_EQ(kernel(backend, {.kernel = "fake"}), "fake.winograd_f2x2") << "the best under a prefix is the tuned best";
  EXPECT_EQ(kernel(backend, {.kernel = "fake.slow"}), "fake.slow") << "a name beats the cache";
  EXPECT_EQ(kernel(backend, {}, Conv2dDesc::parse("n2c3h7w9k4r3s3")), "fake.slow") << "another problem";
  const Environment forced("CONVRT_KERNEL", "fake.wrong");
  EXPECT_EQ(kernel(backend), "fake.wrong") << "the user's word beats the cache";
}

TEST_F(Tuner, UsersCacheComesBeforeShippedResultsBeforeTheHeuristic) {
  const auto backend = mixed();
  EXPECT_EQ(kernel(backend), "fake.slow") << "heuristic";
  backend->ship("n1c3h7w9k4r3s3ph1pw1 fake.gone fake.reference fake.wrong\n");
  EXPECT_EQ(kernel(backend), "fake.reference") << "shipped; what no longer exists is passed over";
  EXPECT_EQ(kernel(backend, {.tune = Tune::off}), "fake.slow");
  tune(backend->device(), kProblem, {.budget_ms = 0});  // measures one: the heuristic's
  EXPECT_EQ(kernel(backend), "fake.slow") << "the user's own measurement";
  EXPECT_EQ(kernel(backend, {}, Conv2dDesc::parse("n2c3h7w9k4r3s3ph1pw1")), "fake.reference") << "shipped, nearest n";
  const Environment forced("CONVRT_KERNEL", "fake.fast");
  EXPECT_EQ(kernel(backend), "fake.fast");
}

TEST_F(Tuner, MeasuresOnlyTheFirstOfEachKind) {
  const auto backend = mixed();
  const TuneReport report = tune(backend->device(), kProblem, {.most_candidates = 1});
  ASSERT_EQ(report.results.size(), 2U);
  EXPECT_TRUE(report.complete);
  EXPECT_EQ(report.results[0].kernel, "fake.winograd_f2x2");
  EXPECT_EQ(report.results[1].kernel, "fake.slow");
}

// A first look in a slow moment must not decide: the finals measure the best again, in turns.
TEST_F(Tuner, ASlowMomentDoesNotDecide) {
  const auto slow_at_first = [](int run) {
    if (run < 7) std::this_thread::sleep_for(4200us);  // the first look, and the check before it
  };
  const auto backend = device({{.name = "fake.steady", .delay = 8ms},
                               {.name = "fake.better", .before_run = slow_at_first, .delay = 4ms},
                               {.name = "fake.reference"}});
  const TuneReport report = tune(backend->device(), kProblem);
  EXPECT_EQ(report.best(), "fake.better");
  EXPECT_LT(report.results[0].ms, report.results[1].ms);
}

TEST_F(Tuner, MeasuresOnADeviceWithMemoryOfItsOwn) {
  const auto backend = std::make_shared<FakeBackend>(
      "fake:0",
      std::vector<FakeKernel>{{.name = "fake.slow", .delay = 3ms},
                              {.name = "fake.wrong", .after_run = [](std::span<float> dst) { dst.back() += 1; }},
                              {.name = "fake.fast", .delay = 1ms},
                              {.name = "fake.reference"}},
      false);
  const TuneReport report = tune(backend->device(), kProblem);
  EXPECT_TRUE(report.complete);
  EXPECT_EQ(report.best(), "fake.fast");
  EXPECT_GE(report.results[0].ms, 1);
  EXPECT_NE(report.results[2].rejected.find("wrong result"), std::string::npos);
}

TEST_F(Tuner, MeasureTunesOnceAndNeverPicksARejectedKernel) {
  const auto liar = device(
      {{.name = "fake.wrong", .after_run = [](std::span<float> dst) { dst[0] += 1; }}, {.name = "fake.reference"}});
  EXPECT_EQ(kernel(liar), "fake.wrong");
  EXPECT_EQ(kernel(liar, {.tune = Tune::measure}), "fake.reference");
  EXPECT_EQ(kernel(liar), "fake.reference");
  const int runs = liar->runs(0);
  EXPECT_EQ(kernel(liar, {.tune = Tune::measure}), "fake.reference");
  EXPECT_EQ(liar->runs(0), runs) << "what is known was measured again";
}

TEST_F(Tuner, GoesOnWhereTheBudgetEndedIt) {
  std::vector<FakeKernel> kernels;
  for (const char* name : {"fake.a", "fake.b", "fake.c"}) kernels.push_back({.name = name, .delay = 2ms});
  const auto backend = device(kernels);
  for (int known = 1; known <= 3; ++known) {
    const TuneReport report = tune(backend->device(), kProblem, {.budget_ms = 0});
    EXPECT_EQ(report.complete, known == 3);
    EXPECT_EQ(std::count_if(report.results.begin(), report.results.end(), [](auto& r) { return r.rejected.empty(); }),
              known);
    EXPECT_EQ(report.results.size(), 3U);
    EXPECT_NE(report.best(), "");
    if (known < 3) {
      EXPECT_EQ(report.results.back().rejected, "over budget");
    }
  }
  const int runs = backend->runs(0) + backend->runs(1) + backend->runs(2);
  EXPECT_TRUE(tune(backend->device(), kProblem, {.budget_ms = 0}).complete);
  EXPECT_EQ(backend->runs(0) + backend->runs(1) + backend->runs(2), runs);
}

// A device with memory of its own may have lowered its clock while the host checked results.
TEST_F(Tuner, ColdTimesOfAGpuAreTakenAnewWhateverTheBudget) {
  const auto backend = std::make_shared<FakeBackend>(
      "fake:0",
      std::vector<FakeKernel>{
          {.name = "fake.a", .before_run = [](int run) { std::this_thread::sleep_for(run < 5 ? 60ms : 100us); }}},
      /*host_memory=*/false);
  const TuneReport report = tune(backend->device(), kProblem, {.budget_ms = 0});
  ASSERT_EQ(report.best(), "fake.a");
  EXPECT_LT(report.results[0].ms, 30);
}

TEST_F(Tuner, StopsWhenCancelled) {
  const auto backend = mixed();
  std::stop_source stop;
  const TuneReport report = tune(backend->device(), kProblem,
                                 {.progress = [&](const auto&) { stop.request_stop(); }, .cancel = stop.get_token()});
  EXPECT_FALSE(report.complete);
  EXPECT_EQ(report.best(), "fake.slow");
  EXPECT_EQ(report.results.back().rejected, "cancelled");
  const TuneReport nothing = tune(backend->device(), Conv2dDesc::parse("n1c1h1w1k1r1s1"), {.cancel = stop.get_token()});
  EXPECT_EQ(nothing.best(), "");
}

TEST_F(Tuner, ABadCacheMeansTuningAnew) {
  const auto backend = mixed();
  {
    std::ofstream(directory_.path / convrt::core::cache_path("tune").filename())
        << std::string(5000, '\xfe') << "\n\n\t\n";
  }
  EXPECT_EQ(kernel(backend), "fake.slow");
  EXPECT_TRUE(tune(backend->device(), kProblem).complete);
  EXPECT_EQ(kernel(backend), "fake.winograd_f2x2");
}

TEST_F(Tuner, AnEmptyBatchHasNothingToMeasure) {
  const auto backend = mixed();
  EXPECT_TRUE(tune(backend->device(), Conv2dDesc::parse("n0c3h7w9k4r3s3")).complete);
  EXPECT_EQ(kernel(backend, {.tune = Tune::measure}, Conv2dDesc::parse("n0c3h7w9k4r3s3")), "fake.slow");
  EXPECT_THROW(tune(backend->device(), Conv2dDesc::parse("n1c3h7w9k4r9s9")), Error);
}

TEST_F(Tuner, MeasuresTheCpu) {
  const TuneReport report = tune(convrt::find_device("cpu"), Conv2dDesc::parse("n1c8h14w14k16r3s3ph1pw1"));
  ASSERT_NE(report.best(), "");
  for (const auto& r : report.results) EXPECT_EQ(r.rejected.find("wrong"), std::string::npos) << r.kernel << r.rejected;
}

TEST_F(Tuner, ThreadsMayTuneAtOnce) {
  const auto backend = mixed();
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] { EXPECT_EQ(tune(backend->device(), kProblem).best(), "fake.winograd_f2x2"); });
  threads.clear();
  EXPECT_EQ(convrt::core::read_lines(convrt::core::cache_path("tune")).size(), 5U) << "starved is not stored";
}

TEST_F(Tuner, HistoryAddsUpAndSeedsTheOrder) {
  const Environment on("CONVRT_HISTORY", "1");
  const auto backend = mixed();
  const std::vector<float> weights(kProblem.weights_size(), 1), src(kProblem.src_size(), 1);
  std::vector<float> dst(kProblem.dst_size());
  for (int round = 0; round < 2; ++round) {
    const Conv2dPlan plan(backend->device(), kProblem, weights, {}, {.kernel = "fake.fast"});
    for (int i = 0; i < 3; ++i) plan.run(src, dst);
  }
  const auto records = convrt::core::history();
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0].runs, 6U);
  EXPECT_EQ(records[0].kernel, "fake.fast");
  EXPECT_EQ(records[0].problem, kProblem.str());
  EXPECT_GE(records[0].best_ms, 1);
  EXPECT_GE(records[0].total_ms, 6 * records[0].best_ms * 0.999);
  EXPECT_EQ(tune(backend->device(), kProblem, {.budget_ms = 0}).best(), "fake.fast") << "tried first";
}

TEST_F(Tuner, HistoryCountsWhatIsEnqueued) {
  const Environment on("CONVRT_HISTORY", "1");
  const auto backend = mixed();
  const std::vector<float> weights(kProblem.weights_size(), 1), src(kProblem.src_size(), 1);
  std::vector<float> dst(kProblem.dst_size());
  const auto use = [&](int runs, int enqueues) {
    const Conv2dPlan plan(backend->device(), kProblem, weights, {}, {.kernel = "fake.fast"});
    convrt::Buffer from = backend->device().allocate(src.size()), to = backend->device().allocate(dst.size());
    from.upload(src);
    to.upload(dst);
    for (int i = 0; i < runs; ++i) plan.run(src, dst);
    for (int i = 0; i < enqueues; ++i) plan.enqueue(from, to);
    backend->device().synchronize();
  };
  use(0, 3);
  ASSERT_EQ(convrt::core::history().size(), 1U);
  EXPECT_EQ(convrt::core::history()[0].runs, 0U);
  EXPECT_EQ(convrt::core::history()[0].enqueued, 3U);
  EXPECT_EQ(convrt::core::history()[0].best_ms, 0);
  EXPECT_EQ(tune(backend->device(), Conv2dDesc(kProblem), {.budget_ms = 0}).best(), "fake.slow") << "no time, no seed";
  use(2, 1);
  use(0, 1);
  const auto records = convrt::core::history();
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0].runs, 2U);
  EXPECT_EQ(records[0].enqueued, 5U);
  EXPECT_GE(records[0].best_ms, 1);
}

TEST_F(Tuner, WithoutTheVariableNothingIsRecorded) {
  const Environment off("CONVRT_HISTORY", nullptr);
  const auto backend = mixed();
  const std::vector<float> weights(kProblem.weights_size(), 1), src(kProblem.src_size(), 1);
  std::vector<float> dst(kProblem.dst_size());
  Conv2dPlan(backend->device(), kProblem, weights).run(src, dst);
  EXPECT_TRUE(convrt::core::history().empty());
}

TEST_F(Tuner, ValidateFindsAWrongKernelAndNamesIt) {
  const Environment on("CONVRT_VALIDATE", "1");
  const auto backend = mixed();
  const std::vector<float> weights(kProblem.weights_size(), 1), src(kProblem.src_size(), 1);
  std::vector<float> dst(kProblem.dst_size(), 1);
  const Conv2dPlan good(backend->device(), kProblem, weights, {}, {.kernel = "fake.slow"});
  good.run(src, dst);
  good.reshaped(1, 7, 9).run(src, dst);
  const Conv2dPlan wrong(backend->device(), kProblem, weights, {}, {.kernel = "fake.wrong"});
  convrt::Buffer from = backend->device().allocate(src.size()), to = backend->device().allocate(dst.size());
  from.upload(src);
  to.upload(dst);
  good.enqueue(from, to);
  const auto run = [&] { wrong.run(src, dst); };
  const auto enqueue = [&] { wrong.enqueue(from, to); };
  for (const std::function<void()>& action : {std::function<void()>(run), std::function<void()>(enqueue)}) {
    try {
      action();
      ADD_FAILURE() << "a wrong result passed";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::internal);
      for (const char* part : {"fake.wrong", "n1c3h7w9k4r3s3ph1pw1+acc+relu", "dst[n=0][k=3][p=6][q=8]"})
        EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  }
}

}  // namespace
