// Moments and their derivatives with respect to positions: a block of threads for each atom.
//
// Edges of an atom whose s̃ lies in the same interval of the same table are a run, within which all
// that is of the size of the features factorises (../moments_block.h):
//   forward    T_cm = Σ_runs Σ_k S_kc C_km,   S_kc = Σ_edges R_c t^k
//   backward   Σ_m g_cm G_m(t) = Σ_k P_kc t^k,  P_kc = Σ_m C_km g_cm
// A block takes up to kEdges neighbours in hand, one for each thread, and puts them in the order of
// their runs. Then each run reads its 6 coefficients of a feature once, whatever its length:
// threads stand for columns of runs (S), for features (T, P) and for edges (gradients) in turn.
// Nothing of the size of the pairs leaves the block, and each sum has one order.
#include "device.h"
#include "runs.h"

namespace dpl {
namespace {

template <int C, class real>
__global__ void moments_kernel(Job<real> job, real* moments, int32_t* counts) {
  Hand<C, real>& hand = *static_cast<Hand<C, real>*>(shared_memory());
  real* total = reinterpret_cast<real*>(&hand + 1);
  const int tid = int(threadIdx.x), n_m = job.n_features, groups = groups_of(n_m);
  const int size = C * n_m;
  int32_t* counted = reinterpret_cast<int32_t*>(total + groups * size);
  for (int k = tid; k < groups * size; k += kThreads) total[k] = 0;
  for (int b = tid; b < job.n_types; b += kThreads) counted[b] = 0;
  Centre centre = centre_of(job, hand);
  Edge<C, real> edge;
  while (take(job, hand, centre, edge)) {
    const bool mine = tid < centre.n_edges;
    if (mine) atomicAdd(&counted[job.atoms.rows.types[edge.neighbor]], 1);
    const bool beyond = mine && (hand.bin[tid] / kEdges + 1) % job.n_intervals == 0;
    const unsigned ballot = __ballot_sync(kAllLanes, beyond);
    if (lane() == 0 && ballot != 0)
      atomicAdd(reinterpret_cast<unsigned long long*>(&job.report->beyond),
                (unsigned long long)__popc(ballot));
    for (int first = 0; first < centre.n_runs; first += hand.runs) {
      sum_runs<false>(job, hand, centre, first);
      __syncthreads();
      spread(job, hand, centre, first, total);
      __syncthreads();
    }
  }
  for (int k = tid; k < size; k += kThreads)
    moments[int64_t(blockIdx.x) * size + k] = over_groups<C>(total, n_m, k);
  for (int b = tid; b < job.n_types; b += kThreads)
    counts[int64_t(blockIdx.x) * job.n_types + b] = counted[b];
}

// Numbers of 16 bytes, read at once.
template <class real>
struct alignas(16) Pack {
  static constexpr int n = 16 / int(sizeof(real));
  real v[n];
};
template <class real>
__device__ Pack<real> packed(const real* from) {
  return *reinterpret_cast<const Pack<real>*>(from);
}

constexpr int kLanesOfRun = 8, kRunsOfWarp = kWarp / kLanesOfRun;

// Sums 24 or 32 numbers over the lanes of a run: halves change places until each lane holds the
// totals of an eighth of them, whose first place it returns.
template <int n, class real>
__device__ int sum_over_lanes(real* v) {
  static_assert(n % 8 == 0, "halved three times");
  int place = 0;
  for (int half = n / 2, offset = kLanesOfRun / 2; offset > 0; half /= 2, offset /= 2) {
    const bool upper = lane() & offset;
    for (int k = 0; k < half; ++k) {
      const real given = upper ? v[k] : v[half + k];
      v[k] = (upper ? v[half + k] : v[k]) + __shfl_xor_sync(kAllLanes, given, offset);
    }
    place += upper ? half : 0;
  }
  return place;
}

// P_kc of the runs [first, first + Hand::runs) for the columns [First, First + N), four runs in
// each warp; gradient (C, n_features).
template <int First, int N, int C, class real>
__device__ void collect_columns(const Job<real>& job, Hand<C, real>& hand, const Centre& centre,
                                int first, const real* gradient) {
  constexpr int size = kPowers * N, padded = (size + 7) / 8 * 8, step = Pack<real>::n;
  const int n_m = job.n_features, last = min(centre.n_runs, first + hand.runs);
  const int begin = first + int(threadIdx.x) / kWarp * kRunsOfWarp;
  for (int base = begin; base < last; base += kWarps * kRunsOfWarp) {
    const int run = min(base + lane() / kLanesOfRun, last - 1);
    const real* table = job.coefficients + int64_t(hand.run_bin[run]) * kPowers * n_m;
    real total[padded] = {};
    for (int m = lane() % kLanesOfRun * step; m < n_m; m += kLanesOfRun * step) {
      Pack<real> g[N];
      for (int c = 0; c < N; ++c) g[c] = packed(gradient + (First + c) * n_m + m);
      for (int k = 0; k < kPowers; ++k) {
        const Pack<real> coefficient = packed(table + k * n_m + m);
        for (int c = 0; c < N; ++c)
          for (int p = 0; p < step; ++p) total[k * N + c] += coefficient.v[p] * g[c].v[p];
      }
    }
    const int place = sum_over_lanes<padded>(total);
    if (base + lane() / kLanesOfRun >= last) continue;
    const int powers = powers_of(job, hand.run_bin[run]);
    for (int q = 0; q < padded / 8; ++q) {
      const int k = (place + q) / N, c = (place + q) % N;
      if (place + q < size)
        hand.sums[run - first][k * C + First + c] = k < powers ? total[q] : real(0);
    }
  }
}

// Four columns at a time, or five where five are left.
template <int C, class real, int First = 0>
__device__ void collect(const Job<real>& job, Hand<C, real>& hand, const Centre& centre, int first,
                        const real* gradient) {
  constexpr int n = C - First == 5 ? 5 : 4;
  collect_columns<First, n>(job, hand, centre, first, gradient);
  if constexpr (First + n < C) collect<C, real, First + n>(job, hand, centre, first, gradient);
}

// The derivative with respect to the edge vector, from P_kc of its run.
template <int C, class real>
__device__ void chain(const Job<real>& job, const Hand<C, real>& hand, const Edge<C, real>& edge,
                      const real* products, real* out) {
  real g[C], along = 0;
  for (int c = 0; c < C; ++c) {
    real powers[kPowers], dg, unused;
    for (int k = 0; k < kPowers; ++k) powers[k] = products[k * C + c];
    horner<1>(powers, edge.t, g[c], dg, unused);
    along += edge.row[c] * dg;
  }
  for (int c = 0; c < C; ++c) g[c] *= hand.scale[c];
  along *= job.inverse_spacing;
  if (!job.table_of_distance) g[0] += along * hand.scale[0];
  const real outward = job.table_of_distance ? -along : real(0);
  EnvironmentRow<C>::gradient(edge.radials, edge.x, edge.inverse_r, g, outward, out);
}

// Four blocks at a time on a multiprocessor: in float64 nvcc 13.0 would otherwise take registers
// for three (with this, 8 bytes a thread go to memory with four columns, and more with more).
template <int C, class real>
__global__ void __launch_bounds__(kThreads, 4)
    moments_backward_kernel(Job<real> job, const real* grad_moments, int64_t* fixed) {
  Hand<C, real>& hand = *static_cast<Hand<C, real>*>(shared_memory());
  real* gradient = reinterpret_cast<real*>(&hand + 1);
  const int tid = int(threadIdx.x), size = C * job.n_features;
  const double* weights = job.atoms.weights;
  const real weight = weights ? real(weights[job.begin + blockIdx.x]) : real(1);
  for (int k = tid; k < size; k += kThreads)
    gradient[k] = weight * grad_moments[int64_t(blockIdx.x) * size + k];
  Centre centre = centre_of(job, hand);
  Edge<C, real> edge;
  int64_t own[3] = {0, 0, 0};
  while (take(job, hand, centre, edge)) {
    const int run = tid < centre.n_edges ? hand.run_of[edge.place] : -1;
    for (int first = 0; first < centre.n_runs; first += hand.runs) {
      collect(job, hand, centre, first, gradient);
      __syncthreads();
      if (run >= first && run < first + hand.runs) {
        real out[3];
        chain(job, hand, edge, hand.sums[run - first], out);
        for (int k = 0; k < 3; ++k) {
          const int64_t part = to_fixed(double(out[k]), centre.i, *job.report);
          own[k] -= part;
          add(fixed[3 * int64_t(edge.neighbor) + k], part);
        }
      }
      __syncthreads();
    }
  }
  for (int k = 0; k < 3; ++k) {
    const int64_t sum = warp_sum(own[k]);
    if (lane() == 0 && sum != 0) add(fixed[3 * centre.i + k], sum);
  }
}

template <int C, class real>
void forward(const Queue& queue, const Job<real>& job, int64_t n, void* moments, int32_t* counts) {
  const size_t arrays = size_t(groups_of(job.n_features)) * C * job.n_features;
  const size_t shared =
      sizeof(Hand<C, real>) + arrays * sizeof(real) + job.n_types * sizeof(int32_t);
  launch(moments_kernel<C, real>, n, kThreads, shared, queue.stream, job,
         static_cast<real*>(moments), counts);
}

template <int C, class real>
void backward(const Queue& queue, const Job<real>& job, int64_t n, const void* grad_moments,
              int64_t* fixed) {
  const size_t shared = sizeof(Hand<C, real>) + size_t(C) * job.n_features * sizeof(real);
  launch(moments_backward_kernel<C, real>, n, kThreads, shared, queue.stream, job,
         static_cast<const real*>(grad_moments), fixed);
}

}  // namespace
}  // namespace dpl

dpl_status dpl_cuda_moments(const dpl_cuda_queue* queue, const dpl_cuda_atoms* atoms,
                            const dpl_environment* environment, const dpl_table* table,
                            int64_t begin, int64_t end, void* moments, int32_t* counts,
                            dpl_cuda_report* report) {
  dpl_status status = dpl::check_model(*environment, *table);
  if (status == DPL_OK) status = dpl::check_atoms(*atoms, begin, end);
  if (status != DPL_OK) return status;
  const dpl::Queue q(*queue);
  dpl::with_kind(*environment, *table, [&](auto columns, auto zero) {
    using real = decltype(zero);
    dpl::forward<columns>(q, dpl::job_of<real>(*atoms, *environment, *table, begin, report),
                          end - begin, moments, counts);
  });
  return q.status("the moments");
}

dpl_status dpl_cuda_moments_backward(const dpl_cuda_queue* queue, const dpl_cuda_atoms* atoms,
                                     const dpl_environment* environment, const dpl_table* table,
                                     int64_t begin, int64_t end, const void* grad_moments,
                                     int64_t* fixed, dpl_cuda_report* report) {
  dpl_status status = dpl::check_model(*environment, *table);
  if (status == DPL_OK) status = dpl::check_atoms(*atoms, begin, end);
  if (status != DPL_OK) return status;
  const dpl::Queue q(*queue);
  dpl::with_kind(*environment, *table, [&](auto columns, auto zero) {
    using real = decltype(zero);
    dpl::backward<columns>(q, dpl::job_of<real>(*atoms, *environment, *table, begin, report),
                           end - begin, grad_moments, fixed);
  });
  return q.status("the derivatives of the moments");
}
