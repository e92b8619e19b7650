/// \file
/// What a CPU algorithm (gemm, direct, depthwise, winograd, reference) is: four functions and a row in
/// cpu_backend.cpp's list. Everything around them (threads, scratch, queue, reshaping) is common and stands in
/// cpu_conv.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "convrt/conv2d.hpp"
#include "cpu/aligned.hpp"
#include "cpu/cpu_probe.hpp"

namespace convrt::cpu {

/// One kernel of an algorithm: an instruction set and a tile.
struct Variant {
  std::string name;  ///< full kernel name: "cpu.gemm.avx512.14x2"
  Isa isa = Isa::scalar;
  int rows = 0, vectors = 0;  ///< register tile; the algorithm says of what
  double cost_ms = 0;         ///< predicted time on this machine for the listed problem; orders the kernel list
};

/// One execution. Pointers are valid and sizes right; dst may hold anything unless desc.accumulate.
struct Run {
  const Conv2dDesc& desc;  ///< n >= 1
  const Variant& variant;
  const float* weights;  ///< as `pack` left them
  const float* bias;     ///< K floats, zeros where the plan has none
  const float* src;
  float* dst;
  float* scratch;  ///< scratch_floats(desc, variant, threads) floats, 64-byte aligned, contents arbitrary
  int threads;     ///< team size for the OpenMP region; the result may not depend on it
};

struct Algorithm {
  /// Kernels able to run `desc` (n >= 1); an empty list is an ordinary answer. Which names appear may not depend on n,
  /// h, w.
  std::vector<Variant> (*variants)(const Conv2dDesc& desc, const CpuInfo& info, int threads);
  /// KCRS weights into the variant's own order. May not depend on n, h, w (reshaped plans share the result).
  AlignedFloats (*pack)(const Conv2dDesc& desc, const Variant& variant, std::span<const float> weights, int threads);
  std::size_t (*scratch_floats)(const Conv2dDesc& desc, const Variant& variant, int threads);
  /// Allocates nothing, throws nothing.
  void (*execute)(const Run& run) noexcept;
};

extern const Algorithm reference;
extern const Algorithm gemm;
extern const Algorithm direct;
extern const Algorithm depthwise;
extern const Algorithm winograd;

}  // namespace convrt::cpu
