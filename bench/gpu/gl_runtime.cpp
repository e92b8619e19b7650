// gl_runtime: what the GL runtime costs besides the kernels: the launch of a small layer, and the making of a plan.
//
// usage: gl_runtime launch [--device=gl:0] [--layers=1000]
//        gl_runtime plans  [--device=gl:0] [--n=32] [--threads=1]
//
// launch: chains of layers too small to keep a GPU busy, enqueued one after another on two buffers. Medians of 9 chains
// after 0.4 s of warm-up, microseconds a layer:
//   caller  wall time inside Conv2dPlan::enqueue
//   owner   CPU time of the thread that owns the context, to hand the chain to the driver
//   wall    first enqueue to the end of Device::synchronize
//   gpu     between two GPU timestamps around the same chain, behind enough other work that the GPU never waits for us
// Every chain shifts the channels of integers round, so that all of its result is compared exactly.
//
// plans: milliseconds to make a plan of each ResNet-50 layer from `--threads` threads, and to its first result. What
// they find in caches is up to the caller: CONVRT_CACHE_DIR, and the driver's own (__GL_SHADER_DISK_CACHE,
// MESA_SHADER_CACHE_DIR).
#include <ctime>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "convrt/convrt.hpp"
#include "core/access.hpp"
#include "core/fail.hpp"
#include "gl/gl_backend.hpp"
#include "workloads.hpp"

namespace {

using namespace convrt;
using Clock = std::chrono::steady_clock;

double us_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

struct Options {
  std::string mode, device = "gl:0";
  int layers = 1000, n = 32, threads = 1;
};

// A layer whose dst is its src with the channels shifted by one: exact for every kernel that sums directly.
Conv2dPlan shift(const Device& device, const char* problem) {
  const Conv2dDesc desc = Conv2dDesc::parse(problem);
  std::vector<float> weights(desc.weights_size());
  const int taps = desc.r * desc.s;
  for (int k = 0; k < desc.k; ++k) {
    const int channel = (k + 1) % desc.c;
    weights[static_cast<std::size_t>((k * desc.c + channel) * taps + taps / 2)] = 1;
  }
  return {device, desc, weights, {}, {.accuracy = Accuracy::strict}};
}

struct Chain {
  const char* name;
  std::vector<Conv2dPlan> plans;  // repeated in turn
};

gl::GlContext& context_of(const Device& device) {
  return *static_cast<gl::GlBackend&>(*core::Access::backend(device)).device().session()->context;
}

double owner_cpu_us(gl::GlContext& context) {
  double us = 0;
  context.call([&](gl::GlState&) {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    us = static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
  });
  return us;
}

void measure_chain(const Device& device, const Chain& chain, int layers) {
  gl::GlContext& context = context_of(device);
  const Conv2dDesc& desc = chain.plans.front().desc();
  std::vector<float> src(desc.src_size()), dst(src.size()), expected(src.size());
  for (std::size_t i = 0; i < src.size(); ++i) src[i] = static_cast<float>(i * 7919 % 1009);
  const std::size_t plane = src.size() / static_cast<std::size_t>(desc.c);
  std::rotate_copy(src.begin(), src.begin() + static_cast<std::ptrdiff_t>(plane * (layers % desc.c)), src.end(),
                   expected.begin());
  Buffer a = device.allocate(src.size()), b = device.allocate(src.size());
  Buffer* const ends[] = {&a, &b};
  const auto enqueue = [&] {
    for (int i = 0; i < layers; ++i)
      chain.plans[static_cast<std::size_t>(i) % chain.plans.size()].enqueue(*ends[i % 2], *ends[(i + 1) % 2]);
  };
  bool right = true;
  const auto check = [&] {
    ends[layers % 2]->download(dst);
    right = right && dst == expected;
  };

  const Clock::time_point warm = Clock::now();
  do {
    a.upload(src);
    enqueue();
    check();
  } while (us_since(warm) < (device.info().software ? 0 : 4e5));

  std::vector<double> caller, owner, wall, gpu;
  for (int run = 0; run < 9; ++run) {
    a.upload(src);
    device.synchronize();
    const double cpu = owner_cpu_us(context);
    const Clock::time_point start = Clock::now();
    enqueue();
    caller.push_back(us_since(start) / layers);
    owner.push_back((owner_cpu_us(context) - cpu) / layers);  // in front of any waiting for the GPU
    device.synchronize();
    wall.push_back(us_since(start) / layers);
    check();
  }

  // Work for some ten milliseconds in front, so that the whole chain waits in the queue when its first layer starts.
  const bool software = device.info().software;
  const Conv2dDesc large = Conv2dDesc::parse(software ? "n1c16h16w16k16r3s3" : "n32c256h56w56k256r3s3ph1pw1");
  const std::vector<float> weights(large.weights_size());
  const Conv2dPlan blocker(device, large, weights, {}, {.accuracy = Accuracy::strict});
  Buffer from = device.allocate(large.src_size()), to = device.allocate(large.dst_size());
  for (int run = 0; run < 9; ++run) {
    GLuint stamps[2] = {};
    GLuint64 ns[2] = {};
    a.upload(src);
    device.synchronize();
    for (int i = 0; i < (software ? 1 : 2 + layers / 100); ++i) blocker.enqueue(from, to);
    context.call([&](gl::GlState& state) {
      state.gl.GenQueries(2, stamps);
      state.barrier();
      state.gl.QueryCounter(stamps[0], GL_TIMESTAMP);
    });
    enqueue();
    context.call([&](gl::GlState& state) { state.gl.QueryCounter(stamps[1], GL_TIMESTAMP); });
    check();
    context.call([&](gl::GlState& state) {
      for (int i = 0; i < 2; ++i) state.gl.GetQueryObjectui64v(stamps[i], GL_QUERY_RESULT, &ns[i]);
      state.gl.DeleteQueries(2, stamps);
    });
    gpu.push_back(static_cast<double>(ns[1] - ns[0]) * 1e-3 / layers);
  }
  std::printf("  %-26s caller %6.2f  owner %6.2f  wall %6.2f  gpu %6.2f  wall - gpu %6.2f us a layer (%s)\n",
              chain.name, median(caller), median(owner), median(wall), median(gpu), median(wall) - median(gpu),
              right ? "checked" : "WRONG");
  for (const Conv2dPlan& plan : chain.plans)
    std::printf("    %s %s\n", plan.desc().str().c_str(), plan.kernel().c_str());
  std::fflush(stdout);
  if (!right) core::fail(ErrorCode::internal, "a chain's result is wrong");
}

void launch(const Device& device, const Options& o) {
  const auto one = [&](const char* problem) { return shift(device, problem); };
  const std::vector<Chain> chains = {
      {"1x1 at 7", {one("n1c32h7w7k32r1s1")}},
      {"1x1 at 14", {one("n1c64h14w14k64r1s1+relu")}},
      {"1x1, 3x3, 1x1 at 14",
       {one("n1c64h14w14k64r1s1+relu"), one("n1c64h14w14k64r3s3ph1pw1+relu"), one("n1c64h14w14k64r1s1")}},
  };
  for (const Chain& chain : chains) measure_chain(device, chain, o.layers);
}

void plans(const Device& device, const Options& o) {
  std::vector<bench::Workload> layers = bench::workloads("resnet50");
  std::erase_if(layers, [](const bench::Workload& layer) { return layer.desc.n != 1; });
  std::vector<double> made(layers.size()), first(layers.size());
  std::vector<std::string> kernels(layers.size());
  std::atomic<std::size_t> next = 0;
  std::vector<std::thread> threads;
  const Clock::time_point start = Clock::now();
  for (int t = 0; t < o.threads; ++t)
    threads.emplace_back([&] {
      for (std::size_t i = 0; (i = next++) < layers.size();) {
        Conv2dDesc desc = layers[i].desc;
        desc.n = o.n;
        const std::vector<float> weights(desc.weights_size());
        const Clock::time_point begin = Clock::now();
        const Conv2dPlan plan(device, desc, weights);
        made[i] = us_since(begin) * 1e-3;
        Buffer src = device.allocate(desc.src_size()), dst = device.allocate(desc.dst_size());
        const Clock::time_point ready = Clock::now();
        plan.enqueue(src, dst);
        device.synchronize();
        first[i] = us_since(ready) * 1e-3;
        kernels[i] = plan.kernel();
      }
    });
  for (std::thread& thread : threads) thread.join();
  const double total = us_since(start) * 1e-3;
  double sum = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    std::printf("  %-24s %-30s plan %7.1f ms, first run %6.1f ms\n", layers[i].name.c_str(), kernels[i].c_str(),
                made[i], first[i]);
    sum += made[i];
  }
  std::printf("%zu plans from %d threads: %.0f ms in all, with their first runs; a plan: mean %.1f, median %.1f ms\n",
              layers.size(), o.threads, total, sum / static_cast<double>(layers.size()), median(made));
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  if (argc > 1) o.mode = argv[1];
  bool understood = o.mode == "launch" || o.mode == "plans";
  for (int i = 2; i < argc; ++i) {
    const std::string argument = argv[i], value = argument.substr(std::min(argument.find('=') + 1, argument.size()));
    if (argument.starts_with("--device="))
      o.device = value;
    else if (argument.starts_with("--layers="))
      o.layers = std::stoi(value);
    else if (argument.starts_with("--n="))
      o.n = std::stoi(value);
    else if (argument.starts_with("--threads="))
      o.threads = std::stoi(value);
    else
      understood = false;
  }
  if (!understood)
    return std::fprintf(stderr,
                        "usage: gl_runtime launch [--device=gl:0] [--layers=1000]\n"
                        "       gl_runtime plans [--device=gl:0] [--n=32] [--threads=1]\n"),
           2;
  try {
    const Clock::time_point start = Clock::now();
    const Device device = find_device(o.device);
    std::printf("%s | %s | %s; devices found in %.0f ms\n", device.info().name.c_str(), device.info().arch.c_str(),
                device.info().driver.c_str(), us_since(start) * 1e-3);
    if (o.mode == "launch")
      launch(device, o);
    else
      plans(device, o);
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "gl_runtime: %s\n", error.what()), 1;
  }
}
