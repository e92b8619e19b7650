/// \file
/// One line on stderr while work goes on: rewritten on a terminal, a line every ten seconds elsewhere.
#pragma once

#include <string>
#include <utility>

namespace convrt::bench {

class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress();  ///< clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void clear();  ///< the line, to make room for other output
  /// `fraction`: 0 to 1. Cheap: writes at most four times a second.
  void show(double fraction, const std::string& detail);

 private:
  std::string what_;
  bool terminal_;
  double start_, last_;
};

}  // namespace convrt::bench
