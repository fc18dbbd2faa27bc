// Compiled once for each instruction set with DPL_ISA_BYTES (vector width) and DPL_ISA_KERNELS
// (name of the function that returns the table of kernels).
//
// Every feature loop has a compile-time trip count; accumulators stay in registers. A block of
// features is outermost where the result is per atom (forward), edges are outermost where it is
// per edge (backward).
#include "moments_block.h"

#include "simd.h"

namespace dpl {
namespace {

constexpr double kCoincident = 1e-6 * 1e-6;  // Å²

// Appends the edges of atom i that lie within the cutoff, with table number in edges.interval.
template <class real>
DPL_INLINE Fault gather_atom(const Problem<real>& p, int64_t i, Edges<real>& edges,
                             int32_t* counts) {
  Fault fault;
  const double *r = p.positions, *v = p.tangent;
  const double xi = r[3 * i], yi = r[3 * i + 1], zi = r[3 * i + 2];
  const int32_t tables = p.type_one_side ? 0 : p.types[i] * p.n_types;
  const int32_t *indices = p.indices, *types = p.types;
  int32_t *neighbor = edges.neighbor, *interval = edges.interval;
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
    interval[n] = tables + types[j];
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
    for (int32_t e = edges.n; e < n; ++e) ++counts[edges.interval[e] - tables];
  }
  // what prepare_atom reads after the last edge
  for (int32_t e = n; e < n + Simd<real>::lanes; ++e) {
    interval[e] = 0;
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
  vec x[3], inverse_r;
  Radial<vec> radials;

  DPL_INLINE Geometry at(const Problem<real>& p, const Edges<real>& edges, int32_t e) {
    Geometry g;
    for (int k = 0; k < 3; ++k) g.x[k] = Simd<real>::load(edges.x[k] + e);
    const vec r = square_root(g.x[0] * g.x[0] + g.x[1] * g.x[1] + g.x[2] * g.x[2]);
    g.inverse_r = 1 / r;
    g.radials = radial(p.switching, r, g.inverse_r);
    return g;
  }
};

// Rows, their changes and places in the table of an atom's edges, `lanes` of them at a time: what
// lies after the last edge is scratch that the next atom overwrites.
template <bool with_tangent, class real>
void prepare_atom(const Problem<real>& p, int64_t i, int32_t begin, Edges<real>& edges,
                  int64_t* beyond) {
  using S = Simd<real>;
  using vec = typename S::vec;
  using ivec = typename S::ivec;
  using Row = EnvironmentRow<kColumns>;
  const real* mean = p.mean + p.types[i] * kColumns;
  const real* scale = p.inverse_width + p.types[i] * kColumns;
  const int32_t last = p.n_intervals - 1;
  for (int32_t e = begin; e < edges.n; e += S::lanes) {
    const auto g = Geometry<real>::at(p, edges, e);
    vec row[kColumns];
    Row::columns(g.radials, g.x, row);
    for (int c = 0; c < kColumns; ++c) {
      row[c] = (row[c] - mean[c]) * scale[c];
      S::store(edges.row[c] + e, row[c]);
    }
    const vec place = (row[0] - p.table_start) * p.inverse_spacing;
    const ivec q = __builtin_convertvector(clamped_place(place, real(last)), ivec);
    S::store(edges.t + e, place - __builtin_convertvector(q, vec));
    S::store(edges.interval + e, S::load(edges.interval + e) * p.n_intervals + q);
    for (int l = 0; l < S::lanes && e + l < edges.n; ++l) *beyond += q[l] == last;
    if (with_tangent) {
      vec d[3], change[kColumns];
      for (int k = 0; k < 3; ++k) d[k] = S::load(edges.d[k] + e);
      Row::tangent(g.radials, g.x, g.inverse_r, d, change);
      for (int c = 0; c < kColumns; ++c) {
        change[c] *= scale[c];
        S::store(edges.change[c] + e, change[c]);
        S::store(edges.moved[c] + e, row[c] * change[0] * p.inverse_spacing);
      }
    }
  }
}

template <class real>
Fault gather(const Problem<real>& p, int64_t begin, int64_t end, Edges<real>& edges,
             int32_t* counts, int64_t* beyond) {
  edges.n = 0;
  for (int64_t i = begin; i < end; ++i) {
    const int32_t first = edges.start[i - begin] = edges.n;
    const Fault fault = gather_atom(p, i, edges, counts);
    if (fault.status != DPL_OK) return fault;
    if (p.tangent)
      prepare_atom<true>(p, i, first, edges, beyond);
    else
      prepare_atom<false>(p, i, first, edges, beyond);
    if (counts) counts += p.n_types;
  }
  edges.start[end - begin] = edges.n;
  return {};
}

// Coefficients of one vector of features of an interval. `row` is n_features. Byte strides of 1, 3
// and 5 rows are all that the six addresses need on x86.
template <class real>
struct Strides {
  int64_t one, three, five;
  explicit Strides(int64_t n_features)
      : one(n_features * int64_t(sizeof(real))), three(3 * one), five(5 * one) {}
};

template <class real>
DPL_INLINE void load_powers(const char* p, const Strides<real>& stride,
                            typename Simd<real>::vec (&c)[kPowers]) {
  const auto load = [](const char* q) {
    return Simd<real>::load(reinterpret_cast<const real*>(q));
  };
  c[0] = load(p);
  c[1] = load(p + stride.one);
  c[2] = load(p + 2 * stride.one);
  c[3] = load(p + stride.three);
  c[4] = load(p + 4 * stride.one);
  c[5] = load(p + stride.five);
}

// with_tangent false: T_cm = Σ_e R_ec G_em; true: Σ_e (dR_ec G_em + R_ec dplace_e G'_em).
template <bool with_tangent, class real>
void forward(const Problem<real>& p, int64_t begin, int64_t end, const Edges<real>& edges,
             real* moments) {
  using S = Simd<real>;
  using vec = typename S::vec;
  const int32_t n_m = p.n_features;
  const Strides<real> stride(n_m);
  const int32_t* interval = edges.interval;
  const real *place = edges.t, *weight[kColumns], *moved[kColumns];
  for (int c = 0; c < kColumns; ++c) {
    weight[c] = with_tangent ? edges.change[c] : edges.row[c];
    moved[c] = edges.moved[c];
  }
  for (int32_t m = 0; m < n_m; m += S::block) {
    const char* coefficients = reinterpret_cast<const char*>(p.coefficients + m);
    for (int64_t i = begin; i < end; ++i) {
      vec sum_cv[kColumns][S::vectors] = {};
      for (int32_t e = edges.start[i - begin]; e < edges.start[i - begin + 1]; ++e) {
        const char* table = coefficients + interval[e] * kPowers * stride.one;
#pragma GCC unroll 2
        for (int v = 0; v < S::vectors; ++v) {
          vec k[kPowers], g, dg, unused;
          load_powers(table + v * sizeof(vec), stride, k);
          horner<with_tangent ? 1 : 0>(k, place[e], g, dg, unused);
#pragma GCC unroll 4
          for (int c = 0; c < kColumns; ++c) {
            sum_cv[c][v] += weight[c][e] * g;
            if (with_tangent) sum_cv[c][v] += moved[c][e] * dg;
          }
        }
      }
      for (int c = 0; c < kColumns; ++c)
        for (int v = 0; v < S::vectors; ++v)
          S::store(moments + ((i - begin) * kColumns + c) * n_m + m + v * S::lanes, sum_cv[c][v]);
    }
  }
}

// Contractions of each edge with the gradient of the moments, into edges.contracted; derivatives
// of G are in units of the table's spacing:
// 0 .. 3: Σ_m g_cm G_m, 4: Σ_cm R_c g_cm G'_m;
// at second order also 5 .. 8: Σ_m g_cm G'_m, 9: Σ_cm R_c g_cm G''_m.
template <int Order, class real>
void contract(const Problem<real>& p, int64_t begin, int64_t end, Edges<real>& edges,
              const real* grad_moments) {
  using S = Simd<real>;
  using vec = typename S::vec;
  // two edges share the gradient's loads where there are registers enough
  constexpr int pair = DPL_ISA_BYTES == 64 && Order == 1 ? 2 : 1;
  const Strides<real> stride(p.n_features);
  const char* coefficients = reinterpret_cast<const char*>(p.coefficients);
  for (int64_t i = begin; i < end; ++i) {
    const char* grad_i =
        reinterpret_cast<const char*>(grad_moments) + (i - begin) * kColumns * stride.one;
    const int32_t last = edges.start[i - begin + 1] - 1;
    for (int32_t first = edges.start[i - begin]; first <= last; first += pair) {
      vec a[pair][kColumns] = {}, b[pair][kColumns] = {}, ab[pair] = {}, abb[pair] = {};
      int32_t e[pair];
      const char* table[pair];
      for (int u = 0; u < pair; ++u) {
        e[u] = first + u <= last ? first + u : last;
        table[u] = coefficients + edges.interval[e[u]] * kPowers * stride.one;
      }
      for (int64_t m = 0; m < stride.one; m += sizeof(vec)) {
        vec grad[kColumns];
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c)
          grad[c] = S::load(
              reinterpret_cast<const real*>(grad_i + m + (c == 3 ? stride.three : c * stride.one)));
#pragma GCC unroll 2
        for (int u = 0; u < pair; ++u) {
          vec k[kPowers], g, dg, d2g, total = {};
          load_powers(table[u] + m, stride, k);
          horner<Order>(k, edges.t[e[u]], g, dg, d2g);
#pragma GCC unroll 4
          for (int c = 0; c < kColumns; ++c) {
            a[u][c] += grad[c] * g;
            if (Order > 1) b[u][c] += grad[c] * dg;
            total += edges.row[c][e[u]] * grad[c];
          }
          ab[u] += total * dg;
          if (Order > 1) abb[u] += total * d2g;
        }
      }
      for (int u = 0; u < pair; ++u) {
        for (int c = 0; c < kColumns; ++c) edges.contracted[c][e[u]] = sum(a[u][c]);
        edges.contracted[4][e[u]] = sum(ab[u]);
        if (Order > 1) {
          for (int c = 0; c < kColumns; ++c) edges.contracted[5 + c][e[u]] = sum(b[u][c]);
          edges.contracted[9][e[u]] = sum(abb[u]);
        }
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
  const real h = p.inverse_spacing;
  for (int32_t e = begin; e < end; e += S::lanes) {
    const auto geometry = Geometry<real>::at(p, edges, e);
    const auto contracted = [&](int k) { return S::load(edges.contracted[k] + e); };
    vec g[kColumns], out[3];
    for (int c = 0; c < kColumns; ++c) g[c] = contracted(c) * scale[c];
    g[0] += contracted(4) * (h * scale[0]);
    if (Order == 1) {
      Row::gradient(geometry.radials, geometry.x, geometry.inverse_r, g, out);
    } else {
      vec change[kColumns], g2[kColumns], d[3];
      for (int c = 0; c < kColumns; ++c) change[c] = S::load(edges.change[c] + e);
      for (int k = 0; k < 3; ++k) d[k] = S::load(edges.d[k] + e);
      vec along = contracted(9) * change[0] * h;
      for (int c = 0; c < kColumns; ++c) {
        along += contracted(5 + c) * change[c];
        g2[c] = contracted(5 + c) * change[0] * (h * scale[c]);
      }
      g2[0] += along * (h * scale[0]);
      Row::gradient(geometry.radials, geometry.x, geometry.inverse_r, g2, out);
      Row::add_tangent_gradient(geometry.radials, geometry.x, geometry.inverse_r, d, g, out);
    }
    for (int k = 0; k < 3; ++k) S::store(edges.gradient[k] + e, out[k]);
  }
}

// Order 1: edges.gradient of Φ; order 2: of Ψ, the change of Φ along the tangent.
template <int Order, class real>
void backward(const Problem<real>& p, int64_t begin, int64_t end, Edges<real>& edges,
              const real* grad_moments) {
  contract<Order>(p, begin, end, edges, grad_moments);
  for (int64_t i = begin; i < end; ++i)
    chain_atom<Order>(p, i, edges.start[i - begin], edges.start[i - begin + 1], edges);
}

// Short runs are summed in `real` and added up in double.
constexpr int32_t kRun = 64;

// Powers t^k and their derivatives of a run of entries.
template <class real>
struct Powers {
  real value[kRun][kPowers], derivative[kRun][kPowers];

  void set(int32_t e, real t) {
    value[e][0] = real(1), derivative[e][0] = real(0);
    for (int k = 1; k < kPowers; ++k) {
      value[e][k] = value[e][k - 1] * t;
      derivative[e][k] = real(k) * value[e][k - 1];
    }
  }
};

template <bool second, class real>
void accumulate_run(int32_t n_m, const TableEntry<real>* entries, int32_t n,
                    const real* grad_moments, double* partial) {
  using S = Simd<real>;
  using vec = typename S::vec;
  Powers<real> powers;
  for (int32_t e = 0; e < n; ++e) powers.set(e, entries[e].t);
  for (int32_t m = 0; m < n_m; m += S::block) {
    vec sum_kv[kPowers][S::vectors] = {};
    for (int32_t e = 0; e < n; ++e) {
      const TableEntry<real>& entry = entries[e];
      const real* grad = grad_moments + int64_t(entry.atom) * kColumns * n_m + m;
#pragma GCC unroll 2
      for (int v = 0; v < S::vectors; ++v) {
        vec a = {}, b = {};
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c) {
          const vec g = S::load(grad + c * n_m + v * S::lanes);
          a += entry.a[c] * g;
          if (second) b += entry.b[c] * g;
        }
        sum_kv[0][v] += a;
#pragma GCC unroll 5
        for (int k = 1; k < kPowers; ++k) {
          sum_kv[k][v] += a * powers.value[e][k];
          if (second) sum_kv[k][v] += b * powers.derivative[e][k];
        }
      }
    }
    for (int k = 0; k < kPowers; ++k)
      for (int v = 0; v < S::vectors; ++v)
        for (int l = 0; l < S::lanes; ++l)
          partial[int64_t(k) * n_m + m + v * S::lanes + l] += sum_kv[k][v][l];
  }
}

template <class real>
void accumulate(int32_t n_features, bool second, const TableEntry<real>* entries, int32_t n,
                const real* grad_moments, double* partial) {
  const auto run = second ? accumulate_run<true, real> : accumulate_run<false, real>;
  for (int32_t first = 0; first < n; first += kRun)
    run(n_features, entries + first, n - first < kRun ? n - first : kRun, grad_moments, partial);
}

}  // namespace

template <class real>
BlockKernels<real> DPL_ISA_KERNELS() {
  return {gather<real>,      forward<false, real>, forward<true, real>,
          backward<1, real>, backward<2, real>,    accumulate<real>};
}
template BlockKernels<float> DPL_ISA_KERNELS<float>();
template BlockKernels<double> DPL_ISA_KERNELS<double>();

}  // namespace dpl
