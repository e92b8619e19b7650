/// \file
/// What this CPU is: instruction sets, cores, caches, from real queries.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace convrt::cpu {

/// Instruction sets that kernels are compiled for, in the terms of kernel names.
enum class Isa { scalar, sse4, avx2, avx512, neon };
const char* to_string(Isa isa);

struct CpuInfo {
  std::string name;       ///< "AMD EPYC 9654 96-Core Processor"
  std::string arch;       ///< "zen4", "skylake-avx512", "neoverse-n1", "unknown"
  std::vector<Isa> isas;  ///< usable here, best first; scalar last
  int cores = 1;          ///< that this process may run on (affinity)
  std::size_t l1_bytes = 32 << 10, l2_bytes = 512 << 10, l3_bytes = 8 << 20;  ///< data; defaults where unknown
  std::size_t memory_bytes = 0;
};

/// Probed once per process.
const CpuInfo& cpu_info();

}  // namespace convrt::cpu
