#include "fitting.h"

#include <algorithm>
#include <cmath>

namespace dpl {
namespace {

// The squares of a matrix that vectors of 16 bytes make.
DPL_INLINE void transpose_square(const double* from, int32_t width, double* to) {
  typedef double pair __attribute__((vector_size(16), may_alias, aligned(8)));
  const pair a = *(const pair*)from, b = *(const pair*)(from + width);
  *(pair*)to = pair{a[0], b[0]};
  *(pair*)(to + width) = pair{a[1], b[1]};
}
DPL_INLINE void transpose_square(const float* from, int32_t width, float* to) {
  typedef float four __attribute__((vector_size(16), may_alias, aligned(4)));
  typedef int32_t places __attribute__((vector_size(16)));
  const auto line = [&](int i) { return *(const four*)(from + i * width); };
  const places low{0, 4, 1, 5}, high{2, 6, 3, 7}, left{0, 1, 4, 5}, right{2, 3, 6, 7};
  const four a = __builtin_shuffle(line(0), line(1), low);
  const four b = __builtin_shuffle(line(2), line(3), low);
  const four c = __builtin_shuffle(line(0), line(1), high);
  const four d = __builtin_shuffle(line(2), line(3), high);
  *(four*)to = __builtin_shuffle(a, b, left);
  *(four*)(to + width) = __builtin_shuffle(a, b, right);
  *(four*)(to + 2 * width) = __builtin_shuffle(c, d, left);
  *(four*)(to + 3 * width) = __builtin_shuffle(c, d, right);
}

// (width, width) both
template <int32_t width, class real>
void transpose(const real* from, real* to) {
  constexpr int32_t step = 16 / sizeof(real);
  for (int32_t i = 0; i < width; i += step)
    for (int32_t k = 0; k < width; k += step)
      transpose_square(from + i * width + k, width, to + k * width + i);
}

}  // namespace

dpl_status check_fitting(const dpl_fitting& fitting) {
  if (fitting.n_types < 1) return fail(DPL_INVALID_ARGUMENT, "n_types must be at least 1");
  if (fitting.n_descriptors < 1)
    return fail(DPL_INVALID_ARGUMENT, "n_descriptors must be at least 1");
  int64_t n_inputs = 0;
  for (int32_t k = 0; k < fitting.n_descriptors; ++k) {
    const dpl_shape& shape = fitting.shapes[k];
    if (shape.n_axis < 0 || shape.n_embedding < 1 || shape.n_embedding < shape.n_axis ||
        shape.n_embedding > shape.n_features || shape.n_features % DPL_FEATURE_PADDING)
      return fail(DPL_INVALID_ARGUMENT,
                  "expected 0 <= n_axis <= n_embedding <= n_features, a multiple of %d; found %d, "
                  "%d and %d",
                  DPL_FEATURE_PADDING, shape.n_axis, shape.n_embedding, shape.n_features);
    const bool second_degree = degree_of(shape.n_columns) > 1;
    if (degree_of(shape.n_columns) == 0)
      return fail(DPL_INVALID_ARGUMENT,
                  "expected moments of (l + 1)² columns for l of 1 to %d, found %d", kMostDegree,
                  shape.n_columns);
    if (second_degree && shape.n_axis < 1)
      return fail(DPL_INVALID_ARGUMENT, "moments of second degree: expected n_axis of at least 1");
    const int32_t most = second_degree ? std::min(DPL_MOST_CUBIC, shape.n_embedding) : 0;
    if (shape.n_cubic < 0 || shape.n_cubic > most)
      return fail(DPL_INVALID_ARGUMENT, "expected n_cubic of 0 to %d, found %d", most,
                  shape.n_cubic);
    n_inputs += inputs_of(shape);
  }
  if (uint32_t(fitting.activation) > DPL_LAST_ACTIVATION)
    return fail(DPL_INVALID_ARGUMENT, "unknown activation function %d", int(fitting.activation));
  for (int32_t a = 0; a < fitting.n_types; ++a) {
    const dpl_network& network = fitting.networks[a];
    int64_t width = n_inputs;
    if (network.n_layers < 1) return fail(DPL_INVALID_ARGUMENT, "a network has no hidden layer");
    for (int32_t l = 0; l < network.n_layers; ++l) {
      if (network.layers[l].n_in != width || network.layers[l].n_out < 1)
        return fail(DPL_INVALID_ARGUMENT, "layer %d of network %d: expected %lld inputs, found %d",
                    l, a, (long long)width, network.layers[l].n_in);
      width = network.layers[l].n_out;
    }
  }
  return DPL_OK;
}

template <class real>
FittingKernels<real> fitting_kernels() {
#if defined(DPL_X86)
  switch (dpl_current_instruction_set()) {
    case DPL_AVX512:
      return avx512_fitting<real>();
    case DPL_AVX2:
      return avx2_fitting<real>();
    default:
      break;
  }
#endif
  return baseline_fitting<real>();
}

template <class real>
void Layer<real>::add_residual(const FittingKernels<real>& kernels, int32_t m, const real* x,
                               real* y) const {
  for (int32_t i = 0; i < m && copies > 0; ++i, x += ld_in, y += ld_out) {
    for (size_t o = 0; o < residual.size(); ++o) y[o] += x[residual[o]];
    if (residual.empty())
      for (int copy = 0; copy < copies; ++copy) kernels.add(n_in, x, y + copy * n_in);
  }
}

template <class real>
bool Layer<real>::begin_gradient(const FittingKernels<real>& kernels, int32_t m, const real* output,
                                 real* input) const {
  if (copies == 0) return false;
  std::fill_n(input, m * ld_in, real(0));
  for (int32_t i = 0; i < m; ++i, output += ld_out, input += ld_in) {
    for (size_t o = 0; o < residual.size(); ++o) input[residual[o]] += output[o];
    if (residual.empty())
      for (int copy = 0; copy < copies; ++copy) kernels.add(n_in, output + copy * n_in, input);
  }
  return true;
}

template <class real>
void Layer<real>::shape(const dpl_layer& given, int64_t distance, const Packing* packing) {
  const int32_t n_full = given.n_in;
  const auto place = [&](int32_t i) { return packing ? packing->place(i) : i; };
  n_in = packing ? packing->n_packed() : n_full;
  n_out = given.n_out;
  ld_in = distance, ld_out = padded<real>(n_out);
  copies = n_out == n_full ? 1 : n_out == 2 * n_full ? 2 : 0;
  source.assign(n_in, {-1, -1});
  for (int32_t i = 0; i < n_full; ++i) {
    auto& inputs = source[place(i)];
    (inputs.first < 0 ? inputs.first : inputs.second) = i;
  }
  const auto whole = [](int64_t n) { return (n + kPanel<real> - 1) / kPanel<real> * kPanel<real>; };
  weight.get<real>(whole(n_out) * n_in);
  transposed.get<real>(whole(n_in) * n_out);
  bias.assign(ld_out, real(0));
  step.assign(ld_out, real(0));  // 0 in the padding: so are values and slopes
  std::copy_n(static_cast<const real*>(given.bias), n_out, bias.begin());
  has_step = given.step != nullptr;
  if (given.step)
    std::copy_n(static_cast<const real*>(given.step), n_out, step.begin());
  else
    std::fill_n(step.begin(), n_out, real(1));
  residual.clear();
  if (packing)
    for (int32_t o = 0; o < copies * n_full; ++o) residual.push_back(place(o % n_full));
}

template <class real>
void Layer<real>::pack(const real* from, int32_t first) {
  constexpr int32_t width = kPanel<real>;
  const int32_t lines = std::min(width, n_in - first);
  real* const block = weight.template data<real>() + int64_t(first) * width;  // of panel 0
  for (int32_t i = 0; i < lines; ++i) {
    const auto [row, other] = source[first + i];
    for (int32_t o = 0; o < n_out; o += width) {
      real* line = block + int64_t(o) * n_in + i * width;
      const int32_t n = std::min(width, n_out - o);
      std::copy_n(from + int64_t(row) * n_out + o, n, line);
      std::fill(line + n, line + width, real(0));
      if (other < 0) continue;
      const real* added = from + int64_t(other) * n_out + o;
      for (int32_t k = 0; k < n; ++k) line[k] += added[k];
    }
  }
  // what was just written is at hand: the other layout is made of squares of it
  real* line = transposed.template data<real>() + int64_t(first) * n_out;
  for (int32_t o = 0; o < n_out; o += width, line += width * width) {
    const real* panel = block + int64_t(o) * n_in;
    const int32_t n = std::min(width, n_out - o);
    if (lines == width && n == width) {
      transpose<width>(panel, line);
      continue;
    }
    for (int32_t k = 0; k < n; ++k)
      for (int32_t i = 0; i < width; ++i)
        line[k * width + i] = i < lines ? panel[i * width + k] : real(0);
  }
}

template <class real>
void Layer<real>::load(const dpl_layer& given, int64_t distance, const Packing* packing) {
  shape(given, distance, packing);
  for (int32_t first = 0; first < n_in; first += kPanel<real>)
    pack(static_cast<const real*>(given.weight), first);
}

template <class real>
void Fitting<real>::load(const dpl_network& network, dpl_activation activation,
                         const Packing& packing, int threads) {
  activation_ = activation;
  bias_out_ = network.bias_out;
  layers_.resize(network.n_layers);
  std::vector<std::pair<int32_t, int32_t>> pieces;  // layer, first input
  int64_t ld_in = stride(packing);
  for (int32_t l = 0; l < network.n_layers; ++l) {
    layers_[l].shape(network.layers[l], ld_in, l == 0 ? &packing : nullptr);
    for (int32_t first = 0; first < layers_[l].n_in; first += kPanel<real>)
      pieces.emplace_back(l, first);
    ld_in = layers_[l].ld_out;
    widest_ = std::max(widest_, ld_in);
  }
  parallel_for(int64_t(pieces.size()), threads, [&](int64_t k) {
    const auto [l, first] = pieces[k];
    layers_[l].pack(static_cast<const real*>(network.layers[l].weight), first);
  });
  weight_out_.assign(ld_in, real(0));
  std::copy_n(static_cast<const real*>(network.weight_out), layers_.back().n_out,
              weight_out_.begin());
}

template <class real>
int64_t Fitting<real>::scratch_size(int64_t m) const {
  int64_t size = 2 * widest_ * m;
  for (const Layer<real>& layer : layers_) size += layer.ld_out * m;
  return size;
}

template <class real>
void Fitting<real>::forward(const FittingKernels<real>& kernels, const Layer<real>& layer,
                            int32_t m, const real* x, real* slope, real* y) const {
  kernels.multiply(m, layer.n_out, layer.n_in, x, layer.ld_in, layer.weight.template data<real>(),
                   false, slope, layer.ld_out);
  kernels.activate(activation_, m, int32_t(layer.ld_out), layer.bias.data(), layer.step.data(),
                   slope, slope, y);
  layer.add_residual(kernels, m, x, y);
}

template <class real>
void Fitting<real>::run(const FittingKernels<real>& kernels, int32_t m, real* descriptors,
                        real* scratch, double* energies) const {
  real* y = scratch;
  real* other = y + widest_ * m;
  real* slope = other + widest_ * m;
  const real* x = descriptors;
  for (const Layer<real>& layer : layers_) {
    forward(kernels, layer, m, x, slope, y);
    slope += layer.ld_out * m;
    x = y;
    std::swap(y, other);
  }
  const int64_t width = layers_.back().ld_out;
  for (int32_t i = 0; i < m; ++i)
    energies[i] = kernels.dot(width, x + i * width, weight_out_.data()) + bias_out_;
  real *gradient = y, *next = other;  // the last output is needed no more
  for (int32_t i = 0; i < m; ++i) std::copy_n(weight_out_.data(), width, gradient + i * width);
  for (size_t l = layers_.size(); l-- > 0; std::swap(gradient, next)) {
    const Layer<real>& layer = layers_[l];
    if (l == 0) next = descriptors;
    slope -= layer.ld_out * m;
    const bool added = layer.begin_gradient(kernels, m, gradient, next);
    kernels.product(m * layer.ld_out, slope, gradient, slope);
    kernels.multiply(m, layer.n_in, layer.n_out, slope, layer.ld_out,
                     layer.transposed.template data<real>(), added, next, layer.ld_in);
  }
}

template struct Layer<float>;
template struct Layer<double>;
template class Fitting<float>;
template class Fitting<double>;
template FittingKernels<float> fitting_kernels();
template FittingKernels<double> fitting_kernels();

}  // namespace dpl
