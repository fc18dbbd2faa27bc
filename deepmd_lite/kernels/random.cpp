// Random numbers of atoms on the host.
#include "random.h"

#include <algorithm>

#include "dpl.h"
#include "runtime.h"

dpl_status dpl_normals(int64_t n, const int64_t* ids, uint32_t seed, uint32_t stream, int64_t step,
                       int threads, double* normals) {
  constexpr int64_t chunk = 1024;
  if (n < 0) return dpl::fail(DPL_INVALID_ARGUMENT, "%lld atoms", (long long)n);
  if (threads < 1) return dpl::fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
  dpl::parallel_for((n + chunk - 1) / chunk, threads, [&](int64_t part) {
    for (int64_t k = part * chunk; k < std::min(n, (part + 1) * chunk); ++k)
      dpl::three_normals(ids[k], seed, stream, step, normals + 3 * k);
  });
  return DPL_OK;
}
