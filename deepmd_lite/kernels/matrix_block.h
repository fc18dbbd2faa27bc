// Small matrices in working memory, and their products. Part of soap_block.cpp.
#pragma once

#include "gemm.h"

namespace dpl {
namespace {

constexpr int32_t kHalfPanel = kPanel<float> / 2;

DPL_INLINE int32_t padded(int32_t n) { return (n + kHalfPanel - 1) / kHalfPanel * kHalfPanel; }

// Lines of numbers, `step` apart. Products read and write them up to a multiple of half a panel.
struct Matrix {
  float* at;
  int32_t rows, columns;
  int64_t step;

  float* line(int32_t i) const { return at + i * step; }
  Matrix lines(int32_t first, int32_t n) const { return {line(first), n, columns, step}; }
};

// Working memory. What is taken from a copy of it is free again where the copy ends.
struct Memory {
  float* free;

  Matrix take(int32_t rows, int32_t columns) {
    const Matrix taken{free, rows, columns, padded(columns)};
    free += rows * taken.step;
    return taken;
  }
};

// Columns beyond the matrix, which products read, become 0.
template <class real>
void copy(const real* from, int64_t step, const Matrix& to) {
  for (int32_t i = 0; i < to.rows; ++i, from += step) {
    float* line = to.line(i);
    for (int32_t j = 0; j < to.columns; ++j) line[j] = float(from[j]);
    for (int32_t j = to.columns; j < to.step; ++j) line[j] = 0;
  }
}

void copy(const Matrix& from, float* to, int64_t step) {
  for (int32_t i = 0; i < from.rows; ++i, to += step)
    for (int32_t j = 0; j < from.columns; ++j) to[j] = from.line(i)[j];
}

// In squares that stay in the nearest memory.
void transpose(const Matrix& x, const Matrix& out) {
  constexpr int32_t square = 16;
  for (int32_t i = 0; i < x.rows; i += square)
    for (int32_t j = 0; j < x.columns; j += square) {
      const int32_t rows = x.rows - i < square ? x.rows - i : square;
      const int32_t columns = x.columns - j < square ? x.columns - j : square;
      const float* from = x.line(i) + j;
      float* to = out.line(j) + i;
      for (int32_t b = 0; b < columns; ++b, to += out.step) {
        for (int32_t a = 0; a < rows; ++a) to[a] = from[a * x.step + b];
        for (int32_t a = rows; a < square && i + a < out.step; ++a) to[a] = 0;
      }
    }
}
Matrix transposed(const Matrix& x, Memory& memory) {
  const Matrix out = memory.take(x.columns, x.rows);
  transpose(x, out);
  return out;
}

Matrix negative(const Matrix& x, Memory& memory) {
  const Matrix out = memory.take(x.rows, x.columns);
  for (int32_t i = 0; i < x.rows; ++i)
    for (int32_t j = 0; j < x.columns; ++j) out.line(i)[j] = -x.line(i)[j];
  return out;
}

void subtract(const Matrix& x, const Matrix& from) {
  for (int32_t i = 0; i < x.rows; ++i)
    for (int32_t j = 0; j < x.columns; ++j) from.line(i)[j] -= x.line(i)[j];
}

// out = or += x y
void multiply(const Matrix& x, const Matrix& y, bool add, const Matrix& out) {
  strided(x.rows, y.columns, x.columns, x.at, x.step, 1, y.at, y.step, add, out.at, out.step);
}
Matrix multiplied(const Matrix& x, const Matrix& y, Memory& memory) {
  const Matrix out = memory.take(x.rows, y.columns);
  multiply(x, y, false, out);
  return out;
}

// out = xᵀ y
void outer(const Matrix& x, const Matrix& y, const Matrix& out) {
  strided(x.columns, y.columns, x.rows, x.at, 1, x.step, y.at, y.step, false, out.at, out.step);
}
Matrix outer(const Matrix& x, const Matrix& y, Memory& memory) {
  const Matrix out = memory.take(x.columns, y.columns);
  outer(x, y, out);
  return out;
}

// xᵀ x; of what is below the diagonal only the mirror image is computed.
Matrix gram(const Matrix& x, Memory& memory) {
  const int32_t n = x.columns;
  const Matrix out = memory.take(n, n);
  for (int32_t column = 0; column < n; column += kPanel<float>) {
    const int32_t end = n < column + kPanel<float> ? n : column + kPanel<float>;
    const Matrix panel{x.at + column, x.rows, end - column, x.step};
    outer({x.at, x.rows, end, x.step}, panel, {out.at + column, end, end - column, out.step});
  }
  for (int32_t i = 0; i < n; ++i)
    for (int32_t j = 0; j < i; ++j) out.line(i)[j] = out.line(j)[i];
  return out;
}

}  // namespace
}  // namespace dpl
