// The columns of an edge as short vectors, and which of them are handled together. Part of
// moments_block.cpp: local to the translation unit that is compiled for one instruction set.
#pragma once

#include "moments_block.h"
#include "simd.h"

namespace dpl {
namespace {

// The columns of one edge or of one power of a run, filled up with zeros.
template <int C, class real>
struct Columns {
  static constexpr int fours = columns_in_fours(C) / 4;
  typedef real four __attribute__((vector_size(4 * sizeof(real))));
  typedef real unaligned
      __attribute__((vector_size(4 * sizeof(real)), may_alias, aligned(alignof(real))));
  four part[fours] = {};

  DPL_INLINE Columns load(const real* p) {
    Columns x;
    for (int f = 0; f < fours; ++f) x.part[f] = *reinterpret_cast<const unaligned*>(p + 4 * f);
    return x;
  }
  DPL_MEMBER void store(real* p) const {
    for (int f = 0; f < fours; ++f) *reinterpret_cast<unaligned*>(p + 4 * f) = part[f];
  }
  DPL_INLINE Columns gather(real* const* column, int32_t e) {
    Columns x;
    for (int c = 0; c < C; ++c) x.part[c / 4][c % 4] = column[c][e];
    return x;
  }
  DPL_MEMBER real operator[](int c) const { return part[c / 4][c % 4]; }
  DPL_MEMBER Columns& operator+=(const Columns& other) {
    for (int f = 0; f < fours; ++f) part[f] += other.part[f];
    return *this;
  }
  DPL_MEMBER Columns& operator*=(real factor) {
    for (int f = 0; f < fours; ++f) part[f] *= factor;
    return *this;
  }
  DPL_MEMBER Columns operator+(const Columns& other) const { return Columns(*this) += other; }
  DPL_MEMBER Columns operator*(real factor) const { return Columns(*this) *= factor; }
};

template <int C, class real>
DPL_INLINE real dot(const Columns<C, real>& a, const Columns<C, real>& b) {
  real total = 0;
  for (int f = 0; f < a.fours; ++f) {
    const auto product = a.part[f] * b.part[f];
    for (int c = 0; c < 4; ++c) total += product[c];
  }
  return total;
}

// How many of C columns from `first` on such a vector has: all of up to twelve, or eight.
constexpr int in_hand(int n_columns, int first) {
  return n_columns - first <= 12 ? n_columns - first : 8;
}

// The first part of a sum, or a further one.
template <bool first, class real>
DPL_INLINE void put(real& sum, real x) {
  sum = first ? x : sum + x;
}

constexpr int kRegisters = DPL_ISA_BYTES == 64 ? 32 : 16;

// Where the degree of column `first` ends; the first two count as one.
constexpr int end_of_degree(int first) {
  int l = 1;
  while ((l + 1) * (l + 1) <= first) ++l;
  return (l + 1) * (l + 1);
}

// How many columns from `first` on, whole degrees, are handled together: as many as there are
// registers for, each column taking `each` of them and `others` being in use besides.
constexpr int degrees_in_hand(int n_columns, int first, int each, int others) {
  int end = end_of_degree(first);
  while (end < n_columns && (end_of_degree(end) - first) * each + others <= kRegisters)
    end = end_of_degree(end);
  return end - first;
}

}  // namespace
}  // namespace dpl
