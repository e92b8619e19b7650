/// \file
/// fail(code, "expected ", x, ", found ", y): one way to throw convrt::Error with a composed message.
#pragma once

#include <sstream>

#include "convrt/error.hpp"

namespace convrt::core {

template <class... Parts>
[[noreturn]] void fail(ErrorCode code, const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Error(code, text.str());
}

}  // namespace convrt::core
