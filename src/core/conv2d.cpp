#include "convrt/conv2d.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "core/fail.hpp"

namespace convrt {
namespace {

using core::fail;

struct Field {
  std::string_view name;  // in the problem string
  std::string_view member;
  int Conv2dDesc::*value;
};

constexpr Field kFields[] = {{"n", "n", &Conv2dDesc::n},
                             {"c", "c", &Conv2dDesc::c},
                             {"h", "h", &Conv2dDesc::h},
                             {"w", "w", &Conv2dDesc::w},
                             {"k", "k", &Conv2dDesc::k},
                             {"r", "r", &Conv2dDesc::r},
                             {"s", "s", &Conv2dDesc::s},
                             {"sh", "stride_h", &Conv2dDesc::stride_h},
                             {"sw", "stride_w", &Conv2dDesc::stride_w},
                             {"dh", "dilation_h", &Conv2dDesc::dilation_h},
                             {"dw", "dilation_w", &Conv2dDesc::dilation_w},
                             {"g", "groups", &Conv2dDesc::groups},
                             {"pt", "pad_top", &Conv2dDesc::pad_top},
                             {"pb", "pad_bottom", &Conv2dDesc::pad_bottom},
                             {"pl", "pad_left", &Conv2dDesc::pad_left},
                             {"pr", "pad_right", &Conv2dDesc::pad_right}};
constexpr std::span<const Field> kSizes = std::span(kFields).subspan<0, 7>();  // always printed
constexpr std::span<const Field> kSteps = std::span(kFields).subspan<7, 5>();  // default 1
constexpr std::span<const Field> kPads = std::span(kFields).subspan<12, 4>();  // default 0
constexpr std::string_view kFieldRule = "a field name (n c h w k r s sh sw dh dw ph pw pt pb pl pr g)";

constexpr std::array<std::string_view, 9> kActivations = {"none", "relu", "clamp", "leaky_relu", "sigmoid",
                                                          "tanh", "silu", "gelu",  "hard_swish"};

// Destination extent along one axis in 64 bits; int fields cannot overflow it.
std::int64_t extent(std::int64_t size, std::int64_t pad_low, std::int64_t pad_high, std::int64_t filter,
                    std::int64_t dilation, std::int64_t stride) {
  const std::int64_t span = size + pad_low + pad_high - (dilation * (filter - 1) + 1);
  return span < 0 ? 0 : span / stride + 1;
}

std::int64_t rows(const Conv2dDesc& d) { return extent(d.h, d.pad_top, d.pad_bottom, d.r, d.dilation_h, d.stride_h); }
std::int64_t cols(const Conv2dDesc& d) { return extent(d.w, d.pad_left, d.pad_right, d.s, d.dilation_w, d.stride_w); }

int checked_extent(const Conv2dDesc& d, bool vertical) {
  const int stride = vertical ? d.stride_h : d.stride_w;
  if (stride < 1)
    fail(ErrorCode::invalid_argument, "convolution ", d.str(), ": ", vertical ? "stride_h" : "stride_w",
         " must be at least 1, found ", stride);
  const std::int64_t found = vertical ? rows(d) : cols(d);
  if (found < 1 || found > std::numeric_limits<int>::max())
    fail(ErrorCode::invalid_argument, "convolution ", d.str(), ": destination ", vertical ? "height P" : "width Q",
         " must be between 1 and 2^31-1, found ", found, "; the filter spans ",
         vertical ? std::int64_t{d.dilation_h} * (d.r - 1) + 1 : std::int64_t{d.dilation_w} * (d.s - 1) + 1, " of ",
         vertical ? std::int64_t{d.h} + d.pad_top + d.pad_bottom : std::int64_t{d.w} + d.pad_left + d.pad_right,
         " padded source elements");
  return static_cast<int>(found);
}

// Product of extents in floats; the byte count must fit a ptrdiff_t, or no such array can exist.
std::size_t product(const Conv2dDesc& d, const char* what, std::initializer_list<std::int64_t> factors) {
  constexpr std::int64_t limit = std::numeric_limits<std::ptrdiff_t>::max() / std::int64_t{sizeof(float)};
  for (const std::int64_t f : factors)
    if (f < 0) fail(ErrorCode::invalid_argument, "convolution ", d.str(), ": ", what, " has a negative extent, ", f);
  std::int64_t size = 1;
  for (const std::int64_t f : factors) {
    if (f == 0) return 0;
    if (size > limit / f)
      fail(ErrorCode::invalid_argument, "convolution ", d.str(), ": ", what, " would hold more than 2^61-1 floats");
    size *= f;
  }
  return static_cast<std::size_t>(size);
}

void append_number(std::string& text, float value) {
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  text.append(digits, end);
}

// Reads the problem string from left to right; every complaint names the position.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Conv2dDesc run() {
    if (text_.empty()) complain("a problem such as n1c64h56w56k64r3s3ph1pw1");
    while (at_ < text_.size() && text_[at_] != '+') field();
    while (at_ < text_.size()) option();
    return desc_;
  }

 private:
  [[noreturn]] void complain(std::string_view expected) const {
    fail(ErrorCode::invalid_argument, "problem string \"", text_, "\", position ", at_ + 1, ": expected ", expected,
         ", found ", at_ < text_.size() ? "\"" + std::string(text_.substr(at_, 12)) + "\"" : std::string("the end"));
  }

  void set(std::string_view name, int value) {
    for (std::size_t i = 0; i < std::size(kFields); ++i) {
      if (kFields[i].name != name) continue;
      if (std::exchange(seen_[i], true)) complain("each field once (" + std::string(name) + " stands twice)");
      desc_.*kFields[i].value = value;
      return;
    }
    if (name == "ph") return set("pt", value), set("pb", value);
    if (name == "pw") return set("pl", value), set("pr", value);
    complain(kFieldRule);
  }

  void field() {
    const std::size_t start = at_;
    std::size_t end = at_;
    while (end < text_.size() && text_[end] >= 'a' && text_[end] <= 'z') ++end;
    const std::string_view name = text_.substr(start, end - start);
    int value = 0;
    const auto [stop, code] = std::from_chars(text_.data() + end, text_.data() + text_.size(), value);
    if (name.empty()) complain(kFieldRule);
    if (code != std::errc()) {
      at_ = end;
      complain("an integer below 2^31 after \"" + std::string(name) + "\"");
    }
    set(name, value);
    at_ = static_cast<std::size_t>(stop - text_.data());
  }

  float number(std::string_view digits) {
    float value = 0;
    const auto [stop, code] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (code != std::errc() || stop != digits.data() + digits.size()) complain("a number after \":\"");
    return value;
  }

  void option() {
    const std::size_t end = std::min(text_.find('+', at_ + 1), text_.size());
    std::string_view word = text_.substr(at_ + 1, end - at_ - 1);
    if (word == "nchw" || word == "nhwc") {
      once(0, "layout");
      desc_.layout = word == "nhwc" ? Layout::nhwc : Layout::nchw;
    } else if (word == "acc") {
      once(1, "acc");
      desc_.accumulate = true;
    } else {
      activation(word);
    }
    at_ = end;
  }

  void activation(std::string_view word) {
    std::array<std::string_view, 3> parts;
    std::size_t count = 0;
    for (std::size_t from = 0;; ++count) {
      if (count == parts.size()) complain("at most two numbers after an activation");
      const std::size_t colon = std::min(word.find(':', from), word.size());
      parts[count] = word.substr(from, colon - from);
      if (colon == word.size()) break;
      from = colon + 1;
    }
    for (std::size_t i = 0; i < kActivations.size(); ++i) {
      if (kActivations[i] != parts[0]) continue;
      once(2, "activation");
      desc_.activation.kind = static_cast<ActivationKind>(i);
      if (count >= 1) desc_.activation.alpha = number(parts[1]);
      if (count >= 2) desc_.activation.beta = number(parts[2]);
      return;
    }
    complain(
        "\"+nchw\", \"+nhwc\", \"+acc\" or an activation (none relu clamp leaky_relu sigmoid tanh silu gelu "
        "hard_swish)");
  }

  void once(std::size_t which, std::string_view name) {
    if (seen_option_[which]) complain("each option once (" + std::string(name) + " stands twice)");
    seen_option_[which] = true;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  Conv2dDesc desc_;
  std::array<bool, std::size(kFields)> seen_ = {};
  std::array<bool, 3> seen_option_ = {};
};

}  // namespace

int Conv2dDesc::p() const { return checked_extent(*this, true); }
int Conv2dDesc::q() const { return checked_extent(*this, false); }

std::size_t Conv2dDesc::src_size() const { return product(*this, "src", {n, c, h, w}); }
std::size_t Conv2dDesc::weights_size() const {
  if (groups < 1)
    fail(ErrorCode::invalid_argument, "convolution ", str(), ": groups must be at least 1, found ", groups);
  return product(*this, "weights", {k, c / groups, r, s});
}
std::size_t Conv2dDesc::dst_size() const { return product(*this, "dst", {n, k, p(), q()}); }

double Conv2dDesc::flops() const {
  return 2.0 * n * k * p() * static_cast<double>(q()) * (static_cast<double>(c) / groups) * r * s;
}

void Conv2dDesc::validate() const {
  const auto at_least = [&](const Field& f, int minimum) {
    if (this->*f.value < minimum)
      fail(ErrorCode::invalid_argument, "convolution ", str(), ": ", f.member, " must be at least ", minimum,
           ", found ", this->*f.value);
  };
  for (const Field& f : kSizes) at_least(f, f.name == "n" ? 0 : 1);
  for (const Field& f : kSteps) at_least(f, 1);
  for (const Field& f : kPads) at_least(f, 0);
  if (c % groups != 0 || k % groups != 0)
    fail(ErrorCode::invalid_argument, "convolution ", str(), ": groups must divide c and k, found groups=", groups,
         ", c=", c, ", k=", k);
  if (layout != Layout::nchw && layout != Layout::nhwc)
    fail(ErrorCode::invalid_argument, "convolution ", str(), ": layout must be nchw or nhwc, found value ",
         static_cast<int>(layout));
  const auto kind = static_cast<std::size_t>(activation.kind);
  if (kind >= kActivations.size())
    fail(ErrorCode::invalid_argument, "convolution ", str(), ": activation kind must be one of the nine, found value ",
         kind);
  if (activation.kind == ActivationKind::leaky_relu && !std::isfinite(activation.alpha))
    fail(ErrorCode::invalid_argument, "convolution ", str(), ": leaky_relu needs a finite alpha, found ",
         activation.alpha);
  if (activation.kind == ActivationKind::clamp && !(activation.alpha <= activation.beta))
    fail(ErrorCode::invalid_argument, "convolution ", str(),
         ": clamp needs alpha <= beta, found alpha=", activation.alpha, ", beta=", activation.beta);
  (void)src_size();
  (void)weights_size();
  (void)dst_size();
}

std::string Conv2dDesc::str() const {
  std::string text;
  const auto put = [&](std::string_view name, int value) { text.append(name).append(std::to_string(value)); };
  for (const Field& f : kSizes) put(f.name, this->*f.value);
  for (const Field& f : kSteps)
    if (this->*f.value != 1) put(f.name, this->*f.value);
  const auto put_pads = [&](std::string_view both, const Field& low, const Field& high) {
    const int a = this->*low.value, b = this->*high.value;
    if (a == b && a != 0) return put(both, a);
    if (a != 0) put(low.name, a);
    if (b != 0) put(high.name, b);
  };
  put_pads("ph", kPads[0], kPads[1]);
  put_pads("pw", kPads[2], kPads[3]);
  if (layout == Layout::nhwc) text += "+nhwc";
  if (accumulate) text += "+acc";
  const auto is_default = [](float v) { return v == 0 && !std::signbit(v); };
  const bool numbers = !is_default(activation.alpha) || !is_default(activation.beta);
  const auto kind = static_cast<std::size_t>(activation.kind);
  if (kind != 0 || numbers) {
    text.append("+").append(kind < kActivations.size() ? kActivations[kind] : "none");
    if (numbers) append_number(text += ":", activation.alpha);
    if (!is_default(activation.beta)) append_number(text += ":", activation.beta);
  }
  return text;
}

Conv2dDesc Conv2dDesc::parse(std::string_view text) { return Parser(text).run(); }

}  // namespace convrt
