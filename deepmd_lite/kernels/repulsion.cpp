// Repulsion of close pairs. Nearly every edge is longer than the longest r_out, and a run that goes
// well has no close pair at all: the search is what costs.
//
// Bits do not depend on the number of threads: chunks follow from n_local alone; each finds its
// close pairs and adds to the energies of its own atoms; forces are then added in one order.
#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

#include "call.h"

namespace dpl {
namespace {

constexpr int64_t kChunkAtoms = 256;
constexpr double kCoincidentSquared = 1e-6 * 1e-6;  // Å²

// What the edge i -> j does: force on j, its opposite on i.
struct Contact {
  int64_t i, j;
  double vector[3], force[3];  // r_j - r_i
};

struct Chunk {
  std::vector<Contact> contacts;
  Fault fault;
};

class Search {
 public:
  Search(const dpl_repulsion& repulsion, const dpl_atoms& atoms)
      : atoms_(atoms), n_types_(repulsion.n_types) {
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

  // Close pairs of the atoms [begin, end); their energies are added to those of the atoms.
  void find(int64_t begin, int64_t end, double* energies, Chunk& chunk) const {
    const double* r = atoms_.positions;
    for (int64_t i = begin; i < end; ++i) {
      const double limit = limits_[atoms_.types[i]];
      if (!needs_care(i, limit)) continue;
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
        if (r2 < kCoincidentSquared) {
          chunk.fault = {DPL_COINCIDENT, i, j};
          return;
        }
        energies[i] += repel(i, j, vector, std::sqrt(r2), chunk.contacts);
      }
    }
  }

 private:
  // Whether row i has a close pair or an index out of range: sums and minima without a branch.
  bool needs_care(int64_t i, double limit) const {
    const int32_t* list = atoms_.indices + atoms_.offsets[i];
    const int64_t n = atoms_.offsets[i + 1] - atoms_.offsets[i];
    const uint32_t last = uint32_t(atoms_.n_all - 1);
    uint32_t outside = 0;  // bit 31 of j or of last − j
    for (int64_t e = 0; e < n; ++e) outside |= uint32_t(list[e]) | (last - uint32_t(list[e]));
    if (outside >> 31) return true;
    const double* r = atoms_.positions;
    const double xi = r[3 * i], yi = r[3 * i + 1], zi = r[3 * i + 2];
    const auto square = [&](int64_t e) {
      const double* s = r + 3 * int64_t(list[e]);
      const double x = s[0] - xi, y = s[1] - yi, z = s[2] - zi;
      return x * x + y * y + z * z;
    };
    double even = limit, odd = limit;  // two chains, for they wait for each other's minimum
    int64_t e = 0;
    for (; e + 1 < n; e += 2) {
      even = std::min(even, square(e));
      odd = std::min(odd, square(e + 1));
    }
    if (e < n) even = std::min(even, square(e));
    return std::min(even, odd) < limit;
  }

  // Half of the energy of the edge, whose forces become a contact.
  double repel(int64_t i, int64_t j, const double* vector, double r,
               std::vector<Contact>& contacts) const {
    const RepulsionParameters& pair = pairs_[atoms_.types[i] * n_types_ + atoms_.types[j]];
    if (r >= pair.switching.rcut) return 0;
    double energy, slope;
    repulsion(pair, r, energy, slope);
    Contact contact{i, j, {}, {}};
    for (int k = 0; k < 3; ++k) {
      contact.vector[k] = vector[k];
      contact.force[k] = -0.5 * slope / r * vector[k];
    }
    contacts.push_back(contact);
    return 0.5 * energy;
  }

  const dpl_atoms& atoms_;
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

dpl_status add_repulsion(const dpl_repulsion& repulsion, const dpl_atoms& atoms, int threads,
                         double* energies, double* forces, double* virial) {
  const Search search(repulsion, atoms);
  std::vector<Chunk> chunks((atoms.n_local + kChunkAtoms - 1) / kChunkAtoms);
  parallel_for(int64_t(chunks.size()), threads, [&](int64_t k) {
    const int64_t end = std::min(atoms.n_local, (k + 1) * kChunkAtoms);
    search.find(k * kChunkAtoms, end, energies, chunks[k]);
  });
  for (const Chunk& chunk : chunks)
    if (chunk.fault.status != DPL_OK) return status_of(chunk.fault, atoms.n_all);
  for (const Chunk& chunk : chunks)
    for (const Contact& contact : chunk.contacts)
      for (int k = 0; k < 3; ++k) {
        forces[3 * contact.i + k] -= contact.force[k];
        forces[3 * contact.j + k] += contact.force[k];
        // r_i ⊗ (−f) + r_j ⊗ f
        for (int c = 0; c < 3; ++c) virial[3 * c + k] += contact.vector[c] * contact.force[k];
      }
  return DPL_OK;
}

}  // namespace
}  // namespace dpl

dpl_status dpl_repulsion_add(const dpl_repulsion* repulsion, const dpl_atoms* atoms, int threads,
                             double* energies, double* forces, double* virial) {
  try {
    if (threads < 1) return dpl::fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
    dpl_status status = dpl::check_repulsion(*repulsion);
    if (status == DPL_OK) status = dpl::check_atoms(*atoms, repulsion->n_types);
    if (status != DPL_OK) return status;
    return dpl::add_repulsion(*repulsion, *atoms, threads, energies, forces, virial);
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY, "out of memory for the close pairs of %lld atoms",
                     (long long)atoms->n_local);
  }
}
