#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace chitu::cli {

Progress::Progress(bool quiet) : quiet_(quiet), terminal_(::isatty(STDERR_FILENO) == 1 && std::getenv("TERM") != nullptr) {}

void Progress::update(const std::string& what, double done, double total) {
  if (quiet_) return;
  const Clock::time_point now = Clock::now();
  const double since_last = std::chrono::duration<double>(now - last_).count();
  if (since_last < (terminal_ ? 0.1 : 30)) return;
  last_ = now;
  const double elapsed = std::chrono::duration<double>(now - begin_).count();
  const double part = total > 0 ? std::clamp(done / total, 0.0, 1.0) : 0;
  std::string line = fmt::format("{:3.0f} %  {}  {}", 100 * part, duration_text(elapsed), what);
  if (part > 0.01) line = fmt::format("{:3.0f} %  {}, {} left  {}", 100 * part, duration_text(elapsed), duration_text(elapsed / part - elapsed), what);
  if (terminal_) {
    fmt::print(stderr, "\r\x1b[K{}", line);
  } else {
    fmt::print(stderr, "{}\n", line);
  }
  std::fflush(stderr);
  shown_ = terminal_;
}

void Progress::clear() {
  if (!shown_) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
  shown_ = false;
}

std::string duration_text(double seconds) {
  const long long whole = std::llround(std::max(0.0, seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

}  // namespace chitu::cli
