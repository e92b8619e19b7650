// gl_fanout: what it costs to keep several devices of one process busy.
//
// usage: gl_fanout [PROBLEM] [DEVICE...]      default: n64c512h7w7k512r3s3ph1pw1, every GPU
//
// The same convolution, tensors on the device, on the first device, the first two, ... For each count: one thread that
// enqueues to all in turn (as MultiDevicePlan does), and a thread for each device. Milliseconds a round of one
// convolution on every device (median of 7 queues of 200 rounds), the processor time and the voluntary waits of the
// whole process in it, and how long enqueuing took. The ideal is that one device's time stays. Results are compared
// with the first device's.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "convrt/convrt.hpp"
#include "series.hpp"
#include "statistics.hpp"

namespace {

using namespace convrt;
using bench::median;
using bench::ms_since;
using Clock = std::chrono::steady_clock;

constexpr int kRounds = 200, kQueues = 7;

double cpu_ms() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto ms = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_usec) * 1e-3;
  };
  return ms(usage.ru_utime) + ms(usage.ru_stime);
}

long waits() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nvcsw;
}

std::vector<float> values(std::size_t count) {
  std::vector<float> list(count);
  for (std::size_t i = 0; i < count; ++i) list[i] = static_cast<float>(i * 7 % 31) / 31 - 0.5F;
  return list;
}

struct Lane {
  Device device;
  Conv2dPlan plan;
  Buffer src, dst;
  Lane(const Device& on, const Conv2dDesc& desc, const std::vector<float>& weights)
      : device(on),
        plan(on, desc, weights, {}, {.tune = Tune::cached}),
        src(on.allocate(desc.src_size())),
        dst(on.allocate(desc.dst_size())) {
    src.upload(values(desc.src_size()));
  }
  std::vector<float> result() {
    std::vector<float> floats(dst.size());
    dst.download(floats);
    return floats;
  }
};

void measure(const char* what, std::vector<Lane>& lanes, const std::function<void()>& enqueue) {
  std::vector<double> ms, cpu, told, waited;
  for (int queue = -3; queue < kQueues; ++queue) {
    const double cpu_before = cpu_ms();
    const long waits_before = waits();
    const auto start = Clock::now();
    enqueue();
    const double told_ms = ms_since(start);
    std::vector<std::thread> all;  // one after another each would add its own wait
    for (Lane& lane : lanes) all.emplace_back([&lane] { lane.device.synchronize(); });
    for (std::thread& one : all) one.join();
    if (queue < 0) continue;  // clocks rise
    ms.push_back(ms_since(start) / kRounds);
    told.push_back(told_ms / kRounds);
    cpu.push_back((cpu_ms() - cpu_before) / kRounds);
    waited.push_back(static_cast<double>(waits() - waits_before) / kRounds);
  }
  std::printf("  %zu devices, %-22s %8.4f ms a round, enqueued in %8.4f, processor %8.4f ms, %6.1f waits\n",
              lanes.size(), what, median(ms), median(told), median(cpu), median(waited));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Conv2dDesc desc = Conv2dDesc::parse(argc > 1 ? argv[1] : "n64c512h7w7k512r3s3ph1pw1");
    std::vector<Device> list;
    for (int i = 2; i < argc; ++i) list.push_back(find_device(argv[i]));
    if (list.empty())
      for (const Device& device : devices())
        if (device.info().id != "cpu") list.push_back(device);
    const std::vector<float> weights = values(desc.weights_size());
    std::vector<Lane> lanes;
    std::vector<float> first;
    for (const Device& device : list) {
      lanes.emplace_back(device, desc, weights);
      if (lanes.size() == 1)
        std::printf("%s, %s on %s\n", desc.str().c_str(), lanes[0].plan.kernel().c_str(), device.info().name.c_str());
      measure("in turn", lanes, [&] {
        for (int i = 0; i < kRounds; ++i)
          for (Lane& lane : lanes) lane.plan.enqueue(lane.src, lane.dst);
      });
      if (lanes.size() > 1)
        measure("a thread each", lanes, [&] {
          std::vector<std::thread> threads;
          for (Lane& lane : lanes)
            threads.emplace_back([&lane] {
              for (int i = 0; i < kRounds; ++i) lane.plan.enqueue(lane.src, lane.dst);
            });
          for (std::thread& thread : threads) thread.join();
        });
      for (Lane& lane : lanes) {
        if (first.empty()) first = lane.result();
        if (lane.result() != first) {
          std::printf("  WRONG: %s differs from the first device\n", lane.device.info().id.c_str());
          return 1;
        }
      }
      std::fflush(stdout);
    }
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "gl_fanout: %s: %s\n", to_string(error.code()), error.what());
    return 1;
  }
}
