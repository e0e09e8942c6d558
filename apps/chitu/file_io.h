// Reading and writing files: whole ranges into memory (never mapped, because a mapped file that shrinks kills the process), output by
// temporary file and rename, so that a failure leaves no output file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host_tensor.h"
#include "parse_error.h"

namespace chitu::cli {

/// Bytes with a name. Readers see only this, so tests and fuzzers feed them from memory.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual const std::string& name() const = 0;
  virtual uint64_t size() const = 0;
  /// Fills out with exactly `bytes` bytes; throws ParseError when the file has fewer.
  virtual void read(uint64_t offset, std::byte* out, size_t bytes) const = 0;
};

class MemorySource : public ByteSource {
 public:
  MemorySource(std::string name, std::string_view bytes) : name_(std::move(name)), bytes_(bytes) {}
  const std::string& name() const override { return name_; }
  uint64_t size() const override { return bytes_.size(); }
  void read(uint64_t offset, std::byte* out, size_t bytes) const override;

 private:
  std::string name_;
  std::string_view bytes_;
};

/// A regular file, open until destroyed. Pipes, devices and directories are refused without blocking.
class FileSource : public ByteSource {
 public:
  explicit FileSource(std::string path);
  ~FileSource() override;
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;
  const std::string& name() const override { return path_; }
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, std::byte* out, size_t bytes) const override;

 private:
  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

/// From here on a signal that ends the process (Ctrl-C, kill, a closed terminal) first removes the temporary files of unfinished outputs. Once, from main().
void remove_unfinished_outputs_on_signals();

/// A file that appears under its name only on commit(). Opening it early makes a bad path fail before hours of work.
class OutputFile {
 public:
  explicit OutputFile(std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();

 private:
  [[noreturn]] void fail(std::string_view action, int error) const;
  std::string path_;
  std::string final_path_;
  std::string temporary_path_;
  int fd_ = -1;
};

/// One file under two names; also when it does not exist yet.
bool same_file(const std::string& a, const std::string& b);

/// Product of a shape, checked: throws ParseError when the elements, or their bytes, do not fit 63 bits. A zero does not hide an overflow
/// of the other sizes, since strides are built from them.
int64_t checked_element_count(const ByteSource& source, std::string_view what, const std::vector<int64_t>& shape, int64_t element_bytes);

/// Reads count elements stored as `stored` at `offset`. f64 becomes f32 (a finite value beyond its range is an error); bool must be 0 or 1.
HostTensor read_elements(const ByteSource& source, uint64_t offset, ElementType stored, std::vector<int64_t> shape, int64_t count);

}  // namespace chitu::cli
