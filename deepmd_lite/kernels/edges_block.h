// From positions to the environment rows and runs of a block's edges. Part of moments_block.cpp:
// local to the translation unit that is compiled for one instruction set.
#pragma once

#include <cstring>

#include "moments_block.h"
#include "simd.h"

namespace dpl {
namespace {

// Appends the edges of atom i that lie within the cutoff, with table number in edges.bin.
template <class real>
DPL_INLINE Fault gather_atom(const Problem<real>& p, int64_t i, Edges<real>& edges,
                             int32_t* counts) {
  Fault fault;
  const double *r = p.positions, *v = p.tangent;
  const double xi = r[3 * i], yi = r[3 * i + 1], zi = r[3 * i + 2];
  const int32_t tables = p.type_one_side ? 0 : p.types[i] * p.n_types;
  const int32_t *indices = p.indices, *types = p.types;
  int32_t *neighbor = edges.neighbor, *bin = edges.bin;
  real *edge_x = edges.x[0], *edge_y = edges.x[1], *edge_z = edges.x[2];
  const int64_t n_all = p.n_all, end = p.offsets[i + 1];
  const double limit = p.limit;
  double nearest = limit;
  int32_t n = edges.n;
  for (int64_t e = p.offsets[i]; e < end; ++e) {
    const int32_t j = indices[e];
    if (uint32_t(j) >= uint64_t(n_all)) return {DPL_INVALID_ARGUMENT, i, j};
    const double x = r[3 * int64_t(j)] - xi, y = r[3 * int64_t(j) + 1] - yi,
                 z = r[3 * int64_t(j) + 2] - zi;
    const double r2 = x * x + y * y + z * z;
    neighbor[n] = j;
    edge_x[n] = real(x), edge_y[n] = real(y), edge_z[n] = real(z);
    bin[n] = tables + types[j];
    nearest = r2 < nearest ? r2 : nearest;
    n += r2 < limit;  // what is outside is overwritten by the next
  }
  if (nearest < kCoincident) {
    for (int32_t e = edges.n; e < n; ++e) {
      const double x = edges.x[0][e], y = edges.x[1][e], z = edges.x[2][e];
      if (x * x + y * y + z * z < kCoincident && fault.status == DPL_OK)
        fault = {DPL_COINCIDENT, i, edges.neighbor[e]};
    }
  }
  if (v)
    for (int32_t e = edges.n; e < n; ++e)
      for (int k = 0; k < 3; ++k)
        edges.d[k][e] = real(v[3 * int64_t(edges.neighbor[e]) + k] - v[3 * i + k]);
  if (counts) {
    for (int32_t b = 0; b < p.n_types; ++b) counts[b] = 0;
    for (int32_t e = edges.n; e < n; ++e) ++counts[edges.bin[e] - tables];
  }
  // what prepare_atom reads after the last edge
  for (int32_t e = n; e < n + Simd<real>::lanes; ++e) {
    bin[e] = 0;
    edge_x[e] = edge_y[e] = edge_z[e] = real(1);
    if (v) edges.d[0][e] = edges.d[1][e] = edges.d[2][e] = real(0);
  }
  edges.n = n;
  return fault;
}

// Geometry of `lanes` edges from e on.
template <class real>
struct Geometry {
  using vec = typename Simd<real>::vec;
  vec x[3], r, inverse_r;
  Radial<vec> radials;

  DPL_INLINE Geometry at(const Problem<real>& p, const Edges<real>& edges, int32_t e) {
    Geometry g;
    for (int k = 0; k < 3; ++k) g.x[k] = Simd<real>::load(edges.x[k] + e);
    g.r = square_root(g.x[0] * g.x[0] + g.x[1] * g.x[1] + g.x[2] * g.x[2]);
    g.inverse_r = 1 / g.r;
    g.radials = radial(p.switching, p.protection, g.r, g.inverse_r);
    return g;
  }
};

// Rows, their changes and places in the table of an atom's edges, `lanes` of them at a time: what
// lies after the last edge is scratch that the next atom overwrites.
template <int C, bool with_tangent, class real>
void prepare_atom(const Problem<real>& p, int64_t i, int32_t begin, Edges<real>& edges,
                  int64_t* beyond) {
  using S = Simd<real>;
  using vec = typename S::vec;
  using ivec = typename S::ivec;
  using Row = EnvironmentRow<C>;
  const real* mean = p.mean + p.types[i] * C;
  const real* scale = p.inverse_width + p.types[i] * C;
  const int32_t last = p.n_intervals - 1;
  for (int32_t e = begin; e < edges.n; e += S::lanes) {
    const auto g = Geometry<real>::at(p, edges, e);
    vec row[C];
    Row::columns(g.radials, g.x, row);
    for (int c = 0; c < C; ++c) {
      row[c] = (row[c] - mean[c]) * scale[c];
      S::store(edges.row[c] + e, row[c]);
    }
    const vec y = p.table_of_distance ? -g.r : row[0];
    const vec place = (y - p.table_start) * p.inverse_spacing;
    const ivec q = __builtin_convertvector(clamped_place(place, real(last)), ivec);
    S::store(edges.t + e, place - __builtin_convertvector(q, vec));
    S::store(edges.bin + e, S::load(edges.bin + e) * p.n_intervals + q);
    for (int l = 0; l < S::lanes && e + l < edges.n; ++l) *beyond += q[l] == last;
    if (with_tangent) {
      vec d[3], change[C];
      for (int k = 0; k < 3; ++k) d[k] = S::load(edges.d[k] + e);
      Row::tangent(g.radials, g.x, g.inverse_r, d, change);
      for (int c = 0; c < C; ++c) S::store(edges.change[c] + e, change[c] * scale[c]);
      vec shift = change[0] * scale[0];
      if (p.table_of_distance)
        shift = -(g.x[0] * d[0] + g.x[1] * d[1] + g.x[2] * d[2]) * g.inverse_r;
      S::store(edges.shift + e, shift * p.inverse_spacing);
    }
  }
}

// The runs of an atom's edges, in an order that follows from theirs, with those of lone edges
// first; returns where these end. An edge in the last interval of its table never counts as lone.
template <class real>
int32_t group_atom(const Problem<real>& p, int32_t begin, Edges<real>& edges) {
  int32_t *count = edges.count, *order = edges.order, *run_bin = edges.run_bin;
  const int32_t* bin = edges.bin;
  const int32_t end = edges.n, first_run = edges.n_runs;
  int32_t run = first_run, place = begin;
  for (int32_t e = begin; e < end; ++e)
    if (count[bin[e]]++ == 0) run_bin[run++] = bin[e];
  int32_t lone_end = first_run;
  for (int32_t r = first_run; r < run; ++r) {
    const int32_t own = run_bin[r];
    if (count[own] > 1 || p.powers_of(own) < kPowers) continue;
    run_bin[r] = run_bin[lone_end];
    run_bin[lone_end++] = own;
  }
  for (int32_t r = first_run; r < run; ++r) {
    const int32_t n = count[run_bin[r]];
    edges.run_first[r] = count[run_bin[r]] = place;
    place += n;
  }
  edges.run_first[run] = place;
  for (int32_t e = begin; e < end; ++e) order[count[bin[e]]++] = e;
  for (int32_t r = first_run; r < run; ++r) count[run_bin[r]] = 0;
  edges.n_runs = run;
  return lone_end;
}

template <int C, class real>
Fault gather(const Problem<real>& p, int64_t begin, int64_t end, Edges<real>& edges,
             int32_t* counts, int64_t* beyond) {
  edges.n = edges.n_runs = 0;
  std::memset(edges.count, 0, sizeof(int32_t) * size_t(p.n_bins()));
  for (int64_t i = begin; i < end; ++i) {
    const int32_t first = edges.start[i - begin] = edges.n;
    edges.run_start[i - begin] = edges.n_runs;
    const Fault fault = gather_atom(p, i, edges, counts);
    if (fault.status != DPL_OK) return fault;
    if (p.tangent)
      prepare_atom<C, true>(p, i, first, edges, beyond);
    else
      prepare_atom<C, false>(p, i, first, edges, beyond);
    edges.lone_end[i - begin] = group_atom(p, first, edges);
    if (counts) counts += p.n_types;
  }
  edges.start[end - begin] = edges.n;
  edges.run_start[end - begin] = edges.n_runs;
  return {};
}

}  // namespace
}  // namespace dpl
