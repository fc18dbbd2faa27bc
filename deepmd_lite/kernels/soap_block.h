// What one thread does to one matrix of weights in a step of SOAP: compiled once for each
// instruction set (see moments_block.h). training/soap.py is the same in torch, and says why.
#pragma once

#include <cstdint>

#include "dpl_soap.h"
#include "physics.h"

namespace dpl {

// A side of a matrix: the means of G Gᵀ (or GᵀG), or of its product with the basis where that has
// fewer columns than numbers; (length, n_columns) both. Without columns it is not turned.
struct SoapSide {
  int32_t length, n_columns;
  float *mean, *basis;

  DPL_MEMBER bool few() const { return n_columns > 0 && n_columns < length; }
  // Of a gradient seen in the basis: what is along its columns, and after it the rest.
  DPL_MEMBER int32_t n_seen() const { return few() ? n_columns + length : length; }
};

template <class real>
struct SoapMatrix {
  SoapSide left, right;
  real* values;  // (left.length, right.length), as the gradient
  const real* gradient;
  float *mean, *squares;  // (left.n_seen(), right.n_seen())
};

// Numbers of one update, the same for all matrices of a parameter.
struct SoapUpdate {
  float new_mean, new_squares;  // 1 − β₁ and 1 − β₂
  float pace, inverse_root;     // rate / (1 − β₁ᵗ) and 1 / sqrt(1 − β₂ᵗ)
  float epsilon, most;          // added to the root of squares; largest step of a number seen
  bool turns;                   // whether bases follow the means
};

// Moves the values. `memory`: soap_memory(left, right) numbers, aligned to 64 bytes.
template <class real>
using SoapKernel = void (*)(const SoapUpdate&, const SoapMatrix<real>&, float* memory);

template <class real>
SoapKernel<real> baseline_soap();
template <class real>
SoapKernel<real> avx2_soap();
template <class real>
SoapKernel<real> avx512_soap();

}  // namespace dpl
