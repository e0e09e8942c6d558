#include "tensor_file.h"

#include <algorithm>
#include <filesystem>

#include "npy.h"
#include "safetensors.h"

namespace chitu::cli {

TensorRef parse_tensor_ref(const std::string& text) {
  static constexpr std::string_view kSafetensors = ".safetensors";
  TensorRef ref;
  const size_t colon = text.find(std::string(kSafetensors) + ":");
  if (colon != std::string::npos) {
    ref.path = text.substr(0, colon + kSafetensors.size());
    ref.tensor = text.substr(colon + kSafetensors.size() + 1);
    ref.format = FileFormat::safetensors;
    if (ref.tensor.empty()) throw ParseError(text, "the tensor name after ':' is empty");
    return ref;
  }
  ref.path = text;
  if (text.ends_with(kSafetensors)) {
    ref.format = FileFormat::safetensors;
  } else if (text.ends_with(".npy")) {
    ref.format = FileFormat::npy;
  } else {
    throw ParseError(text, "want a name ending in .npy or .safetensors, or FILE.safetensors:TENSOR");
  }
  return ref;
}

HostTensor load_tensor(const std::string& text, const std::string& argument) {
  const TensorRef ref = parse_tensor_ref(text);
  const FileSource source(ref.path);
  return ref.format == FileFormat::npy ? read_npy(source) : read_safetensors(source, ref.tensor, argument);
}

void TensorOutput::add(const std::string& text, const std::string& fallback, ElementType type, std::vector<int64_t> shape) {
  Item item{parse_tensor_ref(text), type, std::move(shape), 0};
  if (item.ref.tensor.empty()) item.ref.tensor = fallback;
  if (item.ref.format == FileFormat::npy && type == ElementType::bf16) {
    throw ParseError(item.ref.path, ".npy has no bf16: give the output a .safetensors name");
  }
  std::error_code error;
  const std::string path = std::filesystem::weakly_canonical(item.ref.path, error).string();
  if (error) throw ParseError(item.ref.path, "cannot create: " + error.message());
  const auto same = std::find(paths_.begin(), paths_.end(), path);
  item.file = static_cast<size_t>(same - paths_.begin());
  if (same != paths_.end()) {
    for (const Item& other : items_) {
      if (other.file != item.file) continue;
      if (item.ref.format == FileFormat::npy) throw ParseError(item.ref.path, "is named for two outputs");
      if (other.ref.tensor == item.ref.tensor) throw ParseError(item.ref.path, "two outputs have the tensor name '" + item.ref.tensor + "'");
    }
  } else {
    paths_.push_back(path);
    files_.push_back(std::make_unique<OutputFile>(item.ref.path));
  }
  items_.push_back(std::move(item));
}

void TensorOutput::write_and_commit(const std::vector<const void*>& data) {
  for (size_t f = 0; f < files_.size(); ++f) {
    std::vector<NamedTensor> tensors;
    for (size_t i = 0; i < items_.size(); ++i) {
      if (items_[i].file != f) continue;
      if (items_[i].ref.format == FileFormat::npy) {
        write_npy(*files_[f], items_[i].ref.path, items_[i].type, items_[i].shape, data[i]);
      } else {
        tensors.push_back({items_[i].ref.tensor, items_[i].type, items_[i].shape, data[i]});
      }
    }
    if (!tensors.empty()) write_safetensors(*files_[f], tensors);
  }
  for (const auto& file : files_) file->commit();
  files_.clear();
}

}  // namespace chitu::cli
