/// \file
/// CONVRT_VALIDATE=1: every run of every plan has a sample of its outputs checked against the oracle. For finding out
/// whether a wrong picture is convrt's doing or a driver's; costs a copy of the weights and about a millisecond a run.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/backend.hpp"

namespace convrt::core {

class Validation {
 public:
  /// nullptr unless CONVRT_VALIDATE is set to anything but 0.
  static std::shared_ptr<const Validation> open(std::span<const float> weights, std::span<const float> bias);
  Validation(std::span<const float> weights, std::span<const float> bias)
      : weights_(weights.begin(), weights.end()), bias_(bias.begin(), bias.end()) {}

  /// PreparedConv::run, then the check. Throws Error{internal} naming kernel, problem and element.
  RunStats run(const PreparedConv& conv, const Conv2dDesc& desc, const std::string& kernel, std::span<const float> src,
               std::span<float> dst) const;
  /// PreparedConv::enqueue, waited for, then the check.
  void enqueue(const PreparedConv& conv, const Conv2dDesc& desc, const std::string& kernel,
               const std::shared_ptr<BackendBuffer>& src, const std::shared_ptr<BackendBuffer>& dst) const;

 private:
  void check(const Conv2dDesc& desc, const std::string& kernel, std::span<const float> src,
             std::span<const float> before, std::span<const float> dst) const;

  std::vector<float> weights_, bias_;
};

}  // namespace convrt::core
