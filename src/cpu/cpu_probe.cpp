#include "cpu/cpu_probe.hpp"

#include <sched.h>
#include <unistd.h>

#include <cctype>
#include <fstream>
#include <string_view>
#include <thread>
#include <utility>

namespace convrt::cpu {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Value of the first "key : value" line of /proc/cpuinfo.
std::string cpuinfo_field(std::string_view key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || !line.starts_with(key)) continue;
    if (line.find_first_not_of(" \t", key.size()) != colon) continue;
    const std::size_t value = line.find_first_not_of(" \t", colon + 1);
    return value == std::string::npos ? std::string() : line.substr(value);
  }
  return {};
}

int cpuinfo_number(std::string_view key) {
  const std::string text = cpuinfo_field(key);
  return text.empty() ? -1 : std::stoi(text, nullptr, 0);
}

// "32K", "1024K", "32M" as sysfs prints cache sizes
std::size_t parse_size(const std::string& text) {
  if (text.empty() || std::isdigit(static_cast<unsigned char>(text[0])) == 0) return 0;
  std::size_t end = 0;
  const std::size_t number = std::stoul(text, &end);
  return end < text.size() && text[end] == 'M'   ? number << 20
         : end < text.size() && text[end] == 'K' ? number << 10
                                                 : number;
}

void probe_caches(CpuInfo& info) {
  for (int i = 0; i < 8; ++i) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/";
    const std::string level = first_line(folder + "level");
    if (level.empty()) break;
    const std::size_t bytes = parse_size(first_line(folder + "size"));
    if (bytes == 0 || first_line(folder + "type") == "Instruction") continue;
    if (level == "1") info.l1_bytes = bytes;
    if (level == "2") info.l2_bytes = bytes;
    if (level == "3") info.l3_bytes = bytes;
  }
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

#if defined(__x86_64__)

// Family and model numbers as AMD's and Intel's manuals list them.
std::string probe_arch() {
  const std::string vendor = cpuinfo_field("vendor_id");
  const int family = cpuinfo_number("cpu family"), model = cpuinfo_number("model");
  if (vendor == "AuthenticAMD") {
    if (family == 0x1A) return "zen5";
    if (family == 0x19)
      return (model >= 0x10 && model <= 0x1F) || (model >= 0x60 && model <= 0x7F) || model >= 0xA0 ? "zen4" : "zen3";
    if (family == 0x17) return model >= 0x30 ? "zen2" : "zen";
  }
  if (vendor == "GenuineIntel" && family == 6) {
    constexpr std::pair<int, const char*> models[] = {
        {0x3C, "haswell"},         {0x3F, "haswell"},        {0x45, "haswell"},     {0x46, "haswell"},
        {0x3D, "broadwell"},       {0x47, "broadwell"},      {0x4F, "broadwell"},   {0x56, "broadwell"},
        {0x4E, "skylake"},         {0x5E, "skylake"},        {0x8E, "kaby-lake"},   {0x9E, "kaby-lake"},
        {0x55, "skylake-avx512"},  {0x7D, "ice-lake"},       {0x7E, "ice-lake"},    {0x6A, "ice-lake-server"},
        {0x6C, "ice-lake-server"}, {0x8C, "tiger-lake"},     {0x8D, "tiger-lake"},  {0x97, "alder-lake"},
        {0x9A, "alder-lake"},      {0xB7, "raptor-lake"},    {0xBA, "raptor-lake"}, {0x8F, "sapphire-rapids"},
        {0xCF, "emerald-rapids"},  {0xAD, "granite-rapids"}, {0xAA, "meteor-lake"}, {0xC6, "arrow-lake"}};
    for (const auto& [id, name] : models)
      if (id == model) return name;
  }
  return "unknown";
}

// The features each Highway target is compiled with (hwy/ops/set_macros-inl.h); __builtin_cpu_supports also asks the
// operating system whether it saves the registers.
std::vector<Isa> probe_isas() {
  __builtin_cpu_init();
  const bool sse4 = __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("sse4.2") &&
                    __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("aes");
  const bool avx2 = sse4 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  std::vector<Isa> isas;
  if (avx512) isas.push_back(Isa::avx512);
  if (avx2) isas.push_back(Isa::avx2);
  if (sse4) isas.push_back(Isa::sse4);
  isas.push_back(Isa::scalar);
  return isas;
}

#else

std::string probe_arch() {
  // MIDR part numbers of Arm Ltd. (implementer 0x41)
  constexpr std::pair<int, const char*> parts[] = {{0xD08, "cortex-a72"},  {0xD0B, "cortex-a76"},
                                                   {0xD0C, "neoverse-n1"}, {0xD40, "neoverse-v1"},
                                                   {0xD49, "neoverse-n2"}, {0xD4F, "neoverse-v2"}};
  if (cpuinfo_number("CPU implementer") == 0x41)
    for (const auto& [id, name] : parts)
      if (id == cpuinfo_number("CPU part")) return name;
  return "unknown";
}

std::vector<Isa> probe_isas() {
#if defined(__aarch64__)
  return {Isa::neon, Isa::scalar};  // Advanced SIMD is part of every arm64 CPU
#else
  return {Isa::scalar};
#endif
}

#endif

CpuInfo probe() {
  CpuInfo info;
  info.name = cpuinfo_field("model name");
  if (info.name.empty()) info.name = "unknown CPU";
  info.arch = probe_arch();
  info.isas = probe_isas();
  info.cores = std::max(1, usable_cores());
  probe_caches(info);
  info.memory_bytes =
      static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return info;
}

}  // namespace

const char* to_string(Isa isa) {
  switch (isa) {
    case Isa::scalar: return "scalar";
    case Isa::sse4: return "sse4";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::neon: return "neon";
  }
  return "scalar";
}

const CpuInfo& cpu_info() {
  static const CpuInfo info = probe();
  return info;
}

}  // namespace convrt::cpu
