// The .safetensors format: 8 bytes of header length, a JSON header, tensors back to back.
#pragma once

#include <map>
#include <string>

#include "file_io.h"
#include "host_tensor.h"

namespace chitu::cli {

struct SafetensorsEntry {
  std::string dtype;  ///< as written in the file; any that the format knows
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  ///< bytes from the start of the file
};

struct SafetensorsHeader {
  std::map<std::string, SafetensorsEntry> tensors;
  std::map<std::string, std::string> metadata;
};

/// Checks the whole header and the layout of every tensor, also of those nobody asks for. Throws ParseError.
SafetensorsHeader read_safetensors_header(const ByteSource& source);

/// One tensor, F16, BF16, F32, F64 (read as fp32) or BOOL. An empty name stands for the only tensor, else for the one called `fallback`.
HostTensor read_safetensors(const ByteSource& source, const std::string& tensor, const std::string& fallback = {});

struct NamedTensor {
  std::string name;
  ElementType type;
  std::vector<int64_t> shape;
  const void* data;
};

void write_safetensors(OutputFile& file, const std::vector<NamedTensor>& tensors);

}  // namespace chitu::cli
