// Errors, queues and reports; and what fixed-point derivatives become in the end.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <utility>
#include <vector>

#include "../checks.h"
#include "../short_range.h"
#include "device.h"

namespace dpl {
namespace {

thread_local char last_error[512] = "";

constexpr int kThreads = 256;

__global__ void from_fixed_kernel(int64_t n_all, const double* positions, const int64_t* fixed,
                                  double* gradient, dpl_cuda_report* report) {
  constexpr double unit = 1.0 / double(int64_t(1) << DPL_CUDA_FRACTION_BITS);
  constexpr int64_t largest = int64_t(1)
                              << (DPL_CUDA_FRACTION_BITS + DPL_CUDA_LARGEST_EDGE_BITS + 1);
  const int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= 3 * n_all) return;
  if (!isfinite(positions[k])) note(report->not_finite, uint64_t(k / 3));
  const int64_t sum = fixed[k];
  if (sum > largest || sum < -largest) note(report->too_strong, uint64_t(k / 3));
  gradient[k] = double(sum) * unit;
}

// The first fault of each kind, and the larger number of edges beyond the table. A short-range
// table has but the first report.
void merge(dpl_cuda_report& into, const dpl_cuda_report& other) {
  for (uint64_t dpl_cuda_report::* kind :
       {&dpl_cuda_report::not_finite, &dpl_cuda_report::bad_type, &dpl_cuda_report::bad_offsets,
        &dpl_cuda_report::bad_index, &dpl_cuda_report::coincident, &dpl_cuda_report::too_strong})
    into.*kind = std::min(into.*kind, other.*kind);
  into.beyond = std::max(into.beyond, other.beyond);
}

dpl_status status_of(const dpl_cuda_report& r, int64_t n_all, int32_t n_types) {
  const auto first = [](uint64_t pair) { return (long long)(pair >> 32); };
  const auto second = [](uint64_t pair) { return (long long)int32_t(uint32_t(pair)); };
  if (r.bad_offsets != kNone)
    return fail(DPL_INVALID_ARGUMENT, "offsets of row %lld do not ascend or leave the list",
                (long long)r.bad_offsets);
  if (r.bad_index != kNone)
    return fail(DPL_INVALID_ARGUMENT, "row %lld lists neighbour %lld; there are %lld rows",
                first(r.bad_index), second(r.bad_index), (long long)n_all);
  if (r.bad_type != kNone)
    return fail(DPL_INVALID_ARGUMENT, "the type of row %lld is not one of 0 to %d",
                (long long)r.bad_type, n_types - 1);
  if (r.not_finite != kNone)
    return fail(DPL_NOT_FINITE, "the position of row %lld is not finite", (long long)r.not_finite);
  if (r.coincident != kNone)
    return fail(DPL_COINCIDENT, "rows %lld and %lld coincide (distance < 1e-6 Å)",
                first(r.coincident), second(r.coincident));
  if (r.too_near != kNone)
    return nearer_than_begins(first(r.too_near), second(r.too_near), r.distance, r.start);
  if (r.too_strong != kNone)
    return fail(DPL_TOO_LARGE,
                "the force on row %lld is too large for the sums of the GPU kernels (one pair "
                "contributes at most %g eV/Å); are atoms too close?",
                (long long)r.too_strong, double(1 << DPL_CUDA_LARGEST_EDGE_BITS));
  return DPL_OK;
}

}  // namespace

dpl_status fail(dpl_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

Queue::Queue(const dpl_cuda_queue& queue) : stream(static_cast<cudaStream_t>(queue.stream)) {
  if (cudaGetDevice(&before_) != cudaSuccess || before_ == queue.device)
    before_ = -1;
  else
    cudaSetDevice(queue.device);
}

Queue::~Queue() {
  if (before_ >= 0) cudaSetDevice(before_);
}

dpl_status Queue::status(const char* what) const {
  if (const size_t wanted = std::exchange(lacking_shared_memory, 0))
    return fail(DPL_DEVICE,
                "%s: this model needs %zu kB of a GPU's shared memory, and this GPU has %zu kB; "
                "use another GPU, or device 'cpu'",
                what, (wanted + 1023) / 1024, most_shared_memory() / 1024);
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return DPL_OK;
  return fail(error == cudaErrorMemoryAllocation ? DPL_OUT_OF_MEMORY : DPL_DEVICE,
              "the GPU refused %s: %s", what, cudaGetErrorString(error));
}

dpl_status Queue::wait() const {
  const cudaError_t error = cudaStreamSynchronize(stream);
  if (error == cudaSuccess) return DPL_OK;
  return fail(DPL_DEVICE, "the GPU failed: %s", cudaGetErrorString(error));
}

dpl_status check_atoms(const dpl_cuda_atoms& atoms, int64_t begin, int64_t end) {
  const dpl_atoms& a = atoms.rows;
  if (const dpl_status wrong = check_counts(a.n_local, a.n_all)) return wrong;
  if (begin < 0 || end < begin || end > a.n_local)
    return fail(DPL_INVALID_ARGUMENT, "rows %lld to %lld; there are %lld", (long long)begin,
                (long long)end, (long long)a.n_local);
  return DPL_OK;
}

dpl_status check_model(const dpl_environment& env, const dpl_table& table) {
  if (env.n_types < 1 || env.n_types > 1024)
    return fail(DPL_INVALID_ARGUMENT, "n_types must be 1 to 1024, found %d", env.n_types);
  // times the edges in hand, of which kernels make one number to sort by
  if (const dpl_status wrong = check_environment(env, table, INT32_MAX / kEdges)) return wrong;
  const int32_t most = DPL_CUDA_MAX_FEATURES_OF(env.n_columns);
  if (table.n_features < DPL_FEATURE_PADDING || table.n_features % DPL_FEATURE_PADDING ||
      table.n_features > most)
    return fail(DPL_INVALID_ARGUMENT,
                "the table has %d features; expected a multiple of %d, at most %d",
                table.n_features, DPL_FEATURE_PADDING, most);
  return DPL_OK;
}

}  // namespace dpl

const char* dpl_cuda_last_error(void) { return dpl::last_error; }

dpl_status dpl_cuda_device_count(int32_t* count) {
  int found = 0;
  const cudaError_t error = cudaGetDeviceCount(&found);
  *count = found;
  if (error == cudaSuccess) return DPL_OK;
  *count = 0;
  cudaGetLastError();  // it would be taken for an error of the next call
  return dpl::fail(DPL_DEVICE, "%s", cudaGetErrorString(error));
}

dpl_status dpl_cuda_report_clear(const dpl_cuda_queue* queue, int32_t n, dpl_cuda_report* reports) {
  const dpl::Queue q(*queue);
  cudaMemsetAsync(reports, 0xff, n * sizeof *reports, q.stream);
  for (int32_t k = 0; k < n; ++k)
    cudaMemsetAsync(&reports[k].beyond, 0, sizeof reports[k].beyond, q.stream);
  return q.status("to clear reports");
}

dpl_status dpl_cuda_report_read(const dpl_cuda_queue* queue, int32_t n,
                                const dpl_cuda_report* reports, int64_t n_all, int32_t n_types,
                                int64_t* beyond) {
  if (n < 1) return dpl::fail(DPL_INVALID_ARGUMENT, "%d reports; expected at least 1", n);
  const dpl::Queue q(*queue);
  std::vector<dpl_cuda_report> found(n);
  cudaMemcpyAsync(found.data(), reports, n * sizeof *reports, cudaMemcpyDeviceToHost, q.stream);
  dpl_status status = q.status("to copy reports");
  if (status == DPL_OK) status = q.wait();
  if (status != DPL_OK) return status;
  for (const dpl_cuda_report& other : found) dpl::merge(found[0], other);
  *beyond = int64_t(found[0].beyond);
  return dpl::status_of(found[0], n_all, n_types);
}

dpl_status dpl_cuda_from_fixed(const dpl_cuda_queue* queue, int64_t n_all, const double* positions,
                               const int64_t* fixed, double* gradient, dpl_cuda_report* report) {
  const dpl::Queue q(*queue);
  dpl::launch(dpl::from_fixed_kernel, dpl::divided_up(3 * n_all, dpl::kThreads), dpl::kThreads, 0,
              q.stream, n_all, positions, fixed, gradient, report);
  return q.status("to convert sums");
}
