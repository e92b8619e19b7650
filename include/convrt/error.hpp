/// \file
/// How convrt reports failure: every function that fails throws `convrt::Error`, nothing else.
#pragma once

#include <stdexcept>
#include <string>

#include "convrt/export.h"

namespace convrt {

enum class ErrorCode {
  invalid_argument,  ///< the caller's descriptor, span, name or option is wrong; the message names it
  unsupported,       ///< valid, but this device or kernel cannot do it
  no_device,         ///< no device of that id exists here; the message lists those that do
  compile_failed,    ///< a shader did not compile or link; the message carries the driver's log
  out_of_memory,     ///< host or device memory ran out
  device_lost,       ///< the GPU context was reset; its work has failed, the device re-opens on next use
  timeout,           ///< a bounded wait ran out; the work itself goes on
  cancelled,         ///< the work was withdrawn before it started
  io_error,          ///< a file could not be read or written
  internal           ///< a defect of convrt; please report it with the message
};

/// The code's name as written above, for example "invalid_argument".
CONVRT_API const char* to_string(ErrorCode code) noexcept;

/// Every failure of convrt. `what()` says what was expected, what was found and what to do.
/// Catchable by type across the shared library.
class CONVRT_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message);
  Error(const Error&) noexcept = default;
  Error& operator=(const Error&) noexcept = default;
  ~Error() override;  // out of line: anchors the type information in the library

  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace convrt
