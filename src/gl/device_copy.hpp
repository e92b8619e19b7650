/// \file
/// The copy of one buffer object's content into another, in the form that is fastest on this driver.
#pragma once

#include <cstddef>
#include <memory>

#include "gl/gl_context.hpp"

namespace convrt::gl {

/// Made for one context; encode() runs on its thread.
class DeviceCopy {
 public:
  /// Builds the copy shader and times the forms between staging and device memory.
  explicit DeviceCopy(GlContext& context);

  /// Copies whole vec4s: both sides must reach up to the next multiple of 16 bytes. Orders itself after dispatches that
  /// touch the same buffers.
  void encode(GlState& state, GLuint from, std::size_t from_offset, GLuint to, std::size_t to_offset,
              std::size_t bytes) const;

  /// All of the buffer, by few work groups where copies are a shader's: they take turns with the dispatches behind
  /// them, and 16 groups reach the bus's speed (bench/NOTES.md).
  void encode_beside(GlState& state, GLuint from, GLuint to, std::size_t bytes) const;

  /// By the driver's own copy, whatever is fastest alone: the one that runs beside another context's dispatches.
  static void encode_by_driver(GlState& state, GLuint from, GLuint to, std::size_t bytes);

 private:
  struct Form {
    GLuint groups = 0;  ///< most work groups of a copy dispatch; 0: the driver's own copy
  };
  void build(GlState& state);
  void choose(GlState& state);
  void encode(Form form, GlState& state, GLuint from, std::size_t from_offset, GLuint to, std::size_t to_offset,
              std::size_t bytes) const;

  GLuint program_ = 0;  // goes with the context
  Form form_;
};

}  // namespace convrt::gl
