#include "workloads.hpp"

#include <iterator>
#include <span>
#include <utility>

#include "core/fail.hpp"

namespace convrt::bench {
namespace {

struct Row {
  const char *name, *problem;
};

// ResNet-50 v1.5 (stride 2 on the 3x3): He et al., arXiv:1512.03385, and the v1.5 note of the MLPerf reference.
constexpr Row kResnet50[] = {
    {"rn50_stem7x7s2_3-64_224", "n1c3h224w224k64r7s7sh2sw2ph3pw3"},
    {"rn50_1x1_64-64_56", "n1c64h56w56k64r1s1"},
    {"rn50_3x3_64-64_56", "n1c64h56w56k64r3s3ph1pw1"},
    {"rn50_1x1_64-256_56", "n1c64h56w56k256r1s1"},
    {"rn50_1x1_256-64_56", "n1c256h56w56k64r1s1"},
    {"rn50_1x1_256-128_56", "n1c256h56w56k128r1s1"},
    {"rn50_3x3s2_128-128_56", "n1c128h56w56k128r3s3sh2sw2ph1pw1"},
    {"rn50_1x1_128-512_28", "n1c128h28w28k512r1s1"},
    {"rn50_1x1s2_256-512_56", "n1c256h56w56k512r1s1sh2sw2"},
    {"rn50_1x1_512-128_28", "n1c512h28w28k128r1s1"},
    {"rn50_3x3_128-128_28", "n1c128h28w28k128r3s3ph1pw1"},
    {"rn50_1x1_512-256_28", "n1c512h28w28k256r1s1"},
    {"rn50_3x3s2_256-256_28", "n1c256h28w28k256r3s3sh2sw2ph1pw1"},
    {"rn50_1x1_256-1024_14", "n1c256h14w14k1024r1s1"},
    {"rn50_1x1s2_512-1024_28", "n1c512h28w28k1024r1s1sh2sw2"},
    {"rn50_1x1_1024-256_14", "n1c1024h14w14k256r1s1"},
    {"rn50_3x3_256-256_14", "n1c256h14w14k256r3s3ph1pw1"},
    {"rn50_1x1_1024-512_14", "n1c1024h14w14k512r1s1"},
    {"rn50_3x3s2_512-512_14", "n1c512h14w14k512r3s3sh2sw2ph1pw1"},
    {"rn50_1x1_512-2048_7", "n1c512h7w7k2048r1s1"},
    {"rn50_1x1s2_1024-2048_14", "n1c1024h14w14k2048r1s1sh2sw2"},
    {"rn50_1x1_2048-512_7", "n1c2048h7w7k512r1s1"},
    {"rn50_3x3_512-512_7", "n1c512h7w7k512r3s3ph1pw1"},
};

// After the 23 of ResNet-50, the rest of the 36 layers that convrt is compared with its peers on.
constexpr Row kPeers[] = {
    {"vgg_conv1_2_64-64_224", "n1c64h224w224k64r3s3ph1pw1"},
    {"vgg_conv3_2_256-256_56", "n1c256h56w56k256r3s3ph1pw1"},
    {"vgg_conv5_2_512-512_14", "n1c512h14w14k512r3s3ph1pw1"},
    {"mbv2_dw3x3s2_96_112", "n1c96h112w112k96r3s3sh2sw2ph1pw1g96"},
    {"mbv2_dw3x3_144_56", "n1c144h56w56k144r3s3ph1pw1g144"},
    {"mbv2_dw3x3_576_14", "n1c576h14w14k576r3s3ph1pw1g576"},
    {"mbv2_dw3x3_960_7", "n1c960h7w7k960r3s3ph1pw1g960"},
    {"resnext_g32_3x3_128_56", "n1c128h56w56k128r3s3ph1pw1g32"},
    {"deeplab_3x3d2_512-512_28", "n1c512h28w28k512r3s3dh2dw2ph2pw2"},
    {"incep_5x5_48-64_28", "n1c48h28w28k64r5s5ph2pw2"},
    {"rn50_3x3_64-64_56_N16", "n16c64h56w56k64r3s3ph1pw1"},
    {"rn50_3x3_256-256_14_N16", "n16c256h14w14k256r3s3ph1pw1"},
    {"small_3x3_3-16_32", "n1c3h32w32k16r3s3ph1pw1"},
};

// Simonyan and Zisserman, arXiv:1409.1556, configuration D; conv4_2 stands for conv4_2 and conv4_3, and so on.
constexpr Row kVgg16[] = {
    {"vgg_conv1_1_3-64_224", "n1c3h224w224k64r3s3ph1pw1"},
    {"vgg_conv1_2_64-64_224", "n1c64h224w224k64r3s3ph1pw1"},
    {"vgg_conv2_1_64-128_112", "n1c64h112w112k128r3s3ph1pw1"},
    {"vgg_conv2_2_128-128_112", "n1c128h112w112k128r3s3ph1pw1"},
    {"vgg_conv3_1_128-256_56", "n1c128h56w56k256r3s3ph1pw1"},
    {"vgg_conv3_2_256-256_56", "n1c256h56w56k256r3s3ph1pw1"},
    {"vgg_conv4_1_256-512_28", "n1c256h28w28k512r3s3ph1pw1"},
    {"vgg_conv4_2_512-512_28", "n1c512h28w28k512r3s3ph1pw1"},
    {"vgg_conv5_2_512-512_14", "n1c512h14w14k512r3s3ph1pw1"},
};

// The depthwise layers of Sandler et al., arXiv:1801.04381, table 2, at width 1.
constexpr Row kMobilenetV2[] = {
    {"mbv2_dw3x3_32_112", "n1c32h112w112k32r3s3ph1pw1g32"},
    {"mbv2_dw3x3s2_96_112", "n1c96h112w112k96r3s3sh2sw2ph1pw1g96"},
    {"mbv2_dw3x3_144_56", "n1c144h56w56k144r3s3ph1pw1g144"},
    {"mbv2_dw3x3s2_144_56", "n1c144h56w56k144r3s3sh2sw2ph1pw1g144"},
    {"mbv2_dw3x3_192_28", "n1c192h28w28k192r3s3ph1pw1g192"},
    {"mbv2_dw3x3s2_192_28", "n1c192h28w28k192r3s3sh2sw2ph1pw1g192"},
    {"mbv2_dw3x3_384_14", "n1c384h14w14k384r3s3ph1pw1g384"},
    {"mbv2_dw3x3_576_14", "n1c576h14w14k576r3s3ph1pw1g576"},
    {"mbv2_dw3x3s2_576_14", "n1c576h14w14k576r3s3sh2sw2ph1pw1g576"},
    {"mbv2_dw3x3_960_7", "n1c960h7w7k960r3s3ph1pw1g960"},
};

// One layer of each kind, small enough for seven scalar loops to be among the contenders.
constexpr std::string_view kLayers[] = {"rn50_stem7x7s2_3-64_224", "rn50_1x1_64-256_56",  "rn50_3x3_64-64_56",
                                        "rn50_3x3s2_128-128_56",   "rn50_3x3_128-128_28", "rn50_3x3_256-256_14",
                                        "rn50_1x1_2048-512_7",     "mbv2_dw3x3_144_56",   "resnext_g32_3x3_128_56",
                                        "incep_5x5_48-64_28"};

void append(std::vector<Workload>& to, std::span<const Row> rows) {
  for (const Row& row : rows) to.push_back({row.name, Conv2dDesc::parse(row.problem)});
}

std::vector<Workload> peers36() {
  std::vector<Workload> all;
  append(all, kResnet50);
  append(all, kPeers);
  return all;
}

std::vector<Workload> resnet50() {
  std::vector<Workload> all;
  append(all, kResnet50);
  for (std::size_t i = 0; i < std::size(kResnet50); ++i) {
    Workload batch = all[i];
    batch.name += "_N16";
    batch.desc.n = 16;
    all.push_back(std::move(batch));
  }
  return all;
}

// ResNet-50's 23, VGG-16's 3x3 of 64 channels and more, four of MobileNetV2's depthwise.
std::vector<Workload> gpu35() {
  std::vector<Workload> all;
  append(all, kResnet50);
  append(all, std::span(kVgg16).subspan(1));
  for (const Workload& workload : peers36())
    if (class_of(workload.desc) == "depthwise") all.push_back(workload);
  return all;
}

std::vector<Workload> layers() {
  std::vector<Workload> picked;
  const std::vector<Workload> all = peers36();
  for (const std::string_view name : kLayers)
    for (const Workload& workload : all)
      if (workload.name == name) picked.push_back(workload);
  return picked;
}

}  // namespace

std::string_view class_of(const Conv2dDesc& d) {
  if (d.groups > 1) return d.groups == d.c ? "depthwise" : "other";
  if (d.dilation_h != 1 || d.dilation_w != 1 || d.c < 16) return "other";
  if (d.r == 1 && d.s == 1) return "1x1";
  if (d.r != 3 || d.s != 3) return "other";
  return d.stride_h == 1 && d.stride_w == 1 ? "3x3" : "3x3s2";
}

const std::vector<std::string_view>& classes() {
  static const std::vector<std::string_view> all = {"1x1", "3x3", "3x3s2", "depthwise", "other"};
  return all;
}

const std::vector<Suite>& suites() {
  static const std::vector<Suite> all = {
      {"peers36", "the 36 layers that convrt is compared with its peers on"},
      {"resnet50", "every distinct convolution of ResNet-50, N = 1 and 16"},
      {"vgg16", "every distinct convolution of VGG-16"},
      {"mobilenet_v2", "the depthwise convolutions of MobileNetV2"},
      {"gpu35", "the 35 layers that a GPU is compared with cuDNN on (bench/peers/cudnn.py); see --batch"},
      {"layers", "ten layers through reference, direct, gemm, winograd, all threads: what each adds"}};
  return all;
}

std::vector<Workload> workloads(std::string_view suite) {
  std::vector<Workload> all;
  if (suite == "peers36") return peers36();
  if (suite == "resnet50") return resnet50();
  if (suite == "layers") return layers();
  if (suite == "gpu35") return gpu35();
  if (suite == "vgg16") append(all, kVgg16);
  if (suite == "mobilenet_v2") append(all, kMobilenetV2);
  if (!all.empty()) return all;
  std::string names;
  for (const Suite& s : suites()) names.append(names.empty() ? "" : ", ").append(s.name);
  core::fail(ErrorCode::invalid_argument, "expected a suite (", names, "), found \"", suite, "\"");
}

}  // namespace convrt::bench
