// What one thread does to the atoms of a block between moments and atomic energies: compiled once
// for each instruction set (see moments_block.h).
#pragma once

#include <cstdint>

#include "cubic.h"
#include "dpl.h"
#include "moments_block.h"

namespace dpl {

// Weights (k, n) are packed as panels of kPanel columns, each (k, kPanel), zeros after the last.
template <class real>
constexpr int32_t kPanel = 128 / int32_t(sizeof(real));

// The invariants of some columns of the moments, D_ma = Σ_c T_cm T_ca (a < n_axis, m <
// n_embedding). Their first n_axis × n_axis block is symmetric: only m >= a is kept, a outermost:
// n_packed numbers. Without axes D_m = T_0m. With n_cubic they are those of cubic.h instead.
struct Invariants {
  int32_t n_features;   // of a row of T, padded
  int32_t n_embedding;  // without padding
  int32_t n_axis;
  int32_t n_columns;
  int32_t n_cubic;

  DPL_MEMBER bool linear() const { return n_axis == 0 && n_cubic == 0; }
  DPL_MEMBER int32_t n_full() const {
    if (n_cubic > 0) return cubic_size(n_cubic);
    return linear() ? n_embedding : n_embedding * n_axis;
  }
  DPL_MEMBER int32_t n_packed() const {
    return n_axis == 0 ? n_full() : n_axis * n_embedding - n_axis * (n_axis - 1) / 2;
  }
  // Where the i-th number of the full descriptor stands: (m, a), in either order of the pair.
  DPL_MEMBER int32_t place(int32_t i) const {
    if (n_axis == 0) return i;
    const int32_t m = i / n_axis, a = i % n_axis;
    const int32_t low = m < a ? m : a, high = m < a ? a : m;
    return low * n_embedding - low * (low - 1) / 2 + high - low;
  }
};

template <class real>
struct FittingKernels {
  // moments (n_columns, n_features) become T = moments · scale, `constant` (n_features) added to
  // column 0 first
  void (*normalise)(int32_t n_columns, int32_t n_features, const real* constant, real scale,
                    real* moments);
  // Of n atoms, each with columns T of its own; packed numbers of two atoms are `stride` apart.
  // Packed invariants; up to one vector beyond those of an atom is written.
  void (*describe)(const Invariants&, int32_t n, const real* const* t, real* packed,
                   int64_t stride);
  // Gradient (n_columns, n_features) with respect to the moments before `normalise`, for a scale of
  // each atom; 0 where that is 0, whatever grad_packed holds. Cubic invariants add theirs.
  void (*describe_backward)(const Invariants&, int32_t n, const real* const* t,
                            const real* grad_packed, int64_t stride, const real* scale,
                            real* const* grad_moments);
  // change of the packed invariants when T changes by dt
  void (*describe_tangent)(const Invariants&, int32_t n, const real* const* t,
                           const real* const* dt, real* packed, int64_t stride);
  // adds the change of describe_backward's gradient (scale 1) when T changes by dt
  void (*describe_second)(const Invariants&, int32_t n, const real* const* t, const real* const* dt,
                          const real* grad_packed, int64_t stride, real* const* grad_moments);
  // z (n, width) becomes z + bias, then slope = step · f'(z) and y = step · f(z); slope may be z
  void (*activate)(dpl_activation, int32_t n, int32_t width, const real* bias, const real* step,
                   real* z, real* slope, real* y);
  // Second derivative of a layer (n, width): u is the change of z along a tangent, g and x are the
  // gradients with respect to the layer's change along it and to its value. x becomes
  // step · (f'(z) x + f''(z) g u), u becomes f(z) x + f'(z) g u.
  void (*second)(dpl_activation, int32_t n, int32_t width, const real* step, const real* z,
                 const real* g, real* x, real* u);
  // Values, first and second derivatives of a layer along a scalar, each (n, width), one after
  // another: z, bias included, becomes y = step · f(z) and its derivatives.
  void (*jet)(dpl_activation, int32_t n, int32_t width, const real* step, const real* z, real* y);
  // The gradient g (3, n, width) of y becomes that of z; those of bias and step (width) are added.
  void (*jet_backward)(dpl_activation, int32_t n, int32_t width, const real* step, const real* z,
                       real* g, real* grad_bias, real* grad_step);
  // out (m, n) = or += Σ_k x_ki y_kj for x (k, m), y (k, n): lines of x are ldx apart, of y ldy.
  void (*outer)(int32_t m, int32_t n, int32_t k, const real* x, int64_t ldx, const real* y,
                int64_t ldy, bool add, real* out, int64_t ldo);
  // out (m, n) = or += x (m, k) · packed weight (k, n); lines of x and out are ldx and ldo apart.
  // Columns are written up to a multiple of half a panel.
  void (*multiply)(int32_t m, int32_t n, int32_t k, const real* x, int64_t ldx, const real* weight,
                   bool add, real* out, int64_t ldo);
  // out = x · y, n numbers
  void (*product)(int64_t n, const real* x, const real* y, real* out);
  // out += x, n numbers
  void (*add)(int64_t n, const real* x, real* out);
  // Σ x · y, n numbers
  double (*dot)(int64_t n, const real* x, const real* y);
};

template <class real>
FittingKernels<real> baseline_fitting();
template <class real>
FittingKernels<real> avx2_fitting();
template <class real>
FittingKernels<real> avx512_fitting();

}  // namespace dpl
