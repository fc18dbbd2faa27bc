// What host code asks of a device, and what kernels share. Compiled by nvcc, or, for tests on
// machines without a GPU, by a C++ compiler over tests/cuda/emulate.h, which defines the same
// words.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dpl_cuda.h"
#include "physics.h"

namespace dpl {
constexpr size_t kSharedMemory = 48 * 1024;  // of a block; more has to be asked for
}

#if defined(DPL_EMULATE)
#include "emulate.h"
#else
#include <cuda_runtime.h>

namespace dpl {

// The block's dynamic shared memory.
__device__ inline void* shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
}

template <class... Parameters, class... Arguments>
void start(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared,
           cudaStream_t stream, Arguments... arguments) {
  if (shared > kSharedMemory)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

}  // namespace dpl
#endif

namespace dpl {

constexpr int kWarp = 32;
constexpr int kEdges = 128;  // of an atom that a block has in hand at a time, one in each thread
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr uint64_t kNone = ~uint64_t(0);  // no fault, in a report

dpl_status fail(dpl_status status, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Bytes that a launch of this thread wanted and did not get, for Queue::status to tell.
inline thread_local size_t lacking_shared_memory = 0;

// Bytes that a block of the current device can have.
inline size_t most_shared_memory() {
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return size_t(bytes);
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared,
            cudaStream_t stream, Arguments... arguments) {
  if (blocks == 0) return;
  if (shared > kSharedMemory && shared > most_shared_memory())
    lacking_shared_memory = shared;
  else
    start(kernel, blocks, threads, shared, stream, arguments...);
}

// The queue's device is current while it lives.
class Queue {
 public:
  explicit Queue(const dpl_cuda_queue& queue);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  dpl_status wait() const;
  // What the device says of the calls so far, which `what` names.
  dpl_status status(const char* what) const;

  const cudaStream_t stream;

 private:
  int before_ = -1;
};

dpl_status check_atoms(const dpl_cuda_atoms& atoms, int64_t begin, int64_t end);
dpl_status check_model(const dpl_environment& environment, const dpl_table& table);

inline int64_t divided_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// --- on the device ------------------------------------------------------------------------------

__device__ inline void note(uint64_t& first, uint64_t fault) {
  atomicMin(reinterpret_cast<unsigned long long*>(&first), (unsigned long long)fault);
}

__device__ inline uint64_t pair_of(int64_t i, int64_t j) {
  return uint64_t(i) << 32 | uint32_t(int32_t(j));
}

__device__ inline void add(int64_t& sum, int64_t value) {  // modulo 2^64: in any order the same
  atomicAdd(reinterpret_cast<unsigned long long*>(&sum), (unsigned long long)value);
}

__device__ inline int lane() { return int(threadIdx.x) % kWarp; }

// How many lanes below this one hold true, of a ballot.
__device__ inline int rank_in(unsigned ballot) { return __popc(ballot & ((1u << lane()) - 1u)); }

template <class T>
__device__ T warp_sum(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

// A derivative as a fixed-point number; 0 and a note where it is too large or NaN.
__device__ inline int64_t to_fixed(double x, int64_t row, dpl_cuda_report& report) {
  constexpr double unit = double(int64_t(1) << DPL_CUDA_FRACTION_BITS);
  constexpr double largest = double(int64_t(1) << DPL_CUDA_LARGEST_EDGE_BITS);
  if (fabs(x) <= largest) return llrint(x * unit);
  note(report.too_strong, uint64_t(row));
  return 0;
}

// The neighbours of row i as a range of the list; empty, and a note, where offsets are wrong.
struct Range {
  int64_t begin, end;
};
__device__ inline Range row_of(const dpl_cuda_atoms& atoms, int64_t i, dpl_cuda_report& report) {
  const Range range{atoms.rows.offsets[i], atoms.rows.offsets[i + 1]};
  if (range.begin >= 0 && range.begin <= range.end && range.end <= atoms.n_edges) return range;
  note(report.bad_offsets, uint64_t(i));
  return {0, 0};
}

// The edge vector of an entry of row i and its squared length. False, with a note, where the
// neighbour is no row, has no valid type or coincides with the centre; false where it is not nearer
// than `limit`.
__device__ inline bool edge_of(const dpl_atoms& rows, int64_t i, int32_t j, int32_t n_types,
                               double limit, dpl_cuda_report& report, double* x, double& r2) {
  if (uint32_t(j) >= uint64_t(rows.n_all)) {
    note(report.bad_index, pair_of(i, j));
    return false;
  }
  const double *from = rows.positions + 3 * i, *to = rows.positions + 3 * int64_t(j);
  for (int k = 0; k < 3; ++k) x[k] = to[k] - from[k];
  r2 = x[0] * x[0] + x[1] * x[1] + x[2] * x[2];
  if (!(r2 < HUGE_VAL)) {
    const bool centre = isfinite(from[0]) && isfinite(from[1]) && isfinite(from[2]);
    note(report.not_finite, uint64_t(centre ? j : i));
    return false;
  }
  if (!(r2 < limit)) return false;
  if (uint32_t(rows.types[j]) >= uint32_t(n_types)) {
    note(report.bad_type, uint64_t(j));
    return false;
  }
  if (r2 < kCoincident) {
    note(report.coincident, i < j ? pair_of(i, j) : pair_of(j, i));
    return false;
  }
  return true;
}

}  // namespace dpl
