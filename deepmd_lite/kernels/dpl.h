/* The compiled kernels of deepmd_lite behind a plain C11 interface.
 *
 * Units: positions in Å; moments, tables and gradients in whatever the table's values are in.
 * Layout: every array is dense and row-major (the last index runs fastest). `real` below is
 *   `double` or `float` as dpl_table.precision says; positions and their gradients are double.
 * Ownership: every array belongs to the caller and is neither kept nor freed. Outputs are
 *   overwritten (dpl_repulsion_add and dpl_short_range_add alone add to them). Working memory stays
 *   with the threads between calls (dpl_release_workspace returns the calling thread's). What the
 *   library owns are handles, each with a function that frees it.
 * Status: every function that can fail returns a dpl_status; dpl_last_error() is then one line for
 *   a person about the last failure in the calling thread. On failure outputs are undefined.
 * Threads: calls from several threads at once are fine. The results of one call are the same bits
 *   for every `threads`; they differ in rounding between instruction sets.
 */
#ifndef DPL_H
#define DPL_H

#include <stdint.h>

#if defined(_WIN32)
#define DPL_API
#else
#define DPL_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Columns of an environment row: with c the protection w/(r + c), w x/(r + c)^2, likewise y, z. */
#define DPL_COLUMNS 4
/* Or these and w H/(r + c)^(l + 1) for the H of harmonics.h of each degree l up to one of 2 to 4.
 */
#define DPL_COLUMNS_OF_DEGREE(l) (((l) + 1) * ((l) + 1))
#define DPL_MOST_DEGREE 4
/* Features of a descriptor that may make invariants of third order. */
#define DPL_MOST_CUBIC 8
/* Coefficients of the quintic polynomial of each table interval. */
#define DPL_POWERS 6
/* The number of features of a table is a multiple of this (pad with zero coefficients). */
#define DPL_FEATURE_PADDING 16

typedef enum dpl_status {
  DPL_OK = 0,
  DPL_INVALID_ARGUMENT = 1, /* a size, an index, a type or a parameter out of its range */
  DPL_NOT_FINITE = 2,       /* a position is NaN or infinite */
  DPL_COINCIDENT = 3,       /* two rows are nearer than 1e-6 Å, or than a pair table begins */
  DPL_TOO_LARGE = 4,        /* 2^31 rows or more, or coordinates too far apart to be subtracted */
  DPL_OUT_OF_MEMORY = 5,
  DPL_DEVICE = 6, /* cuda/dpl_cuda.h alone: no GPU, no driver, or a call of the two that failed */
  DPL_FILE = 7    /* a model file that cannot be read, is damaged or of a later release */
} dpl_status;

typedef enum dpl_precision { DPL_FLOAT32 = 0, DPL_FLOAT64 = 1 } dpl_precision;

typedef enum dpl_instruction_set {
  DPL_BASELINE = 0,
  DPL_AVX2 = 1,  /* with FMA */
  DPL_AVX512 = 2 /* F, BW, DQ, VL */
} dpl_instruction_set;

/* Rows 0 .. n_local-1 are the atoms whose moments are wanted; the others only appear as neighbours
 * (periodic images, atoms of another rank). The neighbours of row i are
 * indices[offsets[i] .. offsets[i+1]-1]. Neighbours at rcut or beyond (a skin) contribute nothing;
 * the list need not be symmetric, and its order within a row only decides the rounding. */
typedef struct dpl_atoms {
  int64_t n_all, n_local;
  const double* positions; /* (n_all, 3) Å */
  const int32_t* types;    /* (n_all) in [0, n_types) */
  const int64_t* offsets;  /* (n_local + 1), offsets[0] = 0 */
  const int32_t* indices;  /* (offsets[n_local]) in [0, n_all) */
} dpl_atoms;

/* What turns an edge into a normalised environment row and finds its table and place in it:
 * row = (w(r)·(1/q, x/q², y/q², z/q²) − davg[a]) / dstd[a] with q = r + protection, a the type of
 * the centre, and as many columns as n_columns says; the table is that of the neighbour's type b
 * (type_one_side) or a·n_types + b; the place is (y − table_start) / table_spacing with y = row[0],
 * or y = −r where the tables are functions of the distance. w is 1 up to rcut_smth, 0 from rcut, a
 * quintic between. */
typedef struct dpl_environment {
  double rcut, rcut_smth; /* Å, 0 <= rcut_smth < rcut */
  int32_t n_types;
  int32_t type_one_side; /* 0 or 1 */
  int32_t n_columns;     /* DPL_COLUMNS_OF_DEGREE of 1 to DPL_MOST_DEGREE */
  const double* davg;    /* (n_types, n_columns) */
  const double* dstd;    /* (n_types, n_columns), > 0 */
  double table_start, table_spacing;
  double protection;         /* Å, >= 0 (0 in most models) */
  int32_t table_of_distance; /* 0 or 1 */
} dpl_environment;

/* Interval q holds G(q + t) = Σ_k c[q][k] t^k for 0 <= t < 1. The last interval continues the
 * table without an upper end, as a parabola: only its coefficients of k <= 2 count. Places below 0
 * extrapolate the first one. */
typedef struct dpl_table {
  dpl_precision precision;  /* of the coefficients, the moments and the arithmetic after the
                               differences of positions */
  int32_t n_tables;         /* n_types (type_one_side) or n_types² */
  int32_t n_intervals;      /* the continuation included */
  int32_t n_features;       /* a multiple of DPL_FEATURE_PADDING */
  const void* coefficients; /* (n_tables, n_intervals, DPL_POWERS, n_features) real */
} dpl_table;

/* One line about the last failure in this thread; valid until the next call that fails here. */
DPL_API const char* dpl_last_error(void);

/* Returns the calling thread's working memory to the system; its workers keep theirs. */
DPL_API void dpl_release_workspace(void);

/* 1 if this build has the instruction set and this processor can execute it, else 0. */
DPL_API int dpl_has_instruction_set(dpl_instruction_set set);
/* The one in use: the widest available unless dpl_use_instruction_set chose another. */
DPL_API dpl_instruction_set dpl_current_instruction_set(void);
/* For tests and timings; holds for the whole process. */
DPL_API dpl_status dpl_use_instruction_set(dpl_instruction_set set);

/* Full ragged list of the pairs (i < n_local, j) with |r_j − r_i| < cutoff, j != i, no periodicity.
 * Rows are sorted by neighbour type, then by index. Time and memory are O(n_all + n_edges) however
 * far the atoms are scattered. `positions`, `types` as in dpl_atoms (any types >= 0). On success
 * *handle holds the list and *n_edges its length; copy it out, then free the handle. */
typedef struct dpl_neighbors dpl_neighbors;
DPL_API dpl_status dpl_neighbors_build(int64_t n_all, int64_t n_local, const double* positions,
                                       const int32_t* types, double cutoff, int threads,
                                       dpl_neighbors** handle, int64_t* n_edges);
/* offsets (n_local + 1), indices (n_edges). */
DPL_API void dpl_neighbors_copy(const dpl_neighbors* handle, int threads, int64_t* offsets,
                                int32_t* indices);
DPL_API void dpl_neighbors_free(dpl_neighbors* handle); /* NULL is fine */

/* T[i] = Σ_j row_ij ⊗ G(s_ij) over the neighbours nearer than rcut.
 * moments (n_local, n_columns, n_features) real; counts (n_local, n_types): those neighbours by
 * type; *beyond: how many edges lay in the continuation of the table. */
DPL_API dpl_status dpl_moments(const dpl_atoms* atoms, const dpl_environment* environment,
                               const dpl_table* table, int threads, void* moments, int32_t* counts,
                               int64_t* beyond);

/* Derivatives of Φ = Σ grad_moments · moments. grad_moments as moments; grad_positions (n_all, 3)
 * double, ghosts included; grad_coefficients shaped as the table. Either output may be NULL. */
DPL_API dpl_status dpl_moments_backward(const dpl_atoms* atoms, const dpl_environment* environment,
                                        const dpl_table* table, int threads,
                                        const void* grad_moments, double* grad_positions,
                                        void* grad_coefficients);

/* Derivatives of Ψ = Σ tangent · ∂Φ/∂positions, with tangent (n_all, 3) double:
 * grad_grad_moments (shape of moments) = ∂Ψ/∂grad_moments, the change of the moments along tangent;
 * grad_positions (n_all, 3) = ∂Ψ/∂positions, the Hessian of Φ times tangent;
 * grad_coefficients = ∂Ψ/∂coefficients. Any output may be NULL. */
DPL_API dpl_status dpl_moments_double_backward(const dpl_atoms* atoms,
                                               const dpl_environment* environment,
                                               const dpl_table* table, int threads,
                                               const void* grad_moments, const double* tangent,
                                               void* grad_grad_moments, double* grad_positions,
                                               void* grad_coefficients);

/* --- the whole potential ------------------------------------------------------------------- */

typedef enum dpl_activation {
  DPL_LINEAR = 0,
  DPL_TANH = 1,
  DPL_SIGMOID = 2,
  DPL_SOFTPLUS = 3,
  DPL_SILU = 4,
  DPL_GELU = 5,  /* the tanh form */
  DPL_RELU = 6,  /* max(x, 0): forces jump where an argument changes its sign */
  DPL_RELU6 = 7, /* min(max(x, 0), 6), likewise */
  DPL_LAST_ACTIVATION = DPL_RELU6,
  DPL_ANY_ACTIVATION = 0x7fffffff /* makes a wrong number a value that can be refused */
} dpl_activation;

/* y = step · f(x · weight + bias), plus x where n_out = n_in, plus x twice in a row where
 * n_out = 2 n_in. */
typedef struct dpl_layer {
  int32_t n_in, n_out;
  const void* weight; /* (n_in, n_out) real */
  const void* bias;   /* (n_out) real */
  const void* step;   /* (n_out) real, or NULL: 1 */
} dpl_layer;

/* The energy of an atom (eV) from its descriptor: hidden layers, then weight_out · y + bias_out. */
typedef struct dpl_network {
  int32_t n_layers; /* at least 1 */
  const dpl_layer* layers;
  const void* weight_out; /* (n_out of the last layer) real */
  double bias_out;
} dpl_network;

/* The numbers D_ma = Σ_c T_cm T_ca for m < n_embedding, a < n_axis, at m · n_axis + a. With n_axis
 * 0 they are the first column of the moments, D_m = T_0m. Where the columns reach the second
 * degree, each degree has numbers of its own: D_m = T_0m, then the D_ma of columns 1 … 3, of 4 … 8
 * and so on. Of their first n_cubic features the invariants of third order follow, in the order of
 * cubic.h: v_a·Q_b v_c for a <= c and all b, b innermost, and tr Q_a Q_b Q_c for a <= b <= c. */
typedef struct dpl_shape {
  int32_t n_features;  /* of the moments, a multiple of DPL_FEATURE_PADDING */
  int32_t n_embedding; /* without padding */
  int32_t n_axis;      /* 0 to n_embedding; of moments of second degree at least 1 */
  int32_t n_columns;   /* of the moments, as in dpl_environment */
  int32_t n_cubic;     /* 0 to DPL_MOST_CUBIC and n_embedding; 0 without second degree */
} dpl_shape;

/* Descriptors, and a network for each type, whose first layer takes their numbers one descriptor
 * after another. */
typedef struct dpl_fitting {
  dpl_precision precision;
  int32_t n_types;
  int32_t n_descriptors;   /* at least 1 */
  const dpl_shape* shapes; /* (n_descriptors) */
  dpl_activation activation;
  const dpl_network* networks; /* (n_types) */
} dpl_fitting;

/* One descriptor. With n_sel = Σ sel, its moments are T = (Σ_j row_ij ⊗ G + Σ_b (sel_b − n_b) ·
 * empty_ab) / n_sel, n_b the neighbours of type b nearer than rcut and empty_ab what a slot without
 * neighbour (s = 0) gives. */
typedef struct dpl_descriptor {
  dpl_environment environment; /* davg of x, y and z must be 0 */
  dpl_table table;
  const double* sel; /* (n_types) */
} dpl_descriptor;

/* Each descriptor has a cutoff of its own: a list within the largest of them serves all. */
typedef struct dpl_model {
  const dpl_descriptor* descriptors; /* (fitting.n_descriptors) */
  dpl_fitting fitting;               /* of the same precision, types and features */
} dpl_model;

/* A copy of the model in the layout that evaluation reads. Evaluations from several threads at once
 * are fine. */
typedef struct dpl_potential dpl_potential;
DPL_API dpl_status dpl_potential_create(const dpl_model* model, dpl_potential** handle);
DPL_API void dpl_potential_free(dpl_potential* handle); /* NULL is fine */

/* energies (n_local) eV; forces (n_all, 3) eV/Å = −Σ_i weights_i ∂energies_i/∂position of every
 * row; virial (3, 3) eV = Σ over all rows of position ⊗ force; *beyond as in dpl_moments, without
 * the edges of atoms of weight 0. weights (n_local) may be NULL: 1; the energies are those without
 * weights. Working memory does not grow with the number of atoms. */
DPL_API dpl_status dpl_potential_evaluate(const dpl_potential* handle, const dpl_atoms* atoms,
                                          const double* weights, int threads, double* energies,
                                          double* forces, double* virial, int64_t* beyond);

/* --- repulsion of close pairs ---------------------------------------------------------------- */

/* Ziegler, Biersack and Littmark's universal potential between nuclei a and b, times the switch w
 * that falls from 1 at r_in to 0 at r_out. */
typedef struct dpl_repulsion {
  int32_t n_types;
  const double* atomic_numbers; /* (n_types) > 0 */
  const double* r_in;           /* (n_types of the centre, n_types of the neighbour) Å, >= 0 */
  const double* r_out;          /* of the same shape, > r_in */
} dpl_repulsion;

/* Adds the repulsion: half of the energy of each edge i -> j to energies[i] (n_local, eV), its
 * forces to rows i and j of forces (n_all, 3, eV/Å), and Σ over all rows of position ⊗ force to
 * virial (3, 3, eV). weights (n_local) may be NULL, as in dpl_potential_evaluate: forces and virial
 * are those of Σ weights_i energies_i. A list that lacks pairs nearer than their r_out lacks their
 * repulsion. */
DPL_API dpl_status dpl_repulsion_add(const dpl_repulsion* repulsion, const dpl_atoms* atoms,
                                     const double* weights, int threads, double* energies,
                                     double* forces, double* virial);

/* --- short-range table ------------------------------------------------------------------------ */

/* Atoms with close neighbours have the energy of a table of pairs instead of the networks':
 *   (1 − λ_i) E_i + λ_i (bias_a + ½ Σ_j V_ab(r_ij)),   λ_i = w(d_i),
 *   d_i = Σ_j r_ij exp(−r_ij/smin_alpha) / Σ_j exp(−r_ij/smin_alpha),
 * a soft minimum of the distances to all neighbours nearer than rcut; w falls from 1 at sw_rmin to
 * 0 at sw_rmax as dpl_environment's does. Interval q of V_ab holds Σ_k c[q][k] t^k, t in [0, 1) the
 * place (r − start) / spacing − q. Beyond the last interval, and from rcut on, V is 0. */
typedef struct dpl_short_range {
  int32_t n_types, n_intervals;
  double rcut, smin_alpha, sw_rmin, sw_rmax; /* Å; smin_alpha > 0, 0 <= sw_rmin < sw_rmax <= rcut */
  double start, spacing;                     /* Å, start >= 0, spacing > 0 */
  const double* coefficients;                /* (n_types, n_types, n_intervals, 4) eV */
  const double* bias;                        /* (n_types) eV */
} dpl_short_range;

/* weights (n_local): 1 − λ_i, for dpl_potential_evaluate. */
DPL_API dpl_status dpl_short_range_weights(const dpl_short_range* table, const dpl_atoms* atoms,
                                           int threads, double* weights);

/* After dpl_potential_evaluate with these weights: energies (n_local, eV) become those above;
 * forces (n_all, 3, eV/Å) and virial (3, 3, eV) get what λ and the table contribute. factors
 * (n_local) may be NULL; else the weights were multiplied with them, and so are the contributions
 * of each atom to forces and virial.
 * DPL_COINCIDENT where a pair of an atom with λ > 0 is nearer than the table begins. */
DPL_API dpl_status dpl_short_range_add(const dpl_short_range* table, const dpl_atoms* atoms,
                                       const double* factors, int threads, double* energies,
                                       double* forces, double* virial);

/* --- models from files ------------------------------------------------------------------------ */

/* What a model file (.dpl) holds, ready to evaluate: networks, and repulsion or short-range table.
 * Nothing but this library is needed to read one. */
typedef struct dpl_force_field dpl_force_field;

/* member: DPL_ITSELF, or from 0 that of the committee in the file, whose deviations from one
 * another and from the model itself say how far to trust it. precision: a dpl_precision, or
 * DPL_OF_THE_MODEL, that of its training. The structures which the file remembers of the model
 * itself are evaluated; other results than it says of them are DPL_FILE. */
#define DPL_ITSELF (-1)
#define DPL_OF_THE_MODEL (-1)
DPL_API dpl_status dpl_force_field_load(const char* path, int32_t member, int precision,
                                        int threads, dpl_force_field** handle);
DPL_API void dpl_force_field_free(dpl_force_field* handle); /* NULL is fine */

/* Largest cutoff (Å); members of the committee in its file, or 0; elements: types are their places,
 * names live as long as the handle. NULL where there is no such type. */
DPL_API double dpl_force_field_cutoff(const dpl_force_field* handle);
DPL_API int32_t dpl_force_field_n_members(const dpl_force_field* handle);
DPL_API int32_t dpl_force_field_n_types(const dpl_force_field* handle);
DPL_API const char* dpl_force_field_element(const dpl_force_field* handle, int32_t type);

/* As dpl_potential_evaluate, all that the model has included. */
DPL_API dpl_status dpl_force_field_evaluate(const dpl_force_field* handle, const dpl_atoms* atoms,
                                            int threads, double* energies, double* forces,
                                            double* virial, int64_t* beyond);

/* virials (n_all, 3, 3, eV) of every row j, with forces f_ij = −∂energies_i/∂position_j,
 *   Σ_i (position_j − position_i) ⊗ f_ij,
 * whose sum over all rows is the virial (model/atomic_virials.py has the source). forces (n_all, 3,
 * eV/Å): those of dpl_force_field_evaluate, of the same atoms. Takes three evaluations. */
DPL_API dpl_status dpl_force_field_atomic_virials(const dpl_force_field* handle,
                                                  const dpl_atoms* atoms, int threads,
                                                  const double* forces, double* virials);

/* --- the networks in training --------------------------------------------------------------- */

/* One pass of atoms through the networks and back. It keeps what the second derivative needs, and
 * its memory for the next pass. One thread at a time may use it. */
typedef struct dpl_pass dpl_pass;
DPL_API dpl_status dpl_pass_create(dpl_precision precision, dpl_pass** handle);
DPL_API void dpl_pass_free(dpl_pass* handle); /* NULL is fine */

/* moments: of each descriptor T (n, n_columns of its shape, n_features) real; types (n); energies E
 * (n) eV and grad_moments, shaped as the moments: ∂E_i/∂T. The weights are copied. */
DPL_API dpl_status dpl_pass_energies(dpl_pass* handle, const dpl_fitting* fitting, int64_t n,
                                     const int32_t* types, const void* const* moments, int threads,
                                     double* energies, void* const* grad_moments);

typedef struct dpl_layer_gradient {
  void *weight, *bias, *step; /* shaped as the layer's; step may be NULL */
} dpl_layer_gradient;
typedef struct dpl_network_gradient {
  const dpl_layer_gradient* layers;
  void* weight_out;
  double* bias_out; /* (1) */
} dpl_network_gradient;

/* Derivatives of Ω = Σ_i to_energies_i E_i + Σ to_gradients · grad_moments, after
 * dpl_pass_energies with the same moments, once: grad_moments becomes ∂Ω/∂T, networks (n_types) the
 * derivatives with respect to the weights. to_gradients may be NULL: 0. */
DPL_API dpl_status dpl_pass_backward(dpl_pass* handle, const void* const* moments,
                                     const double* to_energies, const void* const* to_gradients,
                                     int threads, void* const* grad_moments,
                                     const dpl_network_gradient* networks);

/* --- the tables of embedding networks in training --------------------------------------------- */

/* A function of one scalar: hidden layers alone, the first one of one input, all double. */
typedef struct dpl_embedding {
  int32_t n_layers; /* at least 1 */
  dpl_activation activation;
  const dpl_layer* layers;
} dpl_embedding;

/* What the way back from tables to weights needs. */
typedef struct dpl_tabulation dpl_tabulation;

/* The coefficients (n_tables, n_nodes, DPL_POWERS, n_features) real of dpl_table, from the value
 * and two derivatives of a network each at the nodes start + k · spacing: quintics between two
 * nodes, the parabola of the last node beyond it, features after the network's 0. `kept`, unless it
 * is NULL, takes a handle. */
DPL_API dpl_status dpl_tabulate(const dpl_embedding* networks, int32_t n_tables, double start,
                                double spacing, int32_t n_nodes, int32_t n_features,
                                dpl_precision precision, int threads, void* coefficients,
                                dpl_tabulation** kept);

/* From the gradient of the coefficients that of each network's layers, double. As often as wanted,
 * in several threads at once. */
DPL_API dpl_status dpl_tabulation_backward(const dpl_tabulation* kept, int threads,
                                           const void* grad_coefficients,
                                           const dpl_layer_gradient* const* gradients);
DPL_API void dpl_tabulation_free(dpl_tabulation* kept); /* NULL is fine */

/* --- random numbers --------------------------------------------------------------------------- */

/* normals (n, 3) double: standard normal numbers, a function of ids (n), seed, stream and step
 * alone (Philox4x32-10, Box and Muller's transform). */
DPL_API dpl_status dpl_normals(int64_t n, const int64_t* ids, uint32_t seed, uint32_t stream,
                               int64_t step, int threads, double* normals);

#ifdef __cplusplus
}
#endif
#endif
