// Invariants of third order in the moments, on host and device alike.
//
// Of feature a the columns of first degree are a vector v_a, those of second degree a symmetric
// matrix Q_a without trace; of a single neighbour along x they are x and (3 x⊗x − |x|²)/2. For
// features below n the numbers are
//   v_a·Q_b v_c  for a <= c and all b, b innermost, then  tr Q_a Q_b Q_c  for a <= b <= c:
// all that rotations and reflections leave unchanged in products of three moments of degree one and
// two. They tell what pairs of neighbours cannot: sums over triples. (Bartók, Kondor, Csányi,
// Phys. Rev. B 87, 184115 (2013): the bispectrum.)
//
// A symmetric matrix is six numbers xx, yy, zz, xy, yz, zx. The derivative with respect to them
// counts an entry off the diagonal twice, so that Σ_k derivative_k q_k is the trace of a product.
#pragma once

#include <cstdint>

#include "dpl.h"
#include "physics.h"

namespace dpl {

constexpr int kMostCubic = DPL_MOST_CUBIC;
constexpr int kCubicColumns = DPL_COLUMNS_OF_DEGREE(2) - 1;  // all but the first, and those beyond

DPL_INLINE int32_t cubic_size(int32_t n) {
  return n * (n * (n + 1) / 2) + n * (n + 1) * (n + 2) / 6;
}

// A number and its change along a tangent.
template <class value, class real>
struct Dual {
  value of, change;
  DPL_MEMBER Dual operator+(const Dual& other) const {
    return {of + other.of, change + other.change};
  }
  DPL_MEMBER Dual operator-(const Dual& other) const {
    return {of - other.of, change - other.change};
  }
  DPL_MEMBER Dual operator*(const Dual& other) const {
    return {of * other.of, of * other.change + change * other.of};
  }
  DPL_MEMBER Dual operator*(real factor) const { return {of * factor, change * factor}; }
};

template <class value>
DPL_INLINE value matrix_dot(const value* derivative, const value* q) {
  value sum = derivative[0] * q[0];
  for (int k = 1; k < 6; ++k) sum = sum + derivative[k] * q[k];
  return sum;
}

// The derivative of a·Q c with respect to Q.
template <class value>
DPL_INLINE void vector_product(const value* a, const value* c, value* derivative) {
  for (int k = 0; k < 3; ++k) {
    const int next = k < 2 ? k + 1 : 0;
    derivative[k] = a[k] * c[k];
    derivative[3 + k] = a[k] * c[next] + a[next] * c[k];
  }
}

// The derivative of tr A B Q with respect to Q.
template <class value>
DPL_INLINE void matrix_product(const value* a, const value* b, value* derivative) {
  const value xy = a[3] * b[3], yz = a[4] * b[4], zx = a[5] * b[5];
  derivative[0] = a[0] * b[0] + xy + zx;
  derivative[1] = a[1] * b[1] + xy + yz;
  derivative[2] = a[2] * b[2] + yz + zx;
  derivative[3] = (a[0] + a[1]) * b[3] + a[3] * (b[0] + b[1]) + a[5] * b[4] + a[4] * b[5];
  derivative[4] = (a[1] + a[2]) * b[4] + a[4] * (b[1] + b[2]) + a[3] * b[5] + a[5] * b[3];
  derivative[5] = (a[2] + a[0]) * b[5] + a[5] * (b[2] + b[0]) + a[4] * b[3] + a[3] * b[4];
}

// out += Q x
template <class value>
DPL_INLINE void add_image(const value* q, const value* x, value* out) {
  out[0] = out[0] + q[0] * x[0] + q[3] * x[1] + q[5] * x[2];
  out[1] = out[1] + q[3] * x[0] + q[1] * x[1] + q[4] * x[2];
  out[2] = out[2] + q[5] * x[0] + q[4] * x[1] + q[2] * x[2];
}

// The vector and the matrix of a feature; column(c) is its column 1 + c.
template <class real, class value, class Column>
DPL_INLINE void from_columns(Column column, value* v, value* q) {
  const real root = real(0.86602540378443864676), half = real(0.5);  // √3/2
  for (int k = 0; k < 3; ++k) v[k] = column(k);
  const value across = column(6) * root, along = column(7) * half;
  q[0] = across - along;
  q[1] = along * real(-1) - across;
  q[2] = column(7);
  for (int k = 0; k < 3; ++k) q[3 + k] = column(3 + k) * root;
}

// The derivative with respect to column 1 + c from those with respect to vector and matrix.
template <class real, class value>
DPL_INLINE value to_column(int c, const value* v, const value* q) {
  const real root = real(0.86602540378443864676), half = real(0.5);
  if (c < 3) return v[c];
  if (c < 6) return q[c] * root;
  return c == 6 ? (q[0] - q[1]) * root : q[2] - (q[0] + q[1]) * half;
}

// Of n features: the place of (a, c) among the pairs a <= c, that of (a, b, c) among the triples
// a <= b <= c.
DPL_INLINE int cubic_pair(int n, int a, int c) { return a * n - a * (a - 1) / 2 + c - a; }
DPL_INLINE int cubic_triple(int n, int a, int b, int c) {
  const auto all = [](int m) { return m * (m + 1) * (m + 2) / 6; };
  return all(n) - all(n - a) + cubic_pair(n - a, b - a, c - a);
}

// The vectors and matrices of `n` features, or derivatives with respect to them.
template <class value, class real>
struct Cubic {
  int n;
  value v[kMostCubic][3], q[kMostCubic][6];

  // column(c, a): column 1 + c of the moments of feature a
  template <class Column>
  DPL_MEMBER void load(int n_features, Column column) {
    n = n_features;
    for (int a = 0; a < n; ++a) from_columns<real>([&](int c) { return column(c, a); }, v[a], q[a]);
  }

  // to(c, a, x) is called with the derivative x with respect to column 1 + c of feature a
  template <class To>
  DPL_MEMBER void store(To to) const {
    for (int a = 0; a < n; ++a)
      for (int c = 0; c < kCubicColumns; ++c) to(c, a, to_column<real>(c, v[a], q[a]));
  }

  // put(i, x) is called with the i-th invariant x
  template <class Put>
  DPL_MEMBER void invariants(Put put) const {
    int i = 0;
    value derivative[6];
    for (int a = 0; a < n; ++a)
      for (int c = a; c < n; ++c) {
        vector_product(v[a], v[c], derivative);
        for (int b = 0; b < n; ++b) put(i++, matrix_dot(derivative, q[b]));
      }
    for (int a = 0; a < n; ++a)
      for (int b = a; b < n; ++b) {
        matrix_product(q[a], q[b], derivative);
        for (int c = b; c < n; ++c) put(i++, matrix_dot(derivative, q[c]));
      }
  }

  // out: derivatives of Σ_i grad(i) · invariant i
  template <class Grad>
  DPL_MEMBER void gradient(Grad grad, Cubic& out) const {
    const value zero{};
    out.n = n;
    for (int a = 0; a < n; ++a) {
      for (value& x : out.v[a]) x = zero;
      for (value& x : out.q[a]) x = zero;
    }
    int i = 0;
    value derivative[6];
    for (int a = 0; a < n; ++a)
      for (int c = a; c < n; ++c) {
        value sum[6] = {zero, zero, zero, zero, zero, zero};  // Σ_b grad Q_b
        vector_product(v[a], v[c], derivative);
        for (int b = 0; b < n; ++b) {
          const value g = grad(i++);
          for (int k = 0; k < 6; ++k) {
            sum[k] = sum[k] + g * q[b][k];
            out.q[b][k] = out.q[b][k] + g * derivative[k];
          }
        }
        add_image(sum, v[c], out.v[a]);
        add_image(sum, v[a], out.v[c]);
      }
    for (int a = 0; a < n; ++a)
      for (int b = a; b < n; ++b) {
        value sum[6] = {zero, zero, zero, zero, zero, zero};  // Σ_c grad Q_c
        matrix_product(q[a], q[b], derivative);
        for (int c = b; c < n; ++c) {
          const value g = grad(i++);
          for (int k = 0; k < 6; ++k) {
            sum[k] = sum[k] + g * q[c][k];
            out.q[c][k] = out.q[c][k] + g * derivative[k];
          }
        }
        matrix_product(q[b], sum, derivative);
        for (int k = 0; k < 6; ++k) out.q[a][k] = out.q[a][k] + derivative[k];
        matrix_product(q[a], sum, derivative);
        for (int k = 0; k < 6; ++k) out.q[b][k] = out.q[b][k] + derivative[k];
      }
  }
};

}  // namespace dpl
