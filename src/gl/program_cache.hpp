/// \file
/// Program binaries on disk, so that only the first process compiles. Files only; no OpenGL call is made here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace convrt::gl {

struct ProgramBinary {
  std::uint32_t format = 0;  ///< as the driver names it
  std::string bytes;
};

/// Thread-safe, and safe among processes. An entry holds its whole key, so that neither a hash collision nor a driver
/// update can hand out a wrong program; what is truncated, damaged or of another version counts as absent.
class ProgramCache {
 public:
  /// `folder`: made on first store; empty: nothing is cached. `driver`: everything that makes a binary unfit elsewhere.
  ProgramCache(std::filesystem::path folder, std::string driver, std::uintmax_t max_bytes = std::uintmax_t{64} << 20)
      : folder_(std::move(folder)), driver_(std::move(driver)), max_bytes_(max_bytes) {}

  std::optional<ProgramBinary> load(const std::string& text) const;
  void store(const std::string& text, const ProgramBinary& binary) const;
  /// For an entry that the driver refuses.
  void remove(const std::string& text) const;

  std::filesystem::path file_of(const std::string& text) const;

 private:
  void evict() const;

  const std::filesystem::path folder_;
  const std::string driver_;
  const std::uintmax_t max_bytes_;
};

}  // namespace convrt::gl
