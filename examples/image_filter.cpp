// Filters a PNG picture with convolutions: blur, sharpen, or the edges that Sobel's operator finds.
#include <png.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "convrt/convrt.hpp"

namespace {

constexpr char kUsage[] =
    "usage: image_filter FILTER IN.png OUT.png [DEVICE]\n"
    "  FILTER  blur     7x7 Gaussian, sigma 1.5 pixels\n"
    "          sharpen  the picture plus what a blur takes away\n"
    "          edges    magnitude of Sobel's gradient of the luminance\n"
    "  DEVICE  cpu, gl:0, ... or best (default)\n";

// RGB in [0, 255], pixels[height][width][3]: convrt's NHWC with N = 1, C = 3.
struct Picture {
  int width = 0, height = 0;
  std::vector<float> pixels;
};

[[noreturn]] void fail_png(const char* doing, const std::string& path, const png_image& image) {
  throw std::runtime_error(std::string("cannot ") + doing + " " + path + ": " + image.message);
}

Picture read_png(const std::string& path) {
  png_image image = {};
  image.version = PNG_IMAGE_VERSION;
  if (png_image_begin_read_from_file(&image, path.c_str()) == 0) fail_png("read", path, image);
  image.format = PNG_FORMAT_RGB;
  std::vector<png_byte> bytes(PNG_IMAGE_SIZE(image));
  const png_color white = {255, 255, 255};  // behind transparent pixels
  if (png_image_finish_read(&image, &white, bytes.data(), 0, nullptr) == 0) fail_png("read", path, image);
  return {static_cast<int>(image.width), static_cast<int>(image.height), {bytes.begin(), bytes.end()}};
}

void write_png(const std::string& path, const Picture& picture) {
  png_image image = {};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  std::vector<png_byte> bytes(picture.pixels.size());
  std::transform(picture.pixels.begin(), picture.pixels.end(), bytes.begin(),
                 [](float v) { return static_cast<png_byte>(std::lround(std::clamp(v, 0.0F, 255.0F))); });
  if (png_image_write_to_file(&image, path.c_str(), 0, bytes.data(), 0, nullptr) == 0) fail_png("write", path, image);
}

// Repeats the border pixels outwards, so that a filter does not see darkness beyond the edge.
Picture extended(const Picture& in, int border) {
  Picture out = {in.width + 2 * border, in.height + 2 * border, {}};
  out.pixels.resize(static_cast<std::size_t>(out.width) * static_cast<std::size_t>(out.height) * 3);
  auto at = out.pixels.begin();
  for (int y = 0; y < out.height; ++y)
    for (int x = 0; x < out.width; ++x) {
      const int from_y = std::clamp(y - border, 0, in.height - 1), from_x = std::clamp(x - border, 0, in.width - 1);
      at = std::copy_n(in.pixels.begin() + (static_cast<std::ptrdiff_t>(from_y) * in.width + from_x) * 3, 3, at);
    }
  return out;
}

// weights[k][c / groups][size][size]; returns dst[height][width][k] for an output as large as `in`.
std::vector<float> convolve(const convrt::Device& device, const Picture& in, int size, int k, int groups,
                            const std::vector<float>& weights) {
  const Picture padded = extended(in, size / 2);
  convrt::Conv2dDesc desc = {.n = 1, .c = 3, .h = padded.height, .w = padded.width, .k = k, .r = size, .s = size};
  desc.groups = groups;
  desc.layout = convrt::Layout::nhwc;
  std::vector<float> dst(desc.dst_size());
  const convrt::Conv2dPlan plan(device, desc, weights);
  const convrt::RunStats stats = plan.run(padded.pixels, dst);
  std::printf("%s on %s with %s: %.2f ms\n", desc.str().c_str(), device.info().id.c_str(), plan.kernel().c_str(),
              stats.total_ms);
  return dst;
}

// One size x size Gaussian for each of the three colours (a depthwise convolution).
std::vector<float> gaussian(int size, double sigma) {
  std::vector<float> weights;
  double sum = 0;
  const auto bell = [&](int i) { return std::exp(-(i - size / 2) * (i - size / 2) / (2 * sigma * sigma)); };
  for (int i = 0; i < size * size; ++i) sum += bell(i / size) * bell(i % size);
  for (int i = 0; i < 3 * size * size; ++i)
    weights.push_back(static_cast<float>(bell(i / size % size) * bell(i % size) / sum));
  return weights;
}

Picture filtered(const convrt::Device& device, std::string_view filter, const Picture& in) {
  Picture out = in;
  if (filter == "blur") {
    out.pixels = convolve(device, in, 7, 3, 3, gaussian(7, 1.5));
  } else if (filter == "sharpen") {
    std::vector<float> weights = gaussian(5, 1.0);  // 2.5 * identity - 1.5 * blur
    for (float& w : weights) w *= -1.5F;
    for (int c = 0; c < 3; ++c) weights[static_cast<std::size_t>(c * 25 + 12)] += 2.5F;
    out.pixels = convolve(device, in, 5, 3, 3, weights);
  } else if (filter == "edges") {
    // Two filters over three colours: the horizontal and the vertical derivative of the luminance (ITU-R BT.601).
    constexpr float luma[3] = {0.299F, 0.587F, 0.114F};
    constexpr float across[9] = {-1, 0, 1, -2, 0, 2, -1, 0, 1}, down[9] = {-1, -2, -1, 0, 0, 0, 1, 2, 1};
    std::vector<float> weights;
    for (const float* sobel : {across, down})
      for (const float colour : luma)
        for (int i = 0; i < 9; ++i) weights.push_back(colour * sobel[i]);
    const std::vector<float> gradient = convolve(device, in, 3, 2, 1, weights);
    for (std::size_t i = 0; i < gradient.size() / 2; ++i)
      std::fill_n(out.pixels.begin() + static_cast<std::ptrdiff_t>(3 * i), 3,
                  std::hypot(gradient[2 * i], gradient[2 * i + 1]));
  } else {
    throw std::runtime_error("unknown filter \"" + std::string(filter) + "\"; expected blur, sharpen or edges");
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc >= 2 && std::string_view(argv[1]) == "--help") return std::fputs(kUsage, stdout), 0;
  if (argc < 4 || argc > 5) return std::fputs(kUsage, stderr), 2;
  const convrt::Device device = convrt::find_device(argc > 4 ? argv[4] : "best");
  write_png(argv[3], filtered(device, argv[1], read_png(argv[2])));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "image_filter: %s\n", error.what());
  return 1;
}
