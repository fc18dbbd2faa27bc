// What a block of threads does with the runs in its hand (moments.cu says what runs are).
#pragma once

#include "edges.h"

namespace dpl {
namespace {

// How the edges in hand change along a tangent, in the order of runs.
template <int C, class real>
struct Changes {
  real row[C][kEdges], shift[kEdges];  // of the row, and of the place in the table
};

// S_kc of the runs [first, first + Hand::runs), or its change, Σ_e (dR_ec t^k + R_ec k t^(k-1) dt);
// one column in each thread.
template <bool with_tangent, int C, class real>
__device__ void sum_runs(const Job<real>& job, Hand<C, real>& hand, const Centre& centre, int first,
                         const Changes<C, real>* changes = nullptr) {
  const int mine = int(threadIdx.x) / C, c = int(threadIdx.x) % C;
  const int run = first + mine;
  if (mine >= hand.runs || run >= centre.n_runs) return;
  real total[kPowers] = {};
  for (int e = hand.run_first[run]; e < hand.run_first[run + 1]; ++e) {
    const real t = hand.t[e];
    real power = with_tangent ? changes->row[c][e] : hand.row[c][e];
    for (int k = 0; k < kPowers; ++k, power *= t) total[k] += power;
    if (!with_tangent) continue;
    real slope = hand.row[c][e] * changes->shift[e];
    for (int k = 1; k < kPowers; ++k, slope *= t) total[k] += real(k) * slope;
  }
  const int powers = powers_of(job, hand.run_bin[run]);
  for (int k = 0; k < kPowers; ++k) hand.sums[mine][k * C + c] = k < powers ? total[k] : real(0);
}

// Few features leave threads over: those form groups, each of which takes its share of the runs.
__host__ __device__ inline int groups_of(int32_t n_features) {
  return n_features < kThreads ? kThreads / n_features : 1;
}

// Adds Σ_k S_kc C_km of the runs in hand to total (groups, C, n_features).
template <int C, class real>
__device__ void spread(const Job<real>& job, const Hand<C, real>& hand, const Centre& centre,
                       int first, real* total) {
  const int n_m = job.n_features, groups = groups_of(n_m);
  const int last = min(centre.n_runs, first + hand.runs);
  const int group = groups > 1 ? int(threadIdx.x) / n_m : 0;
  if (group >= groups) return;
  for (int m = int(threadIdx.x) - group * n_m; m < n_m; m += kThreads) {
    real sum[C] = {};
    for (int run = first + group; run < last; run += groups) {
      const real* table = job.coefficients + int64_t(hand.run_bin[run]) * kPowers * n_m + m;
      const real* s = hand.sums[run - first];
      for (int k = 0; k < kPowers; ++k) {
        const real coefficient = table[k * n_m];
        for (int c = 0; c < C; ++c) sum[c] += coefficient * s[k * C + c];
      }
    }
    for (int c = 0; c < C; ++c) total[(group * C + c) * n_m + m] += sum[c];
  }
}

// The sum over the groups at place k of (C, n_features).
template <int C, class real>
__device__ real over_groups(const real* total, int n_features, int k) {
  real sum = total[k];
  for (int group = 1; group < groups_of(n_features); ++group)
    sum += total[group * C * n_features + k];
  return sum;
}

}  // namespace
}  // namespace dpl
