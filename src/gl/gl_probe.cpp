#include "gl/gl_probe.hpp"

#include <cctype>

namespace convrt::gl {
namespace {

// `pattern` stands as a word in GL_RENDERER, in lower case; '#' is any digit. The first row that fits wins, so exact
// chip names (Mesa prints them) come before marketing names (proprietary drivers print nothing else).
struct Row {
  std::string_view pattern, arch, chip;
  int compute_units = 0;  // of the largest product; no OpenGL query tells on AMD
};

constexpr Row kSoftware[] = {
    {"llvmpipe", "llvmpipe", ""},
    {"softpipe", "softpipe", ""},
    {"swrast", "swrast", ""},
    {"software rasterizer", "swrast", ""},
    {"swr", "swr", ""},
    {"swiftshader", "swiftshader", ""},
    {"microsoft basic render driver", "warp", ""},
};

constexpr Row kAmd[] = {
    {"navi48", "rdna4", "navi48", 64},
    {"navi44", "rdna4", "navi44", 32},
    {"gfx1201", "rdna4", "navi48", 64},
    {"gfx1200", "rdna4", "navi44", 32},
    {"gfx1150", "rdna3.5", "strix", 16},
    {"gfx1151", "rdna3.5", "strix_halo", 40},
    {"gfx1152", "rdna3.5", "krackan", 8},
    {"gfx1153", "rdna3.5", "gfx1153", 4},
    {"navi31", "rdna3", "navi31", 96},
    {"navi32", "rdna3", "navi32", 60},
    {"navi33", "rdna3", "navi33", 32},
    {"gfx1100", "rdna3", "navi31", 96},
    {"gfx1101", "rdna3", "navi32", 60},
    {"gfx1102", "rdna3", "navi33", 32},
    {"gfx1103_r1", "rdna3", "phoenix", 12},
    {"gfx1103_r2", "rdna3", "phoenix2", 4},
    {"gfx1103", "rdna3", "phoenix", 12},
    {"phoenix", "rdna3", "phoenix", 12},
    {"navi21", "rdna2", "navi21", 80},
    {"navi22", "rdna2", "navi22", 40},
    {"navi23", "rdna2", "navi23", 32},
    {"navi24", "rdna2", "navi24", 16},
    {"sienna_cichlid", "rdna2", "navi21", 80},
    {"navy_flounder", "rdna2", "navi22", 40},
    {"dimgrey_cavefish", "rdna2", "navi23", 32},
    {"beige_goby", "rdna2", "navi24", 16},
    {"vangogh", "rdna2", "vangogh", 8},
    {"rembrandt", "rdna2", "rembrandt", 12},
    {"yellow_carp", "rdna2", "rembrandt", 12},
    {"raphael_mendocino", "rdna2", "raphael", 2},
    {"navi10", "rdna1", "navi10", 40},
    {"navi12", "rdna1", "navi12", 40},
    {"navi14", "rdna1", "navi14", 24},
    {"gfx1013", "rdna1", "cyan_skillfish", 40},
    {"arcturus", "cdna", "arcturus", 120},
    {"aldebaran", "cdna", "aldebaran", 110},
    {"mi100", "cdna", "arcturus", 120},
    {"mi200", "cdna", "aldebaran", 110},
    {"gfx940", "cdna", "gfx940", 304},
    {"vega20", "gcn", "vega20", 64},
    {"vega12", "gcn", "vega12", 20},
    {"vega10", "gcn", "vega10", 64},
    {"vegam", "gcn", "vegam", 24},
    {"raven2", "gcn", "raven2", 3},
    {"raven", "gcn", "raven", 11},
    {"renoir", "gcn", "renoir", 8},
    {"polaris10", "gcn", "polaris10", 36},
    {"polaris11", "gcn", "polaris11", 16},
    {"polaris12", "gcn", "polaris12", 10},
    {"fiji", "gcn", "fiji", 64},
    {"tonga", "gcn", "tonga", 32},
    {"iceland", "gcn", "iceland", 6},
    {"topaz", "gcn", "iceland", 6},
    {"carrizo", "gcn", "carrizo", 8},
    {"stoney", "gcn", "stoney", 3},
    {"hawaii", "gcn", "hawaii", 44},
    {"bonaire", "gcn", "bonaire", 14},
    {"kaveri", "gcn", "kaveri", 8},
    {"kabini", "gcn", "kabini", 2},
    {"tahiti", "gcn", "tahiti", 32},
    {"pitcairn", "gcn", "pitcairn", 20},
    {"verde", "gcn", "verde", 10},
    {"oland", "gcn", "oland", 6},
    {"hainan", "gcn", "hainan", 5},
    {"rx 907#", "rdna4", "navi48", 64},
    {"rx 906#", "rdna4", "navi44", 32},
    {"r9700", "rdna4", "navi48", 64},
    {"890m", "rdna3.5", "strix", 16},
    {"880m", "rdna3.5", "strix", 12},
    {"8060s", "rdna3.5", "strix_halo", 40},
    {"8050s", "rdna3.5", "strix_halo", 32},
    {"rx 7700s", "rdna3", "navi33", 32},
    {"rx 79##", "rdna3", "navi31", 96},
    {"rx 78##", "rdna3", "navi32", 60},
    {"rx 77##", "rdna3", "navi32", 54},
    {"rx 7###", "rdna3", "navi33", 32},
    {"w7900", "rdna3", "navi31", 96},
    {"w7800", "rdna3", "navi31", 70},
    {"w7700", "rdna3", "navi32", 48},
    {"w7###", "rdna3", "navi33", 32},
    {"780m", "rdna3", "phoenix", 12},
    {"760m", "rdna3", "phoenix", 8},
    {"740m", "rdna3", "phoenix", 4},
    {"rx 69##", "rdna2", "navi21", 80},
    {"rx 68##", "rdna2", "navi21", 60},
    {"rx 67##", "rdna2", "navi22", 40},
    {"rx 66##", "rdna2", "navi23", 32},
    {"rx 6###", "rdna2", "navi24", 16},
    {"w6800", "rdna2", "navi21", 60},
    {"w6600", "rdna2", "navi23", 28},
    {"w6###", "rdna2", "navi24", 12},
    {"680m", "rdna2", "rembrandt", 12},
    {"660m", "rdna2", "rembrandt", 6},
    {"rx 57##", "rdna1", "navi10", 40},
    {"rx 56##", "rdna1", "navi10", 36},
    {"rx 55##", "rdna1", "navi14", 24},
    {"rx 53##", "rdna1", "navi14", 24},
    {"w5700", "rdna1", "navi10", 36},
    {"w5500", "rdna1", "navi14", 22},
    {"radeon vii", "gcn", "vega20", 60},
    {"vega", "gcn", "vega10", 64},
    {"rx 5##", "gcn", "polaris10", 36},
    {"rx 4##", "gcn", "polaris10", 36},
    {"r9", "gcn", "", 44},
    {"r7", "gcn", "", 14},
    {"r5", "gcn", "", 6},
};

constexpr Row kNvidia[] = {
    {"gb2##", "blackwell", ""},
    {"gb1##", "blackwell", ""},
    {"b###", "blackwell", ""},
    {"rtx 50##", "blackwell", ""},
    {"rtx pro #### blackwell", "blackwell", ""},
    {"gh2##", "hopper", "gh100"},
    {"gh1##", "hopper", "gh100"},
    {"h100", "hopper", "gh100"},
    {"h200", "hopper", "gh100"},
    {"h800", "hopper", "gh100"},
    {"h20", "hopper", "gh100"},
    {"rtx #### ada", "ada", ""},
    {"ad10#", "ada", ""},
    {"rtx 40##", "ada", ""},
    {"l4", "ada", ""},
    {"l40", "ada", ""},
    {"l40s", "ada", ""},
    {"l20", "ada", ""},
    {"ga10#", "ampere", ""},
    {"a100", "ampere", "ga100"},
    {"a800", "ampere", "ga100"},
    {"a30", "ampere", "ga100"},
    {"a40", "ampere", "ga102"},
    {"a10", "ampere", "ga102"},
    {"a10g", "ampere", "ga102"},
    {"a16", "ampere", "ga107"},
    {"a2", "ampere", "ga107"},
    {"rtx 30##", "ampere", ""},
    {"rtx 20##", "turing", ""},
    {"rtx a####", "ampere", ""},
    {"rtx a###", "ampere", ""},
    {"orin", "ampere", "ga10b"},
    {"tu1##", "turing", ""},
    {"gtx 16##", "turing", ""},
    {"quadro rtx", "turing", ""},
    {"titan rtx", "turing", ""},
    {"t4", "turing", "tu104"},
    {"t4g", "turing", "tu104"},
    {"t####", "turing", ""},
    {"t###", "turing", ""},
    {"mx450", "turing", ""},
    {"mx550", "turing", ""},
    {"xavier", "volta", "gv11b"},
    {"v100", "volta", "gv100"},
    {"gv100", "volta", "gv100"},
    {"titan v", "volta", "gv100"},
    {"gp10#", "pascal", ""},
    {"gtx 10##", "pascal", ""},
    {"gt 10##", "pascal", ""},
    {"titan x", "pascal", ""},
    {"titan xp", "pascal", ""},
    {"p100", "pascal", "gp100"},
    {"p40", "pascal", "gp102"},
    {"p4", "pascal", "gp104"},
    {"p####", "pascal", ""},
    {"p###", "pascal", ""},
    {"mx150", "pascal", ""},
    {"mx250", "pascal", ""},
    {"mx350", "pascal", ""},
    {"gm###", "maxwell", ""},
    {"gtx 9##", "maxwell", ""},
    {"gtx 75#", "maxwell", ""},
    {"9##m", "maxwell", ""},
    {"m####", "maxwell", ""},
    {"m##", "maxwell", ""},
    {"tegra x1", "maxwell", "gm20b"},
    {"gk###", "kepler", ""},
    {"gtx 7##", "kepler", ""},
    {"gtx 6##", "kepler", ""},
    {"gt 7##", "kepler", ""},
    {"gt 6##", "kepler", ""},
    {"k####", "kepler", ""},
    {"k##", "kepler", ""},
    {"titan", "kepler", ""},
    // nouveau prints the chip's number
    {"nv19#", "ada", ""},
    {"nv17#", "ampere", ""},
    {"nv16#", "turing", ""},
    {"nv14#", "volta", ""},
    {"nv13#", "pascal", ""},
    {"nv12#", "maxwell", ""},
    {"nv11#", "maxwell", ""},
    {"nv10#", "kepler", ""},
    {"nve#", "kepler", ""},
    {"nvf#", "kepler", ""},
    {"nvc#", "fermi", ""},
    {"nvd#", "fermi", ""},
};

constexpr Row kIntel[] = {
    {"ptl", "xe3", "ptl"},
    {"bmg", "xe2", "bmg"},
    {"lnl", "xe2", "lnl"},
    {"dg2", "xe-hpg", "dg2"},
    {"acm", "xe-hpg", "dg2"},
    {"arl", "xe-lpg", "arl"},
    {"mtl", "xe-lpg", "mtl"},
    {"adl", "xe-lp", "adl"},
    {"adl-s", "xe-lp", "adl"},
    {"adl-p", "xe-lp", "adl"},
    {"rpl", "xe-lp", "rpl"},
    {"rpl-s", "xe-lp", "rpl"},
    {"rpl-p", "xe-lp", "rpl"},
    {"rkl", "xe-lp", "rkl"},
    {"tgl", "xe-lp", "tgl"},
    {"dg1", "xe-lp", "dg1"},
    {"icl", "gen11", "icl"},
    {"ehl", "gen11", "ehl"},
    {"jsl", "gen11", "jsl"},
    {"cml", "gen9", "cml"},
    {"cfl", "gen9", "cfl"},
    {"whl", "gen9", "whl"},
    {"kbl", "gen9", "kbl"},
    {"glk", "gen9", "glk"},
    {"apl", "gen9", "apl"},
    {"bxt", "gen9", "bxt"},
    {"skl", "gen9", "skl"},
    {"bdw", "gen8", "bdw"},
    {"bsw", "gen8", "bsw"},
    {"chv", "gen8", "chv"},
    {"hsw", "gen7.5", "hsw"},
    {"ivb", "gen7", "ivb"},
    {"byt", "gen7", "byt"},
    // Intel's own driver and zink print product names only
    {"b5##", "xe2", ""},
    {"a770", "xe-hpg", "dg2"},
    {"a750", "xe-hpg", "dg2"},
    {"a580", "xe-hpg", "dg2"},
    {"a380", "xe-hpg", "dg2"},
    {"a310", "xe-hpg", "dg2"},
    {"iris(r) xe", "xe-lp", ""},
    {"xe", "xe-lp", ""},
    {"uhd graphics 7##", "xe-lp", ""},
    {"uhd graphics 6##", "gen9", ""},
    {"hd graphics 6##", "gen9", ""},
    {"hd graphics 5##", "gen9", ""},
    {"hd graphics 5###", "gen8", ""},
    {"hd graphics 6###", "gen8", ""},
    {"hd graphics 4000", "gen7", ""},
    {"hd graphics 4###", "gen7.5", ""},
};

constexpr Row kArm[] = {
    {"mali-g57", "valhall", ""},  {"mali-g68", "valhall", ""}, {"mali-g77", "valhall", ""},
    {"mali-g78", "valhall", ""},  {"mali-g##", "bifrost", ""}, {"mali-g###", "valhall", ""},
    {"mali-t###", "midgard", ""},
};

char lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }
bool word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool digit(char c) { return c >= '0' && c <= '9'; }

// Whether `pattern` stands in `text` from a word's start to a word's end.
bool stands_in(std::string_view pattern, std::string_view text) {
  for (std::size_t at = 0; at + pattern.size() <= text.size(); ++at) {
    if (at > 0 && word(text[at - 1])) continue;
    const std::size_t end = at + pattern.size();
    if (end < text.size() && word(text[end])) continue;
    std::size_t i = 0;
    while (i < pattern.size() && (pattern[i] == '#' ? digit(text[at + i]) : pattern[i] == text[at + i])) ++i;
    if (i == pattern.size()) return true;
  }
  return false;
}

template <std::size_t kSize>
bool find(const Row (&rows)[kSize], std::string_view renderer, GlInfo& info) {
  for (const Row& row : rows)
    if (stands_in(row.pattern, renderer)) {
      info.arch = row.arch;
      info.chip = row.chip;
      info.compute_units = row.compute_units;
      return true;
    }
  return false;
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// Who made the hardware. The renderer counts more than the vendor: Mesa and its layers (zink, virgl) put their own name
// into GL_VENDOR.
Vendor maker(std::string_view vendor, std::string_view renderer) {
  const auto either = [&](std::string_view part) { return contains(renderer, part) || contains(vendor, part); };
  if (either("nvidia") || either("nouveau") || contains(renderer, "geforce") || contains(renderer, "quadro") ||
      contains(renderer, "tesla") || renderer.starts_with("nv"))
    return Vendor::nvidia;
  if (contains(renderer, "radeon") || either("amd") || contains(vendor, "ati technologies") ||
      contains(renderer, "(r600") || contains(renderer, "radv"))
    return Vendor::amd;
  if (either("intel")) return Vendor::intel;
  if (contains(renderer, "mali") || vendor == "arm" || contains(vendor, "panfrost")) return Vendor::arm;
  if (contains(renderer, "adreno") || either("freedreno") || contains(vendor, "qualcomm")) return Vendor::qualcomm;
  if (contains(renderer, "apple") || contains(vendor, "apple") || contains(vendor, "asahi")) return Vendor::apple;
  return Vendor::unknown;
}

}  // namespace

GlInfo identify(std::string_view vendor, std::string_view renderer, std::string_view version) {
  GlInfo info;
  info.vendor_string = vendor;
  info.renderer = renderer;
  info.version = version;
  std::string makers(vendor), name(renderer);
  for (char& c : makers) c = lower(c);
  for (char& c : name) c = lower(c);

  if (find(kSoftware, name, info)) {
    info.vendor = Vendor::mesa_software;
    info.software = true;
    return info;
  }
  info.vendor = maker(makers, name);
  switch (info.vendor) {
    case Vendor::amd: find(kAmd, name, info); break;
    case Vendor::nvidia: find(kNvidia, name, info); break;
    case Vendor::intel: find(kIntel, name, info); break;
    case Vendor::arm: find(kArm, name, info); break;
    case Vendor::qualcomm: info.arch = "adreno"; break;
    case Vendor::apple: info.arch = "agx"; break;
    case Vendor::mesa_software:
    case Vendor::unknown: break;
  }
  return info;
}

}  // namespace convrt::gl
