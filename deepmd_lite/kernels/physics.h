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

#include "dpl.h"
#include "harmonics.h"

// A member function for which the same holds: it is never more than its calls.
#if defined(__CUDACC__)
#define DPL_MEMBER __host__ __device__ __forceinline__
#else
#define DPL_MEMBER inline __attribute__((always_inline))
#endif

namespace dpl {

constexpr int kPowers = 6;                   // coefficients of a quintic
constexpr double kCoincident = 1e-6 * 1e-6;  // Å²: atoms nearer than its root are in one place

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
// protection (DeePMD-kit's env_protection), 0 in most models. One that goes on to degree l has
// w/(r + c)^(l + 1) H_m(x) for the harmonic polynomials H_m of each degree (harmonics.h) besides.
constexpr int kMostDegree = DPL_MOST_DEGREE;

// The degree that so many columns go on to, or 0 where they end within one.
DPL_INLINE int degree_of(int32_t n_columns) {
  int degree = 1;
  while (degree <= kMostDegree && DPL_COLUMNS_OF_DEGREE(degree) < n_columns) ++degree;
  return degree <= kMostDegree && DPL_COLUMNS_OF_DEGREE(degree) == n_columns ? degree : 0;
}

template <class value>
struct Radial {
  // w/(r + c)^(l + 1) of each degree l and its derivatives
  value f[kMostDegree + 1], df[kMostDegree + 1], d2f[kMostDegree + 1];
};

template <class value, class real>
DPL_INLINE Radial<value> radial(const SwitchParameters<real>& parameters, real protection, value r,
                                value inverse_r) {
  value w, dw, d2w;
  switch_function(parameters, r, w, dw, d2w);
  // a derivative of 1/(r + c) is one of 1/r, at r + c; no second division where c is 0
  const value inverse = protection == 0 ? inverse_r : 1 / (r + protection);
  Radial<value> radials;
  for (int l = 0; l <= kMostDegree; ++l) {  // what the row does not reach is never computed
    radials.f[l] = w = w * inverse;
    radials.df[l] = dw = (dw - w) * inverse;
    radials.d2f[l] = d2w = (d2w - 2 * dw) * inverse;
  }
  return radials;
}

// The environment row of C columns, (degree + 1)².
template <int C>
struct EnvironmentRow {
  static constexpr int degree = C == 4 ? 1 : C == 9 ? 2 : C == 16 ? 3 : 4;
  static_assert(C == (degree + 1) * (degree + 1), "all columns of the degrees up to one of them");

  // x: edge vector r_j - r_i; row: the C columns before normalisation.
  template <class value>
  DPL_INLINE void columns(const Radial<value>& radials, const value* x, value* row) {
    row[0] = radials.f[0];
    for (int k = 0; k < 3; ++k) row[1 + k] = radials.f[1] * x[k];
    if constexpr (degree > 1) columns_from<2>(radials, x, x, row);
  }

  // Change of the row when the edge vector changes by d.
  template <class value>
  DPL_INLINE void tangent(const Radial<value>& radials, const value* x, value inverse_r,
                          const value* d, value* change) {
    const value rho = dot(x, d) * inverse_r;  // change of r
    change[0] = radials.df[0] * rho;
    for (int k = 0; k < 3; ++k) change[1 + k] = radials.df[1] * rho * x[k] + radials.f[1] * d[k];
    if constexpr (degree > 1) tangent_from<2>(radials, x, rho, d, x, change);
  }

  // out = gradient with respect to the edge vector of Σ_c g[c] row[c] + outward r.
  template <class value>
  DPL_INLINE void gradient(const Radial<value>& radials, const value* x, value inverse_r,
                           const value* g, value outward, value* out) {
    value along = g[0] * radials.df[0] + dot(g + 1, x) * radials.df[1] + outward;
    for (int k = 0; k < 3; ++k) out[k] = radials.f[1] * g[1 + k];
    if constexpr (degree > 1) gradient_from<2>(radials, x, g, x, along, out);
    along *= inverse_r;
    for (int k = 0; k < 3; ++k) out[k] += along * x[k];
  }

  // out += gradient with respect to the edge vector of Σ_c g[c] tangent(d)[c] + outward dr, dr the
  // change of r.
  template <class value>
  DPL_INLINE void add_tangent_gradient(const Radial<value>& radials, const value* x,
                                       value inverse_r, const value* d, const value* g,
                                       value outward, value* out) {
    const value rho = dot(x, d) * inverse_r, gx = dot(g + 1, x);
    RadialTerms<value> terms;
    terms.slope = g[0] * radials.df[0] + gx * radials.df[1] + outward;
    terms.curvature = g[0] * radials.d2f[0] + gx * radials.d2f[1];
    terms.turning = dot(g + 1, d) * radials.df[1];
    for (int k = 0; k < 3; ++k) out[k] += radials.df[1] * rho * g[1 + k];
    if constexpr (degree > 1) tangent_gradient_from<2>(radials, x, rho, d, g, x, d, terms, out);
    const value along =
        ((terms.curvature - terms.slope * inverse_r) * rho + terms.turning) * inverse_r;
    for (int k = 0; k < 3; ++k) out[k] += along * x[k] + terms.slope * inverse_r * d[k];
  }

 private:
  // What the length of the edge adds to that gradient, rho being the change of the length along d.
  template <class value>
  struct RadialTerms {
    value slope;      // Σ g f' Y + outward: with rho, the derivative along d
    value curvature;  // Σ g f'' Y: its change with the length
    value turning;    // Σ g f' ∂Y·d: its change with the direction
  };

  template <class value>
  DPL_INLINE value dot(const value* a, const value* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  }

  // 1/l, known to the compiler.
  template <int l, class value>
  DPL_INLINE value share() {
    const value zero{};
    return (zero + 1) / (zero + l);
  }

  // What follows goes from degree l on upwards; `lower` holds the polynomials below it at x.
  template <int l, class value>
  DPL_INLINE void columns_from(const Radial<value>& radials, const value* x, const value* lower,
                               value* row) {
    value* own = row + l * l;
    Harmonics<l>::along(lower, x, own);
    if constexpr (l < degree) {
      value here[2 * l + 1];
      for (int m = 0; m < 2 * l + 1; ++m) here[m] = own[m] * share<l, value>();
      columns_from<l + 1>(radials, x, here, row);
    }
    const value factor = radials.f[l] * share<l, value>();
    for (int m = 0; m < 2 * l + 1; ++m) own[m] = factor * own[m];
  }

  template <int l, class value>
  DPL_INLINE void tangent_from(const Radial<value>& radials, const value* x, value rho,
                               const value* d, const value* lower, value* change) {
    value here[2 * l + 1], *own = change + l * l;
    Harmonics<l>::along(lower, x, here);
    Harmonics<l>::along(lower, d, own);
    for (int m = 0; m < 2 * l + 1; ++m) here[m] *= share<l, value>();
    const value factor = radials.df[l] * rho;
    for (int m = 0; m < 2 * l + 1; ++m) own[m] = factor * here[m] + radials.f[l] * own[m];
    if constexpr (l < degree) tangent_from<l + 1>(radials, x, rho, d, here, change);
  }

  template <int l, class value>
  DPL_INLINE void gradient_from(const Radial<value>& radials, const value* x, const value* g,
                                const value* lower, value& along, value* out) {
    value turned[3];
    Harmonics<l>::gradient(g + l * l, lower, turned);
    along += dot(turned, x) * share<l, value>() * radials.df[l];
    for (int k = 0; k < 3; ++k) out[k] += radials.f[l] * turned[k];
    if constexpr (l < degree) {
      value here[2 * l + 1];
      Harmonics<l>::along(lower, x, here);
      for (int m = 0; m < 2 * l + 1; ++m) here[m] *= share<l, value>();
      gradient_from<l + 1>(radials, x, g, here, along, out);
    }
  }

  // `change`: of `lower` along d.
  template <int l, class value>
  DPL_INLINE void tangent_gradient_from(const Radial<value>& radials, const value* x, value rho,
                                        const value* d, const value* g, const value* lower,
                                        const value* change, RadialTerms<value>& terms,
                                        value* out) {
    value turned[3], turned_d[3];
    Harmonics<l>::gradient(g + l * l, lower, turned);
    Harmonics<l>::gradient(g + l * l, change, turned_d);
    const value sum = dot(turned, x) * share<l, value>();
    terms.slope += sum * radials.df[l];
    terms.curvature += sum * radials.d2f[l];
    terms.turning += dot(turned, d) * radials.df[l];
    for (int k = 0; k < 3; ++k)
      out[k] += radials.df[l] * rho * turned[k] + radials.f[l] * turned_d[k];
    if constexpr (l < degree) {
      value here[2 * l + 1], here_d[2 * l + 1];
      Harmonics<l>::along(lower, x, here);
      Harmonics<l>::along(lower, d, here_d);
      for (int m = 0; m < 2 * l + 1; ++m) here[m] *= share<l, value>();
      tangent_gradient_from<l + 1>(radials, x, rho, d, g, here, here_d, terms, out);
    }
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
