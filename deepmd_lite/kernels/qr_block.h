// Orthogonal columns of the same span, by Householder's reflections as LAPACK has them (xGEQRF and
// xORGQR; Anderson et al., LAPACK Users' Guide, 3rd edition): the same signs, and columns without
// a norm, or that depend on others, are as good as any. Part of soap_block.cpp.
#pragma once

#include "matrix_block.h"

namespace dpl {
namespace {

constexpr int32_t kReflections = kHalfPanel;  // applied together

// Σ x_i y_i and Σ x_i² of vectors padded to whole ones with 0; the latter cannot underflow.
DPL_INLINE float dot(int32_t n, const float* x, const float* y) {
  using S = Simd<float>;
  S::vec total[4] = {};
  int32_t i = 0;
  for (; i + 4 * S::lanes <= n; i += 4 * S::lanes)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v)
      total[v] += S::load(x + i + v * S::lanes) * S::load(y + i + v * S::lanes);
  for (; i < n; i += S::lanes) total[0] += S::load(x + i) * S::load(y + i);
  return sum((total[0] + total[1]) + (total[2] + total[3]));
}
DPL_INLINE double squares(int32_t n, const float* x) {
  double total[8] = {};
  for (int32_t i = 0; i < n; i += 8)
    for (int v = 0; v < 8; ++v) total[v] += double(x[i + v]) * double(x[i + v]);
  return ((total[0] + total[1]) + (total[2] + total[3])) +
         ((total[4] + total[5]) + (total[6] + total[7]));
}

// The reflection I − τ v vᵀ that leaves of x, from place k on, only x_k: x becomes v, 0 before
// place k and 1 there. Returns τ, which is 0 where nothing is to be done.
float reflection(int32_t k, int32_t length, float* x) {
  const double first = x[k];
  for (int32_t i = 0; i <= k; ++i) x[i] = 0;
  const int32_t start = k / kHalfPanel * kHalfPanel;
  const double rest = squares(padded(length) - start, x + start);
  x[k] = 1;
  if (rest == 0) return 0;
  const double norm = __builtin_sqrt(first * first + rest);
  const double left = first > 0 ? -norm : norm, scale = 1 / (first - left);
  for (int32_t i = k + 1; i < length; ++i) x[i] = float(scale * x[i]);
  return float((left - first) / left);
}

// The product H_0 H_1 … of reflections whose vectors are the lines of v: I − Vᵀ T V, of which −T is
// returned (Schreiber and Van Loan, SIAM J. Sci. Stat. Comput. 10, 53, 1989).
Matrix joined(const Matrix& v, const Matrix& v_flipped, const float* tau, Memory& memory) {
  const Matrix t = memory.take(v.rows, v.rows);
  Memory own = memory;
  const Matrix products = multiplied(v, v_flipped, own);
  for (int32_t k = 0; k < v.rows; ++k) {
    for (int32_t i = 0; i < v.rows; ++i) {
      float total = 0;
      for (int32_t l = i; l < k; ++l) total += t.line(i)[l] * products.line(l)[k];
      t.line(i)[k] = i < k ? -tau[k] * total : i == k ? -tau[k] : 0;
    }
  }
  return t;
}

// lines += (lines Vᵀ) t V
void apply(const Matrix& v, const Matrix& v_flipped, const Matrix& t, const Matrix& lines,
           Memory memory) {
  const Matrix along = multiplied(lines, v_flipped, memory);
  multiply(multiplied(along, t, memory), v, true, lines);
}

// The columns of Q of x = Q R, as lines; those of x, no more than they are long, are the lines of
// `x`, padded with 0, which is overwritten.
Matrix orthogonal(const Matrix& x, Memory& memory) {
  const int32_t n = x.rows, length = x.columns;
  const Matrix q = memory.take(n, length);
  const int32_t n_blocks = (n + kReflections - 1) / kReflections;
  Memory own = memory;
  const Matrix kept = own.take(n_blocks * kReflections, kReflections);  // t of each block
  // of a block of reflections from k on: x, or q, where they act
  const auto from = [&](const Matrix& all, int32_t k, int32_t rows) {
    return Matrix{all.line(k) + k, rows, length - k, all.step};
  };
  for (int32_t k = 0; k < n; k += kReflections) {
    const int32_t size = n - k < kReflections ? n - k : kReflections;
    const Matrix v = from(x, k, size);
    float tau[kReflections];
    for (int32_t a = 0; a < size; ++a) {
      tau[a] = reflection(a, v.columns, v.line(a));
      for (int32_t b = a + 1; b < size; ++b) {
        const int32_t end = padded(v.columns);
        const float along = tau[a] * dot(end, v.line(a), v.line(b));
        for (int32_t i = 0; i < end; ++i) v.line(b)[i] -= along * v.line(a)[i];
      }
    }
    Memory here = own;
    const Matrix v_flipped = transposed(v, here), t = joined(v, v_flipped, tau, here);
    copy(t, kept.line(k), kept.step);
    apply(v, v_flipped, t, {v.line(size), n - k - size, v.columns, x.step}, here);
  }
  for (int32_t i = 0; i < n; ++i)
    for (int32_t j = 0; j < q.step; ++j) q.line(i)[j] = i == j;
  for (int32_t k = (n_blocks - 1) * kReflections; k >= 0; k -= kReflections) {
    const int32_t size = n - k < kReflections ? n - k : kReflections;
    const Matrix v = from(x, k, size);
    Memory here = own;
    const Matrix v_flipped = transposed(v, here);
    const Matrix t = transposed({kept.line(k), size, size, kept.step}, here);
    apply(v, v_flipped, t, from(q, k, n - k), here);
  }
  return q;
}

}  // namespace
}  // namespace dpl
