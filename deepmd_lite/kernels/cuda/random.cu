// Random numbers of atoms in one launch, where torch would need some hundred and seventy.
#include "device.h"

namespace dpl {
namespace {

constexpr int kThreads = 256;
constexpr int kRounds = 10;

// Philox4x32-10: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11.
__device__ inline void philox(uint32_t (&c)[4], uint32_t key_0, uint32_t key_1) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t p0 = uint64_t(c[0]) * 0xD2511F53u, p1 = uint64_t(c[2]) * 0xCD9E8D57u;
    c[0] = uint32_t(p1 >> 32) ^ c[1] ^ key_0;
    c[1] = uint32_t(p1);
    c[2] = uint32_t(p0 >> 32) ^ c[3] ^ key_1;
    c[3] = uint32_t(p0);
    key_0 += 0x9E3779B9u;
    key_1 += 0xBB67AE85u;
  }
}

__global__ void normals_kernel(int64_t n, const int64_t* ids, uint32_t seed, uint32_t stream,
                               int64_t step, double* normals) {
  const int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= n) return;
  const uint64_t id = uint64_t(ids[k]), when = uint64_t(step);
  uint32_t bits[4] = {uint32_t(id), uint32_t(id >> 32), uint32_t(when), uint32_t(when >> 32)};
  philox(bits, seed, stream);
  double u[4];
  for (int i = 0; i < 4; ++i) u[i] = (bits[i] + 0.5) * 0x1p-32;
  constexpr double two_pi = 6.283185307179586;
  const double r0 = sqrt(-2.0 * log(u[0])), r1 = sqrt(-2.0 * log(u[2]));
  normals[3 * k] = r0 * cos(two_pi * u[1]);
  normals[3 * k + 1] = r0 * sin(two_pi * u[1]);
  normals[3 * k + 2] = r1 * cos(two_pi * u[3]);
}

}  // namespace
}  // namespace dpl

dpl_status dpl_cuda_normals(const dpl_cuda_queue* queue, int64_t n, const int64_t* ids,
                            uint32_t seed, uint32_t stream, int64_t step, double* normals) {
  if (n < 0) return dpl::fail(DPL_INVALID_ARGUMENT, "%lld atoms", (long long)n);
  const dpl::Queue q(*queue);
  dpl::launch(dpl::normals_kernel, dpl::divided_up(n, dpl::kThreads), dpl::kThreads, 0, q.stream, n,
              ids, seed, stream, step, normals);
  return q.status("random numbers");
}
