/// \file
/// Small text files below the user's cache directory, shared by concurrent processes. A cache that cannot be read or
/// written costs a log line, never an error.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace convrt::core {

/// CONVRT_CACHE_DIR, else $XDG_CACHE_HOME/convrt, else ~/.cache/convrt; empty where none of them is set.
std::filesystem::path cache_directory();

/// `stem`-`version of convrt`.txt in that directory: another version never reads what this one measured.
std::filesystem::path cache_path(std::string_view stem);

using Lines = std::vector<std::string>;

/// Tells one state of a file from another; a rename always changes it.
struct FileStamp {
  std::uint64_t inode = 0;
  std::int64_t seconds = 0, nanoseconds = 0;
  bool operator==(const FileStamp&) const = default;
};
FileStamp file_stamp(const std::filesystem::path& path) noexcept;  ///< all 0 where there is no file

/// The whole lines of a file; none if it does not exist. A last line without its newline was cut off and is left out.
Lines read_lines(const std::filesystem::path& path) noexcept;

/// Replaces the file by `change(its lines)`: under a lock against other processes, by an atomic rename. Returns false,
/// after a log line, where that fails.
bool update_lines(const std::filesystem::path& path, const std::function<Lines(Lines)>& change) noexcept;

/// Columns of a line: separated by tabs, which `join_columns` replaces by spaces inside a column, as it does newlines.
std::vector<std::string> split_columns(std::string_view line);
std::string join_columns(const std::vector<std::string>& columns);

/// A finite number that is all of `text`, or `otherwise`.
double to_number(std::string_view text, double otherwise);
std::string number_text(double value);  ///< its inverse, to nine digits

}  // namespace convrt::core
