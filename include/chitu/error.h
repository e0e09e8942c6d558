#pragma once

#include <stdexcept>
#include <string>

#include "chitu/export.h"

namespace chitu {

/// Base of everything the library throws (besides std::bad_alloc). The text names the argument, what was wanted and what came.
class CHITU_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument is wrong whatever the kernel: shape, dtype, stride, null pointer, overlap, NaN scale.
class CHITU_API InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// A legal request that no kernel on this device serves. The text has one "row: reason" line per kernel.
class CHITU_API Unsupported : public Error {
 public:
  using Error::Error;
};

/// A CUDA call failed. code() is the cudaError_t as an integer.
class CHITU_API CudaError : public Error {
 public:
  CudaError(const std::string& what, int code) : Error(what), code_(code) {}
  int code() const { return code_; }

 private:
  int code_;
};

}  // namespace chitu
