/* Steps of the optimiser SOAP, in the library of dpl.h and by its rules for layout, status and
 * threads. Training alone wants them: the header is not installed.
 */
#ifndef DPL_SOAP_H
#define DPL_SOAP_H

#include "dpl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One side of matrices G (n_rows, n_columns) in SOAP (Vyas et al., arXiv:2409.11321): the means of
 * G Gᵀ, or GᵀG, and the basis that follows their eigenvectors, both (n_matrices, length of the
 * side, n_kept). Where n_kept < length, that is of the leading ones alone, and the mean is that of
 * the product of G Gᵀ with them. n_kept 0: the side is seen as it is, pointers are not read. */
typedef struct dpl_soap_side {
  int32_t n_kept; /* 0 to length */
  float *mean, *basis;
} dpl_soap_side;

/* A batch of matrices of one shape, and their state. mean and squares are those of the gradients as
 * they are seen in the bases: (n_matrices, n_rows, n_columns), but where a side keeps fewer than
 * its length, n_kept longer along it: what is along its basis comes first, and then what is left.
 */
typedef struct dpl_soap_matrices {
  int64_t n_matrices;
  int32_t n_rows, n_columns; /* at least 1 */
  dpl_precision precision;   /* of values and gradient */
  void* values;              /* (n_matrices, n_rows, n_columns) */
  const void* gradient;      /* as the values */
  double rate;               /* of the learning: a number in the basis moves by about as much */
  float* step;               /* (1) updates so far */
  float *mean, *squares;
  dpl_soap_side left, right;
} dpl_soap_matrices;

/* decay of the mean gradient, decay_squares of the means of squares, G Gᵀ and GᵀG, in [0, 1);
 * epsilon is added to the root of the mean square; no number in the basis moves by more than most
 * times the rate; the bases follow the means with every interval-th update. */
typedef struct dpl_soap {
  double decay, decay_squares, epsilon, most;
  int32_t interval;
} dpl_soap;

/* One update of each of n batches, in place: numbers as training/soap.py has them, to rounding. */
DPL_API dpl_status dpl_soap_step(const dpl_soap* rule, const dpl_soap_matrices* batches, int32_t n,
                                 int threads);

#ifdef __cplusplus
}
#endif
#endif
