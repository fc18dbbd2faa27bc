// Compiled once for each instruction set with DPL_ISA_BYTES (vector width) and DPL_ISA_KERNELS
// (name of the function that returns the table of kernels).
//
// Every feature loop has a compile-time trip count; accumulators stay in registers. A block of
// features is outermost where the result is per atom (spread), runs are outermost where it is per
// run (collect). What is done for each edge works on its four columns as one short vector.
#include "moments_block.h"

#include "edges_block.h"
#include "simd.h"

namespace dpl {
namespace {

// The columns of one edge or of one power of a run.
template <class real>
struct Columns {
  static_assert((kColumns & (kColumns - 1)) == 0, "a vector's length is a power of two");
  typedef real vec __attribute__((vector_size(kColumns * sizeof(real))));
  typedef real unaligned
      __attribute__((vector_size(kColumns * sizeof(real)), may_alias, aligned(alignof(real))));

  DPL_INLINE vec load(const real* p) { return *reinterpret_cast<const unaligned*>(p); }
  DPL_INLINE void store(real* p, vec v) { *reinterpret_cast<unaligned*>(p) = v; }
  DPL_INLINE vec gather(real* const (&column)[kColumns], int32_t e) {
    vec v;
    for (int c = 0; c < kColumns; ++c) v[c] = column[c][e];
    return v;
  }
};

// S_kc = Σ_e R_ec t^k, or its change along the tangent, Σ_e (dR_ec t^k + R_ec k t^(k-1) dt).
template <bool with_tangent, class real>
void sum(const Problem<real>& p, Edges<real>& edges) {
  using C = Columns<real>;
  using vec = typename C::vec;
  for (int32_t r = 0; r < edges.n_runs; ++r) {
    vec total[kPowers] = {};
    for (int32_t place = edges.run_first[r]; place < edges.run_first[r + 1]; ++place) {
      const int32_t e = edges.order[place];
      const real t = edges.t[e];
      vec power = C::gather(with_tangent ? edges.change : edges.row, e);
#pragma GCC unroll 6
      for (int k = 0; k < kPowers; ++k, power *= t) total[k] += power;
      if (with_tangent) {
        vec slope = C::gather(edges.row, e) * edges.shift[e];
#pragma GCC unroll 6
        for (int k = 1; k < kPowers; ++k, slope *= t) total[k] += real(k) * slope;
      }
    }
    const int powers = p.powers_of(edges.run_bin[r]);
    for (int k = 0; k < kPowers; ++k)
      C::store(edges.sums + (int64_t(r) * kPowers + k) * kColumns, k < powers ? total[k] : vec{});
  }
}

// T_cm = Σ_runs Σ_k S_kc C_km.
template <class real>
void spread(const Problem<real>& p, int64_t begin, int64_t end, const Edges<real>& edges,
            real* moments) {
  using S = Simd<real>;
  using vec = typename S::vec;
  constexpr int sets = S::vectors > 1 ? 1 : 2;  // so many accumulators that none is waited for
  const int64_t n_m = p.n_features;
  for (int64_t m = 0; m < n_m; m += S::block) {
    const real* coefficients = p.coefficients + m;
    for (int64_t i = begin; i < end; ++i) {
      vec total[sets][kColumns][S::vectors] = {};
      for (int32_t r = edges.run_start[i - begin]; r < edges.run_start[i - begin + 1]; ++r) {
        const real* table = coefficients + int64_t(edges.run_bin[r]) * kPowers * n_m;
        const real* sums = edges.sums + int64_t(r) * kRunSize;
#pragma GCC unroll 6
        for (int k = 0; k < kPowers; ++k)
#pragma GCC unroll 2
          for (int v = 0; v < S::vectors; ++v) {
            const vec power = S::load(table + k * n_m + v * S::lanes);
#pragma GCC unroll 4
            for (int c = 0; c < kColumns; ++c)
              total[k % sets][c][v] += power * sums[k * kColumns + c];
          }
      }
      for (int c = 0; c < kColumns; ++c)
        for (int v = 0; v < S::vectors; ++v)
          S::store(moments + ((i - begin) * kColumns + c) * n_m + m + v * S::lanes,
                   sets > 1 ? total[0][c][v] + total[sets - 1][c][v] : total[0][c][v]);
    }
  }
}

// edges.products = Σ_m C_km g_cm for each run.
template <class real>
void collect(const Problem<real>& p, int64_t begin, int64_t end, Edges<real>& edges,
             const real* grad_moments) {
  using S = Simd<real>;
  using vec = typename S::vec;
  constexpr int powers = DPL_ISA_BYTES == 64 ? kPowers : kPowers / 2;  // at a time: registers
  const int64_t n_m = p.n_features;
  for (int64_t i = begin; i < end; ++i) {
    const real* grad = grad_moments + (i - begin) * kColumns * n_m;
    for (int32_t r = edges.run_start[i - begin]; r < edges.run_start[i - begin + 1]; ++r)
      for (int first = 0; first < kPowers; first += powers) {
        const real* table = p.coefficients + (int64_t(edges.run_bin[r]) * kPowers + first) * n_m;
        vec total[powers][kColumns] = {};
        for (int64_t m = 0; m < n_m; m += S::lanes) {
          vec power[powers];
#pragma GCC unroll 6
          for (int k = 0; k < powers; ++k) power[k] = S::load(table + k * n_m + m);
#pragma GCC unroll 4
          for (int c = 0; c < kColumns; ++c) {
            const vec g = S::load(grad + c * n_m + m);
#pragma GCC unroll 6
            for (int k = 0; k < powers; ++k) total[k][c] += power[k] * g;
          }
        }
        real* out = edges.products + int64_t(r) * kRunSize + first * kColumns;
        for (int k = 0; k < powers; ++k)
          Columns<real>::store(out + k * kColumns,
                               sums_of(total[k][0], total[k][1], total[k][2], total[k][3]));
      }
  }
}

template <class vec>
DPL_INLINE auto dot(vec a, vec b) {
  const vec product = a * b;
  auto total = product[0];
  for (int c = 1; c < kColumns; ++c) total += product[c];
  return total;
}

// Contractions of each edge with the gradient of the moments, into edges.contracted; derivatives
// of G are in units of the table's spacing:
// 0 .. 3: Σ_m g_cm G_m, 4: Σ_cm R_c g_cm G'_m;
// at second order also 5 .. 8: Σ_m g_cm G'_m, 9: Σ_cm R_c g_cm G''_m.
template <int Order, class real>
void contract(const Problem<real>& p, Edges<real>& edges) {
  using C = Columns<real>;
  using vec = typename C::vec;
  for (int32_t r = 0; r < edges.n_runs; ++r) {
    vec power[kPowers] = {};
    for (int k = 0; k < p.powers_of(edges.run_bin[r]); ++k)
      power[k] = C::load(edges.products + (int64_t(r) * kPowers + k) * kColumns);
    for (int32_t place = edges.run_first[r]; place < edges.run_first[r + 1]; ++place) {
      const int32_t e = edges.order[place];
      const vec row = C::gather(edges.row, e);
      vec g, dg, d2g;
      horner<Order>(power, edges.t[e], g, dg, d2g);
      for (int c = 0; c < kColumns; ++c) edges.contracted[c][e] = g[c];
      edges.contracted[4][e] = dot(row, dg);
      if (Order > 1) {
        for (int c = 0; c < kColumns; ++c) edges.contracted[5 + c][e] = dg[c];
        edges.contracted[9][e] = dot(row, d2g);
      }
    }
  }
}

// From the contractions to edges.gradient, for one atom; `lanes` edges at a time as above.
template <int Order, class real>
void chain_atom(const Problem<real>& p, int64_t i, int32_t begin, int32_t end, Edges<real>& edges) {
  using S = Simd<real>;
  using vec = typename S::vec;
  using Row = EnvironmentRow<kColumns>;
  const real* scale = p.inverse_width + p.types[i] * kColumns;
  // of the place with respect to the row's first entry, and to r
  const real by_row = p.table_of_distance ? real(0) : p.inverse_spacing * scale[0];
  const real by_r = p.table_of_distance ? -p.inverse_spacing : real(0);
  for (int32_t e = begin; e < end; e += S::lanes) {
    const auto geometry = Geometry<real>::at(p, edges, e);
    const auto contracted = [&](int k) { return S::load(edges.contracted[k] + e); };
    vec g[kColumns], out[3];
    for (int c = 0; c < kColumns; ++c) g[c] = contracted(c) * scale[c];
    g[0] += contracted(4) * by_row;
    const vec outward = contracted(4) * by_r;
    if (Order == 1) {
      Row::gradient(geometry.radials, geometry.x, geometry.inverse_r, g, outward, out);
    } else {
      vec change[kColumns], g2[kColumns], d[3];
      for (int c = 0; c < kColumns; ++c) change[c] = S::load(edges.change[c] + e);
      for (int k = 0; k < 3; ++k) d[k] = S::load(edges.d[k] + e);
      const vec shift = S::load(edges.shift + e);
      vec along = contracted(9) * shift;
      for (int c = 0; c < kColumns; ++c) {
        along += contracted(5 + c) * change[c];
        g2[c] = contracted(5 + c) * shift * scale[c];
      }
      g2[0] += along * by_row;
      Row::gradient(geometry.radials, geometry.x, geometry.inverse_r, g2, along * by_r, out);
      Row::add_tangent_gradient(geometry.radials, geometry.x, geometry.inverse_r, d, g, outward,
                                out);
    }
    for (int k = 0; k < 3; ++k) S::store(edges.gradient[k] + e, out[k]);
  }
}

// Order 1: edges.gradient of Φ; order 2: of Ψ, the change of Φ along the tangent.
template <int Order, class real>
void backward(const Problem<real>& p, int64_t begin, int64_t end, Edges<real>& edges,
              const real* grad_moments) {
  collect(p, begin, end, edges, grad_moments);
  contract<Order>(p, edges);
  for (int64_t i = begin; i < end; ++i)
    chain_atom<Order>(p, i, edges.start[i - begin], edges.start[i - begin + 1], edges);
}

// Σ_c S_kc g_cm over the entries of one bin.
template <class real>
void accumulate(int32_t n_features, const RunEntry<real>* entries, int32_t n,
                const real* grad_moments, double* partial) {
  using S = Simd<real>;
  using vec = typename S::vec;
  const int64_t n_m = n_features;
  for (int64_t m = 0; m < n_m; m += S::block) {
    vec total[kPowers][S::vectors] = {};
    for (int32_t e = 0; e < n; ++e) {
      const real* grad = grad_moments + int64_t(entries[e].atom) * kColumns * n_m + m;
      const real* sums = entries[e].sums;
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c)
#pragma GCC unroll 2
        for (int v = 0; v < S::vectors; ++v) {
          const vec g = S::load(grad + c * n_m + v * S::lanes);
#pragma GCC unroll 6
          for (int k = 0; k < kPowers; ++k) total[k][v] += g * sums[k * kColumns + c];
        }
    }
    for (int k = 0; k < kPowers; ++k)
      for (int v = 0; v < S::vectors; ++v)
        for (int l = 0; l < S::lanes; ++l)
          partial[k * n_m + m + v * S::lanes + l] += double(total[k][v][l]);
  }
}

}  // namespace

template <class real>
BlockKernels<real> DPL_ISA_KERNELS() {
  return {gather<real>,      sum<false, real>,  sum<true, real>, spread<real>,
          backward<1, real>, backward<2, real>, accumulate<real>};
}
template BlockKernels<float> DPL_ISA_KERNELS<float>();
template BlockKernels<double> DPL_ISA_KERNELS<double>();

}  // namespace dpl
