// What acts between close atoms alone: the rows that hold a close pair, and what it does to forces
// and virial. Nearly every edge is longer, and a run that goes well has no close pair at all: the
// search is what costs.
//
// Bits do not depend on the number of threads: chunks follow from n_local alone; each finds its
// close pairs and adds to the energies of its own atoms; forces are then added in one order.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "call.h"

namespace dpl {

constexpr int64_t kChunkAtoms = 256;
constexpr double kCoincidentSquared = 1e-6 * 1e-6;  // Å²

// What the edge i -> j does: force on j, its opposite on i.
struct Contact {
  int64_t i, j;
  double vector[3], force[3];  // r_j - r_i
};

// Contact of an edge of length r whose energy has this slope along r.
inline Contact contact_of(int64_t i, int64_t j, const double* vector, double r, double slope) {
  Contact contact{i, j, {}, {}};
  for (int k = 0; k < 3; ++k) {
    contact.vector[k] = vector[k];
    contact.force[k] = -slope / r * vector[k];
  }
  return contact;
}

inline void add_contacts(const std::vector<Contact>& contacts, double* forces, double* virial) {
  for (const Contact& contact : contacts)
    for (int k = 0; k < 3; ++k) {
      forces[3 * contact.i + k] -= contact.force[k];
      forces[3 * contact.j + k] += contact.force[k];
      // r_i ⊗ (−f) + r_j ⊗ f
      for (int c = 0; c < 3; ++c) virial[3 * c + k] += contact.vector[c] * contact.force[k];
    }
}

// Whether row i has an edge shorter than √limit or an index out of range: sums and minima without
// a branch.
inline bool needs_care(const dpl_atoms& atoms, int64_t i, double limit) {
  const int32_t* list = atoms.indices + atoms.offsets[i];
  const int64_t n = atoms.offsets[i + 1] - atoms.offsets[i];
  const uint32_t last = uint32_t(atoms.n_all - 1);
  uint32_t outside = 0;  // bit 31 of j or of last − j
  for (int64_t e = 0; e < n; ++e) outside |= uint32_t(list[e]) | (last - uint32_t(list[e]));
  if (outside >> 31) return true;
  const double* r = atoms.positions;
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

}  // namespace dpl
