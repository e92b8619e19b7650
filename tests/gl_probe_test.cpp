// What identify() makes of strings that drivers print.
#include "gl/gl_probe.hpp"
#include "gl/egl_context.hpp"

#include <gtest/gtest.h>

#include <ostream>

namespace {

using convrt::gl::identify;
using convrt::gl::Vendor;

struct Case {
  const char *vendor, *renderer, *version;
  Vendor maker;
  const char *arch, *chip;
  bool software = false;
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.renderer; }

constexpr const char* kMesa = "4.6 (Core Profile) Mesa 24.2.8";
const Case kCases[] = {
    // Mesa radeonsi, ACO and LLVM, new and old forms
    {"AMD", "AMD Radeon RX 7900 XTX (radeonsi, navi31, ACO, DRM 3.61, 6.14.0)", kMesa, Vendor::amd, "rdna3", "navi31"},
    {"AMD", "AMD Radeon RX 7900 XT (radeonsi, navi31, LLVM 19.1.1, DRM 3.57, 6.8.0-45-generic)", kMesa, Vendor::amd,
     "rdna3", "navi31"},
    {"AMD", "AMD Radeon RX 7800 XT (radeonsi, navi32, LLVM 17.0.6, DRM 3.57, 6.8.0)", kMesa, Vendor::amd, "rdna3",
     "navi32"},
    {"AMD", "AMD Radeon RX 7600 (radeonsi, navi33, LLVM 15.0.7, DRM 3.54, 6.5.0)", kMesa, Vendor::amd, "rdna3",
     "navi33"},
    {"AMD", "AMD Radeon 780M (radeonsi, gfx1103_r1, LLVM 17.0.6, DRM 3.57, 6.8.5)", kMesa, Vendor::amd, "rdna3",
     "phoenix"},
    {"AMD", "AMD Radeon 780M Graphics (radeonsi, phoenix, ACO, DRM 3.61, 6.14.0)", kMesa, Vendor::amd, "rdna3",
     "phoenix"},
    {"AMD", "AMD Radeon 890M Graphics (radeonsi, gfx1150, ACO, DRM 3.61, 6.14.0)", kMesa, Vendor::amd, "rdna3.5",
     "strix"},
    {"AMD", "Radeon 8060S Graphics (radeonsi, gfx1151, ACO, DRM 3.63, 6.15.0)", kMesa, Vendor::amd, "rdna3.5",
     "strix_halo"},
    {"AMD", "AMD Radeon RX 9070 XT (radeonsi, gfx1201, ACO, DRM 3.61, 6.14.0)", kMesa, Vendor::amd, "rdna4", "navi48"},
    {"AMD", "AMD Radeon RX 9060 XT (radeonsi, gfx1200, LLVM 20.1.2, DRM 3.64, 6.16.0)", kMesa, Vendor::amd, "rdna4",
     "navi44"},
    {"AMD", "AMD Radeon RX 6800 XT (navi21, LLVM 14.0.6, DRM 3.49, 6.1.0-9-amd64)", kMesa, Vendor::amd, "rdna2",
     "navi21"},
    {"AMD", "AMD Radeon RX 6800 (SIENNA_CICHLID, DRM 3.40.0, 5.11.0-27-generic, LLVM 12.0.0)", kMesa, Vendor::amd,
     "rdna2", "navi21"},
    {"AMD", "AMD Custom GPU 0405 (radeonsi, vangogh, LLVM 16.0.6, DRM 3.54, 6.1.52)", kMesa, Vendor::amd, "rdna2",
     "vangogh"},
    {"AMD", "AMD Radeon Graphics (radeonsi, rembrandt, LLVM 15.0.7, DRM 3.54, 6.5.0)", kMesa, Vendor::amd, "rdna2",
     "rembrandt"},
    {"AMD", "AMD Radeon Graphics (radeonsi, raphael_mendocino, LLVM 17.0.6, DRM 3.57, 6.8.0)", kMesa, Vendor::amd,
     "rdna2", "raphael"},
    {"AMD", "AMD Radeon RX 5700 XT (NAVI10, DRM 3.40.0, 5.11.0, LLVM 11.0.1)", kMesa, Vendor::amd, "rdna1", "navi10"},
    {"X.Org", "AMD RENOIR (DRM 3.38.0, 5.8.0-43-generic, LLVM 11.0.0)", kMesa, Vendor::amd, "gcn", "renoir"},
    {"X.Org", "Radeon RX 580 Series (POLARIS10, DRM 3.35.0, 5.4.0-42-generic, LLVM 10.0.0)", kMesa, Vendor::amd, "gcn",
     "polaris10"},
    {"AMD", "Radeon RX Vega (radeonsi, vega10, LLVM 15.0.7, DRM 3.54, 6.5.0)", kMesa, Vendor::amd, "gcn", "vega10"},
    {"AMD", "AMD HAWAII (DRM 2.50.0, 5.15.0, LLVM 12.0.1)", kMesa, Vendor::amd, "gcn", "hawaii"},
    // AMD's proprietary driver
    {"ATI Technologies Inc.", "AMD Radeon RX 7900 XTX", "4.6.0 Core Profile Context 24.10.1", Vendor::amd, "rdna3",
     "navi31"},
    {"ATI Technologies Inc.", "AMD Radeon PRO W7900", "4.6.14761 Core Profile Context", Vendor::amd, "rdna3", "navi31"},
    {"ATI Technologies Inc.", "AMD Radeon RX 6700 XT", "4.6.14761 Core Profile Context", Vendor::amd, "rdna2",
     "navi22"},
    {"ATI Technologies Inc.", "Radeon RX 580 Series", "4.6.13596 Core Profile Context", Vendor::amd, "gcn",
     "polaris10"},
    {"ATI Technologies Inc.", "AMD Radeon(TM) Graphics", "4.6.14761 Core Profile Context", Vendor::amd, "unknown", ""},
    // NVIDIA
    {"NVIDIA Corporation", "NVIDIA H200/PCIe/SSE2", "4.6.0 NVIDIA 580.82", Vendor::nvidia, "hopper", "gh100"},
    {"NVIDIA Corporation", "NVIDIA H100 80GB HBM3/PCIe/SSE2", "4.6.0 NVIDIA 535.104.05", Vendor::nvidia, "hopper",
     "gh100"},
    {"NVIDIA Corporation", "NVIDIA GH200 480GB/PCIe", "4.6.0 NVIDIA 550.54", Vendor::nvidia, "hopper", "gh100"},
    {"NVIDIA Corporation", "NVIDIA B200/PCIe/SSE2", "4.6.0 NVIDIA 570.86", Vendor::nvidia, "blackwell", ""},
    {"NVIDIA Corporation", "NVIDIA GeForce RTX 5090/PCIe/SSE2", "4.6.0 NVIDIA 570.86", Vendor::nvidia, "blackwell", ""},
    {"NVIDIA Corporation", "NVIDIA GeForce RTX 4090/PCIe/SSE2", "4.6.0 NVIDIA 535.98", Vendor::nvidia, "ada", ""},
    {"NVIDIA Corporation", "NVIDIA RTX 6000 Ada Generation/PCIe/SSE2", "4.6.0 NVIDIA 535.98", Vendor::nvidia, "ada",
     ""},
    {"NVIDIA Corporation", "NVIDIA L40S/PCIe/SSE2", "4.6.0 NVIDIA 535.98", Vendor::nvidia, "ada", ""},
    {"NVIDIA Corporation", "NVIDIA A100-SXM4-40GB/PCIe/SSE2", "4.6.0 NVIDIA 470.82", Vendor::nvidia, "ampere", "ga100"},
    {"NVIDIA Corporation", "NVIDIA RTX A6000/PCIe/SSE2", "4.6.0 NVIDIA 510.47", Vendor::nvidia, "ampere", ""},
    {"NVIDIA Corporation", "NVIDIA GeForce RTX 3080 Laptop GPU/PCIe/SSE2", "4.6.0 NVIDIA 510.47", Vendor::nvidia,
     "ampere", ""},
    {"NVIDIA Corporation", "Tesla T4/PCIe/SSE2", "4.6.0 NVIDIA 450.80", Vendor::nvidia, "turing", "tu104"},
    {"NVIDIA Corporation", "Quadro RTX 6000/PCIe/SSE2", "4.6.0 NVIDIA 450.80", Vendor::nvidia, "turing", ""},
    {"NVIDIA Corporation", "NVIDIA GeForce GTX 1660 SUPER/PCIe/SSE2", "4.6.0 NVIDIA 535.98", Vendor::nvidia, "turing",
     ""},
    {"NVIDIA Corporation", "Tesla V100-SXM2-16GB/PCIe/SSE2", "4.6.0 NVIDIA 418.87", Vendor::nvidia, "volta", "gv100"},
    {"NVIDIA Corporation", "GeForce GTX 1080 Ti/PCIe/SSE2", "4.6.0 NVIDIA 440.33", Vendor::nvidia, "pascal", ""},
    {"NVIDIA Corporation", "GeForce GTX 970/PCIe/SSE2", "4.6.0 NVIDIA 390.77", Vendor::nvidia, "maxwell", ""},
    {"NVIDIA Corporation", "Tesla K80/PCIe/SSE2", "4.6.0 NVIDIA 418.87", Vendor::nvidia, "kepler", ""},
    {"nouveau", "NV136", "4.3 (Core Profile) Mesa 20.3.5", Vendor::nvidia, "pascal", ""},
    {"Mesa", "NVE4", "4.3 (Core Profile) Mesa 23.1.9", Vendor::nvidia, "kepler", ""},
    // Intel: iris, crocus, the old i965, the proprietary driver
    {"Intel", "Mesa Intel(R) UHD Graphics 620 (KBL GT2)", kMesa, Vendor::intel, "gen9", "kbl"},
    {"Intel", "Mesa Intel(R) Xe Graphics (TGL GT2)", kMesa, Vendor::intel, "xe-lp", "tgl"},
    {"Intel", "Mesa Intel(R) Iris(R) Xe Graphics (RPL-P)", kMesa, Vendor::intel, "xe-lp", "rpl"},
    {"Intel", "Mesa Intel(R) Arc(tm) A770 Graphics (DG2)", kMesa, Vendor::intel, "xe-hpg", "dg2"},
    {"Intel", "Mesa Intel(R) Arc(tm) Graphics (MTL)", kMesa, Vendor::intel, "xe-lpg", "mtl"},
    {"Intel", "Mesa Intel(R) Graphics (BMG G21)", kMesa, Vendor::intel, "xe2", "bmg"},
    {"Intel", "Mesa Intel(R) HD Graphics 4600 (HSW GT2)", "4.6 (Core Profile) Mesa 23.0.4", Vendor::intel, "gen7.5",
     "hsw"},
    {"Intel Open Source Technology Center", "Mesa DRI Intel(R) HD Graphics 5500 (Broadwell GT2)",
     "4.5 (Core Profile) Mesa 18.0.5", Vendor::intel, "gen8", ""},
    {"Intel", "Intel(R) UHD Graphics 630", "4.6.0 - Build 31.0.101.2115", Vendor::intel, "gen9", ""},
    // layers over other drivers
    {"Mesa", "zink Vulkan 1.3(AMD Radeon RX 6800 XT (RADV NAVI21) (MESA_RADV))", kMesa, Vendor::amd, "rdna2", "navi21"},
    {"Mesa", "zink Vulkan 1.3(NVIDIA GeForce RTX 3080 (NVIDIA_PROPRIETARY))", kMesa, Vendor::nvidia, "ampere", ""},
    {"Mesa", "zink Vulkan 1.3(NVIDIA GeForce RTX 4090 (NVK AD102) (MESA_NVK))", kMesa, Vendor::nvidia, "ada", ""},
    {"Mesa", "virgl (AMD Radeon RX 6600 (radeonsi, navi23, LLVM 15.0.7, DRM 3.54))", kMesa, Vendor::amd, "rdna2",
     "navi23"},
    {"Microsoft Corporation", "D3D12 (NVIDIA GeForce RTX 2070 SUPER)", kMesa, Vendor::nvidia, "turing", ""},
    // software, alone and below a layer
    {"Mesa/X.org", "llvmpipe (LLVM 15.0.6, 256 bits)", "4.5 (Core Profile) Mesa 22.3.6", Vendor::mesa_software,
     "llvmpipe", "", true},
    {"Mesa", "softpipe", "3.3 (Core Profile) Mesa 22.3.6", Vendor::mesa_software, "softpipe", "", true},
    {"Mesa", "zink Vulkan 1.3(llvmpipe (LLVM 17.0.6, 256 bits) (MESA_LLVMPIPE))", kMesa, Vendor::mesa_software,
     "llvmpipe", "", true},
    {"Mesa", "virgl (LLVMPIPE (LLVM 15.0.6, 256 bits))", kMesa, Vendor::mesa_software, "llvmpipe", "", true},
    {"Mesa Project", "Software Rasterizer", "2.1 Mesa 10.1", Vendor::mesa_software, "swrast", "", true},
    // phones and boards
    {"Panfrost", "Mali-G52 r1 (Panfrost)", "3.1 Mesa 23.2.1", Vendor::arm, "bifrost", ""},
    {"Mesa", "Mali-G610 (Panfrost)", kMesa, Vendor::arm, "valhall", ""},
    {"Panfrost", "Mali-T860 (Panfrost)", "3.1 Mesa 22.3.6", Vendor::arm, "midgard", ""},
    {"freedreno", "Adreno (TM) 690", kMesa, Vendor::qualcomm, "adreno", ""},
    {"Mesa", "Apple M1 (G13G B1)", kMesa, Vendor::apple, "agx", ""},
    // nothing known
    {"Broadcom", "V3D 7.1.7", "3.1 Mesa 23.2.1", Vendor::unknown, "unknown", ""},
    {"Acme", "Frobnicator 9000", "4.6", Vendor::unknown, "unknown", ""},
    {"", "", "", Vendor::unknown, "unknown", ""},
    {"NVIDIA Corporation", "NVIDIA Zorp 77/PCIe/SSE2", "4.6.0 NVIDIA 999.1", Vendor::nvidia, "unknown", ""},
};

class GlProbe : public testing::TestWithParam<Case> {};

TEST_P(GlProbe, KnowsTheRenderer) {
  const Case& c = GetParam();
  const auto info = identify(c.vendor, c.renderer, c.version);
  EXPECT_EQ(info.vendor, c.maker);
  EXPECT_EQ(info.arch, c.arch);
  EXPECT_EQ(info.chip, c.chip);
  EXPECT_EQ(info.software, c.software);
  EXPECT_EQ(info.renderer, c.renderer);
  EXPECT_EQ(info.vendor_string, c.vendor);
  EXPECT_EQ(info.version, c.version);
}

INSTANTIATE_TEST_SUITE_P(Drivers, GlProbe, testing::ValuesIn(kCases));

TEST(GlProbeLimits, UnknownDevicesGetWhatEveryDriverMustOffer) {
  const convrt::gl::GlLimits limits = identify("", "", "").limits;
  EXPECT_LE(limits.max_shared_bytes, 32U << 10);
  EXPECT_LE(limits.max_groups[0], 65535U);
  EXPECT_GE(limits.block_alignment, 256U);
}

TEST(PciAddress, IsTheLastOneOfASysfsPath) {
  using convrt::gl::pci_address;
  EXPECT_EQ(pci_address("/sys/devices/pci0000:14/0000:14:01.0/0000:15:00.0"), "0000:15:00.0");
  EXPECT_EQ(pci_address("/sys/devices/pci0000:14/0000:14:01.0/0000:1b:00.1/drm/card1"), "0000:1b:00.1");
  EXPECT_EQ(pci_address("/sys/devices/pci10000:00/10000:e1:00.0/"), "10000:e1:00.0");
  for (const char* none : {"", "/", "/sys/devices/pci0000:14", "/sys/devices/platform/soc/1c40000.gpu", "0000:15:00",
                           "xyz0:15:00.0", "0000:15:00-0"})
    EXPECT_EQ(pci_address(none), "") << none;
}

}  // namespace
