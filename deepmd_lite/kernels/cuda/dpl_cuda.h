/* The kernels of deepmd_lite on a CUDA device behind a plain C11 interface, in a library of their
 * own (libdpl_cuda): without it, or without a driver, everything else works.
 *
 * Memory: every pointer is to memory of the device, unless it says "host". All of it belongs to the
 *   caller; where a function needs working memory, another tells how many bytes. Nothing is kept
 *   between calls.
 * Order: work is queued on dpl_cuda_queue.stream, and a function returns before it is done, except
 *   where it says "waits".
 * Units, layout, statuses, and the structs of atoms, environment and table are those of dpl.h.
 * Faults that only the device sees (coincident atoms, a neighbour that does not exist) are noted in
 *   a dpl_cuda_report, and what causes them is left out; dpl_cuda_report_read turns them into a
 *   status.
 * Bits: results do not depend on the order in which the device runs its threads. Derivatives with
 *   respect to positions are summed as 64-bit integers in units of 2^-40, in which the sum over all
 *   rows is exactly zero.
 */
#ifndef DPL_CUDA_H
#define DPL_CUDA_H

#include "dpl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bits after the binary point of a fixed-point derivative, 2^-40 = 9.1e-13. One edge contributes at
 * most 2^20, and a sum is at most 2^21; more is a fault. (A sum beyond 2^23 that is made of such
 * edges wraps, and may then pass for a small one.) */
#define DPL_CUDA_FRACTION_BITS 40
#define DPL_CUDA_LARGEST_EDGE_BITS 20
/* The number of features of a table is at most this, and less with more than nine columns: their
 * moments are held in shared memory. Where a GPU has less of it than they need, DPL_DEVICE says so.
 */
#define DPL_CUDA_MAX_FEATURES 1024
#define DPL_CUDA_MAX_FEATURES_OF(n_columns) \
  ((n_columns) <= 9 ? DPL_CUDA_MAX_FEATURES : DPL_CUDA_MAX_FEATURES * 9 / (n_columns))

/* Where work goes. */
typedef struct dpl_cuda_queue {
  int32_t device; /* as cudaSetDevice counts */
  void* stream;   /* a cudaStream_t of that device; NULL is its default stream */
} dpl_cuda_queue;

/* The first of each kind of fault (rows ascending), all bits set where there is none. Faults of a
 * pair hold the row of the centre in the upper 32 bits, that of the neighbour in the lower. */
typedef struct dpl_cuda_report {
  uint64_t not_finite;  /* row whose position is NaN or infinite */
  uint64_t bad_type;    /* row whose type is out of range */
  uint64_t bad_offsets; /* row whose offsets descend or leave the list */
  uint64_t bad_index;   /* pair whose neighbour is no row */
  uint64_t coincident;  /* pair nearer than 1e-6 Å */
  uint64_t too_near;    /* pair nearer than the short-range table begins */
  uint64_t too_strong;  /* row on which more acts than a fixed-point number holds */
  uint64_t beyond;      /* not a fault: edges in the continuation of the table */
  double distance;      /* Å: of the pair too_near */
  double start;         /* Å: where the table begins that it is too near for */
} dpl_cuda_report;

/* dpl_atoms with the length of the list, which the device checks the offsets with, and what counts
 * of each local row's moments: dpl_cuda_moments_backward multiplies by it, and rows of weight 0 are
 * to dpl_cuda_moments as without neighbours. Other functions leave it alone. */
typedef struct dpl_cuda_atoms {
  dpl_atoms rows;
  int64_t n_edges;
  const double* weights; /* (n_local), or NULL: 1 */
} dpl_cuda_atoms;

/* One line about the last failure in this thread; valid until the next call that fails here. */
DPL_API const char* dpl_cuda_last_error(void);

/* *count (host): GPUs that this process can use. DPL_DEVICE without a driver, or with one that is
 * too old for this build. */
DPL_API dpl_status dpl_cuda_device_count(int32_t* count);

/* Clears reports (n). */
DPL_API dpl_status dpl_cuda_report_clear(const dpl_cuda_queue* queue, int32_t n,
                                         dpl_cuda_report* reports);

/* Waits for the queue. The first fault in reports (n) of calls about n_all rows of n_types types
 * becomes a status; otherwise *beyond (host) is the largest of theirs: of several descriptors, each
 * with a report of its own, an edge is one, for however many of their tables it is too short. */
DPL_API dpl_status dpl_cuda_report_read(const dpl_cuda_queue* queue, int32_t n,
                                        const dpl_cuda_report* reports, int64_t n_all,
                                        int32_t n_types, int64_t* beyond);

/* The list of dpl_neighbors_build in two steps, between which the caller makes room for the
 * indices: *n_edges (host) of them. Rows are sorted by neighbour type, then by index. Both wait. */
DPL_API int64_t dpl_cuda_neighbors_scratch(int64_t n_all, int64_t n_local); /* bytes */
DPL_API dpl_status dpl_cuda_neighbors_count(const dpl_cuda_queue* queue, int64_t n_all,
                                            int64_t n_local, const double* positions,
                                            const int32_t* types, double cutoff, void* scratch,
                                            int64_t* offsets, int64_t* n_edges);
/* After dpl_cuda_neighbors_count with the same arguments, scratch and offsets untouched. */
DPL_API dpl_status dpl_cuda_neighbors_fill(const dpl_cuda_queue* queue, int64_t n_all,
                                           int64_t n_local, const double* positions,
                                           const int32_t* types, double cutoff, void* scratch,
                                           const int64_t* offsets, int32_t* indices);

/* dpl_moments of the rows [begin, end): moments (end - begin, n_columns, n_features) real, counts
 * (end - begin, n_types); report->beyond counts on. davg, dstd and coefficients are on the device;
 * what they hold is not checked. */
DPL_API dpl_status dpl_cuda_moments(const dpl_cuda_queue* queue, const dpl_cuda_atoms* atoms,
                                    const dpl_environment* environment, const dpl_table* table,
                                    int64_t begin, int64_t end, void* moments, int32_t* counts,
                                    dpl_cuda_report* report);

/* Adds the derivatives of Σ grad_moments · moments over the rows [begin, end) with respect to the
 * positions to fixed (n_all, 3). grad_moments is shaped as the moments. */
DPL_API dpl_status dpl_cuda_moments_backward(const dpl_cuda_queue* queue,
                                             const dpl_cuda_atoms* atoms,
                                             const dpl_environment* environment,
                                             const dpl_table* table, int64_t begin, int64_t end,
                                             const void* grad_moments, int64_t* fixed,
                                             dpl_cuda_report* report);

/* What makes descriptors of moments: see dpl_fitting and dpl_model. */
typedef struct dpl_cuda_descriptor {
  dpl_precision precision;
  int32_t n_types, n_features, n_embedding, n_axis, n_columns, n_cubic;
  int32_t width;     /* inputs of the networks, the numbers of all descriptors of a model */
  int32_t first;     /* place of this descriptor's first number among them */
  const void* sel;   /* (n_types) real */
  const void* empty; /* (n_types of the centre, n_types, n_features) real: what an empty slot adds
                        to column 0 */
  double scale;      /* 1 / n_sel */
} dpl_cuda_descriptor;

/* Normalises the moments of n atoms, in place, and writes their numbers, as dpl_shape orders them,
 * to their places in descriptors (n, width): row s is that of atom order[s] of moments, types and
 * counts. Types are not checked. */
DPL_API dpl_status dpl_cuda_describe(const dpl_cuda_queue* queue,
                                     const dpl_cuda_descriptor* descriptor, int64_t n,
                                     const int64_t* order, const int32_t* types,
                                     const int32_t* counts, void* moments, void* descriptors);

/* The way back: normalised moments become minus the derivatives, with respect to the moments before
 * dpl_cuda_describe, of a function whose derivatives with respect to descriptors are gradient (n,
 * width). */
DPL_API dpl_status dpl_cuda_describe_backward(const dpl_cuda_queue* queue,
                                              const dpl_cuda_descriptor* descriptor, int64_t n,
                                              const int64_t* order, const void* gradient,
                                              void* moments);

/* For training. The change of the moments of all local rows along tangent (n_all, 3) double, shaped
 * as the moments: what dpl_moments_double_backward calls grad_grad_moments. */
DPL_API dpl_status dpl_cuda_moments_tangent(const dpl_cuda_queue* queue,
                                            const dpl_cuda_atoms* atoms,
                                            const dpl_environment* environment,
                                            const dpl_table* table, const double* tangent,
                                            void* change, dpl_cuda_report* report);

/* The runs of all local rows (moments.cu): bins (n_edges), n_tables · n_intervals where there is
 * no run; rows (n_edges), that of each; sums (n_edges, DPL_POWERS, n_columns) real, S_kc, or its
 * change along tangent (NULL: none). */
DPL_API dpl_status dpl_cuda_runs(const dpl_cuda_queue* queue, const dpl_cuda_atoms* atoms,
                                 const dpl_environment* environment, const dpl_table* table,
                                 const double* tangent, int32_t* bins, int32_t* rows, void* sums,
                                 dpl_cuda_report* report);

/* The gradient with respect to the coefficients, of the table's shape, in DPL_CUDA_PARTS parts that
 * are to be added up: Σ S_kc grad_moments_cm over the runs of each bin, whose places in the arrays
 * of dpl_cuda_runs are order[first[bin]] to order[first[bin + 1] - 1]. */
#define DPL_CUDA_PARTS 4
DPL_API dpl_status dpl_cuda_accumulate(const dpl_cuda_queue* queue,
                                       const dpl_environment* environment, const dpl_table* table,
                                       const int64_t* first, const int64_t* order,
                                       const int32_t* rows, const void* sums,
                                       const void* grad_moments, double* parts);

/* Adds the repulsion of dpl_repulsion_add: to energies (n_local), and to fixed (n_all, 3) the
 * forces. The arrays of repulsion are on the device; what they hold is not checked. */
DPL_API dpl_status dpl_cuda_repulsion_add(const dpl_cuda_queue* queue,
                                          const dpl_repulsion* repulsion,
                                          const dpl_cuda_atoms* atoms, double* energies,
                                          int64_t* fixed, dpl_cuda_report* report);

/* Of dpl_short_range, whose arrays are on the device; what they hold is not checked.
 * soft (n_local): the soft minimum of each row, Å, sw_rmax where no neighbour is nearer than that;
 * weights (n_local): 1 - λ, for dpl_cuda_atoms. */
DPL_API dpl_status dpl_cuda_short_range_weights(const dpl_cuda_queue* queue,
                                                const dpl_short_range* table,
                                                const dpl_cuda_atoms* atoms, double* soft,
                                                double* weights, dpl_cuda_report* report);

/* dpl_short_range_add, with these soft minima: energies (n_local) of the networks become those of
 * networks and table; forces of λ and the table are added to fixed (n_all, 3). */
DPL_API dpl_status dpl_cuda_short_range_add(const dpl_cuda_queue* queue,
                                            const dpl_short_range* table,
                                            const dpl_cuda_atoms* atoms, const double* soft,
                                            double* energies, int64_t* fixed,
                                            dpl_cuda_report* report);

/* gradient (n_all, 3) double from fixed; notes rows whose position is not finite. */
DPL_API dpl_status dpl_cuda_from_fixed(const dpl_cuda_queue* queue, int64_t n_all,
                                       const double* positions, const int64_t* fixed,
                                       double* gradient, dpl_cuda_report* report);

/* normals (n, 3) double: standard normal numbers, a function of ids (n), seed, stream and step
 * alone (Philox4x32-10, Box and Muller's transform). */
DPL_API dpl_status dpl_cuda_normals(const dpl_cuda_queue* queue, int64_t n, const int64_t* ids,
                                    uint32_t seed, uint32_t stream, int64_t step, double* normals);

#ifdef __cplusplus
}
#endif
#endif
