// The formulas of an edge, once, for host and device.
//
// Everything is `static inline` so that each translation unit, compiled for its own instruction
// set, keeps its own copies (a linker that merged them could hand AVX-512 code to a processor
// without it).
//
// Formulas: Zhang et al., NeurIPS 2018 (environment matrix); the quintic switch and the
// normalisation are those of DeePMD-kit's se_e2_a; Ziegler, Biersack and Littmark, The Stopping and
// Range of Ions in Solids, 1985 (universal screening).
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define DPL_INLINE static __host__ __device__ __forceinline__
#else
#define DPL_INLINE static inline __attribute__((always_inline))
#endif

// A member function for which the same holds: it is never more than its calls.
#if defined(__CUDACC__)
#define DPL_MEMBER __host__ __device__ __forceinline__
#else
#define DPL_MEMBER inline __attribute__((always_inline))
#endif

namespace dpl {

constexpr int kPowers = 6;  // coefficients of a quintic

// On the host: squared distances below this are exactly those with sqrt(d2) < cutoff, rounding
// included.
static inline double squared_limit(double cutoff) {
  double limit = cutoff * cutoff;
  while (std::sqrt(limit) < cutoff) limit = std::nextafter(limit, HUGE_VAL);
  for (double below = std::nextafter(limit, 0.0); limit > 0 && std::sqrt(below) >= cutoff;
       below = std::nextafter(limit, 0.0))
    limit = below;
  return limit;
}

// `value` below is float, double, or on the host a vector of edges of either; `real` its element.
template <class real>
struct SwitchParameters {
  real rcut, rcut_smth, inverse_width;  // Å, Å, 1/(rcut - rcut_smth)
};

// w(r) = 1 - 10u^3 + 15u^4 - 6u^5, written in v = 1 - u so that it vanishes without cancellation
// at rcut; with its first two derivatives. u is clamped to [0, 1].
template <class value, class real>
DPL_INLINE void switch_function(const SwitchParameters<real>& p, value r, value& w, value& dw,
                                value& d2w) {
  const value zero{}, one = zero + 1;
  value v = (p.rcut - r) * p.inverse_width;
  v = v < zero ? zero : v;
  v = v > one ? one : v;
  const value u = 1 - v;
  w = v * v * v * (1 + u * (3 + 6 * u));
  dw = -30 * u * u * v * v * p.inverse_width;
  d2w = -60 * u * v * (v - u) * p.inverse_width * p.inverse_width;
}

// e²/(4πε₀) in eV Å and 0.8854 Bohr radii in Å.
constexpr double kCoulomb = 14.399645478, kScreeningLength = 0.46853;

// The universal repulsion of two atomic numbers, switched off between r_in and r_out:
// w(r) (e²/4πε₀) Z_a Z_b / r · Σ_k c_k exp(−d_k r/l) with l = 0.8854 a₀ / (Z_a^0.23 + Z_b^0.23).
struct RepulsionParameters {
  double strength, inverse_length;  // eV Å, 1/Å
  SwitchParameters<double> switching;
};

// Energy and its derivative at r.
DPL_INLINE void repulsion(const RepulsionParameters& p, double r, double& energy, double& slope) {
  constexpr double c[] = {0.18175, 0.50986, 0.28022, 0.02817};
  constexpr double d[] = {3.19980, 0.94229, 0.40290, 0.20162};
  double phi = 0, dphi = 0;
  for (int k = 0; k < 4; ++k) {
    const double term = c[k] * std::exp(-d[k] * p.inverse_length * r);
    phi += term;
    dphi -= d[k] * p.inverse_length * term;
  }
  double w, dw, d2w;
  switch_function(p.switching, r, w, dw, d2w);
  const double bare = p.strength / r;
  energy = w * bare * phi;
  slope = bare * (dw * phi + w * (dphi - phi / r));
}

// The environment row is (s, p x, p y, p z) with s = w/(r + c) and p = w/(r + c)^2, c the
// protection (DeePMD-kit's env_protection), 0 in most models. One of 9 columns goes on with q
// H_m(x), q = w/(r + c)^3 and H_m the five harmonic polynomials of second degree.
template <class value>
struct Radial {
  value s, ds, d2s;  // s(r) and its derivatives
  value p, dp, d2p;
  value q, dq, d2q;
};

template <class value, class real>
DPL_INLINE Radial<value> radial(const SwitchParameters<real>& parameters, real protection, value r,
                                value inverse_r) {
  value w, dw, d2w;
  switch_function(parameters, r, w, dw, d2w);
  // a derivative of 1/(r + c) is one of 1/r, at r + c; no second division where c is 0
  const value inverse = protection == 0 ? inverse_r : 1 / (r + protection);
  Radial<value> f;
  f.s = w * inverse;
  f.ds = (dw - f.s) * inverse;
  f.d2s = (d2w - 2 * f.ds) * inverse;
  f.p = f.s * inverse;
  f.dp = (f.ds - f.p) * inverse;
  f.d2p = (f.d2s - 2 * f.dp) * inverse;
  f.q = f.p * inverse;
  f.dq = (f.dp - f.q) * inverse;
  f.d2q = (f.d2p - 2 * f.dq) * inverse;
  return f;
}

// The harmonic polynomials of second degree xy, yz, zx, x² − y², 2z² − x² − y², each half a
// quadratic form: H_m(x) = ½ x·A_m x. Their norms differ (the first three want √3, the others √3/2
// and ½); dstd of their columns makes up for it.
constexpr int kSecondDegree = 5;

// H[m] = x·A_m y: the derivative of H_m at x along y, and 2 H_m(x) for y = x.
template <class value>
DPL_INLINE void second_degree(const value* x, const value* y, value* H) {
  H[0] = x[0] * y[1] + x[1] * y[0];
  H[1] = x[1] * y[2] + x[2] * y[1];
  H[2] = x[2] * y[0] + x[0] * y[2];
  H[3] = 2 * (x[0] * y[0] - x[1] * y[1]);
  H[4] = 2 * (2 * x[2] * y[2] - x[0] * y[0] - x[1] * y[1]);
}

// out = Σ_m g[m] A_m x, the gradient of Σ_m g[m] H_m at x.
template <class value>
DPL_INLINE void second_degree_gradient(const value* g, const value* x, value* out) {
  out[0] = g[0] * x[1] + g[2] * x[2] + 2 * (g[3] - g[4]) * x[0];
  out[1] = g[0] * x[0] + g[1] * x[2] - 2 * (g[3] + g[4]) * x[1];
  out[2] = g[1] * x[1] + g[2] * x[0] + 4 * g[4] * x[2];
}

// The environment row of C columns, 4 or 9.
template <int C>
struct EnvironmentRow {
  static_assert(C == 4 || C == 4 + kSecondDegree, "first degree, or first and second");
  static constexpr bool with_second = C > 4;

  // x: edge vector r_j - r_i; row: the C columns before normalisation.
  template <class value>
  DPL_INLINE void columns(const Radial<value>& f, const value* x, value* row) {
    row[0] = f.s;
    for (int k = 0; k < 3; ++k) row[1 + k] = f.p * x[k];
    if constexpr (with_second) {
      second_degree(x, x, row + 4);
      const value half = f.q / 2;
      for (int m = 4; m < C; ++m) row[m] = half * row[m];
    }
  }

  // Change of the row when the edge vector changes by d.
  template <class value>
  DPL_INLINE void tangent(const Radial<value>& f, const value* x, value inverse_r, const value* d,
                          value* change) {
    const value rho = dot(x, d) * inverse_r;  // change of r
    change[0] = f.ds * rho;
    for (int k = 0; k < 3; ++k) change[1 + k] = f.dp * rho * x[k] + f.p * d[k];
    if constexpr (with_second) {
      value twice[kSecondDegree];
      second_degree(x, x, twice);
      second_degree(x, d, change + 4);
      const value half = f.dq * rho / 2;
      for (int m = 0; m < kSecondDegree; ++m) change[4 + m] = half * twice[m] + f.q * change[4 + m];
    }
  }

  // out = gradient with respect to the edge vector of Σ_c g[c] row[c] + outward r.
  template <class value>
  DPL_INLINE void gradient(const Radial<value>& f, const value* x, value inverse_r, const value* g,
                           value outward, value* out) {
    value along = g[0] * f.ds + dot(g + 1, x) * f.dp + outward;
    for (int k = 0; k < 3; ++k) out[k] = f.p * g[1 + k];
    if constexpr (with_second) {
      value turned[3];
      second_degree_gradient(g + 4, x, turned);
      along += dot(turned, x) / 2 * f.dq;
      for (int k = 0; k < 3; ++k) out[k] += f.q * turned[k];
    }
    along *= inverse_r;
    for (int k = 0; k < 3; ++k) out[k] += along * x[k];
  }

  // out += gradient with respect to the edge vector of Σ_c g[c] tangent(d)[c] + outward dr, dr the
  // change of r.
  template <class value>
  DPL_INLINE void add_tangent_gradient(const Radial<value>& f, const value* x, value inverse_r,
                                       const value* d, const value* g, value outward, value* out) {
    const value rho = dot(x, d) * inverse_r;
    const value gx = dot(g + 1, x);
    value first = g[0] * f.ds + gx * f.dp + outward;  // coefficient of rho
    value second = g[0] * f.d2s + gx * f.d2p;         // of rho², but for that of first
    value across = dot(g + 1, d) * f.dp;              // change of first through the direction
    for (int k = 0; k < 3; ++k) out[k] += f.dp * rho * g[1 + k];
    if constexpr (with_second) {
      value turned[3], turned_d[3];
      second_degree_gradient(g + 4, x, turned);
      second_degree_gradient(g + 4, d, turned_d);
      const value gH = dot(turned, x) / 2;
      first += gH * f.dq;
      second += gH * f.d2q;
      across += dot(turned, d) * f.dq;
      for (int k = 0; k < 3; ++k) out[k] += f.dq * rho * turned[k] + f.q * turned_d[k];
    }
    const value along = ((second - first * inverse_r) * rho + across) * inverse_r;
    for (int k = 0; k < 3; ++k) out[k] += along * x[k] + first * inverse_r * d[k];
  }

 private:
  template <class value>
  DPL_INLINE value dot(const value* a, const value* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  }
};

// A place in the table (in units of the spacing) moved into [0, last]; its whole part is the
// interval. A place below 0 extrapolates interval 0, one above the last interval stays in it; NaN
// gives 0.
template <class value, class real>
DPL_INLINE value clamped_place(value place, real last) {
  const value zero{}, end = zero + last;
  const value clamped = place > zero ? place : zero;
  return clamped < end ? clamped : end;
}

// Quintic at t by Horner's rule, with its first `Order` derivatives. Here `value` may also be a
// vector of features.
template <int Order, class value, class real>
DPL_INLINE void horner(const value (&c)[kPowers], real t, value& g, value& dg, value& d2g) {
  g = c[5] * t + c[4];
  if (Order > 0) dg = c[5] * t + g;
  if (Order > 1) d2g = c[5] * t + dg;  // half of the second derivative
  for (int k = 3; k >= 0; --k) {
    g = g * t + c[k];
    if (Order > 0 && k > 0) dg = dg * t + g;
    if (Order > 1 && k > 1) d2g = d2g * t + dg;
  }
  if (Order > 1) d2g = d2g + d2g;
}

}  // namespace dpl
