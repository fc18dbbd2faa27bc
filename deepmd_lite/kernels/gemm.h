// Products of a block of atoms with the weights of a layer, which are packed once and read in every
// block. (A BLAS packs them anew at each call, which for so few rows costs a fifth of the product,
// and has threads of its own that would have to be kept from running.) Part of fitting_block.cpp.
#pragma once

#include "fitting_block.h"
#include "simd.h"

namespace dpl {
namespace {

// out (rows, vectors) = or += x (rows, depth) · panel (depth, kPanel): the tile stays in registers,
// x is read as broadcasts and the panel as vectors.
template <int rows, int vectors, class real>
DPL_INLINE void tile(int32_t depth, const real* x, int64_t ldx, const real* panel, bool add,
                     real* out, int64_t ldo) {
  using S = Simd<real>;
  using vec = typename S::vec;
  vec sum[rows][vectors] = {};
  for (int32_t k = 0; k < depth; ++k, panel += kPanel<real>) {
    vec row[rows];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) row[i] = x[i * ldx + k] - vec{};
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      const vec weight = S::load(panel + v * S::lanes);
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) sum[i][v] += row[i] * weight;
    }
  }
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) {
      real* place = out + i * ldo + v * S::lanes;
      S::store(place, add ? S::load(place) + sum[i][v] : sum[i][v]);
    }
}

template <int vectors, class real>
void multiply_panel(int32_t m, int32_t depth, const real* x, int64_t ldx, const real* panel,
                    bool add, real* out, int64_t ldo) {
  constexpr int full = kPanel<real> / Simd<real>::lanes;  // vectors of a whole panel
  constexpr int rows = full > 4 ? 1 : full > 2 ? 3 : 8;   // as many as there are registers for
  int32_t i = 0;
  for (; i + rows <= m; i += rows)
    tile<rows, vectors>(depth, x + i * ldx, ldx, panel, add, out + i * ldo, ldo);
  for (; i < m; ++i) tile<1, vectors>(depth, x + i * ldx, ldx, panel, add, out + i * ldo, ldo);
}

// See FittingKernels. The sum over k is made in the same order for every number of rows.
template <class real>
void multiply(int32_t m, int32_t n, int32_t k, const real* x, int64_t ldx, const real* weight,
              bool add, real* out, int64_t ldo) {
  constexpr int32_t depth = 192;  // lines of a panel that stay in L1 while the rows pass by
  constexpr int vectors = kPanel<real> / Simd<real>::lanes;
  for (int32_t first = 0; first < k; first += depth) {
    const int32_t lines = k - first < depth ? k - first : depth;
    for (int32_t column = 0; column < n; column += kPanel<real>) {
      const real* panel = weight + int64_t(column) * k + int64_t(first) * kPanel<real>;
      const bool half = n - column <= kPanel<real> / 2;
      (half ? multiply_panel<vectors / 2, real>
            : multiply_panel<vectors, real>)(m, lines, x + first, ldx, panel, add || first > 0,
                                             out + column, ldo);
    }
  }
}

}  // namespace
}  // namespace dpl
