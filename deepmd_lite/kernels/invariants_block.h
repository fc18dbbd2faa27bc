// From moments to descriptors and back. Part of fitting_block.cpp: local to the translation unit
// that is compiled for one instruction set.
#pragma once

#include <cstring>
#include <type_traits>

#include "cubic_block.h"
#include "fitting_block.h"
#include "simd.h"

namespace dpl {
namespace {

template <class real>
void normalise(int32_t n_columns, int32_t n_features, const real* constant, real scale,
               real* moments) {
  using S = Simd<real>;
  for (int32_t m = 0; m < n_features; m += S::lanes)
    for (int32_t c = 0; c < n_columns; ++c) {
      real* place = moments + c * n_features + m;
      const auto t = S::load(place);
      S::store(place, (c == 0 ? t + S::load(constant + m) : t) * scale);
    }
}

// body(the number of columns, known to the compiler)
template <class Body>
DPL_INLINE void with_columns(const Invariants& shape, Body body) {
  switch (shape.n_columns) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 3:
      return body(std::integral_constant<int, 3>());
    case 4:
      return body(std::integral_constant<int, 4>());
    case 5:
      return body(std::integral_constant<int, 5>());
    case 7:
      return body(std::integral_constant<int, 7>());
    default:
      return body(std::integral_constant<int, 2 * kMostDegree + 1>());
  }
}

// Rows of T are read, and written, in whole vectors that begin at a multiple of their length, so
// that nothing beyond a row is touched; numbers before the first such place are done one by one.
template <class real>
int32_t first_vector(const Invariants& shape, int32_t a) {
  constexpr int32_t lanes = Simd<real>::lanes;
  const int32_t m = (a + lanes - 1) / lanes * lanes;
  return m < shape.n_embedding ? m : shape.n_embedding;
}

template <int C, class real>
void describe(const Invariants& shape, const real* t, real* packed) {
  using S = Simd<real>;
  const int32_t n_m = shape.n_features;
  if (shape.linear()) std::memcpy(packed, t, sizeof(real) * shape.n_embedding);
  for (int32_t a = 0; a < shape.n_axis; ++a) {
    real axis[C];
    for (int c = 0; c < C; ++c) axis[c] = t[c * n_m + a];
    int32_t m = a;
    for (; m < first_vector<real>(shape, a); ++m) {
      real d = 0;
      for (int c = 0; c < C; ++c) d += t[c * n_m + m] * axis[c];
      packed[m - a] = d;
    }
    for (; m < shape.n_embedding; m += S::lanes) {
      typename S::vec d = {};
      for (int c = 0; c < C; ++c) d += S::load(t + c * n_m + m) * axis[c];
      S::store(packed + m - a, d);  // what goes too far is overwritten by the next a
    }
    packed += shape.n_embedding - a;
  }
}

template <int C, class real>
void describe_tangent(const Invariants& shape, const real* t, const real* dt, real* packed) {
  using S = Simd<real>;
  const int32_t n_m = shape.n_features;
  if (shape.linear()) std::memcpy(packed, dt, sizeof(real) * shape.n_embedding);
  for (int32_t a = 0; a < shape.n_axis; ++a) {
    real axis[C], change[C];
    for (int c = 0; c < C; ++c) axis[c] = t[c * n_m + a], change[c] = dt[c * n_m + a];
    int32_t m = a;
    for (; m < first_vector<real>(shape, a); ++m) {
      real d = 0;
      for (int c = 0; c < C; ++c) d += t[c * n_m + m] * change[c] + dt[c * n_m + m] * axis[c];
      packed[m - a] = d;
    }
    for (; m < shape.n_embedding; m += S::lanes) {
      typename S::vec d = {};
      for (int c = 0; c < C; ++c)
        d += S::load(t + c * n_m + m) * change[c] + S::load(dt + c * n_m + m) * axis[c];
      S::store(packed + m - a, d);
    }
    packed += shape.n_embedding - a;
  }
}

// Lanes numbered from `left` on set to zero.
template <class real>
DPL_INLINE typename Simd<real>::vec first_lanes(typename Simd<real>::vec v, int32_t left) {
  for (int l = 0; l < Simd<real>::lanes; ++l) v[l] = l < left ? v[l] : real(0);
  return v;
}

template <int C, class real>
void describe_backward(const Invariants& shape, const real* t, const real* grad_packed, real scale,
                       real* grad, bool add) {
  using S = Simd<real>;
  using vec = typename S::vec;
  const int32_t n_m = shape.n_features, n_embedding = shape.n_embedding;
  if (!add) std::memset(grad, 0, sizeof(real) * C * n_m);
  if (shape.linear())
    for (int32_t m = 0; m < n_embedding; ++m) grad[m] += grad_packed[m] * scale;
  for (int32_t a = 0; a < shape.n_axis; ++a) {
    vec along[C] = {};  // Σ_m g_ma T_cm
    real axis[C], head[C] = {};
    for (int c = 0; c < C; ++c) axis[c] = t[c * n_m + a] * scale;
    int32_t m = a;
    for (; m < first_vector<real>(shape, a); ++m) {
      const real g = grad_packed[m - a];
      for (int c = 0; c < C; ++c) {
        head[c] += g * t[c * n_m + m];
        grad[c * n_m + m] += g * axis[c];
      }
    }
    const auto pass = [&](vec g) {
      for (int c = 0; c < C; ++c) {
        along[c] += g * S::load(t + c * n_m + m);
        real* out = grad + c * n_m + m;
        S::store(out, S::load(out) + g * axis[c]);
      }
    };
    for (; m + S::lanes <= n_embedding; m += S::lanes) pass(S::load(grad_packed + m - a));
    if (m < n_embedding) pass(first_lanes<real>(S::load(grad_packed + m - a), n_embedding - m));
    for (int c = 0; c < C; ++c) grad[c * n_m + a] += (real(sum(along[c])) + head[c]) * scale;
    grad_packed += n_embedding - a;
  }
}

// --- of several atoms, and of as many columns as there are ---------------------------------------

template <class real>
void describe(const Invariants& shape, int32_t n, const real* const* t, real* packed,
              int64_t stride) {
  if (shape.n_cubic > 0) return describe_cubic(shape, n, t, packed, stride);
  with_columns(shape, [&](auto columns) {
    for (int32_t k = 0; k < n; ++k) describe<columns>(shape, t[k], packed + k * stride);
  });
}

template <class real>
void describe_tangent(const Invariants& shape, int32_t n, const real* const* t,
                      const real* const* dt, real* packed, int64_t stride) {
  if (shape.n_cubic > 0) return describe_cubic_tangent(shape, n, t, dt, packed, stride);
  with_columns(shape, [&](auto columns) {
    for (int32_t k = 0; k < n; ++k)
      describe_tangent<columns>(shape, t[k], dt[k], packed + k * stride);
  });
}

template <class real>
void describe_backward(const Invariants& shape, int32_t n, const real* const* t,
                       const real* grad_packed, int64_t stride, const real* scale,
                       real* const* grad) {
  if (shape.n_cubic > 0)
    return describe_cubic_backward(shape, n, t, grad_packed, stride, scale, grad);
  with_columns(shape, [&](auto columns) {
    for (int32_t k = 0; k < n; ++k) {
      if (scale[k] == 0)
        std::memset(grad[k], 0, sizeof(real) * columns * shape.n_features);
      else
        describe_backward<columns>(shape, t[k], grad_packed + k * stride, scale[k], grad[k], false);
    }
  });
}

template <class real>
void describe_second(const Invariants& shape, int32_t n, const real* const* t,
                     const real* const* dt, const real* grad_packed, int64_t stride,
                     real* const* grad) {
  if (shape.n_cubic > 0) return describe_cubic_second(shape, n, t, dt, grad_packed, stride, grad);
  if (shape.linear()) return;
  with_columns(shape, [&](auto columns) {  // of a quadratic form: its gradient at dt
    for (int32_t k = 0; k < n; ++k)
      describe_backward<columns>(shape, dt[k], grad_packed + k * stride, real(1), grad[k], true);
  });
}

}  // namespace
}  // namespace dpl
