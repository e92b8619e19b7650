// Devices: which there are, what they tell, their kernel lists and buffers.
#include "convrt/device.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "cases.hpp"
#include "core/backend.hpp"
#include "fake_backend.hpp"

namespace convrt::test {
namespace {

TEST(Devices, TheCpuIsFirstAndIdsAreUnique) {
  const std::vector<Device> all = devices();
  ASSERT_FALSE(all.empty());
  EXPECT_EQ(all[0].info().id, "cpu");
  std::set<std::string> ids;
  for (const Device& d : all) {
    EXPECT_TRUE(ids.insert(d.info().id).second) << d.info().id << " stands twice";
    EXPECT_FALSE(d.info().name.empty()) << d.info().id;
    EXPECT_FALSE(d.info().arch.empty()) << d.info().id;
    EXPECT_FALSE(d.info().driver.empty()) << d.info().id;
    EXPECT_EQ(find_device(d.info().id).info().id, d.info().id);
  }
}

TEST(Devices, TheCpuKnowsItself) {
  const DeviceInfo& cpu = find_device("cpu").info();
  EXPECT_FALSE(cpu.software);
  EXPECT_GE(cpu.compute_units, 1);
  EXPECT_GT(cpu.memory_bytes, std::size_t{64} << 20);
  EXPECT_TRUE(cpu.l1_bytes == 0 || (cpu.l1_bytes >= 8 << 10 && cpu.l1_bytes <= 1 << 20)) << cpu.l1_bytes;
  EXPECT_TRUE(cpu.l2_bytes == 0 || cpu.l2_bytes >= cpu.l1_bytes) << cpu.l2_bytes;
}

TEST(Devices, BestIsRealHardware) {
  const Device best = find_device("best");
  EXPECT_FALSE(best.info().software) << best.info().name;
  const bool real_gpu =
      std::ranges::any_of(devices(), [](const Device& d) { return d.info().id != "cpu" && !d.info().software; });
  EXPECT_EQ(best.info().id == "cpu", !real_gpu);
}

TEST(Devices, AnUnknownIdListsTheKnownOnes) {
  for (const char* id : {"", "gpu", "cpu:7", "CPU", "gl:99"}) try {
      (void)find_device(id);
      ADD_FAILURE() << id << " was found";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::no_device);
      EXPECT_NE(std::string(e.what()).find('"' + std::string(id) + '"'), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("found: cpu"), std::string::npos) << e.what();
    }
}

TEST(Devices, AddedOnesAreListedAndFound) {
  const std::size_t before = devices().size();
  core::add_backend_for_test(fake("testing:3"));
  ASSERT_EQ(devices().size(), before + 1);
  EXPECT_EQ(find_device("testing:3").info().name, "fake device");
}

// Run by ctest with CONVRT_DEVICES=cpu, too: then this is all there is.
TEST(DevicesVariable, NarrowsTheListButNeverDropsTheCpu) {
  const std::string filter = environment("CONVRT_DEVICES");
  if (filter.empty()) GTEST_SKIP() << "CONVRT_DEVICES is not set; ctest runs this again with it";
  EXPECT_EQ(devices()[0].info().id, "cpu");
  for (const Device& d : devices())
    EXPECT_TRUE(d.info().id == "cpu" || filter.find("gl") != std::string::npos) << d.info().id;
}

TEST(Kernels, OfTheCpuEndInTheReferenceAndNameThemselves) {
  const Device cpu = find_device("cpu");
  for (const Conv2dDesc& d : hand_picked_cases()) {
    const std::vector<std::string> names = cpu.kernels(d);
    ASSERT_FALSE(names.empty()) << d.str();
    EXPECT_EQ(names.back(), "cpu.reference") << d.str();
    EXPECT_EQ(std::set(names.begin(), names.end()).size(), names.size()) << d.str();
    for (const std::string& name : names) EXPECT_TRUE(name.starts_with("cpu.")) << name;
  }
}

TEST(Kernels, DoNotDependOnTheSourceSize) {
  // What a plan is reshaped to must be able to run its kernel.
  for (const Device& device : devices()) {
    if (device.info().name == "fake device") continue;
    Random random(seed());
    std::vector<Conv2dDesc> cases = hand_picked_cases();
    for (const Conv2dDesc& d : random_cases(seed(), 40)) cases.push_back(d);
    for (const Conv2dDesc& d : cases) {
      const auto list = [&](const Conv2dDesc& of) {
        std::vector<std::string> names = device.kernels(of);
        std::ranges::sort(names);
        return names;
      };
      const std::vector<std::string> names = list(d);
      for (int i = 0; i < 4; ++i) {
        Conv2dDesc other = d;
        other.n = random.pick({0, 1, 7, 64});
        other.h = d.dilation_h * (d.r - 1) + random.between(1, i % 2 == 0 ? 3 : 300);
        other.w = d.dilation_w * (d.s - 1) + random.between(1, i % 2 == 0 ? 3 : 300);
        EXPECT_EQ(list(other), names) << device.info().id << ": " << d.str() << " against " << other.str();
      }
    }
  }
}

TEST(Kernels, ABadDescriptorIsRefused) {
  for (const Device& device : devices()) EXPECT_THROW((void)device.kernels(Conv2dDesc{}), Error) << device.info().id;
}

TEST(Buffers, HoldWhatWasUploaded) {
  for (const Device& device : devices()) {
    std::vector<float> in(1003), out(1003);
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i) - 500.5F;
    Buffer a = device.allocate(in.size());
    EXPECT_EQ(a.size(), in.size());
    a.upload(in);
    Buffer b = std::move(a);
    b.download(out);
    EXPECT_EQ(out, in) << device.info().id;
    device.synchronize();
  }
}

TEST(Buffers, OtherLengthsAreRefusedAndEmptyOnesAreFine) {
  for (const Device& device : devices()) {
    Buffer buffer = device.allocate(8), nothing = device.allocate(0), unborn;
    std::vector<float> seven(7);
    EXPECT_THROW(buffer.upload(seven), Error);
    EXPECT_THROW(buffer.download(seven), Error);
    EXPECT_THROW(unborn.upload(seven), Error);
    nothing.upload({});
    nothing.download({});
    unborn.upload({});
    EXPECT_EQ(unborn.size(), 0U);
  }
}

TEST(Buffers, MayGoBeforeTheWorkThatUsesThem) {
  const Conv2dDesc d = Conv2dDesc::parse("n1c8h24w24k8r3s3ph1pw1");
  const std::vector<float> weights(d.weights_size(), 1), src(d.src_size(), 1);
  for (const Device& device : devices()) {
    const Conv2dPlan plan(device, d, weights);
    Buffer dst = device.allocate(d.dst_size());
    {
      Buffer from = device.allocate(d.src_size());
      from.upload(src);
      plan.enqueue(from, dst);
    }
    std::vector<float> result(d.dst_size());
    dst.download(result);
    EXPECT_EQ(result[24 + 1], 72) << device.info().id;
  }
}

}  // namespace
}  // namespace convrt::test
