#include "gl/egl_context.hpp"

#include <glad/egl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string_view>
#include <utility>

#include "core/fail.hpp"
#include "core/log.hpp"

namespace convrt::gl {
namespace {

using core::log;

bool listed(const char* extensions, std::string_view name) {
  std::string_view rest = extensions == nullptr ? std::string_view() : extensions;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(' '), rest.size());
    if (rest.substr(0, end) == name) return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return false;
}

const char* egl_error_name(EGLint error) {
  switch (error) {
    case EGL_SUCCESS: return "EGL_SUCCESS";
    case EGL_NOT_INITIALIZED: return "EGL_NOT_INITIALIZED";
    case EGL_BAD_ACCESS: return "EGL_BAD_ACCESS";
    case EGL_BAD_ALLOC: return "EGL_BAD_ALLOC";
    case EGL_BAD_ATTRIBUTE: return "EGL_BAD_ATTRIBUTE";
    case EGL_BAD_CONFIG: return "EGL_BAD_CONFIG";
    case EGL_BAD_CONTEXT: return "EGL_BAD_CONTEXT";
    case EGL_BAD_DISPLAY: return "EGL_BAD_DISPLAY";
    case EGL_BAD_MATCH: return "EGL_BAD_MATCH";
    case EGL_BAD_PARAMETER: return "EGL_BAD_PARAMETER";
    default: return "an EGL error";
  }
}

template <class Function>
Function egl_function(const char* name) {
  return reinterpret_cast<Function>(eglGetProcAddress(name));
}

// Why EGL has nothing to offer: no vendor file, or vendor files whose library does not load.
std::string missing_driver_hint() {
  if (const char* named = std::getenv("__EGL_VENDOR_LIBRARY_FILENAMES"))
    return std::string("__EGL_VENDOR_LIBRARY_FILENAMES=") + named + " names no driver that loads";
  std::string found;
  std::error_code error;
  for (const char* folder : {"/etc/glvnd/egl_vendor.d", "/usr/share/glvnd/egl_vendor.d"})
    for (const auto& entry : std::filesystem::directory_iterator(folder, error))
      if (entry.path().extension() == ".json") found.append(found.empty() ? "" : ", ").append(entry.path().string());
  if (found.empty())
    return "no vendor file in /etc/glvnd/egl_vendor.d or /usr/share/glvnd/egl_vendor.d; install the GPU's driver, or "
           "libegl-mesa0 and libgl1-mesa-dri";
  return "the vendor files " + found + " exist, but none of their drivers offers a device (is its library installed?)";
}

bool load_egl() {
  static const bool loaded = [] {
    if (gladLoaderLoadEGL(EGL_NO_DISPLAY) != 0) return true;
    log(LogLevel::info, "no GL device: libEGL.so.1 does not load or has no driver: ", missing_driver_hint());
    return false;
  }();
  return loaded;
}

void* platform_display(EGLenum platform, void* native) {
  const auto get = egl_function<PFNEGLGETPLATFORMDISPLAYEXTPROC>("eglGetPlatformDisplayEXT");
  return get == nullptr ? nullptr : get(platform, native, nullptr);
}

// "cannot open /dev/dri/renderD128 ...": the commonest reason for a device that does not initialise.
std::string permission_hint(const std::string& file) {
  if (file.empty() || access(file.c_str(), R_OK | W_OK) == 0) return {};
  return "; no permission for " + file + " (" + std::strerror(errno) + "): join its group (render or video)";
}

bool initialise(EglDevice& device, const std::string& file) {
  EGLint major = 0, minor = 0;
  if (device.display != nullptr && eglInitialize(device.display, &major, &minor) == EGL_TRUE) {
    // Without a display glad knows EGL 1.0 only. Once: the functions are the same for all displays, and other threads
    // may be using them.
    static std::once_flag loaded;
    std::call_once(loaded, [&] { gladLoaderLoadEGL(device.display); });
    return true;
  }
  const EGLint error = eglGetError();
  log(LogLevel::info, device.label, " left out: eglInitialize failed with ", egl_error_name(error),
      error == EGL_NOT_INITIALIZED ? " (the driver did not load; for Mesa install libgl1-mesa-dri)" : "",
      permission_hint(file));
  return false;
}

struct DeviceStrings {
  std::string file;            // DRM primary or render node
  std::string identity;        // the same for the same hardware
  std::string pci, uuid = {};  // as in EglDevice
};

// As drivers without DRM files tell it: NVIDIA's lists its devices' addresses with their UUIDs.
std::string pci_address_of_nvidia(std::string uuid) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", error)) {
    std::ifstream file(entry.path() / "information");
    std::string text{std::istreambuf_iterator<char>(file), {}};
    std::erase(text, '-');
    if (!uuid.empty() && text.find("GPU" + uuid) != std::string::npos) return entry.path().filename().string();
  }
  return {};
}

std::string uuid_of(EGLDeviceEXT device) {
  const auto binary_of = egl_function<PFNEGLQUERYDEVICEBINARYEXTPROC>("eglQueryDeviceBinaryEXT");
  std::array<unsigned char, 16> bytes = {};
  EGLint size = 0;
  if (binary_of == nullptr || binary_of(device, EGL_DEVICE_UUID_EXT, bytes.size(), bytes.data(), &size) != EGL_TRUE ||
      size != static_cast<EGLint>(bytes.size()))
    return {};
  std::string text;
  for (const unsigned char byte : bytes)
    for (const int digit : {byte >> 4, byte & 15}) text += "0123456789abcdef"[digit];
  return text;
}

DeviceStrings describe(EGLDeviceEXT device) {
  const auto string_of = egl_function<PFNEGLQUERYDEVICESTRINGEXTPROC>("eglQueryDeviceStringEXT");
  const auto attribute_of = egl_function<PFNEGLQUERYDEVICEATTRIBEXTPROC>("eglQueryDeviceAttribEXT");
  DeviceStrings found;
  if (string_of == nullptr) return found;
  const char* extensions = string_of(device, EGL_EXTENSIONS);
  const auto query = [&](EGLint name) {
    const char* text = string_of(device, name);
    return std::string(text == nullptr ? "" : text);
  };
  if (listed(extensions, "EGL_EXT_device_drm")) found.identity = query(EGL_DRM_DEVICE_FILE_EXT);
  if (listed(extensions, "EGL_EXT_device_drm_render_node")) found.file = query(EGL_DRM_RENDER_NODE_FILE_EXT);
  if (found.file.empty()) found.file = found.identity;
  EGLAttrib cuda = -1;
  if (found.identity.empty() && attribute_of != nullptr && listed(extensions, "EGL_NV_device_cuda") &&
      attribute_of(device, EGL_CUDA_DEVICE_NV, &cuda) == EGL_TRUE)
    found.identity = "cuda:" + std::to_string(cuda);
  if (listed(extensions, "EGL_EXT_device_persistent_id")) found.uuid = uuid_of(device);
  if (!found.file.empty()) {
    std::error_code error;
    const auto link = "/sys/class/drm" / std::filesystem::path(found.file).filename() / "device";
    found.pci = pci_address(std::filesystem::canonical(link, error).string());
  }
  if (found.pci.empty()) found.pci = pci_address_of_nvidia(found.uuid);
  return found;
}

}  // namespace

std::string pci_address(std::string_view sysfs_path) {
  const auto hexadecimal = [](std::string_view digits) {
    return !digits.empty() && digits.find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos;
  };
  while (!sysfs_path.empty()) {  // from its end: domain:bus:device.function
    const std::string_view part = sysfs_path.substr(sysfs_path.rfind('/') + 1);
    const std::size_t n = part.size();
    if (n >= 12 && part[n - 2] == '.' && part[n - 5] == ':' && part[n - 8] == ':' &&
        hexadecimal(part.substr(0, n - 8)) && hexadecimal(part.substr(n - 7, 2)) &&
        hexadecimal(part.substr(n - 4, 2)) && hexadecimal(part.substr(n - 1)))
      return std::string(part);
    sysfs_path.remove_suffix(std::min(part.size() + 1, sysfs_path.size()));
  }
  return {};
}

std::vector<EglDevice> egl_devices() {
  if (!load_egl()) return {};
  const auto query = egl_function<PFNEGLQUERYDEVICESEXTPROC>("eglQueryDevicesEXT");
  EGLint count = 0;
  if (query == nullptr || query(0, nullptr, &count) != EGL_TRUE || count <= 0) {
    log(LogLevel::info, "EGL enumerates no device: ", missing_driver_hint());
    return {};
  }
  std::vector<EGLDeviceEXT> handles(static_cast<std::size_t>(count));
  if (query(count, handles.data(), &count) != EGL_TRUE) return {};
  handles.resize(static_cast<std::size_t>(count));

  std::vector<EglDevice> devices;
  for (std::size_t i = 0; i < handles.size(); ++i) {
    DeviceStrings strings = describe(handles[i]);
    EglDevice device;
    device.label = "EGL device " + std::to_string(i);
    if (!strings.file.empty()) device.label += " (" + strings.file + ")";
    device.identity = std::move(strings.identity);
    device.pci = std::move(strings.pci);
    device.uuid = std::move(strings.uuid);
    device.display = platform_display(EGL_PLATFORM_DEVICE_EXT, handles[i]);
    if (initialise(device, strings.file)) devices.push_back(std::move(device));
  }
  return devices;
}

std::vector<EglDevice> surfaceless_device() {
  if (!load_egl()) return {};
  if (!listed(eglQueryString(EGL_NO_DISPLAY, EGL_EXTENSIONS), "EGL_MESA_platform_surfaceless")) return {};
  EglDevice device;
  device.label = "EGL surfaceless display";
  device.display = platform_display(EGL_PLATFORM_SURFACELESS_MESA, EGL_DEFAULT_DISPLAY);
  if (!initialise(device, "")) return {};
  return {device};
}

EglContext::EglContext(const EglDevice& device, bool robust_access, const EglContext* share)
    : display_(device.display) {
  const auto refuse = [&](const auto&... why) {
    const EGLint error = eglGetError();
    core::fail(ErrorCode::unsupported, device.label, ": ", why..., " (", egl_error_name(error), ")");
  };
  if (eglBindAPI(EGL_OPENGL_API) != EGL_TRUE) refuse("its EGL has no desktop OpenGL");
  const char* extensions = eglQueryString(display_, EGL_EXTENSIONS);
  for (const char* needed : {"EGL_KHR_surfaceless_context", "EGL_KHR_create_context"})
    if (!listed(extensions, needed)) refuse("its EGL lacks ", needed);

  EGLConfig config = EGL_NO_CONFIG_KHR;
  EGLint configs = 0;
  const EGLint wanted[] = {EGL_SURFACE_TYPE, EGL_PBUFFER_BIT, EGL_RENDERABLE_TYPE, EGL_OPENGL_BIT, EGL_NONE};
  if (!listed(extensions, "EGL_KHR_no_config_context") &&
      (eglChooseConfig(display_, wanted, &config, 1, &configs) != EGL_TRUE || configs < 1))
    refuse("it has no EGL config for OpenGL");

  // Most protection first; within that, the highest version.
  for (const bool robust : {true, false}) {
    if (robust && !robust_access) continue;
    for (const bool notify : {true, false})
      for (const EGLint minor : {6, 5, 4, 3}) {
        if (context_ != nullptr || (robust && !notify)) continue;
        std::vector<EGLint> attributes = {EGL_CONTEXT_MAJOR_VERSION,       4,
                                          EGL_CONTEXT_MINOR_VERSION,       minor,
                                          EGL_CONTEXT_OPENGL_PROFILE_MASK, EGL_CONTEXT_OPENGL_CORE_PROFILE_BIT};
        if (notify)
          attributes.insert(attributes.end(),
                            {EGL_CONTEXT_OPENGL_RESET_NOTIFICATION_STRATEGY, EGL_LOSE_CONTEXT_ON_RESET});
        if (robust) attributes.insert(attributes.end(), {EGL_CONTEXT_OPENGL_ROBUST_ACCESS, EGL_TRUE});
        attributes.push_back(EGL_NONE);
        context_ =
            eglCreateContext(display_, config, share == nullptr ? EGL_NO_CONTEXT : share->context_, attributes.data());
      }
  }
  if (context_ == nullptr) refuse("it refuses an OpenGL core context of 4.3 or higher");
  const auto drop = [&](const char* why) {
    const EGLint error = eglGetError();
    eglMakeCurrent(display_, EGL_NO_SURFACE, EGL_NO_SURFACE, EGL_NO_CONTEXT);
    eglDestroyContext(display_, context_);
    core::fail(ErrorCode::unsupported, device.label, ": ", why, " (", egl_error_name(error), ")");
  };
  if (eglMakeCurrent(display_, EGL_NO_SURFACE, EGL_NO_SURFACE, context_) != EGL_TRUE)
    drop("its context cannot be made current without a surface");
  if (gladLoadGLContext(&gl, eglGetProcAddress) == 0) drop("its OpenGL functions do not load");
  if (gl.BufferStorage == nullptr) drop("it lacks buffer storage (OpenGL 4.4 or GL_ARB_buffer_storage)");
}

EglContext::~EglContext() { eglDestroyContext(display_, context_); }

void EglContext::release() {
  eglMakeCurrent(display_, EGL_NO_SURFACE, EGL_NO_SURFACE, EGL_NO_CONTEXT);
  eglReleaseThread();
}

GlInfo query_info(const GladGLContext& gl) {
  const auto text = [&](GLenum name) {
    const GLubyte* found = gl.GetString(name);
    return std::string(found == nullptr ? "" : reinterpret_cast<const char*>(found));
  };
  const auto integer = [&](GLenum name) {
    GLint64 value = 0;
    gl.GetInteger64v(name, &value);
    return value;
  };
  const std::string vendor = text(GL_VENDOR), renderer = text(GL_RENDERER), version = text(GL_VERSION);
  GlInfo info = identify(vendor, renderer, version);
  info.glsl_version = text(GL_SHADING_LANGUAGE_VERSION);
  for (unsigned i = 0; i < 3; ++i) {
    GLint count = 0;
    gl.GetIntegeri_v(GL_MAX_COMPUTE_WORK_GROUP_COUNT, i, &count);
    info.limits.max_groups[i] = static_cast<std::uint32_t>(count);
  }
  info.limits.max_invocations = static_cast<std::uint32_t>(integer(GL_MAX_COMPUTE_WORK_GROUP_INVOCATIONS));
  info.limits.max_shared_bytes = static_cast<std::uint32_t>(integer(GL_MAX_COMPUTE_SHARED_MEMORY_SIZE));
  info.limits.max_block_bytes = static_cast<std::uint64_t>(integer(GL_MAX_SHADER_STORAGE_BLOCK_SIZE));
  info.limits.block_alignment = static_cast<std::uint32_t>(integer(GL_SHADER_STORAGE_BUFFER_OFFSET_ALIGNMENT));
  info.limits.uniform_alignment = static_cast<std::uint32_t>(integer(GL_UNIFORM_BUFFER_OFFSET_ALIGNMENT));
  info.subgroup = gl.KHR_shader_subgroup != 0;
  info.parallel_compile = gl.KHR_parallel_shader_compile != 0;
  if (gl.NVX_gpu_memory_info != 0)
    info.memory_bytes = static_cast<std::uint64_t>(integer(GL_GPU_MEMORY_INFO_DEDICATED_VIDMEM_NVX)) << 10;
  // GL_SM_COUNT_NV of NV_shader_thread_group, an extension glad need not know otherwise.
  for (GLint i = 0, count = static_cast<GLint>(integer(GL_NUM_EXTENSIONS)); i < count; ++i) {
    constexpr GLenum kSmCountNv = 0x933B;
    const GLubyte* name = gl.GetStringi(GL_EXTENSIONS, static_cast<GLuint>(i));
    if (name != nullptr && std::strcmp(reinterpret_cast<const char*>(name), "GL_NV_shader_thread_group") == 0)
      info.compute_units = static_cast<int>(integer(kSmCountNv));
  }
  return info;
}

}  // namespace convrt::gl
