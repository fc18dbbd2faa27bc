// Between moments and networks, a block of threads for each atom: what empty slots add, the
// normalisation and the invariants D_ma = Σ_c T_cm T_ca, or D_m = T_0m where there are no axes, and
// those of cubic.h; and back from the gradient of D. Atoms come in the order of their elements, so
// that each network sees consecutive rows.
#include "../cubic.h"
#include "device.h"

namespace dpl {
namespace {

constexpr int kThreads = 128;

template <class real>
struct Shape {
  int32_t n_types, n_features, n_embedding, n_axis, n_columns, n_cubic, width, first;
  const real *sel, *empty;
  double scale;
};

// The invariants of the columns [column, column + n), the first of which is number `first`.
struct Degree {
  int column, n, n_axis, first;
};

// Those of all columns, or degree by degree.
template <class real>
__device__ int degrees_of(const Shape<real>& shape) {
  return shape.n_columns == DPL_COLUMNS ? 1 : degree_of(shape.n_columns) + 1;
}
template <class real>
__device__ Degree numbers_of(const Shape<real>& shape, int degree) {
  const int n_m = shape.n_embedding, n_a = shape.n_axis;
  if (shape.n_columns == DPL_COLUMNS) return {0, DPL_COLUMNS, n_a, 0};
  if (degree == 0) return {0, 1, 0, 0};
  return {degree * degree, 2 * degree + 1, n_a, n_m * (1 + (degree - 1) * n_a)};
}

// Place of the first number of third order.
template <class real>
__device__ int cubic_first(const Shape<real>& shape) {
  return shape.n_embedding * (1 + degree_of(shape.n_columns) * shape.n_axis);
}

// Vector and matrix of feature a of moments t (n_columns, n_embedding).
template <class real>
__device__ void cubic_feature(const Shape<real>& shape, const real* t, int a, real* v, real* q) {
  from_columns<real>([&](int c) { return t[(1 + c) * shape.n_embedding + a]; }, v, q);
}

// The i-th invariant of third order.
template <class real>
__device__ real cubic_invariant(const Shape<real>& shape, const real* t, int i) {
  const int n = shape.n_cubic, n_of_vectors = n * cubic_pair(n, n, n);
  real va[3], qa[6], vb[3], qb[6], vc[3], qc[6], derivative[6];
  int a = 0, b = 0, c;
  if (i < n_of_vectors) {
    while (i >= n * cubic_pair(n, a + 1, a + 1)) ++a;
    c = a + i / n - cubic_pair(n, a, a);
    b = i % n;
  } else {
    i -= n_of_vectors;
    while (i >= cubic_triple(n, a + 1, a + 1, a + 1)) ++a;
    b = a;
    while (b + 1 < n && i >= cubic_triple(n, a, b + 1, b + 1)) ++b;
    c = b + i - cubic_triple(n, a, b, b);
    i = -1;
  }
  cubic_feature(shape, t, a, va, qa);
  cubic_feature(shape, t, b, vb, qb);
  cubic_feature(shape, t, c, vc, qc);
  if (i >= 0) {
    vector_product(va, vc, derivative);
    return matrix_dot(derivative, qb);
  }
  matrix_product(qa, qb, derivative);
  return matrix_dot(derivative, qc);
}

// The derivative of Σ g · invariants with respect to column 1 + c of feature f.
template <class real>
__device__ real cubic_gradient(const Shape<real>& shape, const real* t, const real* g, int c,
                               int f) {
  const int n = shape.n_cubic;
  const real* of_triples = g + n * cubic_pair(n, n, n);
  real v[3] = {0, 0, 0}, q[6] = {0, 0, 0, 0, 0, 0};
  for (int a = 0; a < n; ++a) {
    real va[3], qa[6];
    cubic_feature(shape, t, a, va, qa);
    real sum[6] = {0, 0, 0, 0, 0, 0};  // Σ_b g Q_b of the pair of f and a
    for (int b = 0; b < n; ++b) {
      real vb[3], qb[6], derivative[6];
      cubic_feature(shape, t, b, vb, qb);
      const real pair = g[n * cubic_pair(n, min(f, a), max(f, a)) + b] * real(1 + (f == a));
      for (int k = 0; k < 6; ++k) sum[k] += pair * qb[k];
      if (b < a) continue;
      const int low = min(f, a), high = max(f, b);
      const int middle = f + a + b - low - high, times = 1 + (f == a) + (f == b);
      const real triple = of_triples[cubic_triple(n, low, middle, high)] * real(times);
      const real of_f = g[n * cubic_pair(n, a, b) + f];
      matrix_product(qa, qb, derivative);
      for (int k = 0; k < 6; ++k) q[k] += triple * derivative[k];
      vector_product(va, vb, derivative);
      for (int k = 0; k < 6; ++k) q[k] += of_f * derivative[k];
    }
    add_image(sum, va, v);
  }
  return to_column<real>(c, v, q);
}

template <class real>
__global__ void describe_kernel(Shape<real> shape, const int64_t* order, const int32_t* types,
                                const int32_t* counts, real* moments, real* descriptors) {
  real* t = static_cast<real*>(shared_memory());  // (n_columns, n_embedding)
  const int n_m = shape.n_embedding;
  const int64_t i = order[blockIdx.x];
  const real* empty = shape.empty + int64_t(types[i]) * shape.n_types * shape.n_features;
  real* row = moments + i * shape.n_columns * shape.n_features;
  for (int k = int(threadIdx.x); k < shape.n_columns * n_m; k += kThreads) {
    const int c = k / n_m, m = k % n_m;
    real value = row[c * shape.n_features + m];
    if (c == 0)
      for (int32_t b = 0; b < shape.n_types; ++b)
        value += (shape.sel[b] - real(counts[i * shape.n_types + b])) *
                 empty[int64_t(b) * shape.n_features + m];
    t[k] = value * real(shape.scale);
    row[c * shape.n_features + m] = t[k];
  }
  __syncthreads();
  for (int d = 0; d < degrees_of(shape); ++d) {
    const Degree degree = numbers_of(shape, d);
    const real* own = t + degree.column * n_m;
    real* out = descriptors + int64_t(blockIdx.x) * shape.width + shape.first + degree.first;
    const int n_a = degree.n_axis;
    for (int k = int(threadIdx.x); n_a == 0 && k < n_m; k += kThreads) out[k] = own[k];
    for (int k = int(threadIdx.x); k < n_m * n_a; k += kThreads) {
      real sum = 0;
      for (int c = 0; c < degree.n; ++c) sum += own[c * n_m + k / n_a] * own[c * n_m + k % n_a];
      out[k] = sum;
    }
  }
  real* out = descriptors + int64_t(blockIdx.x) * shape.width + shape.first + cubic_first(shape);
  for (int k = int(threadIdx.x); k < cubic_size(shape.n_cubic); k += kThreads)
    out[k] = cubic_invariant(shape, t, k);
}

// gradient (n, width) in the order of the descriptors; moments become -scale times
// the derivative of Σ gradient · D with respect to them.
template <class real>
__global__ void describe_backward_kernel(Shape<real> shape, const int64_t* order,
                                         const real* gradient, real* moments) {
  real* t = static_cast<real*>(shared_memory());
  const int n_m = shape.n_embedding, size = shape.n_features;
  const real* all = gradient + int64_t(blockIdx.x) * shape.width + shape.first;
  real* row = moments + order[blockIdx.x] * shape.n_columns * size;
  for (int k = int(threadIdx.x); k < shape.n_columns * n_m; k += kThreads)
    t[k] = row[k / n_m * size + k % n_m];
  __syncthreads();
  for (int k = int(threadIdx.x); k < shape.n_columns * size; k += kThreads) {
    const int c = k / size, m = k % size;
    int l = 0;
    while ((l + 1) * (l + 1) <= c) ++l;
    const Degree degree = numbers_of(shape, l);
    const int n_a = degree.n_axis;
    const real* g = all + degree.first;
    real sum = 0;  // also what pads the features
    if (m < n_m)
      for (int a = 0; a < n_a; ++a) sum += g[m * n_a + a] * t[c * n_m + a];
    if (n_a == 0 && c == 0 && m < n_m) sum = g[m];
    if (m < n_a)
      for (int other = 0; other < n_m; ++other) sum += g[other * n_a + m] * t[c * n_m + other];
    if (m < shape.n_cubic && c > 0 && c <= kCubicColumns)
      sum += cubic_gradient(shape, t, all + cubic_first(shape), c - 1, m);
    row[k] = sum * real(-shape.scale);
  }
}

template <class real>
Shape<real> shape_of(const dpl_cuda_descriptor& d) {
  return {d.n_types,
          d.n_features,
          d.n_embedding,
          d.n_axis,
          d.n_columns,
          d.n_cubic,
          d.width,
          d.first,
          static_cast<const real*>(d.sel),
          static_cast<const real*>(d.empty),
          d.scale};
}

dpl_status check_descriptor(const dpl_cuda_descriptor& d, int64_t n) {
  if (n < 0 || d.n_types < 1 || d.n_axis < 0 || d.n_embedding < 1 || d.n_axis > d.n_embedding ||
      d.n_embedding > d.n_features || d.n_features > DPL_CUDA_MAX_FEATURES)
    return fail(DPL_INVALID_ARGUMENT,
                "expected 0 <= n_axis <= n_embedding <= n_features <= %d, found %d, %d and %d",
                DPL_CUDA_MAX_FEATURES, d.n_axis, d.n_embedding, d.n_features);
  const int degree = degree_of(d.n_columns);
  const bool second_degree = degree > 1;
  if (degree == 0)
    return fail(DPL_INVALID_ARGUMENT,
                "expected moments of (l + 1)² columns for l of 1 to %d, found %d", kMostDegree,
                d.n_columns);
  if (second_degree && d.n_axis < 1)
    return fail(DPL_INVALID_ARGUMENT, "moments of second degree: expected n_axis of at least 1");
  const int64_t of_feature = second_degree ? 1 + degree * d.n_axis : max(d.n_axis, 1);
  const int32_t most = second_degree ? min(DPL_MOST_CUBIC, d.n_embedding) : 0;
  if (d.n_cubic < 0 || d.n_cubic > most)
    return fail(DPL_INVALID_ARGUMENT, "expected n_cubic of 0 to %d, found %d", most, d.n_cubic);
  const int64_t own = d.n_embedding * of_feature + cubic_size(d.n_cubic);
  if (d.first < 0 || d.first + own > d.width)
    return fail(DPL_INVALID_ARGUMENT, "%lld numbers from place %d on do not fit into %d",
                (long long)own, d.first, d.width);
  return DPL_OK;
}

template <class real>
void describe(const Queue& queue, const dpl_cuda_descriptor& d, int64_t n, const int64_t* order,
              const int32_t* types, const int32_t* counts, void* moments, void* descriptors) {
  launch(describe_kernel<real>, n, kThreads, size_t(d.n_columns) * d.n_embedding * sizeof(real),
         queue.stream, shape_of<real>(d), order, types, counts, static_cast<real*>(moments),
         static_cast<real*>(descriptors));
}

template <class real>
void describe_backward(const Queue& queue, const dpl_cuda_descriptor& d, int64_t n,
                       const int64_t* order, const void* gradient, void* moments) {
  launch(describe_backward_kernel<real>, n, kThreads,
         size_t(d.n_columns) * d.n_embedding * sizeof(real), queue.stream, shape_of<real>(d), order,
         static_cast<const real*>(gradient), static_cast<real*>(moments));
}

}  // namespace
}  // namespace dpl

dpl_status dpl_cuda_describe(const dpl_cuda_queue* queue, const dpl_cuda_descriptor* descriptor,
                             int64_t n, const int64_t* order, const int32_t* types,
                             const int32_t* counts, void* moments, void* descriptors) {
  const dpl_status status = dpl::check_descriptor(*descriptor, n);
  if (status != DPL_OK) return status;
  const dpl::Queue q(*queue);
  if (descriptor->precision == DPL_FLOAT64)
    dpl::describe<double>(q, *descriptor, n, order, types, counts, moments, descriptors);
  else
    dpl::describe<float>(q, *descriptor, n, order, types, counts, moments, descriptors);
  return q.status("the descriptors");
}

dpl_status dpl_cuda_describe_backward(const dpl_cuda_queue* queue,
                                      const dpl_cuda_descriptor* descriptor, int64_t n,
                                      const int64_t* order, const void* gradient, void* moments) {
  const dpl_status status = dpl::check_descriptor(*descriptor, n);
  if (status != DPL_OK) return status;
  const dpl::Queue q(*queue);
  if (descriptor->precision == DPL_FLOAT64)
    dpl::describe_backward<double>(q, *descriptor, n, order, gradient, moments);
  else
    dpl::describe_backward<float>(q, *descriptor, n, order, gradient, moments);
  return q.status("the derivatives of the descriptors");
}
