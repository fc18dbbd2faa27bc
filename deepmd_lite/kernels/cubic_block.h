// Invariants of third order for several atoms at a time, an atom in each lane. Part of
// fitting_block.cpp: local to the translation unit that is compiled for one instruction set.
#pragma once

#include "cubic.h"
#include "fitting_block.h"
#include "simd.h"

namespace dpl {
namespace {

template <class real>
using CubicLanes = Cubic<typename Simd<real>::vec, real>;
template <class real>
using DualVec = Dual<typename Simd<real>::vec, real>;
template <class real>
using DualLanes = Cubic<DualVec<real>, real>;

// The vector of x(l) for the first n lanes, the others 0.
template <class real, class X>
DPL_INLINE typename Simd<real>::vec lanes_of(int n, X x) {
  typename Simd<real>::vec v = {};
  for (int l = 0; l < n; ++l) v[l] = x(l);
  return v;
}

// body(first atom, atoms) for as many atoms at a time as there are lanes
template <class real, class Body>
DPL_INLINE void in_lanes(int32_t n, Body body) {
  for (int32_t k = 0; k < n; k += Simd<real>::lanes)
    body(k, n - k < Simd<real>::lanes ? n - k : Simd<real>::lanes);
}

template <class real>
DPL_INLINE void load_moments(const Invariants& shape, int atoms, const real* const* t,
                             CubicLanes<real>& moments) {
  moments.load(shape.n_cubic, [&](int c, int a) {
    const int32_t place = c * shape.n_features + a;
    return lanes_of<real>(atoms, [&](int l) { return t[l][place]; });
  });
}

// The same with their change along the tangent.
template <class real>
DPL_INLINE void load_moments(const Invariants& shape, int atoms, const real* const* t,
                             const real* const* dt, DualLanes<real>& moments) {
  moments.load(shape.n_cubic, [&](int c, int a) {
    const int32_t place = c * shape.n_features + a;
    return DualVec<real>{lanes_of<real>(atoms, [&](int l) { return t[l][place]; }),
                         lanes_of<real>(atoms, [&](int l) { return dt[l][place]; })};
  });
}

template <class real>
void describe_cubic(const Invariants& shape, int32_t n, const real* const* t, real* packed,
                    int64_t stride) {
  in_lanes<real>(n, [&](int32_t k, int atoms) {
    CubicLanes<real> moments;
    load_moments(shape, atoms, t + k, moments);
    moments.invariants([&](int i, typename Simd<real>::vec x) {
      for (int l = 0; l < atoms; ++l) packed[(k + l) * stride + i] = x[l];
    });
  });
}

template <class real>
void describe_cubic_backward(const Invariants& shape, int32_t n, const real* const* t,
                             const real* grad_packed, int64_t stride, const real* scale,
                             real* const* grad) {
  in_lanes<real>(n, [&](int32_t k, int atoms) {
    CubicLanes<real> moments, gradient;
    load_moments(shape, atoms, t + k, moments);
    moments.gradient(
        [&](int i) {
          return lanes_of<real>(atoms, [&](int l) { return grad_packed[(k + l) * stride + i]; });
        },
        gradient);
    gradient.store([&](int c, int a, typename Simd<real>::vec x) {
      for (int l = 0; l < atoms; ++l)
        if (scale[k + l] != 0) grad[k + l][c * shape.n_features + a] += x[l] * scale[k + l];
    });
  });
}

template <class real>
void describe_cubic_tangent(const Invariants& shape, int32_t n, const real* const* t,
                            const real* const* dt, real* packed, int64_t stride) {
  in_lanes<real>(n, [&](int32_t k, int atoms) {
    DualLanes<real> moments;
    load_moments(shape, atoms, t + k, dt + k, moments);
    moments.invariants([&](int i, const DualVec<real>& x) {
      for (int l = 0; l < atoms; ++l) packed[(k + l) * stride + i] = x.change[l];
    });
  });
}

template <class real>
void describe_cubic_second(const Invariants& shape, int32_t n, const real* const* t,
                           const real* const* dt, const real* grad_packed, int64_t stride,
                           real* const* grad) {
  in_lanes<real>(n, [&](int32_t k, int atoms) {
    DualLanes<real> moments, gradient;
    load_moments(shape, atoms, t + k, dt + k, moments);
    moments.gradient(
        [&](int i) {
          return DualVec<real>{
              lanes_of<real>(atoms, [&](int l) { return grad_packed[(k + l) * stride + i]; }), {}};
        },
        gradient);
    gradient.store([&](int c, int a, const DualVec<real>& x) {
      for (int l = 0; l < atoms; ++l) grad[k + l][c * shape.n_features + a] += x.change[l];
    });
  });
}

}  // namespace
}  // namespace dpl
