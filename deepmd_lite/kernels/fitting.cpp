#include "fitting.h"

#include <algorithm>
#include <cmath>

namespace dpl {
namespace {

// Packs a weight whose packed input i is the sum of the one or two rows that source[i] names.
using Source = std::vector<std::pair<int32_t, int32_t>>;

template <class real>
void pack(const real* weight, const Source& source, int32_t n_out, bool transposed, Buffer& out) {
  const int32_t n_in = int32_t(source.size());
  const int32_t lines = transposed ? n_out : n_in, columns = transposed ? n_in : n_out;
  const int32_t n_panels = (columns + kPanel<real> - 1) / kPanel<real>;
  real* packed = out.get<real>(int64_t(n_panels) * lines * kPanel<real>);
  std::fill_n(packed, int64_t(n_panels) * lines * kPanel<real>, real(0));
  const auto add = [&](int32_t i, int32_t row) {
    if (row < 0) return;
    const real* from = weight + int64_t(row) * n_out;
    if (transposed) {
      real* to = packed + int64_t(i / kPanel<real>) * lines * kPanel<real> + i % kPanel<real>;
      for (int32_t o = 0; o < n_out; ++o) to[int64_t(o) * kPanel<real>] += from[o];
      return;
    }
    for (int32_t first = 0; first < n_out; first += kPanel<real>) {
      real* to = packed + (int64_t(first) * lines + int64_t(i) * kPanel<real>);
      const int32_t n = std::min(kPanel<real>, n_out - first);
      for (int32_t o = 0; o < n; ++o) to[o] += from[first + o];
    }
  };
  for (int32_t i = 0; i < n_in; ++i) add(i, source[i].first), add(i, source[i].second);
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
    n_inputs += int64_t(shape.n_embedding) * std::max(shape.n_axis, 1);
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
void Layer<real>::load(const dpl_layer& given, int64_t distance, const Packing* packing) {
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
  const real* from = static_cast<const real*>(given.weight);
  pack<real>(from, source, n_out, false, weight);
  pack<real>(from, source, n_out, true, transposed);
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
void Fitting<real>::load(const dpl_network& network, dpl_activation activation,
                         const Packing& packing) {
  activation_ = activation;
  bias_out_ = network.bias_out;
  layers_.resize(network.n_layers);
  int64_t ld_in = stride(packing);
  for (int32_t l = 0; l < network.n_layers; ++l) {
    layers_[l].load(network.layers[l], ld_in, l == 0 ? &packing : nullptr);
    ld_in = layers_[l].ld_out;
    widest_ = std::max(widest_, ld_in);
  }
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
