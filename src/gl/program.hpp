/// \file
/// Compute programs: compiled side by side where the driver can, or loaded from the binary cache.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "gl/gl_context.hpp"
#include "gl/program_cache.hpp"

namespace convrt::gl {

/// A linked program; deleted by the context's thread.
class Program {
 public:
  Program(std::shared_ptr<GlContext> context, GLuint name, std::string log)
      : context_(std::move(context)), name_(name), log_(std::move(log)) {}
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program();

  GLuint name() const { return name_; }
  const std::string& log() const { return log_; }  ///< the driver's, warnings of a success; empty from the cache

 private:
  std::shared_ptr<GlContext> context_;
  GLuint name_;
  std::string log_;
};

/// What the driver made of a text: a program, or only its log.
struct Compiled {
  std::shared_ptr<Program> program;  ///< nullptr: it did not compile or link
  std::string log;
  ProgramBinary binary;  ///< empty where the driver has no formats
};

/// Submits all texts before it asks for any result, so that a driver with parallel compilation uses all its threads;
/// the queue serves other work meanwhile. Throws Error for what is not the texts' fault.
std::vector<Compiled> compile(const std::shared_ptr<GlContext>& context, std::vector<std::string> texts);

/// "label: does not compile ...": the driver's log unchanged, then the lines around each place it names in `text`.
std::string compile_report(std::string_view label, std::string_view text, std::string_view log);

/// The programs of one context, by text. Thread-safe.
class ProgramStore {
 public:
  ProgramStore(std::shared_ptr<GlContext> context, ProgramCache disk)
      : context_(std::move(context)), disk_(std::move(disk)) {}

  struct Source {
    std::string text, label;
  };
  /// One program for each source; threads that ask for the same text share one compilation. Throws
  /// Error{compile_failed} with the log of the first that fails.
  std::vector<std::shared_ptr<Program>> get(std::span<const Source> sources);

 private:
  void make(std::span<const Source> sources, const std::vector<std::size_t>& which);
  bool load(const std::string& text);
  void remember(const std::string& text, const std::shared_ptr<Program>& program);

  const std::shared_ptr<GlContext> context_;
  const ProgramCache disk_;
  std::mutex mutex_;
  std::condition_variable made_;
  std::unordered_map<std::string, std::shared_ptr<Program>> programs_;
  std::unordered_set<std::string> in_the_making_;
};

}  // namespace convrt::gl
