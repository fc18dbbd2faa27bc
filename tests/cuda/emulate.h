// The words of CUDA that the kernels use, for a C++ compiler: so that their source is tested where
// there is no GPU. deepmd_lite/kernels/cuda/device.h includes this with DPL_EMULATE.
//
// Blocks run one after the other. The threads of a block are fibers of one thread of the host; a
// fiber runs until it waits for its block (__syncthreads) or its warp (shuffles, ballots), so that
// what is missing a barrier reads what is not there yet. Blocks and fibers run in an order that
// dpl_emulate_shuffle chooses. Shared memory begins with all bits set (NaN); a fiber that ends, or
// waits elsewhere, while others wait for it fails the launch, as does a write behind shared memory.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct emulated_index {
  unsigned x;
};
extern emulated_index threadIdx, blockIdx, gridDim;

void __syncthreads();

extern "C" {
// The order of blocks and threads in all launches to come; 0: ascending.
__attribute__((visibility("default"))) void dpl_emulate_shuffle(uint64_t seed);
// Shared memory that a block can have, in bytes; 0: as much as at first.
__attribute__((visibility("default"))) void dpl_emulate_shared_memory(int64_t bytes);
// Launches so far.
__attribute__((visibility("default"))) int64_t dpl_emulate_launches();
}

namespace emulate {

// The bits of one lane, after all lanes of this warp have given theirs; a bit of each.
uint64_t exchange(uint64_t mine, int lane);
unsigned ballot(bool mine);
void* shared_memory();
void run(int64_t blocks, int threads, size_t shared, const std::function<void()>& kernel);

}  // namespace emulate

template <class T>
T emulated_lane(T value, int from) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "shuffles move up to 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emulate::exchange(bits, from);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  return emulated_lane(value, int(threadIdx.x % 32) ^ offset);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int offset) {
  const int lane = int(threadIdx.x % 32);
  return emulated_lane(value, lane < offset ? lane : lane - offset);
}
inline unsigned __ballot_sync(unsigned, bool yes) { return emulate::ballot(yes); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = T(before + value);
  return before;
}
template <class T>
T atomicMin(T* at, T value) {
  const T before = *at;
  *at = value < before ? value : before;
  return before;
}
template <class T>
T min(T a, T b) {
  return a < b ? a : b;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}

// --- the runtime library ------------------------------------------------------------------------

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation, cudaErrorLaunchFailure };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
using cudaStream_t = void*;
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
  return std::memset(at, value, bytes), cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}

namespace dpl {

inline void* shared_memory() { return emulate::shared_memory(); }

template <class... Parameters, class... Arguments>
void start(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared, cudaStream_t,
           Arguments... arguments) {
  emulate::run(blocks, threads, shared, [&] { kernel(Parameters(arguments)...); });
}

}  // namespace dpl
