// Exclusive prefix sums: out[i] = Σ_{k<i} in[k], i = 0 … n. Tiles are summed, the sums of the tiles
// scanned by one block, and each tile is scanned from where the sum before it ends.
#pragma once

#include "device.h"

namespace dpl {
namespace scan {

constexpr int kThreads = 128;
constexpr int kEach = 8;  // numbers of one thread
constexpr int kTile = kThreads * kEach;

inline int64_t tiles(int64_t n) { return divided_up(n, kTile); }

// Sum of `value` over the threads of the block before this one; *total over all of them.
__device__ inline int64_t before(int64_t value, int64_t* total) {
  int64_t* sums = static_cast<int64_t*>(shared_memory());  // (kThreads / kWarp)
  int64_t inclusive = value;
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int64_t other = __shfl_up_sync(kAllLanes, inclusive, offset);
    if (lane() >= offset) inclusive += other;
  }
  const int warp = int(threadIdx.x) / kWarp;
  __syncthreads();  // the last sums have been read
  if (lane() == kWarp - 1) sums[warp] = inclusive;
  __syncthreads();
  int64_t result = inclusive - value;
  *total = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) {
    if (w < warp) result += sums[w];
    *total += sums[w];
  }
  return result;
}

static __global__ void sum_tiles(const int32_t* in, int64_t n, int64_t* sums) {
  const int64_t first = int64_t(blockIdx.x) * kTile + int64_t(threadIdx.x) * kEach;
  int64_t own = 0, total;
  for (int64_t k = first; k < first + kEach && k < n; ++k) own += in[k];
  before(own, &total);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

static __global__ void scan_tiles(int64_t* sums, int64_t n) {
  int64_t carry = 0;
  for (int64_t begin = 0; begin < n; begin += kThreads) {
    const int64_t k = begin + threadIdx.x;
    int64_t total;
    const int64_t sum = before(k < n ? sums[k] : 0, &total);
    if (k < n) sums[k] = carry + sum;
    carry += total;
  }
}

template <class T>
__global__ void scan_within(const int32_t* in, int64_t n, const int64_t* sums, T* out) {
  const int64_t first = int64_t(blockIdx.x) * kTile + int64_t(threadIdx.x) * kEach;
  int64_t own = 0, total;
  for (int64_t k = first; k < first + kEach && k < n; ++k) own += in[k];
  int64_t sum = sums[blockIdx.x] + before(own, &total);
  for (int64_t k = first; k < first + kEach && k < n; ++k) {
    out[k] = T(sum);
    sum += in[k];
    if (k + 1 == n) out[n] = T(sum);
  }
}

// in (n), out (n + 1), sums (tiles(n)); out[0] = 0 where n = 0.
template <class T>
void exclusive(const Queue& queue, const int32_t* in, int64_t n, T* out, int64_t* sums) {
  constexpr size_t shared = kThreads / kWarp * sizeof(int64_t);
  if (n == 0) cudaMemsetAsync(out, 0, sizeof(T), queue.stream);
  launch(sum_tiles, tiles(n), kThreads, shared, queue.stream, in, n, sums);
  launch(scan_tiles, n > 0 ? 1 : 0, kThreads, shared, queue.stream, sums, tiles(n));
  launch(scan_within<T>, tiles(n), kThreads, shared, queue.stream, in, n, sums, out);
}

}  // namespace scan
}  // namespace dpl
