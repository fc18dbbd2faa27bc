// Between moments and networks, a block of threads for each atom: what empty slots add, the
// normalisation and the invariants D_ma = Σ_c T_cm T_ca, or D_m = T_0m where there are no axes; and
// back from the gradient of D. Atoms come in the order of their elements, so that each network sees
// consecutive rows.
#include "device.h"

namespace dpl {
namespace {

constexpr int kThreads = 128;

template <class real>
struct Shape {
  int32_t n_types, n_features, n_embedding, n_axis, n_columns, width, first;
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
  return shape.n_columns == DPL_COLUMNS ? 1 : 3;
}
template <class real>
__device__ Degree degree_of(const Shape<real>& shape, int degree) {
  const int n_m = shape.n_embedding, n_a = shape.n_axis;
  if (shape.n_columns == DPL_COLUMNS) return {0, DPL_COLUMNS, n_a, 0};
  if (degree == 0) return {0, 1, 0, 0};
  return degree == 1 ? Degree{1, 3, n_a, n_m} : Degree{4, kSecondDegree, n_a, n_m + n_m * n_a};
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
    const Degree degree = degree_of(shape, d);
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
    const Degree degree = degree_of(shape, (c > 0) + (c >= DPL_COLUMNS));
    const int n_a = degree.n_axis;
    const real* g = all + degree.first;
    real sum = 0;  // also what pads the features
    if (m < n_m)
      for (int a = 0; a < n_a; ++a) sum += g[m * n_a + a] * t[c * n_m + a];
    if (n_a == 0 && c == 0 && m < n_m) sum = g[m];
    if (m < n_a)
      for (int other = 0; other < n_m; ++other) sum += g[other * n_a + m] * t[c * n_m + other];
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
  const bool second_degree = d.n_columns == DPL_COLUMNS_OF_SECOND_DEGREE;
  if (!second_degree && d.n_columns != DPL_COLUMNS)
    return fail(DPL_INVALID_ARGUMENT, "expected moments of %d or %d columns, found %d", DPL_COLUMNS,
                DPL_COLUMNS_OF_SECOND_DEGREE, d.n_columns);
  if (second_degree && d.n_axis < 1)
    return fail(DPL_INVALID_ARGUMENT, "moments of second degree: expected n_axis of at least 1");
  const int64_t of_feature = second_degree ? 1 + 2 * d.n_axis : max(d.n_axis, 1);
  const int64_t own = d.n_embedding * of_feature;
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
