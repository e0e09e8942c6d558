// NumPy's .npy format: fp16, fp32, fp64 (read as fp32) and bool, C order, little-endian, versions 1 to 3.
#pragma once

#include <string>

#include "file_io.h"
#include "host_tensor.h"

namespace chitu::cli {

struct NpyHeader {
  ElementType stored = ElementType::f32;
  std::vector<int64_t> shape;
  int64_t count = 0;         ///< elements
  uint64_t data_offset = 0;  ///< where they begin; they end with the file
};

/// Checks everything but the elements. Throws ParseError.
NpyHeader read_npy_header(const ByteSource& source);

HostTensor read_npy(const ByteSource& source);

/// Version 1.0, data aligned to 64 bytes. bf16 has no .npy type: ParseError.
void write_npy(OutputFile& file, const std::string& path, ElementType type, const std::vector<int64_t>& shape, const void* data);

}  // namespace chitu::cli
