// Progress of a long command on stderr: a line that rewrites itself on a terminal, else one line every 30 seconds.
#pragma once

#include <chrono>
#include <string>

namespace chitu::cli {

class Progress {
 public:
  explicit Progress(bool quiet);
  ~Progress() { clear(); }
  /// Call as often as convenient. done, total: work units (any unit); eta from the rate so far.
  void update(const std::string& what, double done, double total);
  /// Removes the line from the terminal, so that other text can follow.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  bool quiet_, terminal_, shown_ = false;
  Clock::time_point begin_ = Clock::now(), last_ = begin_;
};

/// "42 s", "3 min 20 s", "1 h 5 min"
std::string duration_text(double seconds);

}  // namespace chitu::cli
