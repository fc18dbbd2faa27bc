// What one thread does to a block of atoms: the part of the moments that is compiled once for each
// instruction set. No allocation, no exceptions, no standard containers (see physics.h for why).
//
// Array suffixes as in reference.py: e edges, i local atoms, c columns, m features, k powers.
#pragma once

#include <cstdint>

#include "dpl.h"
#include "physics.h"

namespace dpl {

constexpr int kColumns = DPL_COLUMNS;
constexpr int kContracted = 2 * (kColumns + 1);

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
  const real* mean;           // (n_types, kColumns)
  const real* inverse_width;  // (n_types, kColumns)
  int32_t n_types;
  bool type_one_side;

  real table_start, inverse_spacing;
  const real* coefficients;  // (n_tables, n_intervals, kPowers, n_features)
  int32_t n_tables, n_intervals, n_features;
};

// Scratch: the edges of a block that lie within the cutoff, one array for each quantity.
template <class real>
struct Edges {
  int32_t n;          // edges
  int32_t* start;     // (n_atoms + 1) first edge of each atom of the block
  int32_t* neighbor;  // row of the neighbour
  int32_t* interval;  // table * n_intervals + interval
  real* x[3];         // edge vector
  real* t;            // place in the interval, in [0, 1)
  real* row[kColumns];
  real* d[3];              // change of the edge vector along the tangent
  real* change[kColumns];  // change of the row along the tangent
  real* moved[kColumns];   // row times the change of the place in the table (its spacing is 1)
  real* contracted[kContracted];  // with the gradient of the moments, see moments_block.cpp
  real* gradient[3];              // result: derivative with respect to the edge vector
};

// The first thing wrong with a block's edges.
struct Fault {
  dpl_status status = DPL_OK;
  int64_t row = -1, neighbor = -1;
};

// One edge of a table interval, for the gradient with respect to the coefficients:
// Σ_m [ (Σ_c a_c g_cm) G_m + (Σ_c b_c g_cm) G'_m ], g the gradient of the moments of `atom`.
template <class real>
struct TableEntry {
  int32_t atom;
  int32_t bin;
  real t;
  real a[kColumns], b[kColumns];
};

// Moments and their gradients here begin with those of atom `begin`.
template <class real>
struct BlockKernels {
  // Fills `edges` for atoms [begin, end); `counts` (of the block's first atom) may be null.
  Fault (*gather)(const Problem<real>&, int64_t begin, int64_t end, Edges<real>&, int32_t* counts,
                  int64_t* beyond);
  // moments of the atoms [begin, end)
  void (*forward)(const Problem<real>&, int64_t begin, int64_t end, const Edges<real>&,
                  real* moments);
  // their change along the tangent
  void (*forward_tangent)(const Problem<real>&, int64_t begin, int64_t end, const Edges<real>&,
                          real* moments);
  // edges.gradient of Φ, and of Ψ
  void (*backward)(const Problem<real>&, int64_t begin, int64_t end, Edges<real>&,
                   const real* grad_moments);
  void (*backward_tangent)(const Problem<real>&, int64_t begin, int64_t end, Edges<real>&,
                           const real* grad_moments);
  // partial (kPowers, n_features) += the gradient of one interval's coefficients; second: use b
  void (*accumulate)(int32_t n_features, bool second, const TableEntry<real>* entries, int32_t n,
                     const real* grad_moments, double* partial);
};

template <class real>
BlockKernels<real> baseline_kernels();
template <class real>
BlockKernels<real> avx2_kernels();
template <class real>
BlockKernels<real> avx512_kernels();

}  // namespace dpl
