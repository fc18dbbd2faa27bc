// What one thread does to a block of atoms: the part of the moments that is compiled once for each
// instruction set. No allocation, no exceptions, no standard containers (see physics.h for why).
//
// Runs. Edges of one atom whose s̃ lies in the same interval of the same table are a run. Within it
// G_m = Σ_k C_km t^k with the same coefficients, so that the sum over its edges factorises,
//   Σ_e R_ec G_m(t_e) = Σ_k S_kc C_km   with   S_kc = Σ_e R_ec t_e^k,
// and so do all derivatives. What is of the size of the features is done once for each run, not
// for each edge: most neighbours are far away, where s̃ hardly differs, and share a few intervals.
// A run of one edge is not worth its powers: the features of lone edges are evaluated as they are.
//
// Array suffixes as in reference.py: e edges, i local atoms, c columns, m features, k powers.
#pragma once

#include <cstdint>

#include "dpl.h"
#include "physics.h"

namespace dpl {

constexpr int kMostColumns = DPL_COLUMNS_OF_DEGREE(kMostDegree);

// Numbers that an edge is contracted to, and of one S_kc, whose columns are filled up to fours.
constexpr int contracted_size(int n_columns) { return 2 * (n_columns + 1); }
constexpr int columns_in_fours(int n_columns) { return (n_columns + 3) / 4 * 4; }
constexpr int run_size(int n_columns) { return kPowers * columns_in_fours(n_columns); }

// The call's arguments, in the precision of the arithmetic.
template <class real>
struct Problem {
  int64_t n_all, n_local;
  const double* positions;
  const int32_t* types;
  const int64_t* offsets;
  const int32_t* indices;
  const double* tangent;  // (n_all, 3), or null at first order

  double limit;  // squared distances below this are within the cutoff
  SwitchParameters<real> switching;
  real protection;  // Å
  int32_t n_columns;
  const real* mean;           // (n_types, n_columns)
  const real* inverse_width;  // (n_types, n_columns)
  int32_t n_types;
  bool type_one_side;

  real table_start, inverse_spacing;
  bool table_of_distance;
  const real* coefficients;  // (n_tables, n_intervals, kPowers, n_features)
  int32_t n_tables, n_intervals, n_features;

  DPL_MEMBER int32_t n_bins() const { return n_tables * n_intervals; }
  // Numbers of an atom's moments.
  DPL_MEMBER int64_t row_size() const { return int64_t(n_columns) * n_features; }
  // The continuation of the table is a parabola: t is unbounded there.
  DPL_MEMBER int powers_of(int32_t bin) const { return (bin + 1) % n_intervals == 0 ? 3 : kPowers; }
};

// Scratch: the edges of a block that lie within the cutoff, one array for each quantity, and the
// runs that they form.
template <class real>
struct Edges {
  int32_t n;          // edges
  int32_t* start;     // (n_atoms + 1) first edge of each atom of the block
  int32_t* neighbor;  // row of the neighbour
  int32_t* bin;       // table * n_intervals + interval
  real* x[3];         // edge vector
  real* t;            // place in the interval, in [0, 1); without end in the last one
  real* row[kMostColumns];
  real* d[3];                  // change of the edge vector along the tangent
  real* change[kMostColumns];  // change of the row along the tangent
  real* shift;                 // change of the place in the table (its spacing is 1)
  // with the gradient of the moments, see moments_block.cpp
  real* contracted[contracted_size(kMostColumns)];
  real* gradient[3];  // result: derivative with respect to the edge vector

  int32_t n_runs;
  int32_t* run_start;  // (n_atoms + 1) first run of each atom of the block
  int32_t* lone_end;   // (n_atoms) first run of each atom after those of lone edges
  int32_t* run_bin;    // (n_runs)
  int32_t* run_first;  // (n_runs + 1) first place in `order` of each run
  int32_t* order;      // (n) edges, run by run
  int32_t* count;      // (n_bins) edges of an atom in each bin; zero between atoms
  real* sums;          // (n_runs, run_size) S_kc, or its change along the tangent
  real* products;      // (n_runs, run_size) Σ_m C_km g_cm, g the gradient of the moments
};

// The first thing wrong with a block's edges.
struct Fault {
  dpl_status status = DPL_OK;
  int64_t row = -1, neighbor = -1;
};

// A run as the gradient with respect to the coefficients of its bin sees it: Σ_c S_kc g_cm.
template <class real>
struct RunEntry {
  int32_t atom, bin;
  const real* sums;  // (run_size)
};

// Moments and their gradients here begin with those of atom `begin`.
template <class real>
struct BlockKernels {
  // Fills `edges` for atoms [begin, end); `counts` (of the block's first atom) may be null.
  Fault (*gather)(const Problem<real>&, int64_t begin, int64_t end, Edges<real>&, int32_t* counts,
                  int64_t* beyond);
  // edges.sums, and their change along the tangent
  void (*sum)(const Problem<real>&, Edges<real>&);
  void (*sum_tangent)(const Problem<real>&, Edges<real>&);
  // moments of the atoms [begin, end) from edges.sums, and their change along the tangent
  void (*spread)(const Problem<real>&, int64_t begin, int64_t end, const Edges<real>&,
                 real* moments);
  void (*spread_tangent)(const Problem<real>&, int64_t begin, int64_t end, const Edges<real>&,
                         real* moments);
  // edges.gradient of Φ, and of Ψ
  void (*backward)(const Problem<real>&, int64_t begin, int64_t end, Edges<real>&,
                   const real* grad_moments);
  void (*backward_tangent)(const Problem<real>&, int64_t begin, int64_t end, Edges<real>&,
                           const real* grad_moments);
  // partial (kPowers, n_features) += the gradient of the coefficients of the entries' one bin
  void (*accumulate)(int32_t n_features, const RunEntry<real>* entries, int32_t n,
                     const real* grad_moments, double* partial);
};

template <class real>
BlockKernels<real> baseline_kernels(int n_columns);
template <class real>
BlockKernels<real> avx2_kernels(int n_columns);
template <class real>
BlockKernels<real> avx512_kernels(int n_columns);

}  // namespace dpl
