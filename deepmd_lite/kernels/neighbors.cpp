// Open-boundary neighbour list. Atoms are sorted by cell (edge: half the cutoff), and only cells
// that hold atoms are stored, so that memory does not depend on how far the atoms are scattered.
// The cells that a cell can see are 25 runs of up to five along x; in the order of the sorted cells
// each of the 25 begins further on than it did for the cell before, so a cursor finds it.
#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "checks.h"
#include "runtime.h"

// Rows as they were found: block by block, within a block atom by atom.
struct dpl_neighbors {
  struct Block {
    std::vector<int32_t> atoms, counts;  // local atoms and the lengths of their rows
    std::vector<int32_t> indices;
  };
  int64_t n_local = 0;
  std::vector<Block> blocks;
  std::vector<int64_t> offsets;
};

namespace dpl {
namespace {

constexpr int kReach = 2;  // cells to either side
constexpr int kBits = 21;  // of a cell's coordinate in its key
constexpr int64_t kMaxTypes = 65536;
constexpr int64_t kBlockAtoms = 512;

struct Cells {
  std::vector<uint64_t> keys;  // of the cells that hold atoms, ascending, and a sentinel
  std::vector<int32_t> start;  // (n_cells + 1) first of each cell's atoms
  std::vector<int32_t> atoms;  // in the order of the cells
  std::vector<double> x, y, z;
};

dpl_status make_cells(int64_t n, const double* positions, double cutoff, Cells& cells) {
  double low[3] = {INFINITY, INFINITY, INFINITY}, high[3] = {-INFINITY, -INFINITY, -INFINITY};
  for (int64_t i = 0; i < n; ++i)
    for (int k = 0; k < 3; ++k) {
      low[k] = std::min(low[k], positions[3 * i + k]);
      high[k] = std::max(high[k], positions[3 * i + k]);
    }
  // Cells are wider than cutoff/2 by more than the rounding of a coordinate, so that two atoms
  // within the cutoff are never more than kReach cells apart; wider still in a box that would
  // need more cells than a key has room for.
  constexpr double kMaxCells = (1 << kBits) - 2 * kReach - 2;
  double inverse_edge[3];
  for (int k = 0; k < 3; ++k) {
    const double length = high[k] - low[k];
    if (!std::isfinite(length))
      return fail(DPL_TOO_LARGE, "coordinates from %g to %g Å are too far apart", low[k], high[k]);
    inverse_edge[k] = 1.0 / std::max(cutoff / kReach * (1 + 1e-6), length / kMaxCells);
  }

  struct Keyed {
    uint64_t key;
    int32_t atom;
  };
  std::vector<Keyed> keyed(n);
  for (int64_t i = 0; i < n; ++i) {
    uint64_t key = 0;  // z, y, x; margins of kReach keep keys of neighbour rows from running over
    for (int k = 2; k >= 0; --k)
      key = key << kBits | (uint64_t((positions[3 * i + k] - low[k]) * inverse_edge[k]) + kReach);
    keyed[i] = {key, int32_t(i)};
  }
  std::sort(keyed.begin(), keyed.end(), [](const Keyed& a, const Keyed& b) {
    return a.key != b.key ? a.key < b.key : a.atom < b.atom;
  });

  cells.atoms.resize(n), cells.x.resize(n), cells.y.resize(n), cells.z.resize(n);
  for (int64_t k = 0; k < n; ++k) {
    if (k == 0 || keyed[k].key != keyed[k - 1].key) {
      cells.keys.push_back(keyed[k].key);
      cells.start.push_back(int32_t(k));
    }
    const double* p = positions + 3 * int64_t(keyed[k].atom);
    cells.atoms[k] = keyed[k].atom;
    cells.x[k] = p[0], cells.y[k] = p[1], cells.z[k] = p[2];
  }
  cells.keys.push_back(~uint64_t(0));
  cells.start.push_back(int32_t(n));
  return DPL_OK;
}

// Place of each atom in the order of a row: by type, then by index; and the atom at each place.
struct Order {
  std::vector<int32_t> place, atom;
};

dpl_status make_order(int64_t n, const int32_t* types, Order& order) {
  std::vector<int64_t> next;
  for (int64_t i = 0; i < n; ++i) {
    if (types[i] < 0 || types[i] >= kMaxTypes)
      return fail(DPL_INVALID_ARGUMENT, "the type of row %lld is %d; expected 0 to %lld",
                  (long long)i, types[i], (long long)kMaxTypes - 1);
    if (size_t(types[i]) + 2 > next.size()) next.resize(types[i] + 2, 0);
    ++next[types[i] + 1];
  }
  for (size_t b = 1; b < next.size(); ++b) next[b] += next[b - 1];
  order.place.resize(n), order.atom.resize(n);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t place = next[types[i]]++;
    order.place[i] = int32_t(place);
    order.atom[place] = int32_t(i);
  }
  return DPL_OK;
}

// The 25 runs of cells that a cell sees, as ranges of `cells.atoms`; cells in ascending order.
class Runs {
 public:
  explicit Runs(const Cells& cells) : cells_(cells) {}

  void see(size_t cell) {
    const uint64_t key = cells_.keys[cell];
    for (int k = 0; k < kRuns; ++k) {
      const int64_t dy = k % 5 - kReach, dz = k / 5 - kReach;
      const uint64_t middle = key + uint64_t(dz * (int64_t(1) << 2 * kBits) + dy * (1 << kBits));
      size_t& cursor = cursor_[k];
      if (fresh_)
        cursor = std::lower_bound(cells_.keys.begin(), cells_.keys.end() - 1, middle - kReach) -
                 cells_.keys.begin();
      while (cells_.keys[cursor] < middle - kReach) ++cursor;
      size_t last = cursor;
      while (cells_.keys[last] <= middle + kReach) ++last;
      begin[k] = cells_.start[cursor], end[k] = cells_.start[last];
    }
    fresh_ = false;
  }

  static constexpr int kRuns = 25;
  int32_t begin[kRuns], end[kRuns];

 private:
  const Cells& cells_;
  size_t cursor_[kRuns];
  bool fresh_ = true;
};

// Sorted places of the atoms within the cutoff of the one at sorted place `self`, itself included.
// Returns how many; *near counts those that coincide with it, itself included.
int32_t find_row(const Cells& cells, const Runs& runs, int32_t self, double limit,
                 std::vector<int32_t>& found, int32_t* near) {
  const double x = cells.x[self], y = cells.y[self], z = cells.z[self];
  size_t candidates = 0;
  for (int k = 0; k < Runs::kRuns; ++k) candidates += size_t(runs.end[k] - runs.begin[k]);
  if (found.size() <= candidates) found.resize(candidates + candidates / 4 + 1);
  int32_t* out = found.data();
  int32_t n = 0, coincident = 0;
  for (int k = 0; k < Runs::kRuns; ++k)
    for (int32_t j = runs.begin[k]; j < runs.end[k]; ++j) {
      const double dx = cells.x[j] - x, dy = cells.y[j] - y, dz = cells.z[j] - z;
      const double d2 = dx * dx + dy * dy + dz * dz;
      out[n] = j;
      n += d2 < limit;  // what is outside is overwritten by the next
      coincident += d2 < kCoincident;
    }
  *near = coincident;
  return n;
}

// The first pair of rows, the local one first, of a sorted place that coincides with another.
struct Coincidence {
  int64_t row = -1, neighbor = -1;
};

Coincidence coincidence(const Cells& cells, int32_t self, const int32_t* found, int32_t n) {
  Coincidence pair{cells.atoms[self], -1};
  for (int32_t k = 0; k < n; ++k) {
    const int32_t j = found[k];
    const double dx = cells.x[j] - cells.x[self], dy = cells.y[j] - cells.y[self],
                 dz = cells.z[j] - cells.z[self];
    if (j != self && dx * dx + dy * dy + dz * dz < kCoincident &&
        (pair.neighbor < 0 || cells.atoms[j] < pair.neighbor))
      pair.neighbor = cells.atoms[j];
  }
  return pair;
}

// The rows of the local atoms in cells [begin, end).
Coincidence fill_block(const Cells& cells, const Order& order, int64_t n_local, double limit,
                       size_t begin, size_t end, dpl_neighbors::Block& block) {
  Coincidence first;
  Runs runs(cells);
  std::vector<int32_t> found;
  for (size_t cell = begin; cell < end; ++cell) {
    bool seen = false;
    for (int32_t self = cells.start[cell]; self < cells.start[cell + 1]; ++self) {
      const int32_t i = cells.atoms[self];
      if (i >= n_local) continue;
      if (!seen) runs.see(cell);
      seen = true;
      int32_t near = 0;
      const int32_t n = find_row(cells, runs, self, limit, found, &near);
      if (near > 1 && (first.row < 0 || i < first.row))
        first = coincidence(cells, self, found.data(), n);
      const size_t offset = block.indices.size();
      block.indices.resize(offset + size_t(n));
      int32_t* row = block.indices.data() + offset;
      int32_t count = 0;
      for (int32_t k = 0; k < n; ++k) {
        row[count] = order.place[cells.atoms[found[k]]];
        count += found[k] != self;
      }
      std::sort(row, row + count);
      for (int32_t k = 0; k < count; ++k) row[k] = order.atom[row[k]];
      block.indices.resize(offset + size_t(count));
      block.atoms.push_back(i);
      block.counts.push_back(count);
    }
  }
  block.indices.shrink_to_fit();  // the list exists twice for a moment, but not three times
  return first;
}

dpl_status build(int64_t n_all, int64_t n_local, const double* positions, const int32_t* types,
                 double cutoff, int threads, dpl_neighbors& list) {
  if (const dpl_status wrong = check_counts(n_local, n_all)) return wrong;
  if (!(cutoff > 0) || !std::isfinite(cutoff * cutoff) || threads < 1)
    return fail(DPL_INVALID_ARGUMENT,
                "expected a positive cutoff and number of threads, found %g "
                "Å and %d",
                cutoff, threads);
  list.n_local = n_local;
  list.offsets.assign(size_t(n_local) + 1, 0);
  dpl_status status = check_finite(positions, n_all);
  Order order;
  if (status == DPL_OK) status = make_order(n_all, types, order);
  if (status != DPL_OK || n_local == 0) return status;
  Cells cells;
  status = make_cells(n_all, positions, cutoff, cells);
  if (status != DPL_OK) return status;

  std::vector<size_t> starts{0};  // first cell of each block
  for (size_t cell = 0; cell + 1 < cells.keys.size(); ++cell)
    if (cells.start[cell + 1] - cells.start[starts.back()] >= kBlockAtoms)
      starts.push_back(cell + 1);
  if (starts.back() + 1 < cells.keys.size()) starts.push_back(cells.keys.size() - 1);
  list.blocks.resize(starts.size() - 1);
  std::vector<Coincidence> coincidences(list.blocks.size());
  const double limit = squared_limit(cutoff);
  parallel_for(int64_t(list.blocks.size()), threads, [&](int64_t k) {
    coincidences[k] =
        fill_block(cells, order, n_local, limit, starts[k], starts[k + 1], list.blocks[k]);
  });
  Coincidence first;
  for (const Coincidence& c : coincidences)
    if (c.row >= 0 && (first.row < 0 || c.row < first.row)) first = c;
  if (first.row >= 0)
    return fail(DPL_COINCIDENT, "rows %lld and %lld coincide (distance < 1e-6 Å)",
                (long long)first.row, (long long)first.neighbor);

  for (const dpl_neighbors::Block& block : list.blocks)
    for (size_t k = 0; k < block.atoms.size(); ++k)
      list.offsets[block.atoms[k] + 1] = block.counts[k];
  for (int64_t i = 0; i < n_local; ++i) list.offsets[i + 1] += list.offsets[i];
  return DPL_OK;
}

}  // namespace
}  // namespace dpl

dpl_status dpl_neighbors_build(int64_t n_all, int64_t n_local, const double* positions,
                               const int32_t* types, double cutoff, int threads,
                               dpl_neighbors** handle, int64_t* n_edges) {
  *handle = nullptr;
  *n_edges = 0;
  try {
    auto list = std::make_unique<dpl_neighbors>();
    const dpl_status status = dpl::build(n_all, n_local, positions, types, cutoff, threads, *list);
    if (status != DPL_OK) return status;
    *n_edges = list->offsets.back();
    *handle = list.release();
    return DPL_OK;
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY,
                     "out of memory for the neighbours of %lld atoms within %g "
                     "Å; are the positions in Å?",
                     (long long)n_local, cutoff);
  }
}

void dpl_neighbors_copy(const dpl_neighbors* handle, int threads, int64_t* offsets,
                        int32_t* indices) {
  std::copy(handle->offsets.begin(), handle->offsets.end(), offsets);
  dpl::parallel_for(int64_t(handle->blocks.size()), threads, [&](int64_t b) {
    const dpl_neighbors::Block& block = handle->blocks[b];
    const int32_t* row = block.indices.data();
    for (size_t k = 0; k < block.atoms.size(); ++k) {
      std::copy(row, row + block.counts[k], indices + handle->offsets[block.atoms[k]]);
      row += block.counts[k];
    }
  });
}

void dpl_neighbors_free(dpl_neighbors* handle) { delete handle; }
