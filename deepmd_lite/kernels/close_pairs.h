// What acts between close atoms alone: the rows that hold a close pair, and what it does to forces
// and virial. Nearly every edge is longer, and a run that goes well has no close pair at all: the
// search is what costs.
//
// Bits do not depend on the number of threads: chunks follow from n_local alone, and each adds to
// the energies and forces of its own atoms; the forces of their neighbours follow in one order.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "call.h"

namespace dpl {

constexpr int64_t kChunkAtoms = 256;

// What the close pairs of a chunk of atoms do. Nobody else touches the forces of these atoms
// meanwhile; those of their neighbours are added later, in the order of the chunks.
class Contacts {
 public:
  void clear() {
    others_.clear();
    std::fill(virial_, virial_ + 9, 0.0);
  }

  // The edge i -> j of length r, whose energy has this slope along r.
  void add(int64_t i, int64_t j, const double* vector, double r, double slope, double* forces) {
    Force other{j, {}};
    for (int k = 0; k < 3; ++k) {
      other.force[k] = -slope / r * vector[k];
      forces[3 * i + k] -= other.force[k];
      // r_i ⊗ (−f) + r_j ⊗ f
      for (int c = 0; c < 3; ++c) virial_[3 * c + k] += vector[c] * other.force[k];
    }
    others_.push_back(other);
  }

  void add_to(double* forces, double* virial) const {
    for (const Force& other : others_)
      for (int k = 0; k < 3; ++k) forces[3 * other.j + k] += other.force[k];
    for (int k = 0; k < 9; ++k) virial[k] += virial_[k];
  }

 private:
  struct Force {
    int64_t j;
    double force[3];
  };
  std::vector<Force> others_;
  double virial_[9] = {};
};

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
