/// \file
/// The session as JSON (bench/plot.py reads it) and CSV, both with the environment it was measured in.
#pragma once

#include <string>

#include "results.hpp"

namespace convrt::bench {

std::string to_json(const Session& session);
std::string to_csv(const Session& session);

/// Throws Error{io_error} that names the path.
void write_file(const std::string& path, const std::string& text);

}  // namespace convrt::bench
