// The table of pairs that takes over from the networks where atoms come close.
#include "short_range.h"

#include <cmath>
#include <new>
#include <vector>

#include "close_pairs.h"

namespace dpl {
namespace {

constexpr int64_t kRoundChunks = 16;  // bounds the memory for contacts

// The neighbours of one atom nearer than rcut, kept between atoms.
struct Neighbors {
  struct Edge {
    int32_t j;
    double vector[3], r;  // r_j - r_i
    double share;         // exp(−r/α), relative to that of the nearest, then over their sum
    double slope;         // of its pair energy
  };
  std::vector<Edge> edges;
  double soft_minimum;  // Å
};

struct Chunk {
  Contacts contacts;
  Neighbors own;
  Fault fault;
  double distance = 0;  // of a fault, Å
};

class ShortRange {
 public:
  ShortRange(const dpl_short_range& table, const dpl_atoms& atoms)
      : table_(short_range_table(table)), atoms_(atoms) {}

  // λ of atom i and its slope along the soft minimum, whose edges are in `own` where λ > 0. A soft
  // minimum is never below the minimum: most rows need no more than that.
  Fault lambda(int64_t i, Neighbors& own, double& value, double& slope) const {
    value = slope = 0;
    if (!needs_care(atoms_, i, table_.near)) return {};
    const Fault fault = gather(i, own);
    if (fault.status != DPL_OK || own.edges.empty()) return fault;
    double curvature;
    switch_function(table_.switching, own.soft_minimum, value, slope, curvature);
    return {};
  }

  // What the table makes of the energies and forces of the atoms [begin, end).
  void add(int64_t begin, int64_t end, const double* factors, double* energies, double* forces,
           Chunk& chunk) const {
    Neighbors& own = chunk.own;
    for (int64_t i = begin; i < end; ++i) {
      double value, slope;
      chunk.fault = lambda(i, own, value, slope);
      if (chunk.fault.status != DPL_OK) return;
      if (value == 0) continue;
      const int32_t type = atoms_.types[i];
      double energy = table_.given.bias[type];
      for (Neighbors::Edge& edge : own.edges) {
        if (edge.r < table_.given.start) {
          chunk.fault = {DPL_COINCIDENT, i, edge.j};
          chunk.distance = edge.r;
          return;
        }
        double pair;
        pair_energy(table_, type, atoms_.types[edge.j], edge.r, pair, edge.slope);
        energy += 0.5 * pair;
      }
      const double along = slope_along(value, slope, energy, energies[i]);
      const double factor = factors == nullptr ? 1 : factors[i];
      for (const Neighbors::Edge& edge : own.edges) {
        const double total =
            slope_of_edge(table_, value, along, own.soft_minimum, edge.share, edge.r, edge.slope);
        if (total != 0) chunk.contacts.add(i, edge.j, edge.vector, edge.r, factor * total, forces);
      }
      energies[i] = blended(value, energy, energies[i]);
    }
  }

 private:
  // Edges, shares and soft minimum of row i.
  Fault gather(int64_t i, Neighbors& own) const {
    own.edges.clear();
    const double* r = atoms_.positions;
    double nearest = HUGE_VAL;
    for (int64_t e = atoms_.offsets[i]; e < atoms_.offsets[i + 1]; ++e) {
      const int32_t j = atoms_.indices[e];
      if (uint32_t(j) >= uint64_t(atoms_.n_all)) return {DPL_INVALID_ARGUMENT, i, j};
      Neighbors::Edge edge{j, {}, 0, 0, 0};
      double square = 0;
      for (int k = 0; k < 3; ++k) {
        edge.vector[k] = r[3 * int64_t(j) + k] - r[3 * i + k];
        square += edge.vector[k] * edge.vector[k];
      }
      if (square >= table_.limit) continue;
      if (square < kCoincident) return {DPL_COINCIDENT, i, j};
      edge.r = std::sqrt(square);
      nearest = std::min(nearest, edge.r);
      own.edges.push_back(edge);
    }
    double sum = 0, weighted = 0;
    for (Neighbors::Edge& edge : own.edges) {
      edge.share = weight_in_minimum(table_, nearest, edge.r);
      sum += edge.share;
      weighted += edge.share * edge.r;
    }
    for (Neighbors::Edge& edge : own.edges) edge.share /= sum;
    own.soft_minimum = weighted / sum;
    return {};
  }

  ShortRangeTable table_;
  const dpl_atoms& atoms_;
};

dpl_status check_table(const dpl_short_range& t) {
  const dpl_status status = check_radii(t);
  if (status != DPL_OK) return status;
  for (int64_t k = 0; k < int64_t(t.n_types) * t.n_types * t.n_intervals * kCubic; ++k)
    if (!std::isfinite(t.coefficients[k]))
      return fail(DPL_INVALID_ARGUMENT, "a coefficient of the table of pairs is not finite");
  for (int32_t a = 0; a < t.n_types; ++a)
    if (!std::isfinite(t.bias[a]))
      return fail(DPL_INVALID_ARGUMENT, "the bias of type %d is not finite", a);
  return DPL_OK;
}

dpl_status check(const dpl_short_range& table, const dpl_atoms& atoms, int threads) {
  if (threads < 1) return fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
  const dpl_status status = check_table(table);
  return status == DPL_OK ? check_atoms(atoms, table.n_types) : status;
}

dpl_status status_of(const Chunk& chunk, const dpl_short_range& table, int64_t n_all) {
  if (chunk.distance == 0) return status_of(chunk.fault, n_all);
  return nearer_than_begins(chunk.fault.row, chunk.fault.neighbor, chunk.distance, table.start);
}

int64_t chunks_of(const dpl_atoms& atoms) {
  return (atoms.n_local + kChunkAtoms - 1) / kChunkAtoms;
}

dpl_status weights(const dpl_short_range& table, const dpl_atoms& atoms, int threads,
                   double* found) {
  const ShortRange range(table, atoms);
  std::vector<Fault> faults(chunks_of(atoms));
  parallel_for(int64_t(faults.size()), threads, [&](int64_t k) {
    Neighbors own;
    const int64_t end = std::min(atoms.n_local, (k + 1) * kChunkAtoms);
    for (int64_t i = k * kChunkAtoms; i < end && faults[k].status == DPL_OK; ++i) {
      double value, slope;
      faults[k] = range.lambda(i, own, value, slope);
      found[i] = 1 - value;
    }
  });
  for (const Fault& fault : faults)
    if (fault.status != DPL_OK) return status_of(fault, atoms.n_all);
  return DPL_OK;
}

dpl_status add(const dpl_short_range& table, const dpl_atoms& atoms, const double* factors,
               int threads, double* energies, double* forces, double* virial) {
  const ShortRange range(table, atoms);
  const int64_t n_chunks = chunks_of(atoms);
  std::vector<Chunk> chunks(std::min(n_chunks, kRoundChunks));
  for (int64_t first = 0; first < n_chunks; first += kRoundChunks) {
    const int64_t n = std::min(n_chunks - first, kRoundChunks);
    parallel_for(n, threads, [&](int64_t k) {
      const int64_t begin = (first + k) * kChunkAtoms;
      chunks[k].contacts.clear();
      const int64_t end = std::min(atoms.n_local, begin + kChunkAtoms);
      range.add(begin, end, factors, energies, forces, chunks[k]);
    });
    for (int64_t k = 0; k < n; ++k)
      if (chunks[k].fault.status != DPL_OK) return status_of(chunks[k], table, atoms.n_all);
    for (int64_t k = 0; k < n; ++k) chunks[k].contacts.add_to(forces, virial);
  }
  return DPL_OK;
}

dpl_status out_of_memory(const dpl_atoms& atoms) {
  return fail(DPL_OUT_OF_MEMORY, "out of memory for the close pairs of %lld atoms",
              (long long)atoms.n_local);
}

}  // namespace
}  // namespace dpl

dpl_status dpl_short_range_weights(const dpl_short_range* table, const dpl_atoms* atoms,
                                   int threads, double* weights) {
  try {
    const dpl_status status = dpl::check(*table, *atoms, threads);
    return status == DPL_OK ? dpl::weights(*table, *atoms, threads, weights) : status;
  } catch (const std::bad_alloc&) {
    return dpl::out_of_memory(*atoms);
  }
}

dpl_status dpl_short_range_add(const dpl_short_range* table, const dpl_atoms* atoms,
                               const double* factors, int threads, double* energies, double* forces,
                               double* virial) {
  try {
    const dpl_status status = dpl::check(*table, *atoms, threads);
    if (status != DPL_OK) return status;
    return dpl::add(*table, *atoms, factors, threads, energies, forces, virial);
  } catch (const std::bad_alloc&) {
    return dpl::out_of_memory(*atoms);
  }
}
