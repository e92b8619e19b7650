/// \file
/// THE contract between core and a backend, and the only virtual functions of convrt. A backend is a folder that
/// implements these classes (the optional ones only if it gains by them) and one probe function; src/README.md says how
/// to add one.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "convrt/device.hpp"
#include "convrt/plan.hpp"
#include "convrt/shader.hpp"

namespace convrt::core {

class Backend;

/// Floats on a device. Upload and download are ordered with the device's queue.
class BackendBuffer {
 public:
  virtual ~BackendBuffer() = default;
  virtual const Backend* device() const = 0;  ///< where it was allocated
  virtual std::size_t size() const = 0;       ///< floats
  virtual void upload(std::span<const float> from) = 0;
  virtual void download(std::span<float> to) = 0;
};

/// What a kernel is asked to become: validated by core, the name one of Backend::kernels(desc).
struct PrepareRequest {
  Conv2dDesc desc;
  std::string kernel;
  std::span<const float> weights;  ///< KCRS, desc.weights_size() floats; gone after prepare
  std::span<const float> bias;     ///< K floats or empty; gone after prepare
  int threads = 0;
  bool batch_invariant = false;  ///< PlanOptions::batch_invariant
};

/// One convolution ready to run: chosen kernel, packed weights. Immutable; every function may be called from many
/// threads at once.
class PreparedConv {
 public:
  virtual ~PreparedConv() = default;
  /// Spans are already checked for length and overlap. Blocks.
  virtual RunStats run(std::span<const float> src, std::span<float> dst) const = 0;
  /// Buffers are already checked: this device's, right sizes, not the same.
  virtual void enqueue(const std::shared_ptr<BackendBuffer>& src, const std::shared_ptr<BackendBuffer>& dst) const = 0;
  /// Same kernel and packed weights, another n, h, w (validated by core).
  virtual std::shared_ptr<const PreparedConv> reshaped(const Conv2dDesc& desc) const = 0;
  virtual std::size_t workspace_bytes() const = 0;
  virtual std::size_t packed_bytes() const = 0;  ///< weights as the kernel reads them; reshaped plans share them
};

/// Host memory that a Stream's device reads and writes itself. Keeping it keeps the memory, also beyond the Stream.
struct StreamMemory {
  std::span<float> src, dst;
  std::shared_ptr<void> owner;
};

/// When the stages of a Stream's job ran. Those that a backend does not time are empty.
struct StreamTimes {
  struct Span {
    std::chrono::steady_clock::time_point begin = {}, end = {};
  };
  Span dispatch;                                    ///< the host told the device what to do
  Span upload, compute, download;                   ///< by the device's own clock, as host time
  std::chrono::steady_clock::time_point seen = {};  ///< when the host saw that all was done
};

struct StreamOptions {
  bool timed = false;        ///< time all stages, for a trace
  bool copies_only = false;  ///< leave the convolutions out: for measuring the bus
  int depth = 6;             ///< most jobs at once: memory for more is of no use
};

/// Jobs through a chain of convolutions on one device, in order: copied in, computed and copied out, one job's copies
/// while another's convolutions run. Thread-safe, but for submit(), whose order is the caller's business.
class Stream {
 public:
  virtual ~Stream() = default;
  /// src of the first and dst of the last convolution. Throws Error{out_of_memory, device_lost}.
  virtual StreamMemory allocate() = 0;
  /// False once the device lost what the memory is made of: its jobs would fail.
  virtual bool usable(const StreamMemory& memory) const = 0;
  /// Starts a job and does not wait. The result waits until the job is done, then throws its error or returns its
  /// times; to be called once. What memory.dst holds is read by a last convolution that accumulates.
  virtual std::function<StreamTimes()> submit(const StreamMemory& memory) = 0;
  /// Jobs that have not begun fail with Error{cancelled}; the others go on.
  virtual void cancel() = 0;
};

/// A compiled custom shader (design section 4); only GPU backends have them.
class CustomProgram {
 public:
  virtual ~CustomProgram() = default;
  virtual const std::string& log() const = 0;
  virtual RunStats run(const Conv2dDesc& desc, std::span<const float> src, std::span<const float> weights,
                       std::span<float> dst, std::span<const float> bias) = 0;
};

/// One device.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual const DeviceInfo& info() const = 0;
  /// Part of every kernel name before the first dot: "cpu", "gl".
  std::string family() const { return info().id.substr(0, info().id.find(':')); }

  /// Full names of the kernels able to run `desc` (validated), best guess first. Whether a kernel is in the list may
  /// not depend on n, h, w (reshaped keeps the kernel); its place may.
  virtual std::vector<std::string> kernels(const Conv2dDesc& desc, int threads) const = 0;
  virtual std::shared_ptr<const PreparedConv> prepare(const PrepareRequest& request) = 0;

  virtual std::shared_ptr<BackendBuffer> allocate(std::size_t floats) = 0;
  /// Waits for the queue; throws the first error since the last call.
  virtual void synchronize() = 0;
  /// Milliseconds that the device itself takes for `runs` runs, which `enqueue(0)`, `enqueue(1)`, ... put into its
  /// queue and do nothing else. They are done one after another, as the layers of a network are, and handed over in one
  /// go, so that waiting for the host does not count. Default: wall time.
  virtual double device_ms(int runs, const std::function<void(int run)>& enqueue);
  /// True where BackendBuffers are host memory, so that chains need no staging copies.
  virtual bool host_memory() const = 0;

  /// Optional: nullptr means that jobs run one after another through PreparedConv. The convolutions are this device's,
  /// none of them empty, each reading what the one before writes.
  virtual std::unique_ptr<Stream> open_stream(std::vector<std::shared_ptr<const PreparedConv>> /*chain*/,
                                              const StreamOptions& /*options*/) {
    return nullptr;
  }

  /// Optional: what the probe found beyond info(), as names and values for people to read.
  virtual std::vector<std::pair<std::string, std::string>> details() const { return {}; }

  /// Optional: shipped tuning results for this device, in the form that tune_cache.hpp's shipped_kernels reads.
  virtual std::string shipped_tuning() const { return {}; }

  /// Optional: nullptr means that this backend has no custom shaders.
  virtual std::shared_ptr<CustomProgram> compile_custom(const ShaderSource&) { return nullptr; }
};

/// Every device of a backend, best first; what is broken is a log line, not an exception. Called once per process.
std::vector<std::shared_ptr<Backend>> probe_cpu();
std::vector<std::shared_ptr<Backend>> probe_gl();  // src/gl, or an empty list where convrt was built without it

/// The texts behind convrt::builtin_shader(): names, sorted, and the complete self-contained text of one of them.
/// src/gl, or an empty list where convrt was built without it.
std::vector<std::string> gl_shader_names();
std::string gl_shader(std::string_view name);

/// The device list behind convrt::devices(); tests put their own backends here.
std::vector<std::shared_ptr<Backend>> all_backends();
void add_backend_for_test(std::shared_ptr<Backend> backend);

}  // namespace convrt::core
