#include "file_io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

namespace chitu::cli {

static_assert(std::endian::native == std::endian::little, "both file formats are little-endian and are read without swapping");

namespace {

std::string system_error(int error) { return std::string(std::strerror(error)); }

/// Length of the valid UTF-8 sequence that starts at text[i], or 0. Overlong forms and surrogates are not valid.
size_t utf8_length(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[k]); };
  const unsigned char lead = byte(i);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || i + length > text.size()) return 0;
  for (size_t k = 1; k < length; ++k) {
    if ((byte(i + k) & 0xC0) != 0x80) return 0;
  }
  const unsigned char next = byte(i + 1);
  if ((lead == 0xE0 && next < 0xA0) || (lead == 0xED && next > 0x9F)) return 0;
  if ((lead == 0xF0 && next < 0x90) || (lead == 0xF4 && next > 0x8F)) return 0;
  return length;
}

uint64_t physical_memory_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page = sysconf(_SC_PAGE_SIZE);
  if (pages <= 0 || page <= 0) return std::numeric_limits<uint64_t>::max();
  return static_cast<uint64_t>(pages) * static_cast<uint64_t>(page);
}

/// Temporary files that a signal must remove. A fixed array of atomics: a signal handler may neither lock nor allocate.
std::array<std::atomic<const char*>, 16> unfinished{};
static_assert(std::atomic<const char*>::is_always_lock_free);

void replace_unfinished(const char* from, const char* to) {
  for (auto& slot : unfinished) {
    const char* expected = from;
    if (slot.compare_exchange_strong(expected, to)) return;
  }
}

void remove_unfinished_and_end(int number) {
  for (const auto& slot : unfinished) {
    if (const char* path = slot.load()) ::unlink(path);
  }
  ::signal(number, SIG_DFL);
  ::raise(number);  // delivered when this handler returns: the shell sees which signal it was
}

/// Holds back this thread's signals, so that none comes between a file's making and its entry in `unfinished`. Threads of the library's pool take none of those
/// that end the program.
class HeldSignals {
 public:
  HeldSignals() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~HeldSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

void remove_unfinished_outputs_on_signals() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGXFSZ}) {
    struct sigaction before {};
    // What nohup or a shell ignores stays ignored.
    if (::sigaction(number, nullptr, &before) != 0 || before.sa_handler != SIG_DFL) continue;
    struct sigaction action {};
    action.sa_handler = remove_unfinished_and_end;
    ::sigaction(number, &action, nullptr);
  }
}

std::string printable(std::string_view text, size_t max_bytes) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (out.size() >= max_bytes) return out + "...";
    const size_t length = utf8_length(text, i);
    const auto byte = static_cast<unsigned char>(text[i]);
    // U+0080..U+009F (C2 80..9F) are control characters too; terminals act on some of them.
    const bool control = byte < 0x20 || byte == 0x7F || (length == 2 && byte == 0xC2 && static_cast<unsigned char>(text[i + 1]) < 0xA0);
    if (length == 0 || control) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
      ++i;
    } else {
      out += text.substr(i, length);
      i += length;
    }
  }
  return out;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

void MemorySource::read(uint64_t offset, std::byte* out, size_t bytes) const {
  if (offset > bytes_.size() || bytes > bytes_.size() - offset) throw ParseError(name_, "truncated");
  if (bytes != 0) std::memcpy(out, bytes_.data() + offset, bytes);
}

FileSource::FileSource(std::string path) : path_(std::move(path)) {
  if (path_.find('\0') != std::string::npos) throw ParseError(path_, "the file name contains a zero byte");
  do {
    fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // non-blocking: opening a pipe must not wait for its writer
  } while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) throw ParseError(path_, "cannot open: " + system_error(errno));
  struct stat info {};
  std::string problem;
  if (::fstat(fd_, &info) != 0) {
    problem = "cannot read its size: " + system_error(errno);
  } else if (S_ISDIR(info.st_mode)) {
    problem = "is a directory, want a file";
  } else if (!S_ISREG(info.st_mode)) {
    problem = "is a pipe or a device, want a regular file";
  }
  if (!problem.empty()) {
    ::close(fd_);
    throw ParseError(path_, problem);
  }
  size_ = static_cast<uint64_t>(info.st_size);
}

FileSource::~FileSource() {
  if (fd_ >= 0) ::close(fd_);
}

void FileSource::read(uint64_t offset, std::byte* out, size_t bytes) const {
  if (offset > size_ || bytes > size_ - offset) throw ParseError(path_, "truncated");
  size_t done = 0;
  while (done < bytes) {
    const size_t step = std::min<size_t>(bytes - done, size_t{1} << 30);  // one pread moves less than 2 GiB
    const ssize_t got = ::pread(fd_, out + done, step, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw ParseError(path_, "cannot read: " + system_error(errno));
    if (got == 0) throw ParseError(path_, "became shorter while it was read");
    done += static_cast<size_t>(got);
  }
}

OutputFile::OutputFile(std::string path) : path_(std::move(path)) {
  namespace fs = std::filesystem;
  if (path_.empty()) throw ParseError("output", "the file name is empty");
  if (path_.find('\0') != std::string::npos) throw ParseError(path_, "the file name contains a zero byte");
  std::error_code error;
  fs::path target(path_);
  if (fs::is_directory(target, error)) throw ParseError(path_, "is a directory, want a file name");
  // Renaming onto a symbolic link would replace the link; write where it points to instead.
  if (fs::is_symlink(target, error)) target = fs::weakly_canonical(target, error);
  if (error || target.empty()) target = fs::path(path_);
  if (fs::exists(target, error) && !fs::is_regular_file(target, error)) {
    throw ParseError(path_, "is a pipe or a device, want a regular file");
  }
  final_path_ = target.string();
  const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");
  const HeldSignals held;
  for (int attempt = 0; attempt < 100 && fd_ < 0; ++attempt) {
    temporary_path_ = (folder / (".chitu-" + std::to_string(::getpid()) + "-" + std::to_string(attempt) + ".tmp")).string();
    fd_ = ::open(temporary_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST && errno != EINTR) break;
  }
  if (fd_ < 0) {
    const int reason = errno;
    temporary_path_.clear();
    fail("cannot create", reason);
  }
  replace_unfinished(nullptr, temporary_path_.c_str());
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
  if (temporary_path_.empty()) return;
  ::unlink(temporary_path_.c_str());
  replace_unfinished(temporary_path_.c_str(), nullptr);
}

void OutputFile::fail(std::string_view action, int error) const { throw ParseError(path_, std::string(action) + ": " + system_error(error)); }

void OutputFile::write(const void* data, size_t bytes) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t put = ::write(fd_, from, std::min<size_t>(bytes, size_t{1} << 30));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail("cannot write", errno);
    from += put;
    bytes -= static_cast<size_t>(put);
  }
}

void OutputFile::commit() {
  // EINVAL: a file system without synchronization; nothing more can be done there.
  if (::fsync(fd_) != 0 && errno != EINVAL) fail("cannot write", errno);
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0 && errno != EINTR) fail("cannot write", errno);
  if (::rename(temporary_path_.c_str(), final_path_.c_str()) != 0) fail("cannot create", errno);
  replace_unfinished(temporary_path_.c_str(), nullptr);
  temporary_path_.clear();
}

bool same_file(const std::string& a, const std::string& b) {
  namespace fs = std::filesystem;
  std::error_code error, other;
  if (fs::equivalent(a, b, error)) return true;
  const fs::path first = fs::weakly_canonical(a, error), second = fs::weakly_canonical(b, other);
  return !error && !other && first == second;
}

int64_t checked_element_count(const ByteSource& source, std::string_view what, const std::vector<int64_t>& shape, int64_t element_bytes) {
  int64_t product = element_bytes;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) throw ParseError(source.name(), std::string(what) + " has a negative size in shape " + shape_text(shape));
    if (size == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, size, &product)) {
      throw ParseError(source.name(), std::string(what) + " has shape " + shape_text(shape) + ", whose size overflows 63 bits");
    }
  }
  return empty ? 0 : product / element_bytes;
}

HostTensor read_elements(const ByteSource& source, uint64_t offset, ElementType stored, std::vector<int64_t> shape, int64_t count) {
  HostTensor tensor;
  tensor.type = stored == ElementType::f64 ? ElementType::f32 : stored;
  tensor.shape = std::move(shape);
  const auto bytes = static_cast<uint64_t>(count) * static_cast<uint64_t>(element_size(tensor.type));
  // A sparse file can claim any size: refuse before the allocation, which overcommit would let through.
  if (bytes > physical_memory_bytes()) {
    throw ParseError(source.name(), "needs " + std::to_string(bytes) + " bytes, more than this machine's memory");
  }
  try {
    tensor.data.resize(bytes);
  } catch (const std::exception&) {
    throw ParseError(source.name(), "needs " + std::to_string(bytes) + " bytes of memory, which are not available");
  }
  if (stored != ElementType::f64) {
    source.read(offset, tensor.data.data(), tensor.data.size());
    if (stored == ElementType::boolean) {
      const auto bad = std::find_if(tensor.data.begin(), tensor.data.end(), [](std::byte b) { return b > std::byte{1}; });
      if (bad != tensor.data.end()) {
        throw ParseError(source.name(), "holds a bool of value " + std::to_string(std::to_integer<int>(*bad)) + " at element " +
                                            std::to_string(bad - tensor.data.begin()) + ", want 0 or 1");
      }
    }
    return tensor;
  }
  constexpr int64_t kChunk = 1 << 16;  // converted piece by piece, so that f64 input does not need three times its memory
  std::vector<double> chunk(static_cast<size_t>(std::min(count, kChunk)));
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t n = std::min(kChunk, count - begin);
    source.read(offset + static_cast<uint64_t>(begin) * 8, reinterpret_cast<std::byte*>(chunk.data()), static_cast<size_t>(n) * 8);
    for (int64_t i = 0; i < n; ++i) {
      const double value = chunk[static_cast<size_t>(i)];
      // Values up to half an ulp above the largest float still round to it; from there on they would become infinite.
      if (std::isfinite(value) && std::fabs(value) >= 0x1.ffffffp127) {
        throw ParseError(source.name(), "holds a value beyond the range of fp32 at element " + std::to_string(begin + i));
      }
      const auto rounded = static_cast<float>(value);
      std::memcpy(tensor.data.data() + (begin + i) * 4, &rounded, 4);
    }
  }
  return tensor;
}

}  // namespace chitu::cli
