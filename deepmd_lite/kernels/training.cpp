// The networks in training: energies and their gradients with respect to the moments, and the
// derivatives of a loss on both.
//
// With g the gradient of an atom's energy with respect to its descriptor and v a tangent of the
// descriptor, v · g is the derivative of the energy along v: a sweep of v forward through the
// network, in which the gradient with respect to each layer's change is the g of that layer. What
// remains is one more sweep back. Each sweep is one matrix product for each layer, and the weights
// take two: y_inᵀ p + v_inᵀ q.
//
// Atoms are in order of type; blocks of them are independent, so bits do not depend on threads.
#include <algorithm>
#include <new>
#include <vector>

#include "fitting.h"

struct dpl_pass {
  virtual ~dpl_pass() = default;
  virtual void energies(const dpl_fitting& fitting, int64_t n, const int32_t* types,
                        const void* const* moments, int threads, double* energies,
                        void* const* grad) = 0;
  virtual void backward(const void* const* moments, const double* to_energies,
                        const void* const* to_gradients, int threads, void* const* grad,
                        const dpl_network_gradient* networks) = 0;
  dpl_precision precision;
  bool kept = false;  // whether the way back can be gone
};

namespace dpl {
namespace {

constexpr int64_t kRows = 64;    // most atoms of a block
constexpr int64_t kFewRows = 8;  // least, if it can be
constexpr int32_t kInputs = 48;  // inputs of a layer whose weights one thread derives

template <class real>
class Pass final : public dpl_pass {
 public:
  void energies(const dpl_fitting& fitting, int64_t n, const int32_t* types,
                const void* const* moments, int threads, double* energies,
                void* const* grad) override;
  void backward(const void* const* moments, const double* to_energies,
                const void* const* to_gradients, int threads, void* const* grad,
                const dpl_network_gradient* networks) override;

 private:
  // What is kept of a layer, each (atoms of the type, ld_out). Of the way forward: argument of the
  // function, step times its slope, output, and the energy's gradient with respect to the output.
  // Of the way back: changes of argument and output along the tangent of the descriptor, and the
  // gradient of the loss with respect to the output. The way back turns them, in their places, into
  // what the weights are derived from: see backward_block.
  struct Level {
    Buffer argument, slope, output, gradient, argument_change, output_change, to_output;
    void reserve(int64_t n) {
      for (Buffer* buffer :
           {&argument, &slope, &output, &gradient, &argument_change, &output_change, &to_output})
        buffer->template get<real>(n);
    }
  };
  // The atoms of one type; descriptors, their gradients, tangents and adjoints (n, stride).
  struct Group {
    Fitting<real> fitting;
    std::vector<int32_t> atoms;
    Buffer d, grad, tangent, adjoint;
    std::vector<Level> levels;
    int64_t size() const { return int64_t(atoms.size()); }
  };
  struct Block {
    Group* group;
    int32_t first, n;
  };

  void divide(int threads);
  void forward_block(const Block& block, const void* const* moments, double* energies,
                     void* const* grad);
  void backward_block(const Block& block, const void* const* moments, const double* to_energies,
                      const void* const* to_gradients, void* const* grad);
  // The columns of one part of the atoms of a block, among the moments of each descriptor or what
  // is shaped as these.
  template <class of, class Any>
  std::vector<of*> rows_of(const Packing::Part& part, Any* const* moments,
                           const Block& block) const {
    const int64_t row = packing_.rows()[part.descriptor];
    std::vector<of*> rows(block.n);
    for (int32_t k = 0; k < block.n; ++k)
      rows[k] = static_cast<of*>(moments[part.descriptor]) +
                block.group->atoms[block.first + k] * row + part.offset;
    return rows;
  }
  void weights(Group& group, size_t l, int32_t first, const dpl_layer_gradient& out);
  void biases(Group& group, const double* to_energies, const dpl_network_gradient& out);

  Packing packing_;
  FittingKernels<real> kernels_{};
  int64_t stride_ = 0;
  std::vector<Group> groups_;
  std::vector<Block> blocks_;
};

template <class real>
void Pass<real>::energies(const dpl_fitting& fitting, int64_t n, const int32_t* types,
                          const void* const* moments, int threads, double* energies,
                          void* const* grad) {
  packing_ = Packing(fitting);
  kernels_ = fitting_kernels<real>();
  stride_ = Fitting<real>::stride(packing_);
  groups_.resize(fitting.n_types);
  for (Group& group : groups_) group.atoms.clear();
  for (int64_t i = 0; i < n; ++i) groups_[types[i]].atoms.push_back(int32_t(i));
  for (int32_t a = 0; a < fitting.n_types; ++a) {
    Group& group = groups_[a];
    group.fitting.load(fitting.networks[a], fitting.activation, packing_, threads);
    for (Buffer* buffer : {&group.d, &group.grad, &group.tangent, &group.adjoint})
      buffer->template get<real>(group.size() * stride_ + DPL_FEATURE_PADDING);
    group.levels.resize(group.fitting.layers().size());
    for (size_t l = 0; l < group.levels.size(); ++l)
      group.levels[l].reserve(group.size() * group.fitting.layers()[l].ld_out);
  }
  divide(threads);
  parallel_for(int64_t(blocks_.size()), threads,
               [&](int64_t k) { forward_block(blocks_[k], moments, energies, grad); });
}

// As many blocks of each type for every thread. An atom's numbers do not depend on its block.
template <class real>
void Pass<real>::divide(int threads) {
  blocks_.clear();
  for (Group& group : groups_) {
    int64_t n_blocks = (group.size() + kRows - 1) / kRows;
    n_blocks = (n_blocks + threads - 1) / threads * threads;
    n_blocks = std::min(n_blocks, (group.size() + kFewRows - 1) / kFewRows);
    for (int64_t k = 0; k < n_blocks; ++k) {
      const int64_t first = k * group.size() / n_blocks, end = (k + 1) * group.size() / n_blocks;
      blocks_.push_back({&group, int32_t(first), int32_t(end - first)});
    }
  }
}

template <class real>
void Pass<real>::forward_block(const Block& block, const void* const* moments, double* energies,
                               void* const* grad) {
  Group& group = *block.group;
  const auto& layers = group.fitting.layers();
  const int32_t* atoms = group.atoms.data() + block.first;
  const int32_t n = block.n;
  real* d = group.d.template data<real>() + block.first * stride_;
  real* gradient = group.grad.template data<real>() + block.first * stride_;
  const auto rows = [&](Buffer& buffer, size_t l) {
    return buffer.template data<real>() + block.first * layers[l].ld_out;
  };
  for (const Packing::Part& part : packing_.parts())  // in order: each ends where the next begins
    kernels_.describe(part.shape, n, rows_of<const real>(part, moments, block).data(),
                      d + part.first_packed, stride_);
  const real* in = d;
  for (size_t l = 0; l < layers.size(); ++l) {
    const Layer<real>& layer = layers[l];
    Level& level = group.levels[l];
    real *z = rows(level.argument, l), *y = rows(level.output, l);
    kernels_.multiply(n, layer.n_out, layer.n_in, in, layer.ld_in,
                      layer.weight.template data<real>(), false, z, layer.ld_out);
    kernels_.activate(group.fitting.activation(), n, int32_t(layer.ld_out), layer.bias.data(),
                      layer.step.data(), z, rows(level.slope, l), y);
    layer.add_residual(kernels_, n, in, y);
    in = y;
  }
  const size_t last = layers.size() - 1;
  const int64_t width = layers[last].ld_out;
  const real* weight_out = group.fitting.weight_out().data();
  for (int32_t k = 0; k < n; ++k) {
    energies[atoms[k]] = kernels_.dot(width, in + k * width, weight_out) + group.fitting.bias_out();
    std::copy_n(weight_out, width, rows(group.levels[last].gradient, last) + k * width);
  }
  for (size_t l = layers.size(); l-- > 0;) {
    const Layer<real>& layer = layers[l];
    Level& level = group.levels[l];
    real *g = rows(level.gradient, l), *q = rows(level.argument_change, l);
    real* next = l > 0 ? rows(group.levels[l - 1].gradient, l - 1) : gradient;
    const bool added = layer.begin_gradient(kernels_, n, g, next);
    kernels_.product(n * layer.ld_out, rows(level.slope, l), g, q);
    kernels_.multiply(n, layer.n_in, layer.n_out, q, layer.ld_out,
                      layer.transposed.template data<real>(), added, next, layer.ld_in);
  }
  const std::vector<real> ones(n, real(1));
  for (const Packing::Part& part : packing_.parts())
    kernels_.describe_backward(part.shape, n, rows_of<const real>(part, moments, block).data(),
                               gradient + part.first_packed, stride_, ones.data(),
                               rows_of<real>(part, grad, block).data());
}

// In the end of each layer `to_output` holds p, the gradient of the loss with respect to the
// argument; `gradient` q, that of the energy; `argument_change` what the step's gradient sums up.
template <class real>
void Pass<real>::backward_block(const Block& block, const void* const* moments,
                                const double* to_energies, const void* const* to_gradients,
                                void* const* grad) {
  Group& group = *block.group;
  const auto& layers = group.fitting.layers();
  const int32_t* atoms = group.atoms.data() + block.first;
  const int32_t n = block.n;
  real* tangent = group.tangent.template data<real>() + block.first * stride_;
  real* adjoint = group.adjoint.template data<real>() + block.first * stride_;
  const real* gradient = group.grad.template data<real>() + block.first * stride_;
  const auto rows = [&](Buffer& buffer, size_t l) {
    return buffer.template data<real>() + block.first * layers[l].ld_out;
  };
  for (const Packing::Part& part : packing_.parts())
    kernels_.describe_tangent(part.shape, n, rows_of<const real>(part, moments, block).data(),
                              rows_of<const real>(part, to_gradients, block).data(),
                              tangent + part.first_packed, stride_);
  const real* in = tangent;
  for (size_t l = 0; l < layers.size(); ++l) {
    const Layer<real>& layer = layers[l];
    Level& level = group.levels[l];
    real *u = rows(level.argument_change, l), *v = rows(level.output_change, l);
    kernels_.multiply(n, layer.n_out, layer.n_in, in, layer.ld_in,
                      layer.weight.template data<real>(), false, u, layer.ld_out);
    kernels_.product(n * layer.ld_out, rows(level.slope, l), u, v);
    layer.add_residual(kernels_, n, in, v);
    in = v;
  }
  const size_t last = layers.size() - 1;
  const int64_t width = layers[last].ld_out;
  for (int32_t k = 0; k < n; ++k) {
    real* x = rows(group.levels[last].to_output, last) + k * width;
    for (int64_t m = 0; m < width; ++m)
      x[m] = real(to_energies[atoms[k]]) * group.fitting.weight_out()[m];
  }
  for (size_t l = layers.size(); l-- > 0;) {
    const Layer<real>& layer = layers[l];
    Level& level = group.levels[l];
    real *x = rows(level.to_output, l), *g = rows(level.gradient, l);
    real* next = l > 0 ? rows(group.levels[l - 1].to_output, l - 1) : adjoint;
    const bool added = layer.begin_gradient(kernels_, n, x, next);
    kernels_.second(group.fitting.activation(), n, int32_t(layer.ld_out), layer.step.data(),
                    rows(level.argument, l), g, x, rows(level.argument_change, l));
    kernels_.product(n * layer.ld_out, rows(level.slope, l), g, g);
    kernels_.multiply(n, layer.n_in, layer.n_out, x, layer.ld_out,
                      layer.transposed.template data<real>(), added, next, layer.ld_in);
  }
  const std::vector<real> ones(n, real(1));
  for (const Packing::Part& part : packing_.parts()) {
    const auto t = rows_of<const real>(part, moments, block);
    const auto out = rows_of<real>(part, grad, block);
    kernels_.describe_backward(part.shape, n, t.data(), adjoint + part.first_packed, stride_,
                               ones.data(), out.data());
    kernels_.describe_second(part.shape, n, t.data(),
                             rows_of<const real>(part, to_gradients, block).data(),
                             gradient + part.first_packed, stride_, out.data());
  }
}

// Gradient of the weights of the inputs [first, first + kInputs) of layer l.
template <class real>
void Pass<real>::weights(Group& group, size_t l, int32_t first, const dpl_layer_gradient& out) {
  const Layer<real>& layer = group.fitting.layers()[l];
  Level& level = group.levels[l];
  const int32_t n = int32_t(group.size()), m = std::min(kInputs, layer.n_in - first);
  const real* y = (l > 0 ? group.levels[l - 1].output : group.d).template data<real>() + first;
  const real* v =
      (l > 0 ? group.levels[l - 1].output_change : group.tangent).template data<real>() + first;
  real* sum = workspace().layers.template get<real>(kInputs * layer.ld_out);
  std::fill_n(sum, m * layer.ld_out, real(0));  // a batch may lack the type
  kernels_.outer(m, layer.n_out, n, y, layer.ld_in, level.to_output.template data<real>(),
                 layer.ld_out, true, sum, layer.ld_out);
  kernels_.outer(m, layer.n_out, n, v, layer.ld_in, level.gradient.template data<real>(),
                 layer.ld_out, true, sum, layer.ld_out);
  real* weight = static_cast<real*>(out.weight);
  for (int32_t i = 0; i < m; ++i)
    for (int32_t row : {layer.source[first + i].first, layer.source[first + i].second})
      if (row >= 0)
        std::copy_n(sum + i * layer.ld_out, layer.n_out, weight + int64_t(row) * layer.n_out);
}

template <class real>
void Pass<real>::biases(Group& group, const double* to_energies, const dpl_network_gradient& out) {
  const auto& layers = group.fitting.layers();
  const auto column_sums = [&](Buffer& buffer, const Layer<real>& layer, void* sums) {
    real* sum = static_cast<real*>(sums);
    std::fill_n(sum, layer.n_out, real(0));
    for (int64_t k = 0; k < group.size(); ++k)
      kernels_.add(layer.n_out, buffer.template data<real>() + k * layer.ld_out, sum);
  };
  for (size_t l = 0; l < layers.size(); ++l) {
    column_sums(group.levels[l].to_output, layers[l], out.layers[l].bias);
    if (out.layers[l].step)
      column_sums(group.levels[l].argument_change, layers[l], out.layers[l].step);
  }
  const Layer<real>& layer = layers.back();
  column_sums(group.levels.back().output_change, layer, out.weight_out);
  real* weight_out = static_cast<real*>(out.weight_out);
  *out.bias_out = 0;
  for (int64_t k = 0; k < group.size(); ++k) {
    const double factor = to_energies[group.atoms[k]];
    const real* y = group.levels.back().output.template data<real>() + k * layer.ld_out;
    for (int32_t m = 0; m < layer.n_out; ++m) weight_out[m] += real(factor) * y[m];
    *out.bias_out += factor;
  }
}

template <class real>
void Pass<real>::backward(const void* const* moments, const double* to_energies,
                          const void* const* to_gradients, int threads, void* const* grad,
                          const dpl_network_gradient* networks) {
  std::vector<real> zeros;
  std::vector<const void*> all_zero;
  if (!to_gradients) {
    int64_t n = 0, widest = 0;
    for (const Group& group : groups_) n += group.size();
    for (const int64_t row : packing_.rows()) widest = std::max(widest, row);
    zeros.assign(n * widest, real(0));
    all_zero.assign(packing_.rows().size(), zeros.data());
    to_gradients = all_zero.data();
  }
  parallel_for(int64_t(blocks_.size()), threads, [&](int64_t k) {
    backward_block(blocks_[k], moments, to_energies, to_gradients, grad);
  });
  struct Task {
    size_t type, layer;
    int32_t first;  // -1: the biases of all layers
  };
  std::vector<Task> tasks;
  for (size_t a = 0; a < groups_.size(); ++a) {
    tasks.push_back({a, 0, -1});
    for (size_t l = 0; l < groups_[a].levels.size(); ++l)
      for (int32_t i = 0; i < groups_[a].fitting.layers()[l].n_in; i += kInputs)
        tasks.push_back({a, l, i});
  }
  parallel_for(int64_t(tasks.size()), threads, [&](int64_t k) {
    const Task& task = tasks[k];
    const dpl_network_gradient& out = networks[task.type];
    if (task.first < 0)
      biases(groups_[task.type], to_energies, out);
    else
      weights(groups_[task.type], task.layer, task.first, out.layers[task.layer]);
  });
}

template <class Operation>
dpl_status checked(int threads, Operation operation) {
  try {
    if (threads < 1) return fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
    return operation();
  } catch (const std::bad_alloc&) {
    return fail(DPL_OUT_OF_MEMORY, "out of memory for the networks in training");
  }
}

}  // namespace
}  // namespace dpl

dpl_status dpl_pass_create(dpl_precision precision, dpl_pass** handle) {
  *handle = nullptr;
  return dpl::checked(1, [&] {
    if (precision == DPL_FLOAT64)
      *handle = new dpl::Pass<double>;
    else
      *handle = new dpl::Pass<float>;
    (*handle)->precision = precision;
    return DPL_OK;
  });
}

void dpl_pass_free(dpl_pass* handle) { delete handle; }

dpl_status dpl_pass_energies(dpl_pass* handle, const dpl_fitting* fitting, int64_t n,
                             const int32_t* types, const void* const* moments, int threads,
                             double* energies, void* const* grad_moments) {
  return dpl::checked(threads, [&] {
    const dpl_status status = dpl::check_fitting(*fitting);
    if (status != DPL_OK) return status;
    if (fitting->precision != handle->precision)
      return dpl::fail(DPL_INVALID_ARGUMENT, "precision of the networks and of the pass differ");
    if (n < 0 || n > INT32_MAX)
      return dpl::fail(DPL_INVALID_ARGUMENT, "%lld atoms; expected 0 to 2^31 - 1", (long long)n);
    for (int64_t i = 0; i < n; ++i)
      if (uint32_t(types[i]) >= uint32_t(fitting->n_types))
        return dpl::fail(DPL_INVALID_ARGUMENT, "the type of atom %lld is %d; there are %d types",
                         (long long)i, types[i], fitting->n_types);
    handle->kept = false;  // whatever happens on the way
    handle->energies(*fitting, n, types, moments, threads, energies, grad_moments);
    handle->kept = true;
    return DPL_OK;
  });
}

dpl_status dpl_pass_backward(dpl_pass* handle, const void* const* moments,
                             const double* to_energies, const void* const* to_gradients,
                             int threads, void* const* grad_moments,
                             const dpl_network_gradient* networks) {
  return dpl::checked(threads, [&] {
    if (!handle->kept)
      return dpl::fail(DPL_INVALID_ARGUMENT, "energies come first, and one way back from each");
    handle->kept = false;
    handle->backward(moments, to_energies, to_gradients, threads, grad_moments, networks);
    return DPL_OK;
  });
}
