/// \file
/// The machines a convolution can run on: the CPU, and one device per OpenGL driver found.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "convrt/conv2d.hpp"
#include "convrt/export.h"

namespace convrt {

namespace core {
class Access;
class Backend;
class BackendBuffer;
}  // namespace core

struct DeviceInfo {
  std::string id;                ///< "cpu", "gl:0": what find_device takes
  std::string name;              ///< as the maker prints it: "AMD EPYC 9654", "NVIDIA H200/PCIe/SSE2"
  std::string arch;              ///< "zen4", "rdna3", "hopper", "llvmpipe"; "unknown" where no query tells
  std::string driver;            ///< GL: version string of the driver; CPU: the instruction sets used, best first
  bool software = false;         ///< a GL driver that runs on the CPU
  std::size_t memory_bytes = 0;  ///< 0 where unknown
  int compute_units = 0;         ///< CPU: cores; GPU: 0 where unknown
  std::size_t l1_bytes = 0, l2_bytes = 0, l3_bytes = 0;  ///< CPU: data caches, per core (l3: shared); 0 where unknown
};

/// A block of floats on one device, in the order of the device's queue. Move-only. Destroying it while enqueued work
/// still uses it is safe: the storage lives until that work is done.
class CONVRT_API Buffer {
 public:
  Buffer() noexcept;  ///< empty: size() == 0
  Buffer(Buffer&&) noexcept;
  Buffer& operator=(Buffer&&) noexcept;
  ~Buffer();

  /// Copies size() floats in, after all work enqueued before; throws Error{invalid_argument} on another length.
  void upload(std::span<const float> from);
  /// Waits for all work enqueued before, then copies size() floats out; throws as upload does, or the first error of
  /// that work.
  void download(std::span<float> to) const;
  std::size_t size() const noexcept;  ///< floats

 private:
  friend class core::Access;
  std::shared_ptr<core::BackendBuffer> impl_;
};

/// A cheap value that names a device and shares its state; copies are the same device. Thread-safe.
class CONVRT_API Device {
 public:
  const DeviceInfo& info() const;

  /// Kernels able to run `desc`, best guess first, the reference last. Throws Error{invalid_argument} for a bad desc.
  std::vector<std::string> kernels(const Conv2dDesc& desc) const;

  /// Uninitialised storage for `floats` floats. Throws Error{out_of_memory}.
  Buffer allocate(std::size_t floats) const;

  /// Waits until everything enqueued on this device is done; throws the first error of it, once.
  void synchronize() const;

 private:
  friend class core::Access;
  explicit Device(std::shared_ptr<core::Backend> impl) noexcept;
  std::shared_ptr<core::Backend> impl_;
};

/// All devices; [0] is the CPU. A missing or broken driver is a missing entry and a log line, never a failure. Probed
/// once per process. The environment variable CONVRT_DEVICES (comma-separated ids, "cpu", "gl", "gl:1") narrows the
/// list; the CPU always stays.
CONVRT_API std::vector<Device> devices();

/// The device of that id, or "best": the fastest real device (never a software rasteriser). Throws Error{no_device}
/// that lists what exists.
CONVRT_API Device find_device(std::string_view id);

}  // namespace convrt
