// Tensors named on the command line: FILE.npy, FILE.safetensors or FILE.safetensors:TENSOR.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "file_io.h"
#include "host_tensor.h"

namespace chitu::cli {

enum class FileFormat : uint8_t { npy, safetensors };

struct TensorRef {
  std::string path;
  std::string tensor;  ///< empty: not given
  FileFormat format = FileFormat::npy;
};

/// Throws ParseError when the name has neither extension.
TensorRef parse_tensor_ref(const std::string& text);

/// `argument` ("q", "k", ..) is the tensor taken from a .safetensors file of several tensors when none is named.
HostTensor load_tensor(const std::string& text, const std::string& argument);

/// What one command writes: files open at once (so that a bad path fails before the work), all complete before the first is renamed.
class TensorOutput {
 public:
  /// `fallback` is the tensor's name in a .safetensors file when `text` gives none. Throws ParseError for a bf16 tensor in a .npy file.
  void add(const std::string& text, const std::string& fallback, ElementType type, std::vector<int64_t> shape);
  /// One pointer per add(), in that order.
  void write_and_commit(const std::vector<const void*>& data);

 private:
  struct Item {
    TensorRef ref;
    ElementType type;
    std::vector<int64_t> shape;
    size_t file;
  };
  std::vector<Item> items_;
  std::vector<std::unique_ptr<OutputFile>> files_;
  std::vector<std::string> paths_;
};

}  // namespace chitu::cli
