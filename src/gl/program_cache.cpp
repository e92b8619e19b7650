#include "gl/program_cache.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <sstream>
#include <string_view>
#include <system_error>
#include <vector>

#include "core/log.hpp"

namespace convrt::gl {
namespace {

namespace fs = std::filesystem;

// FNV-1a: names and checksums, no protection against malice.
std::uint64_t fnv1a(std::string_view bytes, std::uint64_t seed = 0xcbf29ce484222325) {
  for (const char c : bytes) {
    seed ^= static_cast<unsigned char>(c);
    seed *= 0x100000001b3;
  }
  return seed;
}

std::optional<std::string> read_file(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return std::nullopt;
  std::ostringstream content;
  content << in.rdbuf();
  if (in.bad() || content.bad()) return std::nullopt;
  return std::move(content).str();
}

// Writes beside `file` and renames, so that readers see a whole entry or none.
bool replace_file(const fs::path& file, std::string_view content) {
  static std::atomic<unsigned> count = 0;
  std::ostringstream part;
  part << file.string() << '.' << getpid() << '.' << count++ << ".tmp";
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  std::ofstream out(part.str(), std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
  if (out) fs::rename(part.str(), file, error);
  if (out && !error) return true;
  core::log(LogLevel::info, "program cache: ", file.string(), " cannot be written",
            error ? ": " + error.message() : "");
  fs::remove(part.str(), error);
  return false;
}

// File: header, key, binary. A change of this layout or of what a key holds changes the magic.
struct Header {
  std::array<char, 16> magic = {'c', 'o', 'n', 'v', 'r', 't', ' ', 'p', 'r', 'o', 'g', 'r', 'a', 'm', ' ', '1'};
  std::uint64_t key_bytes = 0, binary_bytes = 0, format = 0;
  std::uint64_t checksum = 0;  // of key and binary, seeded with the format
};

std::uint64_t checksum(std::uint64_t format, std::string_view content) {
  return fnv1a(content, fnv1a({reinterpret_cast<const char*>(&format), sizeof format}));
}

}  // namespace

fs::path ProgramCache::file_of(const std::string& text) const {
  const std::uint64_t first = fnv1a(text, fnv1a(driver_));
  std::ostringstream name;
  name << std::hex << std::setfill('0') << std::setw(16) << first << std::setw(16) << fnv1a(driver_, fnv1a(text))
       << ".program";
  return folder_ / name.str();
}

std::optional<ProgramBinary> ProgramCache::load(const std::string& text) const {
  if (folder_.empty()) return std::nullopt;
  const fs::path file = file_of(text);
  const std::optional<std::string> content = read_file(file);
  if (!content) return std::nullopt;
  const std::string key = driver_ + text;
  const auto unusable = [&](const char* why) {
    core::log(LogLevel::info, "program cache: ", file.string(), " is ", why, ": compiling instead");
    return std::nullopt;
  };
  Header header;
  const Header expected;
  if (content->size() < sizeof header) return unusable("truncated");
  std::memcpy(&header, content->data(), sizeof header);
  if (header.magic != expected.magic) return unusable("of another version");
  const std::string_view rest = std::string_view(*content).substr(sizeof header);
  if (header.key_bytes > rest.size() || header.binary_bytes != rest.size() - header.key_bytes)
    return unusable("truncated");
  if (rest.substr(0, header.key_bytes) != key) return unusable("another program's");
  if (header.checksum != checksum(header.format, rest)) return unusable("damaged");
  std::error_code ignored;  // a read-only cache still serves
  fs::last_write_time(file, fs::file_time_type::clock::now(), ignored);
  return ProgramBinary{static_cast<std::uint32_t>(header.format), std::string(rest.substr(header.key_bytes))};
}

void ProgramCache::store(const std::string& text, const ProgramBinary& binary) const {
  if (folder_.empty()) return;
  const std::string content = driver_ + text + binary.bytes;
  Header header;
  header.key_bytes = driver_.size() + text.size();
  header.binary_bytes = binary.bytes.size();
  header.format = binary.format;
  header.checksum = checksum(header.format, content);
  std::string file(reinterpret_cast<const char*>(&header), sizeof header);
  file += content;
  if (replace_file(file_of(text), file)) evict();
}

void ProgramCache::remove(const std::string& text) const {
  if (folder_.empty()) return;
  std::error_code ignored;
  fs::remove(file_of(text), ignored);
}

// Least recently used first, down to three quarters so that not every store evicts. Another process may delete the
// same files: every error means that somebody else did it.
void ProgramCache::evict() const {
  struct Entry {
    fs::file_time_type used;
    std::uintmax_t bytes;
    fs::path file;
  };
  std::vector<Entry> entries;
  std::uintmax_t total = 0;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;
    Entry entry{it->last_write_time(gone), gone ? 0 : it->file_size(gone), it->path()};
    if (gone) continue;
    total += entry.bytes;
    entries.push_back(std::move(entry));
  }
  if (total <= max_bytes_) return;
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
  for (const Entry& entry : entries) {
    if (total <= max_bytes_ / 4 * 3) return;
    if (fs::remove(entry.file, error)) total -= entry.bytes;
  }
}

}  // namespace convrt::gl
