// Harmonic polynomials of the degrees 2, 3 and 4, on host and device alike.
//
// The derivatives of a harmonic polynomial of degree l are sums of those of degree l - 1 (Hobson,
// The Theory of Spherical and Ellipsoidal Harmonics, 1931). So each degree is two linear maps:
//   along(h, y, out)      out[m] = derivative of H_m along y, which for y = x is l H_m(x)
//   gradient(g, h, out)   out = gradient of Σ_m g[m] H_m
// where h holds the polynomials one degree below at x; their change along a direction instead gives
// the change of either. With ρ² = x² + y² the polynomials are
//   2   xy, yz, zx, x² − y², 2z² − ρ²
//   3   z(2z² − 3ρ²), x(4z² − ρ²), y(4z² − ρ²), xyz, z(x² − y²), x(x² − 3y²), y(3x² − y²)
//   4   8z⁴ − 24z²ρ² + 3ρ⁴, xz(4z² − 3ρ²), yz(4z² − 3ρ²), (x² − y²)(6z² − ρ²), 2xy(6z² − ρ²),
//       zx(x² − 3y²), zy(3x² − y²), x⁴ − 6x²y² + y⁴, 4xy(x² − y²)
// Their norms differ; dstd of their columns makes up for it.
#pragma once

#if defined(__CUDACC__)
#define DPL_INLINE static __host__ __device__ __forceinline__
#else
#define DPL_INLINE static inline __attribute__((always_inline))
#endif

namespace dpl {

template <int degree>
struct Harmonics;

template <>
struct Harmonics<2> {
  template <class value>
  DPL_INLINE void along(const value* h, const value* y, value* out) {
    out[0] = h[0] * y[1] + h[1] * y[0];
    out[1] = h[1] * y[2] + h[2] * y[1];
    out[2] = h[2] * y[0] + h[0] * y[2];
    out[3] = 2 * (h[0] * y[0] - h[1] * y[1]);
    out[4] = 2 * (2 * h[2] * y[2] - h[0] * y[0] - h[1] * y[1]);
  }
  template <class value>
  DPL_INLINE void gradient(const value* g, const value* h, value* out) {
    out[0] = g[0] * h[1] + g[2] * h[2] + 2 * (g[3] - g[4]) * h[0];
    out[1] = g[0] * h[0] + g[1] * h[2] - 2 * (g[3] + g[4]) * h[1];
    out[2] = g[1] * h[1] + g[2] * h[0] + 4 * g[4] * h[2];
  }
};

template <>
struct Harmonics<3> {
  template <class value>
  DPL_INLINE void along(const value* h, const value* y, value* out) {
    const value twice = 2 * h[4];
    out[0] = 3 * h[4] * y[2] - 6 * (h[2] * y[0] + h[1] * y[1]);
    out[1] = (twice - h[3]) * y[0] - 2 * h[0] * y[1] + 8 * h[2] * y[2];
    out[2] = (twice + h[3]) * y[1] - 2 * h[0] * y[0] + 8 * h[1] * y[2];
    out[3] = h[1] * y[0] + h[2] * y[1] + h[0] * y[2];
    out[4] = 2 * (h[2] * y[0] - h[1] * y[1]) + h[3] * y[2];
    out[5] = 3 * h[3] * y[0] - 6 * h[0] * y[1];
    out[6] = 6 * h[0] * y[0] + 3 * h[3] * y[1];
  }
  template <class value>
  DPL_INLINE void gradient(const value* g, const value* h, value* out) {
    const value twice = 2 * h[4];
    out[0] = g[1] * (twice - h[3]) - 6 * g[0] * h[2] - 2 * g[2] * h[0] + g[3] * h[1] +
             2 * g[4] * h[2] + 3 * g[5] * h[3] + 6 * g[6] * h[0];
    out[1] = g[2] * (twice + h[3]) - 6 * g[0] * h[1] - 2 * g[1] * h[0] + g[3] * h[2] -
             2 * g[4] * h[1] - 6 * g[5] * h[0] + 3 * g[6] * h[3];
    out[2] = 3 * g[0] * h[4] + 8 * (g[1] * h[2] + g[2] * h[1]) + g[3] * h[0] + g[4] * h[3];
  }
};

template <>
struct Harmonics<4> {
  template <class value>
  DPL_INLINE void along(const value* h, const value* y, value* out) {
    const value twice = 2 * h[0], four = 3 * h[4], three = 6 * h[3];
    out[0] = 16 * h[0] * y[2] - 12 * (h[1] * y[0] + h[2] * y[1]);
    out[1] = (twice - four) * y[0] - three * y[1] + 3 * h[1] * y[2];
    out[2] = (twice + four) * y[1] - three * y[0] + 3 * h[2] * y[2];
    out[3] = (3 * h[1] - h[5]) * y[0] - (3 * h[2] + h[6]) * y[1] + 4 * four * y[2];
    out[4] = (3 * h[2] - h[6]) * y[0] + (3 * h[1] + h[5]) * y[1] + 4 * three * y[2];
    out[5] = four * y[0] - three * y[1] + h[5] * y[2];
    out[6] = three * y[0] + four * y[1] + h[6] * y[2];
    out[7] = 4 * (h[5] * y[0] - h[6] * y[1]);
    out[8] = 4 * (h[6] * y[0] + h[5] * y[1]);
  }
  template <class value>
  DPL_INLINE void gradient(const value* g, const value* h, value* out) {
    const value twice = 2 * h[0], four = 3 * h[4], three = 6 * h[3];
    out[0] = g[1] * (twice - four) - 12 * g[0] * h[1] - g[2] * three + g[3] * (3 * h[1] - h[5]) +
             g[4] * (3 * h[2] - h[6]) + g[5] * four + g[6] * three +
             4 * (g[7] * h[5] + g[8] * h[6]);
    out[1] = g[2] * (twice + four) - 12 * g[0] * h[2] - g[1] * three - g[3] * (3 * h[2] + h[6]) +
             g[4] * (3 * h[1] + h[5]) - g[5] * three + g[6] * four +
             4 * (g[8] * h[5] - g[7] * h[6]);
    out[2] = 16 * g[0] * h[0] + 3 * (g[1] * h[1] + g[2] * h[2]) + 4 * (g[3] * four + g[4] * three) +
             g[5] * h[5] + g[6] * h[6];
  }
};

}  // namespace dpl
