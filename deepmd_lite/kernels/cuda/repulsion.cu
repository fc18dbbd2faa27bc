// Repulsion of close pairs: a warp for each atom looks along its row.
#include "device.h"

namespace dpl {
namespace {

constexpr int kThreads = 128;
constexpr int kRowsPerBlock = kThreads / kWarp;

__device__ inline RepulsionParameters parameters_of(const dpl_repulsion& p, int32_t a, int32_t b) {
  const double z_a = p.atomic_numbers[a], z_b = p.atomic_numbers[b];
  const double r_in = p.r_in[a * p.n_types + b], r_out = p.r_out[a * p.n_types + b];
  const double screening = pow(z_a, 0.23) + pow(z_b, 0.23);
  return {kCoulomb * z_a * z_b, screening / kScreeningLength, {r_out, r_in, 1 / (r_out - r_in)}};
}

__global__ void repulsion_kernel(dpl_repulsion repulsion_, dpl_cuda_atoms atoms, double* energies,
                                 int64_t* fixed, dpl_cuda_report* report) {
  const dpl_atoms& rows = atoms.rows;
  const int64_t i = int64_t(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
  if (i >= rows.n_local) return;
  const int32_t a = rows.types[i], n_types = repulsion_.n_types;
  if (uint32_t(a) >= uint32_t(n_types)) {
    note(report->bad_type, uint64_t(i));
    return;
  }
  double reach = 0, energy = 0;
  for (int32_t b = 0; b < n_types; ++b) reach = fmax(reach, repulsion_.r_out[a * n_types + b]);
  const Range range = row_of(atoms, i, *report);
  int64_t own[3] = {0, 0, 0};
  for (int64_t e = range.begin + lane(); e < range.end; e += kWarp) {
    const int32_t j = rows.indices[e];
    double x[3], r2;
    if (!edge_of(rows, i, j, n_types, reach * reach, *report, x, r2)) continue;
    const RepulsionParameters p = parameters_of(repulsion_, a, rows.types[j]);
    const double r = sqrt(r2);
    if (r >= p.switching.rcut) continue;
    double of_pair, slope;
    repulsion(p, r, of_pair, slope);
    energy += 0.5 * of_pair;
    for (int k = 0; k < 3; ++k) {
      const int64_t force = to_fixed(-0.5 * slope / r * x[k], i, *report);
      own[k] -= force;
      add(fixed[3 * int64_t(j) + k], force);
    }
  }
  energy = warp_sum(energy);
  for (int k = 0; k < 3; ++k) {
    const int64_t sum = warp_sum(own[k]);
    if (lane() == 0 && sum != 0) add(fixed[3 * i + k], sum);
  }
  if (lane() == 0) energies[i] += energy;
}

}  // namespace
}  // namespace dpl

dpl_status dpl_cuda_repulsion_add(const dpl_cuda_queue* queue, const dpl_repulsion* repulsion,
                                  const dpl_cuda_atoms* atoms, double* energies, int64_t* fixed,
                                  dpl_cuda_report* report) {
  const dpl_status status = dpl::check_atoms(*atoms, 0, atoms->rows.n_local);
  if (status != DPL_OK) return status;
  if (repulsion->n_types < 1) return dpl::fail(DPL_INVALID_ARGUMENT, "n_types must be at least 1");
  const dpl::Queue q(*queue);
  dpl::launch(dpl::repulsion_kernel, dpl::divided_up(atoms->rows.n_local, dpl::kRowsPerBlock),
              dpl::kThreads, 0, q.stream, *repulsion, *atoms, energies, fixed, report);
  return q.status("the repulsion");
}
