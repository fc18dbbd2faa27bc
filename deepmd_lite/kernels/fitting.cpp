#include "fitting.h"

#include <algorithm>

namespace dpl {
namespace {

// Packs weight (k, n) row-major; the sum of several numbers of `weight` may go to one place of it.
template <class real>
void pack(const std::vector<double>& weight, int32_t k, int32_t n, bool transpose, Buffer& out) {
  const int32_t lines = transpose ? n : k, columns = transpose ? k : n;
  const int32_t n_panels = (columns + kPanel<real> - 1) / kPanel<real>;
  real* packed = out.get<real>(int64_t(n_panels) * lines * kPanel<real>);
  for (int32_t panel = 0; panel < n_panels; ++panel)
    for (int32_t l = 0; l < lines; ++l)
      for (int32_t c = 0; c < kPanel<real>; ++c) {
        const int32_t column = panel * kPanel<real> + c;
        const int64_t from = transpose ? int64_t(column) * n + l : int64_t(l) * n + column;
        *packed++ = column < columns ? real(weight[from]) : real(0);
      }
}

}  // namespace

template <class real>
Fitting<real>::Fitting(const dpl_network& network, dpl_activation activation,
                       const DescriptorShape& shape)
    : activation_(activation), ld_in_(stride(shape)), bias_out_(network.bias_out) {
  for (int32_t l = 0; l < network.n_layers; ++l) {
    const dpl_layer& given = network.layers[l];
    const int32_t n_out = given.n_out, n_full = given.n_in;
    Layer layer{};
    layer.n_in = l == 0 ? shape.n_packed() : n_full;
    layer.n_out = n_out;
    layer.ld_out = padded(n_out);
    ld_widest_ = std::max(ld_widest_, layer.ld_out);
    layer.copies = n_out == n_full ? 1 : n_out == 2 * n_full ? 2 : 0;
    const auto place = [&](int32_t i) {  // of the i-th number of the full input
      return l == 0 ? shape.place(i / shape.n_axis, i % shape.n_axis) : i;
    };
    std::vector<double> weight(size_t(layer.n_in) * n_out, 0.0);
    for (int32_t i = 0; i < n_full; ++i)
      for (int32_t o = 0; o < n_out; ++o)
        weight[size_t(place(i)) * n_out + o] += given.weight[size_t(i) * n_out + o];
    pack<real>(weight, layer.n_in, n_out, false, layer.weight);
    pack<real>(weight, layer.n_in, n_out, true, layer.transposed);
    layer.bias.assign(layer.ld_out, real(0));
    layer.step.assign(layer.ld_out, real(0));  // 0 in the padding: so are values and slopes
    for (int32_t o = 0; o < n_out; ++o) {
      layer.bias[o] = real(given.bias[o]);
      layer.step[o] = given.step ? real(given.step[o]) : real(1);
    }
    if (l == 0)
      for (int32_t o = 0; o < layer.copies * n_full; ++o)
        layer.residual.push_back(place(o % n_full));
    layers_.push_back(std::move(layer));
  }
  const Layer& last = layers_.back();
  weight_out_.assign(last.ld_out, real(0));
  for (int32_t o = 0; o < last.n_out; ++o) weight_out_[o] = real(network.weight_out[o]);
}

template <class real>
int64_t Fitting<real>::scratch_size(int64_t m) const {
  int64_t size = 2 * ld_widest_ * m;
  for (const Layer& layer : layers_) size += layer.ld_out * m;
  return size;
}

template <class real>
void Fitting<real>::forward(const FittingKernels<real>& kernels, const Layer& layer, int32_t m,
                            const real* x, int64_t ldx, real* slope, real* y) const {
  kernels.multiply(m, layer.n_out, layer.n_in, x, ldx, layer.weight.template data<real>(), false,
                   slope, layer.ld_out);
  kernels.activate(activation_, m, int32_t(layer.ld_out), layer.bias.data(), layer.step.data(),
                   slope, y);
  for (int32_t i = 0; i < m; ++i, x += ldx, y += layer.ld_out) {
    if (layer.residual.empty())
      for (int copy = 0; copy < layer.copies; ++copy)
        kernels.add(layer.n_in, x, y + copy * layer.n_in);
    for (size_t o = 0; o < layer.residual.size(); ++o) y[o] += x[layer.residual[o]];
  }
}

// `gradient` with respect to the layer's output becomes that with respect to its input. The first
// layer's goes to `other`, whose lines are ld_in_ apart.
template <class real>
void Fitting<real>::backward(const FittingKernels<real>& kernels, const Layer& layer, int32_t m,
                             real* slope, real*& gradient, real*& other) const {
  const bool first = &layer == &layers_.front();
  const bool in_place = layer.copies == 1 && !first;
  const int64_t ld_out = layer.ld_out, ld_in = first ? ld_in_ : (&layer - 1)->ld_out;
  kernels.product(m * ld_out, slope, gradient, slope);
  kernels.multiply(m, layer.n_in, layer.n_out, slope, ld_out,
                   layer.transposed.template data<real>(), in_place, in_place ? gradient : other,
                   ld_in);
  if (in_place) return;
  for (int32_t i = 0; i < m; ++i) {
    const real* g = gradient + i * ld_out;
    if (layer.residual.empty())
      for (int copy = 0; copy < layer.copies; ++copy)
        kernels.add(layer.n_in, g + copy * layer.n_in, other + i * ld_in);
    for (size_t o = 0; o < layer.residual.size(); ++o) other[i * ld_in + layer.residual[o]] += g[o];
  }
  std::swap(gradient, other);
}

template <class real>
void Fitting<real>::run(const FittingKernels<real>& kernels, int32_t m, real* descriptors,
                        real* scratch, double* energies) const {
  real* y = scratch;
  real* other = y + ld_widest_ * m;
  real* slopes = other + ld_widest_ * m;
  const real* x = descriptors;
  int64_t ldx = ld_in_;
  std::vector<real*> slope_of;
  for (const Layer& layer : layers_) {
    forward(kernels, layer, m, x, ldx, slopes, y);
    slope_of.push_back(slopes);
    slopes += layer.ld_out * m;
    x = y, ldx = layer.ld_out;
    std::swap(y, other);
  }
  for (int32_t i = 0; i < m; ++i)
    energies[i] = kernels.dot(ldx, x + i * ldx, weight_out_.data()) + bias_out_;
  real *gradient = y, *next = other;  // the last output is needed no more
  for (int32_t i = 0; i < m; ++i) std::copy_n(weight_out_.data(), ldx, gradient + i * ldx);
  for (size_t l = layers_.size(); l-- > 0;) {
    if (l == 0) next = descriptors;
    backward(kernels, layers_[l], m, slope_of[l], gradient, next);
  }
}

template class Fitting<float>;
template class Fitting<double>;

}  // namespace dpl
