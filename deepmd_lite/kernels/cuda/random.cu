// Random numbers of atoms in one launch, where torch would need some hundred and seventy.
#include "../random.h"
#include "device.h"

namespace dpl {
namespace {

constexpr int kThreads = 256;

__global__ void normals_kernel(int64_t n, const int64_t* ids, uint32_t seed, uint32_t stream,
                               int64_t step, double* normals) {
  const int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= n) return;
  three_normals(ids[k], seed, stream, step, normals + 3 * k);
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
