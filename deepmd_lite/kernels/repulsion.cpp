// Repulsion of close pairs.
#include <cmath>
#include <new>
#include <vector>

#include "close_pairs.h"

namespace dpl {
namespace {

struct Chunk {
  Contacts contacts;
  Fault fault;
};

class Search {
 public:
  Search(const dpl_repulsion& repulsion, const dpl_atoms& atoms, const double* weights)
      : atoms_(atoms), weights_(weights), n_types_(repulsion.n_types) {
    for (int32_t a = 0; a < n_types_; ++a) {
      double reach = 0;
      for (int32_t b = 0; b < n_types_; ++b) {
        const double z_a = repulsion.atomic_numbers[a], z_b = repulsion.atomic_numbers[b];
        const double r_in = repulsion.r_in[a * n_types_ + b];
        const double r_out = repulsion.r_out[a * n_types_ + b];
        const double screening = std::pow(z_a, 0.23) + std::pow(z_b, 0.23);
        pairs_.push_back({kCoulomb * z_a * z_b,
                          screening / kScreeningLength,
                          {r_out, r_in, 1 / (r_out - r_in)}});
        reach = std::max(reach, r_out);
      }
      limits_.push_back(reach * reach);
    }
  }

  // Close pairs of the atoms [begin, end): adds to their energies and forces.
  void find(int64_t begin, int64_t end, double* energies, double* forces, Chunk& chunk) const {
    const double* r = atoms_.positions;
    for (int64_t i = begin; i < end; ++i) {
      const double limit = limits_[atoms_.types[i]];
      if (!needs_care(atoms_, i, limit)) continue;
      const double xi = r[3 * i], yi = r[3 * i + 1], zi = r[3 * i + 2];
      for (int64_t e = atoms_.offsets[i]; e < atoms_.offsets[i + 1]; ++e) {
        const int32_t j = atoms_.indices[e];
        if (uint32_t(j) >= uint64_t(atoms_.n_all)) {
          chunk.fault = {DPL_INVALID_ARGUMENT, i, j};
          return;
        }
        const double* s = r + 3 * int64_t(j);
        const double vector[3] = {s[0] - xi, s[1] - yi, s[2] - zi};
        const double r2 = vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2];
        if (r2 >= limit) continue;
        if (r2 < kCoincident) {
          chunk.fault = {DPL_COINCIDENT, i, j};
          return;
        }
        energies[i] += repel(i, j, vector, std::sqrt(r2), forces, chunk.contacts);
      }
    }
  }

 private:
  // Half of the energy of the edge, whose forces become a contact.
  double repel(int64_t i, int64_t j, const double* vector, double r, double* forces,
               Contacts& contacts) const {
    const RepulsionParameters& pair = pairs_[atoms_.types[i] * n_types_ + atoms_.types[j]];
    if (r >= pair.switching.rcut) return 0;
    double energy, slope;
    repulsion(pair, r, energy, slope);
    const double weight = weights_ == nullptr ? 0.5 : 0.5 * weights_[i];
    contacts.add(i, j, vector, r, weight * slope, forces);
    return 0.5 * energy;
  }

  const dpl_atoms& atoms_;
  const double* weights_;  // NULL: 1
  int32_t n_types_;
  std::vector<RepulsionParameters> pairs_;  // (n_types, n_types)
  std::vector<double> limits_;              // square of the longest r_out of each centre type
};

dpl_status check_repulsion(const dpl_repulsion& repulsion) {
  const int32_t n = repulsion.n_types;
  if (n < 1) return fail(DPL_INVALID_ARGUMENT, "n_types must be at least 1");
  for (int32_t a = 0; a < n; ++a)
    if (!(repulsion.atomic_numbers[a] > 0) || !std::isfinite(repulsion.atomic_numbers[a]))
      return fail(DPL_INVALID_ARGUMENT, "the atomic number of type %d must be positive, found %g",
                  a, repulsion.atomic_numbers[a]);
  for (int64_t k = 0; k < int64_t(n) * n; ++k) {
    const double r_in = repulsion.r_in[k], r_out = repulsion.r_out[k];
    if (!(r_in >= 0 && r_out > r_in && std::isfinite(1 / (r_out - r_in)) &&
          std::isfinite(r_out * r_out)))
      return fail(DPL_INVALID_ARGUMENT,
                  "repulsion of types %d and %d: expected 0 <= r_in < r_out, found %g and %g",
                  int(k / n), int(k % n), r_in, r_out);
  }
  return DPL_OK;
}

dpl_status add_repulsion(const dpl_repulsion& repulsion, const dpl_atoms& atoms,
                         const double* weights, int threads, double* energies, double* forces,
                         double* virial) {
  const Search search(repulsion, atoms, weights);
  std::vector<Chunk> chunks((atoms.n_local + kChunkAtoms - 1) / kChunkAtoms);
  parallel_for(int64_t(chunks.size()), threads, [&](int64_t k) {
    const int64_t end = std::min(atoms.n_local, (k + 1) * kChunkAtoms);
    search.find(k * kChunkAtoms, end, energies, forces, chunks[k]);
  });
  for (const Chunk& chunk : chunks)
    if (chunk.fault.status != DPL_OK) return status_of(chunk.fault, atoms.n_all);
  for (const Chunk& chunk : chunks) chunk.contacts.add_to(forces, virial);
  return DPL_OK;
}

}  // namespace
}  // namespace dpl

dpl_status dpl_repulsion_add(const dpl_repulsion* repulsion, const dpl_atoms* atoms,
                             const double* weights, int threads, double* energies, double* forces,
                             double* virial) {
  try {
    if (threads < 1) return dpl::fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
    dpl_status status = dpl::check_repulsion(*repulsion);
    if (status == DPL_OK) status = dpl::check_atoms(*atoms, repulsion->n_types);
    if (status != DPL_OK) return status;
    return dpl::add_repulsion(*repulsion, *atoms, weights, threads, energies, forces, virial);
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY, "out of memory for the close pairs of %lld atoms",
                     (long long)atoms->n_local);
  }
}
