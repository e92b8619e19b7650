/// \file
/// The table of shader variants: which file, which parameters, when it fits, how it launches. Pure data and arithmetic;
/// no OpenGL call is made here, so it is testable without a driver.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "convrt/conv2d.hpp"
#include "gl/gl_probe.hpp"

namespace convrt::gl {

using Defines = std::vector<std::pair<std::string, std::string>>;

/// One row of the table with one choice of its parameters: a kernel.
struct Config {
  std::string name;              ///< full kernel name: "gl.lds_64.64x64x16"
  std::size_t row = 0;           ///< index into the table
  std::array<int, 6> tile = {};  ///< the row says of what
  bool shares = true;            ///< work groups may share the depth of tiles, as suits n
};

/// Kernels able to run `desc` on a device, best guess first, gl.basic_64 (valid for every descriptor) last. Which names
/// appear does not depend on n, h, w.
std::vector<Config> configs(const Conv2dDesc& desc, const GlInfo& info);

/// The device memory a step works on. Counters are kCounters words, zero between runs, shared like the workspace.
enum class Role { src, weights, dst, bias, workspace, counters };

inline constexpr std::int64_t kCounters = 4096;

/// A program to compile: a file of shaders/ with defines. N is never a define.
struct ProgramSpec {
  std::string file;  ///< "lds_64.comp"
  Defines defines;
};

/// A range of one memory at one SSBO binding. The offset is a multiple of GlLimits::block_alignment.
struct Binding {
  std::uint32_t binding = 0;
  Role role = Role::src;
  std::uint64_t offset_bytes = 0;
  std::uint64_t size_bytes = 0;  ///< from the offset, 0: to the end of the memory
};

/// One dispatch.
struct Step {
  std::size_t program = 0;                   ///< index into Recipe::programs
  std::array<std::uint32_t, 3> groups = {};  ///< within the device's limits
  std::vector<Binding> buffers;
  std::vector<std::uint32_t> params;  ///< the std140 block at binding 3, as 32-bit words
  bool after_previous = false;        ///< reads what an earlier step of the recipe wrote: needs a barrier before it
};

/// Everything one convolution runs, in order.
struct Recipe {
  std::vector<ProgramSpec> programs;
  std::vector<Step> steps;
  std::size_t workspace_floats = 0;
  bool counts = false;  ///< a step binds the counters
};

/// The weights memory holds what pack_weights returns; bias is K floats (zeros where there is none).
/// Throws Error{unsupported} with the numbers where the problem exceeds the device's limits even when split along N,
/// rows or K.
Recipe recipe(const Config& config, const Conv2dDesc& desc, const GlInfo& info);

/// KCRS weights in the order the variant reads. Independent of n, h, w.
std::vector<float> pack_weights(const Config& config, const Conv2dDesc& desc, std::span<const float> weights);

}  // namespace convrt::gl
