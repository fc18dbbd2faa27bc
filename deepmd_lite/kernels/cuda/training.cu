// What training needs beside moments.cu: the change of the moments along a tangent of the
// positions, and the gradient with respect to the coefficients of the table, of first and second
// order.
//
// The latter is Σ S_kc g_cm over the runs of a bin, of all atoms. Blocks write the S_kc of their
// runs to memory (of the size of the runs, never of pairs times features); put in the order of the
// bins by the caller, they are added up bin by bin, in that order.
#include "runs.h"

namespace dpl {
namespace {

// The changes of the edges in hand along the tangent.
template <int C, class real>
__device__ void change(const Job<real>& job, const Hand<C, real>& hand, const Centre& centre,
                       const Edge<C, real>& edge, const double* tangent,
                       Changes<C, real>& changes) {
  if (int(threadIdx.x) < centre.n_edges) {
    real d[3], row[C];
    for (int k = 0; k < 3; ++k)
      d[k] = real(tangent[3 * int64_t(edge.neighbor) + k] - tangent[3 * centre.i + k]);
    EnvironmentRow<C>::tangent(edge.radials, edge.x, edge.inverse_r, d, row);
    for (int c = 0; c < C; ++c) changes.row[c][edge.place] = row[c] * hand.scale[c];
    real shift = row[0] * hand.scale[0];
    if (job.table_of_distance)
      shift = -(edge.x[0] * d[0] + edge.x[1] * d[1] + edge.x[2] * d[2]) * edge.inverse_r;
    changes.shift[edge.place] = shift * job.inverse_spacing;
  }
  __syncthreads();
}

template <int C, class real>
__global__ void tangent_kernel(Job<real> job, const double* tangent, real* moments) {
  Hand<C, real>& hand = *static_cast<Hand<C, real>*>(shared_memory());
  Changes<C, real>& changes = *reinterpret_cast<Changes<C, real>*>(&hand + 1);
  real* total = reinterpret_cast<real*>(&changes + 1);
  const int tid = int(threadIdx.x), n_m = job.n_features, size = C * n_m;
  for (int k = tid; k < groups_of(n_m) * size; k += kThreads) total[k] = 0;
  Centre centre = centre_of(job, hand);
  Edge<C, real> edge;
  while (take(job, hand, centre, edge)) {
    change(job, hand, centre, edge, tangent, changes);
    for (int first = 0; first < centre.n_runs; first += hand.runs) {
      sum_runs<true>(job, hand, centre, first, &changes);
      __syncthreads();
      spread(job, hand, centre, first, total);
      __syncthreads();
    }
  }
  for (int k = tid; k < size; k += kThreads)
    moments[int64_t(blockIdx.x) * size + k] = over_groups<C>(total, n_m, k);
}

// Runs have their places where the row of their atom has its edges, of which there are as many.
template <int C, bool with_tangent, class real>
__global__ void runs_kernel(Job<real> job, const double* tangent, int32_t* bins, int32_t* rows,
                            real* sums) {
  Hand<C, real>& hand = *static_cast<Hand<C, real>*>(shared_memory());
  Changes<C, real>& changes = *reinterpret_cast<Changes<C, real>*>(&hand + 1);
  const int tid = int(threadIdx.x);
  Centre centre = centre_of(job, hand);
  Edge<C, real> edge;
  int64_t place = centre.next;
  while (take(job, hand, centre, edge)) {
    if (with_tangent) change(job, hand, centre, edge, tangent, changes);
    for (int first = 0; first < centre.n_runs; first += hand.runs) {
      sum_runs<with_tangent>(job, hand, centre, first, &changes);
      __syncthreads();
      const int n = min(centre.n_runs - first, hand.runs);
      constexpr int size = Hand<C, real>::run_size;
      for (int k = tid; k < n * size; k += kThreads)
        sums[place * size + k] = hand.sums[k / size][k % size];
      for (int run = tid; run < n; run += kThreads) {
        bins[place + run] = hand.run_bin[first + run];
        rows[place + run] = int32_t(centre.i);
      }
      place += n;
      __syncthreads();
    }
  }
}

__global__ void no_runs_kernel(int64_t n, int32_t none, int32_t* bins) {
  const int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (k < n) bins[k] = none;
}

// A part of the runs of one bin in each block, a feature in each thread.
template <int C, class real>
__global__ void accumulate_kernel(int32_t n_bins, int32_t n_features, const int64_t* first,
                                  const int64_t* order, const int32_t* rows, const real* sums,
                                  const real* gradient, double* parts) {
  const int32_t bin = int32_t(blockIdx.x) % n_bins, part = int32_t(blockIdx.x) / n_bins;
  const int64_t n = first[bin + 1] - first[bin];
  const int64_t begin = first[bin] + n * part / DPL_CUDA_PARTS;
  const int64_t end = first[bin] + n * (part + 1) / DPL_CUDA_PARTS;
  double* out = parts + int64_t(blockIdx.x) * kPowers * n_features;
  for (int m = int(threadIdx.x); m < n_features; m += kThreads) {
    double total[kPowers] = {};
    for (int64_t e = begin; e < end; ++e) {
      const real* s = sums + order[e] * Hand<C, real>::run_size;
      const real* g = gradient + int64_t(rows[order[e]]) * C * n_features + m;
      for (int c = 0; c < C; ++c)
        for (int k = 0; k < kPowers; ++k)
          total[k] += double(s[k * C + c]) * double(g[c * n_features]);
    }
    for (int k = 0; k < kPowers; ++k) out[k * n_features + m] = total[k];
  }
}

template <int C, class real>
void tangents(const Queue& queue, const Job<real>& job, const double* tangent, void* moments) {
  const size_t arrays = size_t(groups_of(job.n_features)) * C * job.n_features;
  const size_t shared = sizeof(Hand<C, real>) + sizeof(Changes<C, real>) + arrays * sizeof(real);
  launch(tangent_kernel<C, real>, job.atoms.rows.n_local, kThreads, shared, queue.stream, job,
         tangent, static_cast<real*>(moments));
}

template <int C, class real>
void runs(const Queue& queue, const Job<real>& job, const double* tangent, int32_t* bins,
          int32_t* rows, void* sums) {
  const size_t shared = sizeof(Hand<C, real>) + sizeof(Changes<C, real>);
  launch(tangent ? runs_kernel<C, true, real> : runs_kernel<C, false, real>, job.atoms.rows.n_local,
         kThreads, shared, queue.stream, job, tangent, bins, rows, static_cast<real*>(sums));
}

template <int C, class real>
void accumulate(const Queue& queue, const dpl_table& table, const int64_t* first,
                const int64_t* order, const int32_t* rows, const void* sums, const void* gradient,
                double* parts) {
  const int32_t n_bins = table.n_tables * table.n_intervals;
  launch(accumulate_kernel<C, real>, int64_t(n_bins) * DPL_CUDA_PARTS, kThreads, 0, queue.stream,
         n_bins, table.n_features, first, order, rows, static_cast<const real*>(sums),
         static_cast<const real*>(gradient), parts);
}

}  // namespace
}  // namespace dpl

dpl_status dpl_cuda_moments_tangent(const dpl_cuda_queue* queue, const dpl_cuda_atoms* atoms,
                                    const dpl_environment* environment, const dpl_table* table,
                                    const double* tangent, void* change, dpl_cuda_report* report) {
  dpl_status status = dpl::check_model(*environment, *table);
  if (status == DPL_OK) status = dpl::check_atoms(*atoms, 0, atoms->rows.n_local);
  if (status != DPL_OK) return status;
  const dpl::Queue q(*queue);
  dpl::with_kind(*environment, *table, [&](auto columns, auto zero) {
    using real = decltype(zero);
    dpl::tangents<columns>(q, dpl::job_of<real>(*atoms, *environment, *table, 0, report), tangent,
                           change);
  });
  return q.status("the change of the moments");
}

dpl_status dpl_cuda_runs(const dpl_cuda_queue* queue, const dpl_cuda_atoms* atoms,
                         const dpl_environment* environment, const dpl_table* table,
                         const double* tangent, int32_t* bins, int32_t* rows, void* sums,
                         dpl_cuda_report* report) {
  dpl_status status = dpl::check_model(*environment, *table);
  if (status == DPL_OK) status = dpl::check_atoms(*atoms, 0, atoms->rows.n_local);
  if (status != DPL_OK) return status;
  const dpl::Queue q(*queue);
  dpl::launch(dpl::no_runs_kernel, dpl::divided_up(atoms->n_edges, dpl::kThreads), dpl::kThreads, 0,
              q.stream, atoms->n_edges, table->n_tables * table->n_intervals, bins);
  dpl::with_kind(*environment, *table, [&](auto columns, auto zero) {
    using real = decltype(zero);
    dpl::runs<columns>(q, dpl::job_of<real>(*atoms, *environment, *table, 0, report), tangent, bins,
                       rows, sums);
  });
  return q.status("the sums of the runs");
}

dpl_status dpl_cuda_accumulate(const dpl_cuda_queue* queue, const dpl_environment* environment,
                               const dpl_table* table, const int64_t* first, const int64_t* order,
                               const int32_t* rows, const void* sums, const void* grad_moments,
                               double* parts) {
  const dpl::Queue q(*queue);
  dpl::with_kind(*environment, *table, [&](auto columns, auto zero) {
    dpl::accumulate<columns, decltype(zero)>(q, *table, first, order, rows, sums, grad_moments,
                                             parts);
  });
  return q.status("the gradient of the table");
}
