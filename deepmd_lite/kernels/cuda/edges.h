// How a block of threads goes along the neighbours of its atom: those within the cutoff, a hand of
// them at a time, one in each thread, in the order of their runs (moments.cu says what runs are).
#pragma once

#include <type_traits>

#include "device.h"

namespace dpl {
namespace {

constexpr int kThreads = kEdges;
constexpr int kWarps = kThreads / kWarp;
constexpr int32_t kNoBin = INT32_MAX;

// The arguments of a call, in the precision of its arithmetic.
template <class real>
struct Job {
  dpl_cuda_atoms atoms;
  int64_t begin;
  double limit;  // squared distances below this are within the cutoff
  SwitchParameters<real> switching;
  real protection;                    // Å
  int32_t n_types, tables_of_centre;  // n_types, or 0 where all centres share tables
  const double *davg, *dstd;
  real table_start, inverse_spacing;
  bool table_of_distance;
  const real* coefficients;
  int32_t n_intervals, n_features;
  dpl_cuda_report* report;
};

template <class real>
Job<real> job_of(const dpl_cuda_atoms& atoms, const dpl_environment& env, const dpl_table& table,
                 int64_t begin, dpl_cuda_report* report) {
  Job<real> job;
  job.atoms = atoms, job.begin = begin, job.report = report;
  job.limit = squared_limit(env.rcut);
  job.switching = {real(env.rcut), real(env.rcut_smth), real(1 / (env.rcut - env.rcut_smth))};
  job.protection = real(env.protection);
  job.n_types = env.n_types, job.tables_of_centre = env.type_one_side ? 0 : env.n_types;
  job.davg = env.davg, job.dstd = env.dstd;
  job.table_start = real(env.table_start), job.inverse_spacing = real(1 / env.table_spacing);
  job.table_of_distance = env.table_of_distance != 0;
  job.coefficients = static_cast<const real*>(table.coefficients);
  job.n_intervals = table.n_intervals, job.n_features = table.n_features;
  return job;
}

// body(the number of columns, a zero of the arithmetic's precision), both known to the compiler
template <class Body>
void with_kind(const dpl_environment& env, const dpl_table& table, Body body) {
  const auto with_columns = [&](auto columns) {
    if (table.precision == DPL_FLOAT64)
      body(columns, 0.0);
    else
      body(columns, 0.0f);
  };
  switch (degree_of(env.n_columns)) {
    case 1:
      return with_columns(std::integral_constant<int, DPL_COLUMNS_OF_DEGREE(1)>());
    case 2:
      return with_columns(std::integral_constant<int, DPL_COLUMNS_OF_DEGREE(2)>());
    case 3:
      return with_columns(std::integral_constant<int, DPL_COLUMNS_OF_DEGREE(3)>());
    default:
      return with_columns(std::integral_constant<int, DPL_COLUMNS_OF_DEGREE(4)>());
  }
}

// What a block holds in shared memory beside arrays of the size of the features; rows of C columns.
template <int C, class real>
struct alignas(16) Hand {
  static constexpr int runs =
      kThreads / C;  // whose sums are in hand: a thread sums one column of one
  static constexpr int run_size = kPowers * C;
  real sums[runs][run_size];                   // S_kc or P_kc of some runs
  real t[kEdges], row[C][kEdges];              // in the order of runs
  real mean[C], scale[C];                      // of the centre's type
  int32_t waiting[2 * kEdges];                 // neighbours within the cutoff, not yet in hand
  int32_t bin[kEdges];                         // of each thread's edge, times kEdges, plus thread
  int32_t sorted_bin[kEdges], run_of[kEdges];  // in the order of runs
  int32_t run_bin[kEdges], run_first[kEdges + 1];
  int32_t warp_count[kWarps];
};

// One thread's edge.
template <int C, class real>
struct Edge {
  int32_t neighbor;
  real x[3], inverse_r, row[C], t;
  Radial<real> radials;
  int place;  // in the order of runs
};

// The block's atom, and where it is in its row. All members are the same in all threads.
struct Centre {
  int64_t i, next, end;
  int32_t type;
  int n_waiting, n_edges, n_runs;
};

// How many threads of the block say yes, and how many of those before this one.
template <int C, class real>
__device__ int count(Hand<C, real>& hand, bool yes, int& before) {
  const unsigned ballot = __ballot_sync(kAllLanes, yes);
  const int warp = int(threadIdx.x) / kWarp;
  __syncthreads();  // the last count has been read
  if (lane() == 0) hand.warp_count[warp] = __popc(ballot);
  __syncthreads();
  int total = 0;
  before = rank_in(ballot);
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += hand.warp_count[w];
    total += hand.warp_count[w];
  }
  return total;
}

template <int C, class real>
__device__ Centre centre_of(const Job<real>& job, Hand<C, real>& hand) {
  const int64_t i = job.begin + blockIdx.x;
  Centre centre{i, 0, 0, job.atoms.rows.types[i], 0, 0, 0};
  if (uint32_t(centre.type) >= uint32_t(job.n_types)) {
    note(job.report->bad_type, uint64_t(i));
    centre.type = 0;
  } else if (job.atoms.weights == nullptr || job.atoms.weights[i] != 0) {
    const Range range = row_of(job.atoms, i, *job.report);
    centre.next = range.begin, centre.end = range.end;
  }
  if (threadIdx.x < C) {
    const int32_t k = centre.type * C + int32_t(threadIdx.x);
    hand.mean[threadIdx.x] = real(job.davg[k]);
    hand.scale[threadIdx.x] = real(1.0 / job.dstd[k]);
  }
  __syncthreads();
  return centre;
}

// Looks along the row until a hand of neighbours waits, or the row ends.
template <int C, class real>
__device__ void look(const Job<real>& job, Hand<C, real>& hand, Centre& centre) {
  const dpl_atoms& rows = job.atoms.rows;
  while (centre.n_waiting < kEdges && centre.next < centre.end) {
    const int64_t e = centre.next + threadIdx.x;
    bool inside = false;
    int32_t j = 0;
    if (e < centre.end) {
      double x[3], r2;
      j = rows.indices[e];
      inside = edge_of(rows, centre.i, j, job.n_types, job.limit, *job.report, x, r2);
    }
    int before;
    const int found = count(hand, inside, before);
    if (inside) hand.waiting[centre.n_waiting + before] = j;
    centre.n_waiting += found;
    centre.next += kThreads;
  }
  __syncthreads();
}

// The edge of this thread, and its bin.
template <int C, class real>
__device__ int32_t measure(const Job<real>& job, const Hand<C, real>& hand, const Centre& centre,
                           Edge<C, real>& edge) {
  const dpl_atoms& rows = job.atoms.rows;
  const int32_t j = edge.neighbor = hand.waiting[threadIdx.x];
  for (int k = 0; k < 3; ++k)
    edge.x[k] = real(rows.positions[3 * int64_t(j) + k] - rows.positions[3 * centre.i + k]);
  const real r = sqrt(edge.x[0] * edge.x[0] + edge.x[1] * edge.x[1] + edge.x[2] * edge.x[2]);
  edge.inverse_r = 1 / r;
  edge.radials = radial(job.switching, job.protection, r, edge.inverse_r);
  EnvironmentRow<C>::columns(edge.radials, edge.x, edge.row);
  for (int c = 0; c < C; ++c) edge.row[c] = (edge.row[c] - hand.mean[c]) * hand.scale[c];
  const real y = job.table_of_distance ? -r : edge.row[0];
  const real place = (y - job.table_start) * job.inverse_spacing;
  const int32_t q = int32_t(clamped_place(place, real(job.n_intervals - 1)));
  edge.t = place - real(q);
  return (centre.type * job.tables_of_centre + rows.types[j]) * job.n_intervals + q;
}

// Takes the next neighbours in hand, in the order of runs. False where none is left.
template <int C, class real>
__device__ bool take(const Job<real>& job, Hand<C, real>& hand, Centre& centre,
                     Edge<C, real>& edge) {
  look(job, hand, centre);
  const int tid = int(threadIdx.x), n = min(centre.n_waiting, kEdges);
  if (n == 0) return false;
  int32_t bin = 0, key = kNoBin;
  if (tid < n) {
    bin = measure(job, hand, centre, edge);
    key = bin * kEdges + tid;
  }
  hand.bin[tid] = key;
  __syncthreads();
  if (kEdges + tid < centre.n_waiting) hand.waiting[tid] = hand.waiting[kEdges + tid];
  centre.n_waiting -= n;

  int place = 0;  // edges of the same bin stay in the order of the list
  for (int k = 0; k < n; ++k) place += hand.bin[k] < key;
  edge.place = place;
  if (tid < n) {
    hand.sorted_bin[place] = bin;
    hand.t[place] = edge.t;
    for (int c = 0; c < C; ++c) hand.row[c][place] = edge.row[c];
  }
  __syncthreads();
  const bool first = tid < n && (tid == 0 || hand.sorted_bin[tid] != hand.sorted_bin[tid - 1]);
  int before;
  centre.n_runs = count(hand, first, before);
  centre.n_edges = n;
  if (first) {
    hand.run_bin[before] = hand.sorted_bin[tid];
    hand.run_first[before] = tid;
  }
  if (tid < n) hand.run_of[tid] = before - (first ? 0 : 1);
  if (tid == 0) hand.run_first[centre.n_runs] = n;
  __syncthreads();
  return true;
}

// The last interval continues the table as a parabola: t is unbounded there.
template <class real>
__device__ int powers_of(const Job<real>& job, int32_t bin) {
  return (bin + 1) % job.n_intervals == 0 ? 3 : kPowers;
}

}  // namespace
}  // namespace dpl
