// Products of a block of atoms with the weights of a layer, which are packed once and read in every
// block. (A BLAS packs them anew at each call, which for so few rows costs a fifth of the product,
// and has threads of its own that would have to be kept from running.) Part of *_block.cpp.
#pragma once

#include "fitting_block.h"
#include "simd.h"

namespace dpl {
namespace {

// out (rows, vectors) = or += Σ_k x_ik y_kj: the tile stays in registers, x is read as broadcasts
// and y as vectors. In memory x_ik stands at i · x_row + k · x_step, line k of y at k · y_step.
template <int rows, int vectors, class real>
DPL_INLINE void tile(int32_t depth, const real* x, int64_t x_row, int64_t x_step, const real* y,
                     int64_t y_step, bool add, real* out, int64_t ldo) {
  using S = Simd<real>;
  using vec = typename S::vec;
  vec sum[rows][vectors] = {};
  for (int32_t k = 0; k < depth; ++k, x += x_step, y += y_step) {
    // what is fewer waits in registers for what comes one by one
    if constexpr (rows < vectors) {
      vec row[rows];
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) row[i] = x[i * x_row] - vec{};
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        const vec line = S::load(y + v * S::lanes);
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) sum[i][v] += row[i] * line;
      }
    } else {
      vec line[vectors];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) line[v] = S::load(y + v * S::lanes);
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        const vec row = x[i * x_row] - vec{};
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[i][v] += row * line[v];
      }
    }
  }
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) {
      real* place = out + i * ldo + v * S::lanes;
      S::store(place, add ? S::load(place) + sum[i][v] : sum[i][v]);
    }
}

// The tile of m rows, at most `rows`.
template <int rows, int vectors, class real>
DPL_INLINE void tile_of(int32_t m, int32_t depth, const real* x, int64_t x_row, int64_t x_step,
                        const real* y, int64_t y_step, bool add, real* out, int64_t ldo) {
  if (m == rows)
    tile<rows, vectors>(depth, x, x_row, x_step, y, y_step, add, out, ldo);
  else if constexpr (rows > 1)
    tile_of<rows - 1, vectors>(m, depth, x, x_row, x_step, y, y_step, add, out, ldo);
}

#ifdef __aarch64__
constexpr bool kFewRegisters = false;  // 32 of them, as with AVX-512
#else
constexpr bool kFewRegisters = true;
#endif

// All m rows in tiles of nearly equal height.
template <int rows, int vectors, class real>
DPL_INLINE void tiles(int32_t m, int32_t depth, const real* x, int64_t x_row, int64_t x_step,
                      const real* y, int64_t y_step, bool add, real* out, int64_t ldo) {
  const int32_t n_tiles = (m + rows - 1) / rows;
  for (int32_t t = 0, i = 0; t < n_tiles; ++t) {
    const int32_t end = int32_t(int64_t(t + 1) * m / n_tiles);
    tile_of<rows, vectors>(end - i, depth, x + i * x_row, x_row, x_step, y, y_step, add,
                           out + i * ldo, ldo);
    i = end;
  }
}

template <int vectors, class real>
DPL_INLINE void multiply_panel(int32_t m, int32_t depth, const real* x, int64_t x_row,
                               int64_t x_step, const real* y, int64_t y_step, bool add, real* out,
                               int64_t ldo) {
  constexpr int full = kPanel<real> / Simd<real>::lanes;  // vectors of a whole panel
  // as many as there are registers for
  constexpr int rows = full > 4 ? kFewRegisters ? 1 : 3 : full > 2 ? 3 : 12;
  tiles<rows, vectors>(m, depth, x, x_row, x_step, y, y_step, add, out, ldo);
}

constexpr int32_t kDepth = 160;  // lines of a panel that stay in L1 while the rows pass by
constexpr int32_t kLines = 64;   // the same of two matrices whose lines lie in pages of their own

// See FittingKernels. The sum over k is made in the same order for every number of rows.
template <class real>
void multiply(int32_t m, int32_t n, int32_t k, const real* x, int64_t ldx, const real* weight,
              bool add, real* out, int64_t ldo) {
  constexpr int vectors = kPanel<real> / Simd<real>::lanes;
  for (int32_t first = 0; first < k; first += kDepth) {
    const int32_t lines = k - first < kDepth ? k - first : kDepth;
    for (int32_t column = 0; column < n; column += kPanel<real>) {
      const real* panel = weight + int64_t(column) * k + int64_t(first) * kPanel<real>;
      if (n - column <= kPanel<real> / 2)
        multiply_panel<vectors / 2>(m, lines, x + first, ldx, 1, panel, kPanel<real>,
                                    add || first > 0, out + column, ldo);
      else
        multiply_panel<vectors>(m, lines, x + first, ldx, 1, panel, kPanel<real>, add || first > 0,
                                out + column, ldo);
    }
  }
}

// out (m, n) = or += Σ_k x_ik y_kj, x_ik at i · x_row + k · x_step. Columns of y are read, and of
// out written, up to a multiple of half a panel.
template <class real>
DPL_INLINE void strided(int32_t m, int32_t n, int32_t k, const real* x, int64_t x_row,
                        int64_t x_step, const real* y, int64_t ldy, bool add, real* out,
                        int64_t ldo) {
  constexpr int vectors = kPanel<real> / Simd<real>::lanes;
  for (int32_t first = 0; first < k; first += kLines) {
    const int32_t lines = k - first < kLines ? k - first : kLines;
    const real* begin = x + first * x_step;
    for (int32_t column = 0; column < n; column += kPanel<real>) {
      const real* panel = y + first * ldy + column;
      if (n - column <= kPanel<real> / 2)
        multiply_panel<vectors / 2>(m, lines, begin, x_row, x_step, panel, ldy, add || first > 0,
                                    out + column, ldo);
      else
        multiply_panel<vectors>(m, lines, begin, x_row, x_step, panel, ldy, add || first > 0,
                                out + column, ldo);
    }
  }
}

// See FittingKernels.
template <class real>
void outer(int32_t m, int32_t n, int32_t k, const real* x, int64_t ldx, const real* y, int64_t ldy,
           bool add, real* out, int64_t ldo) {
  strided(m, n, k, x, 1, ldx, y, ldy, add, out, ldo);
}

}  // namespace
}  // namespace dpl
