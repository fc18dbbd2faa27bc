// Compiled once for each instruction set with DPL_ISA_BYTES (vector width) and DPL_ISA_KERNELS
// (name of the function that returns the table of kernels).
//
// Every feature loop has a compile-time trip count; accumulators stay in registers. A block of
// features is outermost where the result is per atom (spread), runs are outermost where it is per
// run (collect). What is done for each edge works on its C columns as short vectors of four.
#include "moments_block.h"

#include "columns_block.h"
#include "edges_block.h"
#include "simd.h"

namespace dpl {
namespace {

// S_kc = Σ_e R_ec t^k, or its change along the tangent, Σ_e (dR_ec t^k + R_ec k t^(k-1) dt).
template <int C, bool with_tangent, int First, class real>
void sum_columns(const Problem<real>& p, Edges<real>& edges) {
  constexpr int width = columns_in_fours(C);
  using Row = Columns<in_hand(C, First), real>;
  for (int32_t r = 0; r < edges.n_runs; ++r) {
    Row total[kPowers];
    for (int32_t place = edges.run_first[r]; place < edges.run_first[r + 1]; ++place) {
      const int32_t e = edges.order[place];
      const real t = edges.t[e];
      Row power = Row::gather((with_tangent ? edges.change : edges.row) + First, e);
#pragma GCC unroll 6
      for (int k = 0; k < kPowers; ++k, power *= t) total[k] += power;
      if (with_tangent) {
        Row slope = Row::gather(edges.row + First, e) * edges.shift[e];
#pragma GCC unroll 6
        for (int k = 1; k < kPowers; ++k, slope *= t) total[k] += slope * real(k);
      }
    }
    const int powers = p.powers_of(edges.run_bin[r]);
    real* sums = edges.sums + int64_t(r) * run_size(C) + First;
    for (int k = 0; k < kPowers; ++k) (k < powers ? total[k] : Row{}).store(sums + k * width);
  }
  constexpr int next = First + in_hand(C, First);
  if constexpr (next < C) sum_columns<C, with_tangent, next>(p, edges);
}

template <int C, bool with_tangent, class real>
void sum(const Problem<real>& p, Edges<real>& edges) {
  sum_columns<C, with_tangent, 0>(p, edges);
}

// A lone edge and its interval of the table.
template <class real>
struct Lone {
  int32_t edge;
  real t;
  const real* table;  // (kPowers, n_features)

  Lone(const Problem<real>& p, const Edges<real>& edges, int32_t run)
      : edge(edges.order[edges.run_first[run]]),
        t(edges.t[edge]),
        table(p.coefficients + int64_t(edges.run_bin[run]) * kPowers * p.n_features) {}

  // The features from m on, and their derivatives.
  template <int Order, class vec>
  DPL_MEMBER void features(int64_t n_m, int64_t m, vec& g, vec& dg, vec& d2g) const {
    vec power[kPowers];
#pragma GCC unroll 6
    for (int k = 0; k < kPowers; ++k) power[k] = Simd<real>::load(table + k * n_m + m);
    horner<Order>(power, t, g, dg, d2g);
  }
};

// The columns [First, First + N) of T_cm = Σ_runs Σ_k S_kc C_km, or of their change.
template <int C, int First, int N, bool with_tangent, class real>
void spread_columns(const Problem<real>& p, int64_t begin, int64_t end, const Edges<real>& edges,
                    real* moments) {
  using S = Simd<real>;
  using vec = typename S::vec;
  constexpr int width = columns_in_fours(C);
  constexpr int sets = S::vectors * N >= 8 ? 1 : 2;  // enough accumulators that none is waited for
  const int64_t n_m = p.n_features;
  for (int64_t m = 0; m < n_m; m += S::block) {
    const real* coefficients = p.coefficients + m;
    for (int64_t i = begin; i < end; ++i) {
      const int32_t lone_end = edges.lone_end[i - begin];
      vec total[sets][N][S::vectors] = {};
      for (int32_t r = edges.run_start[i - begin]; r < lone_end; ++r) {
        const Lone<real> lone(p, edges, r);
        // of one edge S_0c = R_c and S_1c = t R_c; changed, dR_c and t dR_c + R_c dt
        const real* sums = edges.sums + int64_t(r) * run_size(C) + First;
#pragma GCC unroll 2
        for (int v = 0; v < S::vectors; ++v) {
          vec g, dg, unused;
          lone.template features<with_tangent>(n_m, m + v * S::lanes, g, dg, unused);
#pragma GCC unroll 9
          for (int c = 0; c < N; ++c) {
            total[0][c][v] += g * sums[c];
            if (with_tangent) total[0][c][v] += dg * (sums[width + c] - lone.t * sums[c]);
          }
        }
      }
      for (int32_t r = lone_end; r < edges.run_start[i - begin + 1]; ++r) {
        const real* table = coefficients + int64_t(edges.run_bin[r]) * kPowers * n_m;
        const real* sums = edges.sums + int64_t(r) * run_size(C) + First;
#pragma GCC unroll 6
        for (int k = 0; k < kPowers; ++k)
#pragma GCC unroll 2
          for (int v = 0; v < S::vectors; ++v) {
            const vec power = S::load(table + k * n_m + v * S::lanes);
#pragma GCC unroll 9
            for (int c = 0; c < N; ++c) total[k % sets][c][v] += power * sums[k * width + c];
          }
      }
      for (int c = 0; c < N; ++c)
        for (int v = 0; v < S::vectors; ++v)
          S::store(moments + ((i - begin) * C + First + c) * n_m + m + v * S::lanes,
                   sets > 1 ? total[0][c][v] + total[sets - 1][c][v] : total[0][c][v]);
    }
  }
}

template <int C, bool with_tangent, int First, class real>
void spread_from(const Problem<real>& p, int64_t begin, int64_t end, const Edges<real>& edges,
                 real* moments) {
  constexpr int n = degrees_in_hand(C, First, Simd<real>::vectors, 2);
  spread_columns<C, First, n, with_tangent>(p, begin, end, edges, moments);
  if constexpr (First + n < C)
    spread_from<C, with_tangent, First + n>(p, begin, end, edges, moments);
}

template <int C, bool with_tangent, class real>
void spread(const Problem<real>& p, int64_t begin, int64_t end, const Edges<real>& edges,
            real* moments) {
  spread_from<C, with_tangent, 0>(p, begin, end, edges, moments);
}

// The columns [First, First + N) of edges.products = Σ_m C_km g_cm for each run.
template <int C, int First, int N, class real>
void collect_columns(const Problem<real>& p, int64_t begin, int64_t end, Edges<real>& edges,
                     const real* grad_moments) {
  using S = Simd<real>;
  using vec = typename S::vec;
  constexpr int width = columns_in_fours(C);
  constexpr auto fits = [](int powers) { return powers * (N + 1) + 1 <= kRegisters; };
  constexpr int powers = fits(6) ? 6 : fits(3) ? 3 : 2;  // at a time
  const int64_t n_m = p.n_features;
  for (int64_t i = begin; i < end; ++i) {
    const real* grad = grad_moments + ((i - begin) * C + First) * n_m;
    for (int32_t r = edges.lone_end[i - begin]; r < edges.run_start[i - begin + 1]; ++r)
      for (int first = 0; first < kPowers; first += powers) {
        const real* table = p.coefficients + (int64_t(edges.run_bin[r]) * kPowers + first) * n_m;
        vec total[powers][N] = {};
        for (int64_t m = 0; m < n_m; m += S::lanes) {
          vec power[powers];
#pragma GCC unroll 6
          for (int k = 0; k < powers; ++k) power[k] = S::load(table + k * n_m + m);
#pragma GCC unroll 9
          for (int c = 0; c < N; ++c) {
            const vec g = S::load(grad + c * n_m + m);
#pragma GCC unroll 6
            for (int k = 0; k < powers; ++k) total[k][c] += power[k] * g;
          }
        }
        real* out = edges.products + int64_t(r) * run_size(C) + first * width + First;
        for (int k = 0; k < powers; ++k, out += width) {
          const vec(&of)[N] = total[k];
          Columns<N, real> sums;
          constexpr int whole = N / 4 * 4;
          for (int c = 0; c < whole; c += 4)
            sums.part[c / 4] = sums_of(of[c], of[c + 1], of[c + 2], of[c + 3]);
          for (int c = whole; c < N; ++c) sums.part[c / 4][c % 4] = real(dpl::sum(of[c]));
          if constexpr (First + columns_in_fours(N) <= width)
            sums.store(out);
          else  // the next power begins there
            for (int c = 0; c < N; ++c) out[c] = sums[c];
        }
      }
  }
}

// Degree by degree.
template <int C, int First = 0, class real>
void collect(const Problem<real>& p, int64_t begin, int64_t end, Edges<real>& edges,
             const real* grad_moments) {
  constexpr int next = end_of_degree(First);
  collect_columns<C, First, next - First>(p, begin, end, edges, grad_moments);
  if constexpr (next < C) collect<C, next>(p, begin, end, edges, grad_moments);
}

// Contractions of each edge with the gradient of the moments, into edges.contracted; derivatives
// of G are in units of the table's spacing:
// 0 … C − 1: Σ_m g_cm G_m, C: Σ_cm R_c g_cm G'_m;
// at second order also C + 1 … 2 C: Σ_m g_cm G'_m, 2 C + 1: Σ_cm R_c g_cm G''_m.
template <int C, int Order, int First = 0, class real>
void contract(const Problem<real>& p, int32_t first_run, int32_t end_run, Edges<real>& edges) {
  constexpr int n = in_hand(C, First);
  using Row = Columns<n, real>;
  for (int32_t r = first_run; r < end_run; ++r) {
    Row power[kPowers];
    for (int k = 0; k < p.powers_of(edges.run_bin[r]); ++k)
      power[k] =
          Row::load(edges.products + int64_t(r) * run_size(C) + k * columns_in_fours(C) + First);
    for (int32_t place = edges.run_first[r]; place < edges.run_first[r + 1]; ++place) {
      const int32_t e = edges.order[place];
      const Row row = Row::gather(edges.row + First, e);
      Row g, dg, d2g;
      horner<Order>(power, edges.t[e], g, dg, d2g);
      for (int c = 0; c < n; ++c) edges.contracted[First + c][e] = g[c];
      put<First == 0>(edges.contracted[C][e], dot(row, dg));
      if (Order > 1) {
        for (int c = 0; c < n; ++c) edges.contracted[C + 1 + First + c][e] = dg[c];
        put<First == 0>(edges.contracted[2 * C + 1][e], dot(row, d2g));
      }
    }
  }
  if constexpr (First + n < C) contract<C, Order, First + n>(p, first_run, end_run, edges);
}

// The same for the lone edges of an atom, whose gradient of the moments is `grad`.
template <int C, int Order, int First = 0, class real>
void contract_lone(const Problem<real>& p, int32_t first_run, int32_t end_run, Edges<real>& edges,
                   const real* grad) {
  using S = Simd<real>;
  using vec = typename S::vec;
  constexpr int N = C <= 9 ? C : degrees_in_hand(C, First, Order, 5), n = Order * (N + 1);
  const int64_t n_m = p.n_features;
  for (int32_t r = first_run; r < end_run; ++r) {
    const Lone<real> lone(p, edges, r);
    real row[N];
    for (int c = 0; c < N; ++c) row[c] = edges.row[First + c][lone.edge];
    vec total[n] = {};
    for (int64_t m = 0; m < n_m; m += S::lanes) {
      vec g, dg, d2g, along = {};
      lone.template features<Order>(n_m, m, g, dg, d2g);
#pragma GCC unroll 9
      for (int c = 0; c < N; ++c) {
        const vec of_moment = S::load(grad + (First + c) * n_m + m);
        total[c] += of_moment * g;
        along += of_moment * row[c];
        if (Order > 1) total[N + 1 + c] += of_moment * dg;
      }
      total[N] += along * dg;
      if (Order > 1) total[n - 1] += along * d2g;
    }
    const auto note = [&](int k, real x) {
      const int order = k / (N + 1), c = k % (N + 1);
      if (c < N)
        edges.contracted[order * (C + 1) + First + c][lone.edge] = x;
      else
        put<First == 0>(edges.contracted[order * (C + 1) + C][lone.edge], x);
    };
    int k = 0;
    for (; k + 4 <= n; k += 4) {
      const auto four = sums_of(total[k], total[k + 1], total[k + 2], total[k + 3]);
      for (int l = 0; l < 4; ++l) note(k + l, four[l]);
    }
    for (; k < n; ++k) note(k, real(dpl::sum(total[k])));
  }
  if constexpr (First + N < C)
    contract_lone<C, Order, First + N>(p, first_run, end_run, edges, grad);
}

// From the contractions to edges.gradient, for one atom; `lanes` edges at a time as above.
template <int C, int Order, class real>
void chain_atom(const Problem<real>& p, int64_t i, int32_t begin, int32_t end, Edges<real>& edges) {
  using S = Simd<real>;
  using vec = typename S::vec;
  using Row = EnvironmentRow<C>;
  const real* scale = p.inverse_width + p.types[i] * C;
  // of the place with respect to the row's first entry, and to r
  const real by_row = p.table_of_distance ? real(0) : p.inverse_spacing * scale[0];
  const real by_r = p.table_of_distance ? -p.inverse_spacing : real(0);
  for (int32_t e = begin; e < end; e += S::lanes) {
    const auto geometry = Geometry<real>::at(p, edges, e);
    const auto contracted = [&](int k) { return S::load(edges.contracted[k] + e); };
    vec g[C], out[3];
    for (int c = 0; c < C; ++c) g[c] = contracted(c) * scale[c];
    g[0] += contracted(C) * by_row;
    const vec outward = contracted(C) * by_r;
    if (Order == 1) {
      Row::gradient(geometry.radials, geometry.x, geometry.inverse_r, g, outward, out);
    } else {
      vec change[C], g2[C], d[3];
      for (int c = 0; c < C; ++c) change[c] = S::load(edges.change[c] + e);
      for (int k = 0; k < 3; ++k) d[k] = S::load(edges.d[k] + e);
      const vec shift = S::load(edges.shift + e);
      vec along = contracted(2 * C + 1) * shift;
      for (int c = 0; c < C; ++c) {
        const vec slope = contracted(C + 1 + c);
        along += slope * change[c];
        g2[c] = slope * shift * scale[c];
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
template <int C, int Order, class real>
void backward(const Problem<real>& p, int64_t begin, int64_t end, Edges<real>& edges,
              const real* grad_moments) {
  collect<C>(p, begin, end, edges, grad_moments);
  for (int64_t i = begin; i < end; ++i) {
    const int32_t a = int32_t(i - begin), first = edges.run_start[a], lone_end = edges.lone_end[a];
    contract_lone<C, Order>(p, first, lone_end, edges, grad_moments + a * p.row_size());
    contract<C, Order>(p, lone_end, edges.run_start[a + 1], edges);
    chain_atom<C, Order>(p, i, edges.start[a], edges.start[a + 1], edges);
  }
}

// Σ_c S_kc g_cm over the entries of one bin.
template <int C, class real>
void accumulate(int32_t n_features, const RunEntry<real>* entries, int32_t n,
                const real* grad_moments, double* partial) {
  using S = Simd<real>;
  using vec = typename S::vec;
  const int64_t n_m = n_features;
  for (int64_t m = 0; m < n_m; m += S::block) {
    vec total[kPowers][S::vectors] = {};
    for (int32_t e = 0; e < n; ++e) {
      const real* grad = grad_moments + int64_t(entries[e].atom) * C * n_m + m;
      const real* sums = entries[e].sums;
#pragma GCC unroll 9
      for (int c = 0; c < C; ++c)
#pragma GCC unroll 2
        for (int v = 0; v < S::vectors; ++v) {
          const vec g = S::load(grad + c * n_m + v * S::lanes);
#pragma GCC unroll 6
          for (int k = 0; k < kPowers; ++k) total[k][v] += g * sums[k * columns_in_fours(C) + c];
        }
    }
    for (int k = 0; k < kPowers; ++k)
      for (int v = 0; v < S::vectors; ++v)
        for (int l = 0; l < S::lanes; ++l)
          partial[k * n_m + m + v * S::lanes + l] += double(total[k][v][l]);
  }
}

template <int C, class real>
BlockKernels<real> kernels_of() {
  return {gather<C, real>,       sum<C, false, real>,  sum<C, true, real>,   spread<C, false, real>,
          spread<C, true, real>, backward<C, 1, real>, backward<C, 2, real>, accumulate<C, real>};
}

}  // namespace

template <class real>
BlockKernels<real> DPL_ISA_KERNELS(int n_columns) {
  switch (degree_of(n_columns)) {
    case 1:
      return kernels_of<DPL_COLUMNS_OF_DEGREE(1), real>();
    case 2:
      return kernels_of<DPL_COLUMNS_OF_DEGREE(2), real>();
    case 3:
      return kernels_of<DPL_COLUMNS_OF_DEGREE(3), real>();
    default:
      return kernels_of<DPL_COLUMNS_OF_DEGREE(4), real>();
  }
}
template BlockKernels<float> DPL_ISA_KERNELS<float>(int);
template BlockKernels<double> DPL_ISA_KERNELS<double>(int);

}  // namespace dpl
