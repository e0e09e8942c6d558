// The GPU half of device.h in a build without CUDA. parse_device() refuses GPUs there, so nothing but list() and versions() is ever reached.
#include "chitu/error.h"
#include "device.h"

namespace chitu::cli::gpu {
namespace {
[[noreturn]] void absent() { throw Unsupported("this chitu was built without CUDA"); }
}  // namespace

std::vector<GpuFacts> list() { return {}; }
std::string versions() { return {}; }
void* allocate(int, size_t) { absent(); }
void release(int, void*) {}
void upload(int, void*, const void*, size_t) { absent(); }
void download(int, void*, const void*, size_t) { absent(); }
double timed_ms(int, const std::function<void()>&) { absent(); }

}  // namespace chitu::cli::gpu
