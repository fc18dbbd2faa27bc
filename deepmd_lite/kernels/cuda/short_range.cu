// The table of pairs that takes over from the networks where atoms come close: a warp for each atom
// looks along its row, once more where something is near.
#include "../short_range.h"
#include "device.h"

namespace dpl {
namespace {

constexpr int kThreads = 128;
constexpr int kRowsPerBlock = kThreads / kWarp;

__device__ inline double warp_min(double value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value = fmin(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

// The row of this warp, which may be none.
__device__ inline int64_t row_of_warp() {
  return int64_t(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
}

__global__ void weights_kernel(ShortRangeTable table, dpl_cuda_atoms atoms, double* soft,
                               double* weights, dpl_cuda_report* report) {
  const dpl_atoms& rows = atoms.rows;
  const int64_t i = row_of_warp();
  if (i >= rows.n_local) return;
  const int32_t n_types = table.given.n_types;
  Range range{0, 0};
  if (uint32_t(rows.types[i]) < uint32_t(n_types))
    range = row_of(atoms, i, *report);
  else
    note(report->bad_type, uint64_t(i));
  double x[3], r2, nearest = HUGE_VAL;
  for (int64_t e = range.begin + lane(); e < range.end; e += kWarp)
    if (edge_of(rows, i, rows.indices[e], n_types, table.limit, *report, x, r2))
      nearest = fmin(nearest, r2);
  nearest = warp_min(nearest);
  double minimum = table.given.sw_rmax;  // a soft minimum is never below the minimum
  if (nearest < table.near) {
    nearest = sqrt(nearest);
    double sum = 0, weighted = 0;
    for (int64_t e = range.begin + lane(); e < range.end; e += kWarp) {
      if (!edge_of(rows, i, rows.indices[e], n_types, table.limit, *report, x, r2)) continue;
      const double r = sqrt(r2), weight = weight_in_minimum(table, nearest, r);
      sum += weight;
      weighted += weight * r;
    }
    sum = warp_sum(sum);
    minimum = warp_sum(weighted) / sum;
  }
  if (lane() != 0) return;
  double value, slope, unused;
  switch_function(table.switching, minimum, value, slope, unused);
  soft[i] = minimum;
  weights[i] = 1 - value;
}

__global__ void add_kernel(ShortRangeTable table, dpl_cuda_atoms atoms, const double* soft,
                           double* energies, int64_t* fixed, dpl_cuda_report* report) {
  const dpl_atoms& rows = atoms.rows;
  const int64_t i = row_of_warp();
  if (i >= rows.n_local) return;
  double value, slope, unused;
  switch_function(table.switching, soft[i], value, slope, unused);
  if (value == 0) return;
  const int32_t a = rows.types[i], n_types = table.given.n_types;
  const Range range = row_of(atoms, i, *report);
  double x[3], r2, pair, pair_slope, sum = 0, energy = 0;
  for (int64_t e = range.begin + lane(); e < range.end; e += kWarp) {
    const int32_t j = rows.indices[e];
    if (!edge_of(rows, i, j, n_types, table.limit, *report, x, r2)) continue;
    const double r = sqrt(r2);
    sum += weight_in_minimum(table, soft[i], r);
    if (r < table.given.start) {
      note(report->too_near, pair_of(i, j));
      continue;
    }
    pair_energy(table, a, rows.types[j], r, pair, pair_slope);
    energy += 0.5 * pair;
  }
  sum = warp_sum(sum);
  energy = warp_sum(energy) + table.given.bias[a];
  const double along = slope_along(value, slope, energy, energies[i]);
  int64_t own[3] = {0, 0, 0};
  for (int64_t e = range.begin + lane(); e < range.end; e += kWarp) {
    const int32_t j = rows.indices[e];
    if (!edge_of(rows, i, j, n_types, table.limit, *report, x, r2)) continue;
    const double r = sqrt(r2), share = weight_in_minimum(table, soft[i], r) / sum;
    if (r < table.given.start) continue;
    pair_energy(table, a, rows.types[j], r, pair, pair_slope);
    const double total = slope_of_edge(table, value, along, soft[i], share, r, pair_slope);
    if (total == 0) continue;
    for (int k = 0; k < 3; ++k) {
      const int64_t force = to_fixed(-total / r * x[k], i, *report);
      own[k] -= force;
      add(fixed[3 * int64_t(j) + k], force);
    }
  }
  for (int k = 0; k < 3; ++k) {
    const int64_t all = warp_sum(own[k]);
    if (lane() == 0 && all != 0) add(fixed[3 * i + k], all);
  }
  if (lane() == 0) energies[i] = blended(value, energy, energies[i]);
}

// What a person wants to know of the first pair that is too near; one thread, after all others.
__global__ void distance_kernel(dpl_atoms rows, double start, dpl_cuda_report* report) {
  if (threadIdx.x != 0 || report->too_near == kNone) return;
  const double* from = rows.positions + 3 * int64_t(report->too_near >> 32);
  const double* to = rows.positions + 3 * int64_t(uint32_t(report->too_near));
  double r2 = 0;
  for (int k = 0; k < 3; ++k) r2 += (to[k] - from[k]) * (to[k] - from[k]);
  report->distance = sqrt(r2);
  report->start = start;
}

dpl_status check(const dpl_short_range& table, const dpl_cuda_atoms& atoms) {
  const dpl_status status = check_radii(table);
  return status == DPL_OK ? check_atoms(atoms, 0, atoms.rows.n_local) : status;
}

}  // namespace
}  // namespace dpl

dpl_status dpl_cuda_short_range_weights(const dpl_cuda_queue* queue, const dpl_short_range* table,
                                        const dpl_cuda_atoms* atoms, double* soft, double* weights,
                                        dpl_cuda_report* report) {
  using namespace dpl;
  const dpl_status status = check(*table, *atoms);
  if (status != DPL_OK) return status;
  const Queue q(*queue);
  launch(weights_kernel, divided_up(atoms->rows.n_local, kRowsPerBlock), kThreads, 0, q.stream,
         short_range_table(*table), *atoms, soft, weights, report);
  return q.status("the soft minima of the short-range table");
}

dpl_status dpl_cuda_short_range_add(const dpl_cuda_queue* queue, const dpl_short_range* table,
                                    const dpl_cuda_atoms* atoms, const double* soft,
                                    double* energies, int64_t* fixed, dpl_cuda_report* report) {
  using namespace dpl;
  const dpl_status status = check(*table, *atoms);
  if (status != DPL_OK) return status;
  const Queue q(*queue);
  launch(add_kernel, divided_up(atoms->rows.n_local, kRowsPerBlock), kThreads, 0, q.stream,
         short_range_table(*table), *atoms, soft, energies, fixed, report);
  launch(distance_kernel, 1, kWarp, 0, q.stream, atoms->rows, table->start, report);
  return q.status("the short-range table");
}
