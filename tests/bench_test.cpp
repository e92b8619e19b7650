// The bench's own parts: the workload table, the peak loop, the statistics, and that a wrong result never gets a time.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "contender.hpp"
#include "convrt/device.hpp"
#include "core/tune_cache.hpp"
#include "devices.hpp"
#include "export.hpp"
#include "peak.hpp"
#include "peers/onednn.hpp"
#include "plans.hpp"
#include "report.hpp"
#include "runner.hpp"
#include "scaling.hpp"
#include "session.hpp"
#include "statistics.hpp"
#include "tune_report.hpp"
#include "workloads.hpp"

namespace convrt::bench {
namespace {

std::shared_ptr<Problem> problem(const char* text) {
  return std::make_shared<Problem>(Workload{text, Conv2dDesc::parse(text)});
}

TEST(Workloads, EverySuiteIsValidAndNamesAreUnique) {
  for (const Suite& suite : suites()) {
    std::set<std::string> names, problems;
    for (const Workload& w : workloads(suite.name)) {
      EXPECT_NO_THROW(w.desc.validate()) << w.name;
      EXPECT_TRUE(names.insert(w.name).second) << w.name << " stands twice in " << suite.name;
      EXPECT_TRUE(problems.insert(w.desc.str()).second) << w.name << " repeats a problem of " << suite.name;
      EXPECT_EQ(std::count(classes().begin(), classes().end(), class_of(w.desc)), 1) << w.name;
    }
  }
}

// Sizes and work as the published tables of the networks give them.
TEST(Workloads, SuitesHoldTheLayersTheyPromise) {
  EXPECT_EQ(workloads("peers36").size(), 36U);
  EXPECT_EQ(workloads("resnet50").size(), 46U);
  EXPECT_EQ(workloads("vgg16").size(), 9U);
  EXPECT_EQ(workloads("mobilenet_v2").size(), 10U);
  EXPECT_EQ(workloads("layers").size(), 10U);
  const auto gflop = [](const char* suite, const std::string& name) {
    for (const Workload& w : workloads(suite))
      if (w.name == name) return w.desc.flops() * 1e-9;
    return 0.0;
  };
  EXPECT_NEAR(gflop("peers36", "rn50_stem7x7s2_3-64_224"), 0.2360, 5e-5);
  EXPECT_NEAR(gflop("peers36", "rn50_1x1s2_1024-2048_14"), 0.2055, 5e-5);
  EXPECT_NEAR(gflop("peers36", "vgg_conv5_2_512-512_14"), 0.9248, 5e-5);
  EXPECT_NEAR(gflop("peers36", "mbv2_dw3x3s2_96_112"), 0.0054, 5e-5);
  EXPECT_NEAR(gflop("peers36", "resnext_g32_3x3_128_56"), 0.0289, 5e-5);
  EXPECT_NEAR(gflop("peers36", "deeplab_3x3d2_512-512_28"), 3.6994, 5e-5);
  EXPECT_NEAR(gflop("peers36", "incep_5x5_48-64_28"), 0.1204, 5e-5);
  EXPECT_NEAR(gflop("peers36", "small_3x3_3-16_32"), 0.0009, 5e-5);
  EXPECT_NEAR(gflop("resnet50", "rn50_3x3_512-512_7_N16"), 16 * 0.2312, 1e-3);
}

TEST(Workloads, BatchesReplaceTheSuitesOwn) {
  Options options;
  options.suites = {"resnet50"};
  options.batches = {32, 1};
  std::vector<Workload> all = selected_workloads(options);
  EXPECT_EQ(all.size(), 46U) << "the suite's N = 1 and N = 16 are the same layers";
  EXPECT_EQ(all.front().name, "rn50_stem7x7s2_3-64_224_N32");
  EXPECT_EQ(all.front().desc.n, 32);
  EXPECT_EQ(all.back().name, "rn50_3x3_512-512_7");
  options.suites = {"gpu35"};
  all = selected_workloads(options);
  EXPECT_EQ(all.size(), 70U);
  EXPECT_EQ(std::count_if(all.begin(), all.end(), [](auto& w) { return class_of(w.desc) == "depthwise"; }), 8);
}

TEST(Workloads, AnUnknownSuiteOrFilterIsAnErrorThatListsWhatExists) {
  try {
    workloads("resnet18");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
    EXPECT_NE(std::string(e.what()).find("peers36, resnet50"), std::string::npos) << e.what();
  }
  Options options;
  options.filter = "no such layer";
  EXPECT_THROW(selected_workloads(options), Error);
}

TEST(Statistics, QuantilesAndGeomean) {
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 2, 3}), 2.5);
  EXPECT_EQ(quantile({0, 1, 2, 3, 4}, 0.75), 3);
  EXPECT_NEAR(geomean({1, 10, 100}), 10, 1e-12);
}

// An AVX core does at least 2 * 8 lanes a cycle at 1 GHz; a loop that spills or whose chains were merged falls below or
// far above what any core can do: 2 ports * 16 lanes * 2 flops * 7 GHz.
TEST(Peak, LiesBetweenWhatAnyAndWhatNoCoreCanDo) {
#if !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "only an optimised build without sanitizers keeps the chains in registers";
#endif
  for (const cpu::Isa isa : cpu::cpu_info().isas) {
    if (!has_fma_loop(isa)) continue;
    double best = 0;
    for (int i = 0; i < 5; ++i) {
      const double begin = now_seconds(Clock::thread);
      const double flops = run_fma_loop(isa, 1);
      best = std::max(best, flops * 1e-9 / (now_seconds(Clock::thread) - begin));
    }
    const bool wide = isa == cpu::Isa::avx2 || isa == cpu::Isa::avx512;
    EXPECT_GT(best, wide ? 16 : 4) << to_string(isa);
    EXPECT_LT(best, 448) << to_string(isa);
  }
}

TEST(Check, PassesTheReferenceInBothLayouts) {
  const auto p = problem("n2c5h7w9k6r3s2sh2ph1pw1");
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    const auto reference = make_convrt(p, find_device("cpu"), layout, 1, {.kernel = "cpu.reference"});
    ASSERT_TRUE(reference);
    const core::VerifyResult result = check(*p, *reference);
    EXPECT_TRUE(result.ok()) << result.str();
    EXPECT_EQ(result.checked, p->desc(layout).dst_size());
  }
  EXPECT_FALSE(make_convrt(p, find_device("cpu"), Layout::nchw, 1, {.kernel = "cpu.no_such_kernel"}));
}

TEST(Check, CatchesWhatABrokenKernelDoes) {
  const auto p = problem("n1c4h12w12k8r3s3ph1pw1");
  const std::optional<Contender> right =
      make_convrt(p, find_device("cpu"), Layout::nchw, 1, {.kernel = "cpu.reference"});
  ASSERT_TRUE(right);
  const auto breaks = [&](const char* how, auto damage) {
    Contender broken = *right;
    broken.run = [&, run = right->run] {
      run();
      damage(p->dst(Layout::nchw));
    };
    EXPECT_FALSE(check(*p, broken).ok()) << how;
  };
  breaks("one element off by a hundredth", [](std::span<float> dst) { dst[77] += 0.01F; });
  breaks("last element is NaN", [](std::span<float> dst) { dst.back() = NAN; });
  breaks("two rows exchanged", [](std::span<float> dst) { std::swap_ranges(&dst[0], &dst[12], &dst[12]); });
  Contender idle = *right;
  idle.run = [] {};
  EXPECT_FALSE(check(*p, idle).ok()) << "a kernel that writes nothing finds no earlier result to hide behind";
}

TEST(Check, CatchesABrokenPeer) {
  if (onednn_version().empty()) GTEST_SKIP() << "built without oneDNN (libdnnl-dev)";
  const auto p = problem("n1c16h12w12k16r3s3ph1pw1");
  const std::vector<Contender> peers = make_onednn(p, 1);
  ASSERT_GE(peers.size(), 4U);
  for (const Contender& peer : peers) {
    const core::VerifyResult result = check(*p, peer);
    EXPECT_TRUE(result.ok()) << peer.name << ": " << result.str();
    Contender idle = peer;
    idle.run = [] {};
    EXPECT_FALSE(check(*p, idle).ok()) << peer.name << " counts without having run";
  }
}

TEST(Check, ComparesAnAccumulatingRunWithWhatStoodThereBefore) {
  const auto p = problem("n1c4h8w8k8r1s1+acc+relu");
  const auto reference = make_convrt(p, find_device("cpu"), Layout::nchw, 1, {.kernel = "cpu.reference"});
  ASSERT_TRUE(reference);
  EXPECT_TRUE(check(*p, *reference).ok());
  EXPECT_TRUE(make_onednn(p, 1).empty());
}

TEST(Runner, TakesTheSamplesItPromises) {
  int quick_runs = 0;
  std::vector<Job> jobs = {{"quick", [&] { ++quick_runs; }},
                           {"peak", [] { run_fma_loop(cpu::cpu_info().isas[0], 1); }}};
  measure(jobs, {.samples = 7, .sample_ms = 0.1, .clock = Clock::thread});
  for (const Job& job : jobs) {
    EXPECT_EQ(job.seconds.size(), 7U) << job.name;
    EXPECT_GT(*std::min_element(job.seconds.begin(), job.seconds.end()), 0) << job.name;
  }
  EXPECT_GE(quick_runs, 7 * jobs[0].iterations);
}

TEST(Report, JsonAndCsvHoldTheResultsAndWhereTheyWereMeasured) {
  Options options;
  options.problems = {"n1c8h8w8k8r3s3ph1pw1+nhwc"};
  options.kernels = {"cpu.reference"};
  options.threads = {1};
  options.runner = {.samples = 3, .sample_ms = 0.05, .clock = Clock::wall};
  const Session session = run_session(options);
  const auto json = nlohmann::json::parse(to_json(session));
  EXPECT_FALSE(json["environment"]["cpu"].get<std::string>().empty());
  EXPECT_FALSE(json["environment"]["compiler"].get<std::string>().empty());
  const auto& own = json["results"][0];
  EXPECT_EQ(own["kernel"], "cpu.reference");
  EXPECT_EQ(own["problem"], "n1c8h8w8k8r3s3ph1pw1+nhwc");
  EXPECT_EQ(own["checked_outputs"], 512);
  EXPECT_EQ(own["samples"], 3);
  EXPECT_GT(own["gflops"].get<double>(), 0);
  const std::string csv = to_csv(session);
  EXPECT_NE(csv.find("# cpu: "), std::string::npos);
  EXPECT_NE(csv.find("cpu.reference,cpu,nhwc,1,"), std::string::npos) << csv;
}

TEST(Report, AGpusKernelTimeStandsApartFromEndToEnd) {
  Options options;
  for (const Device& device : devices())
    if (device.info().id != "cpu" && options.devices.front() == "cpu") options.devices = {device.info().id};
  if (options.devices.front() == "cpu") GTEST_SKIP() << "no OpenGL device here";
  options.problems = {"n2c8h8w8k8r3s3ph1pw1"};
  options.runner = {.samples = 3, .sample_ms = 0.05, .clock = Clock::wall};
  const Session session = run_session(options);
  ASSERT_EQ(session.results.size(), 2U) << "one round, whatever the thread counts";
  EXPECT_TRUE(session.results[0].device_clock);
  EXPECT_FALSE(session.results[1].device_clock);
  for (const Result& r : session.results) {
    EXPECT_EQ(r.error, "");
    EXPECT_EQ(r.seconds.size(), 3U);
    EXPECT_EQ(r.threads, 0);
  }
  ASSERT_EQ(session.device_peaks.size(), 1U);
  EXPECT_GT(session.device_peaks[0].gflops, session.results[0].gflops());
  EXPECT_GT(session.percent_of_copy(session.results[0]), 0);
  const auto json = nlohmann::json::parse(to_json(session));
  EXPECT_EQ(json["results"][0]["clock"], "gpu");
  EXPECT_EQ(json["results"][1]["clock"], "wall");
  EXPECT_EQ(json["results"][1]["contender"], options.devices.front() + " end to end");
  EXPECT_GT(json["results"][1]["device_gflops"].get<double>(), 0);
  EXPECT_GT(json["device_peaks"][0]["copy_gbytes_per_s"].get<double>(), 0);
  std::ostringstream text;
  print_tables(text, session);
  EXPECT_NE(text.str().find("%copy"), std::string::npos) << text.str();
}

TEST(Tuning, ShipsTheBestAndTheBestDirectOne) {
  TuneReport report;
  report.results = {{"gl.winograd_f4x4.a", 1.0, 0, 0, ""},  {"gl.winograd_f4x4.b", 1.1, 0, 0, ""},
                    {"gl.winograd_f2x2.a", 1.2, 0, 0, ""},  {"gl.winograd_f2x2.b", 1.3, 0, 0, ""},
                    {"gl.large_256.a", 2.0, 0, 0, ""},      {"gl.large_256.b", 2.1, 0, 0, ""},
                    {"gl.lds_64.a", 0, 0, 0, "over budget"}};
  EXPECT_EQ(worth_shipping(report), (std::vector<std::string>{"gl.winograd_f4x4.a", "gl.winograd_f4x4.b",
                                                              "gl.winograd_f2x2.a", "gl.large_256.a"}));
  report.results.erase(report.results.begin(), report.results.begin() + 4);
  EXPECT_EQ(worth_shipping(report), (std::vector<std::string>{"gl.large_256.a", "gl.large_256.b"}));
  report.results = {{"gl.lds_64.a", 0, 0, 0, "does not compile"}};
  EXPECT_TRUE(worth_shipping(report).empty());
}

TEST(Tuning, ExportKeepsWhatItDidNotMeasure) {
  const std::string old = "# old heading\nn1c1h1w1k1r1s1 gl.a gl.b # 3 us\nn2c1h1w1k1r1s1 gl.c # 4 us\n";
  const std::string merged =
      merge_tuning(old, {{"n2c1h1w1k1r1s1", "gl.d # 2 us"}, {"n3c1h1w1k1r1s1", "gl.e # 5 us"}}, "# new heading\n");
  EXPECT_EQ(merged,
            "# new heading\nn1c1h1w1k1r1s1 gl.a gl.b # 3 us\nn2c1h1w1k1r1s1 gl.d # 2 us\nn3c1h1w1k1r1s1 gl.e # 5 us\n");
  const auto kernels = core::shipped_kernels(merged, Conv2dDesc::parse("n1c1h1w1k1r1s1"));
  EXPECT_EQ(kernels, (std::vector<std::string>{"gl.a", "gl.b"})) << "what is exported can be read";
}

Result made_up(const char* layer, const char* contender, Layout layout, double seconds) {
  Result r;
  r.workload = {layer, Conv2dDesc::parse("n1c16h8w8k16r1s1")};
  r.contender = contender;
  r.layout = layout;
  r.seconds = {seconds};
  return r;
}

TEST(Report, ComparesLayerByLayerWithTheFasterPeer) {
  Session session;
  session.results = {made_up("a", "convrt", Layout::nchw, 1.0), made_up("a", "onednn nchw", Layout::nchw, 4.0),
                     made_up("a", "onednn reorder", Layout::nchw, 2.0), made_up("b", "convrt", Layout::nchw, 1.0),
                     made_up("b", "onednn nchw", Layout::nchw, 0.5)};
  const std::vector<Comparison> rows = compare(session);
  ASSERT_FALSE(rows.empty());
  EXPECT_NEAR(rows[0].ratio, 1.0, 1e-12);  // sqrt(2 * 0.5)
  EXPECT_EQ(rows[0].layers, 2);
  EXPECT_EQ(rows[0].weakest, "b");
  EXPECT_NEAR(rows[0].weakest_ratio, 0.5, 1e-12);
  EXPECT_NEAR(rows.back().ratio, 0.5, 1e-12) << "the floor is the weakest layer, not the mean";
}

TEST(Report, SelectionComparesTheChosenKernelWithTheBest) {
  Session session;
  Result chosen = made_up("a", "convrt", Layout::nchw, 2.0), slow = made_up("a", "cpu.slow", Layout::nchw, 2.0),
         fast = made_up("a", "cpu.fast", Layout::nchw, 1.0);
  chosen.kernel = slow.kernel = "cpu.slow";
  fast.kernel = "cpu.fast";
  session.results = {chosen, slow, fast};
  std::ostringstream text;
  print_selection(text, session);
  EXPECT_NE(text.str().find("chosen / best kernel 0.500"), std::string::npos) << text.str();
}

TEST(Report, ScalingComparesWithOneThreadAndWithTheMultiplyAddLoop) {
  Session session;
  for (const int threads : {1, 2, 4})
    for (const char* layer : {"a", "b"}) {
      Result r = made_up(layer, "convrt", Layout::nchw, layer[0] == 'a' ? 1.0 / threads : 1.0);
      r.device = "cpu";
      r.threads = threads;
      session.results.push_back(r);
    }
  session.peaks = {{"avx2", 1, 10, 0, 3}, {"avx2", 2, 19, 0, 3}, {"avx2", 4, 30, 0, 3}};
  const std::vector<Scaling> rows = scaling(session);
  ASSERT_EQ(rows.size(), 4U);
  EXPECT_NEAR(rows[2].speed_up, 4, 1e-12);
  EXPECT_NEAR(rows[2].ceiling, 3, 1e-12);
  EXPECT_NEAR(rows[3].speed_up, 1, 1e-12) << "layer b does not gain";
  std::ostringstream text;
  print_scaling(text, session);
  EXPECT_NE(text.str().find("1.00 (0)*"), std::string::npos) << text.str();
  EXPECT_EQ(text.str().find("4.00 (0)*"), std::string::npos) << text.str();
}

TEST(Modes, DevicesTogetherAreCheckedAndStandBesideEachAlone) {
  Options options;
  options.problems = {"n5c3h9w9k4r3s3ph1pw1", "n3c3h9w9k4r3s3ph1pw1+nhwc"};
  std::ostringstream out;
  EXPECT_TRUE(bench_devices(out, options, {.ids = {"cpu"}, .series_ms = 3})) << out.str();
  EXPECT_NE(out.str().find("shares: cpu 5 images resident, 100.0 % from host memory"), std::string::npos) << out.str();
  EXPECT_NE(out.str().find("geomean of 2"), std::string::npos) << out.str();
  EXPECT_EQ(out.str().find("WRONG"), std::string::npos) << out.str();

  options.end_to_end = false;
  std::ostringstream resident;
  EXPECT_TRUE(bench_devices(resident, options, {.ids = {"cpu"}, .series_ms = 3})) << resident.str();
  EXPECT_NE(resident.str().find("shares: cpu 5 images resident\n"), std::string::npos) << resident.str();
  EXPECT_EQ(resident.str().find("from host memory"), std::string::npos) << resident.str();
}

TEST(Modes, PlansStandBesideCopiesOfTheirBytes) {
  Options options;
  options.problems = {"n1c64h8w8k64r3s3ph1pw1"};
  options.threads = {1};
  options.runner.samples = 3;
  options.kernels = {"cpu.gemm"};
  std::ostringstream out;
  bench_plans(out, options);
  EXPECT_NE(out.str().find("0.141"), std::string::npos) << out.str();  // MiB: 64 x 64 x 9 floats, nothing padded
  EXPECT_NE(out.str().find("of the limit: geomean"), std::string::npos) << out.str();
}

}  // namespace
}  // namespace convrt::bench
