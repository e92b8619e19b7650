/// \file
/// Headless OpenGL: the EGL devices of this machine and a context on one of them. libEGL is opened at run time; a
/// machine without it has no devices.
#pragma once

#include <glad/gl.h>

#include <string>
#include <string_view>
#include <vector>

#include "gl/gl_probe.hpp"

namespace convrt::gl {

/// An initialised EGL display that stands for one device.
struct EglDevice {
  void* display =
      nullptr;           ///< EGLDisplay, never terminated: a driver unloaded by eglTerminate leaks, and re-opens slowly
  std::string label;     ///< for messages: "EGL device 0 (/dev/dri/renderD128)"
  std::string identity;  ///< equal for the same hardware seen through two drivers; empty where nothing tells
  std::string pci;       ///< "0000:1b:00.0"; empty where nothing tells
  std::string uuid;      ///< the driver's name of the device, "f3a1...", 32 hexadecimal digits; empty where it has none
};

/// Every device of EGL_EXT_device_enumeration. What is unusable is left out with a log line that says why.
std::vector<EglDevice> egl_devices();

/// The PCI address in what a DRM device file's sysfs link leads to: the last such part of the path, for bridges precede
/// the device. Empty where there is none.
std::string pci_address(std::string_view sysfs_path);

/// Mesa's surfaceless display: for drivers without device enumeration, and a second, independent instance of Mesa's
/// software driver. Empty where it is missing.
std::vector<EglDevice> surfaceless_device();

/// A core profile context, 4.6 down to 4.3 with buffer storage, current on the thread that made it.
class EglContext {
 public:
  /// `robust_access`: out-of-range accesses of a shader are harmless; asked for custom shaders only, since it may cost
  /// time. Reset notification is asked for always. Throws Error{unsupported} that says what the driver refused.
  /// With `share`, the objects of that context are this one's too, and the other way round.
  EglContext(const EglDevice& device, bool robust_access, const EglContext* share = nullptr);
  EglContext(const EglContext&) = delete;
  EglContext& operator=(const EglContext&) = delete;
  ~EglContext();

  void release();  ///< no longer current on the calling thread

  GladGLContext gl = {};  ///< this context's own function table

 private:
  void* display_;
  void* context_ = nullptr;
};

/// identify() of the context's strings, and its limits and extensions by query.
GlInfo query_info(const GladGLContext& gl);

}  // namespace convrt::gl
