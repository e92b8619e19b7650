/// \file
/// What a GL device is, from its own strings and limits.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace convrt::gl {

enum class Vendor { unknown, amd, nvidia, intel, mesa_software, arm, qualcomm, apple };

struct GlLimits {
  std::array<std::uint32_t, 3> max_groups = {65535, 65535, 65535};
  std::uint32_t max_invocations = 128;  ///< per work group
  std::uint32_t max_shared_bytes = 32 << 10;
  std::uint64_t max_block_bytes = 128U << 20;  ///< of one SSBO binding
  std::uint32_t block_alignment = 256;         ///< of an SSBO binding's offset
  std::uint32_t uniform_alignment = 256;       ///< of a uniform block binding's offset
};

struct GlInfo {
  Vendor vendor = Vendor::unknown;
  std::string arch = "unknown";  ///< "rdna3", "hopper", "xe-lp", "llvmpipe"
  std::string chip;              ///< "navi31" where the renderer tells
  std::string renderer, version, vendor_string, glsl_version;
  bool software = false;
  int compute_units = 0;  ///< multiprocessors or CUs; an estimate by arch where no query tells, 0 where unknown
  std::uint64_t memory_bytes = 0;  ///< 0 where no query tells
  bool subgroup = false, parallel_compile = false;
  GlLimits limits;
};

/// Vendor, arch, chip, software from GL_VENDOR, GL_RENDERER and GL_VERSION as drivers print them; limits keep their
/// (safe) defaults. Unknown strings give "unknown".
GlInfo identify(std::string_view vendor, std::string_view renderer, std::string_view version);

}  // namespace convrt::gl
