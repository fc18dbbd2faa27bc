// The tables of embedding networks, and the way back from tables to weights: what training does
// once in each step.
//
// Value, first and second derivative of a network at all nodes are one sweep through its layers
// (forward mode along the scalar input), in which the three are rows of one matrix product.
#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "fitting.h"

namespace dpl {
namespace {

constexpr int kOrders = 3;  // value, slope, curvature

// Powers of t (rows) from value, slope and curvature at t = 0 and at t = 1 (columns); the first
// three powers are those of the parabola too.
constexpr double kHermite[kPowers][2 * kOrders] = {
    {1, 0, 0, 0, 0, 0},           {0, 1, 0, 0, 0, 0},       {0, 0, 0.5, 0, 0, 0},
    {-10, -6, -1.5, 10, -4, 0.5}, {15, 8, 1.5, -15, 7, -1}, {-6, -3, -0.5, 6, -3, 0.5},
};

struct Grid {
  double start, spacing;
  int32_t n_nodes, n_features;
  int64_t table_size() const { return int64_t(n_nodes) * kPowers * n_features; }
};

// One network at the nodes. What is kept of its layers is (kOrders, n_nodes, ld).
class Sweep {
 public:
  Sweep(const dpl_embedding& network, const Grid& grid)
      : kernels_(fitting_kernels<double>()),
        activation_(network.activation),
        grid_(grid),
        levels_(size_t(network.n_layers)) {
    int64_t ld = padded<double>(1);
    input_.assign(size_t(kOrders * grid.n_nodes * ld), 0.0);
    for (int32_t k = 0; k < grid.n_nodes; ++k) {
      input_[size_t(k * ld)] = grid.start + grid.spacing * k;
      input_[size_t((grid.n_nodes + k) * ld)] = 1.0;
    }
    const double* x = input_.data();
    for (size_t l = 0; l < levels_.size(); ++l) {
      Level& level = levels_[l];
      level.layer.load(network.layers[l], ld, nullptr);
      ld = level.layer.ld_out;
      forward(level, x);
      x = level.y.data();
    }
  }

  // (kPowers, n_features) of each node's interval; the last one is the parabola that goes on.
  template <class real>
  void to_coefficients(real* out) const {
    const int32_t width = levels_.back().layer.n_out, n_m = grid_.n_features;
    std::fill_n(out, grid_.table_size(), real(0));
    std::vector<double> row(size_t(width), 0.0);
    for (int32_t q = 0; q < grid_.n_nodes; ++q)
      for (int k = 0; k < powers(q); ++k, std::fill(row.begin(), row.end(), 0.0)) {
        each_term(q, k, [&](int64_t place, double factor) {
          const double* jet = levels_.back().y.data() + place;
          for (int32_t m = 0; m < width; ++m) row[m] += factor * jet[m];
        });
        std::copy_n(row.data(), width, out + (int64_t(q) * kPowers + k) * n_m);
      }
  }

  // Gradients of the weights from that of the coefficients.
  template <class real>
  void backward(const real* grad, const dpl_layer_gradient* out) const {
    const Layer<double>& top = levels_.back().layer;
    const int32_t n_m = grid_.n_features;
    std::vector<double> g(levels_.back().y.size(), 0.0), below, gz;
    for (int32_t q = 0; q < grid_.n_nodes; ++q)
      for (int k = 0; k < powers(q); ++k)
        each_term(q, k, [&](int64_t place, double factor) {
          double* jet = g.data() + place;
          const real* from = grad + (int64_t(q) * kPowers + k) * n_m;
          for (int32_t m = 0; m < top.n_out; ++m) jet[m] += factor * double(from[m]);
        });
    for (size_t l = levels_.size(); l-- > 0; std::swap(g, below)) {
      gz = g;
      weights(levels_[l], input_of(l), gz, out[l]);
      if (l == 0) break;
      const Layer<double>& layer = levels_[l].layer;
      below.resize(size_t(rows() * layer.ld_in));
      const bool added = layer.begin_gradient(kernels_, rows(), g.data(), below.data());
      kernels_.multiply(rows(), layer.n_in, layer.n_out, gz.data(), layer.ld_out,
                        layer.transposed.data<double>(), added, below.data(), layer.ld_in);
    }
  }

 private:
  struct Level {
    Layer<double> layer;
    std::vector<double> z, y;  // before and after the function
  };

  int32_t rows() const { return kOrders * grid_.n_nodes; }
  const double* input_of(size_t l) const { return l ? levels_[l - 1].y.data() : input_.data(); }
  // Interval q is a quintic between two nodes, the last one a parabola.
  int powers(int32_t q) const { return q + 1 == grid_.n_nodes ? kOrders : kPowers; }

  // body(place, factor) for the derivatives at its ends, at their places among the jets of the
  // output, that coefficient k of interval q is the sum of.
  template <class Body>
  void each_term(int32_t q, int k, Body body) const {
    const double h = grid_.spacing, scale[kOrders] = {1, h, h * h};
    for (int d = 0; d < 2 * kOrders; ++d) {
      const int64_t node = int64_t(d % kOrders) * grid_.n_nodes + q + d / kOrders;
      if (kHermite[k][d] != 0)
        body(node * levels_.back().layer.ld_out, kHermite[k][d] * scale[d % kOrders]);
    }
  }

  void forward(Level& level, const double* x) const {
    const Layer<double>& layer = level.layer;
    level.z.resize(size_t(rows() * layer.ld_out));
    level.y.resize(level.z.size());
    kernels_.multiply(rows(), layer.n_out, layer.n_in, x, layer.ld_in, layer.weight.data<double>(),
                      false, level.z.data(), layer.ld_out);
    for (int32_t k = 0; k < grid_.n_nodes; ++k)
      kernels_.add(layer.ld_out, layer.bias.data(), level.z.data() + k * layer.ld_out);
    kernels_.jet(activation_, grid_.n_nodes, int32_t(layer.ld_out), layer.step.data(),
                 level.z.data(), level.y.data());
    layer.add_residual(kernels_, rows(), x, level.y.data());
  }

  // g of the layer's output, without what is added to it, becomes that of its argument.
  void weights(const Level& level, const double* x, std::vector<double>& g,
               const dpl_layer_gradient& out) const {
    const Layer<double>& layer = level.layer;
    std::vector<double> bias(size_t(layer.ld_out), 0.0), step(bias);
    std::vector<double> weight(size_t(layer.n_in * layer.ld_out));
    kernels_.jet_backward(activation_, grid_.n_nodes, int32_t(layer.ld_out), layer.step.data(),
                          level.z.data(), g.data(), bias.data(), step.data());
    kernels_.outer(layer.n_in, layer.n_out, rows(), x, layer.ld_in, g.data(), layer.ld_out, false,
                   weight.data(), layer.ld_out);
    for (int32_t i = 0; i < layer.n_in; ++i)
      std::copy_n(weight.data() + i * layer.ld_out, layer.n_out,
                  static_cast<double*>(out.weight) + int64_t(i) * layer.n_out);
    std::copy_n(bias.data(), layer.n_out, static_cast<double*>(out.bias));
    if (out.step) std::copy_n(step.data(), layer.n_out, static_cast<double*>(out.step));
  }

  const FittingKernels<double> kernels_;
  dpl_activation activation_;
  Grid grid_;
  std::vector<double> input_;
  std::vector<Level> levels_;
};

dpl_status check(const dpl_embedding* networks, int32_t n_tables, const Grid& grid, int threads) {
  if (threads < 1) return fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
  if (n_tables < 1 || grid.n_nodes < 1)
    return fail(DPL_INVALID_ARGUMENT, "expected tables and nodes, found %d and %d", n_tables,
                grid.n_nodes);
  if (!(grid.spacing > 0) || !std::isfinite(grid.spacing) || !std::isfinite(grid.start))
    return fail(DPL_INVALID_ARGUMENT, "expected a positive spacing, found %g", grid.spacing);
  for (int32_t p = 0; p < n_tables; ++p) {
    const dpl_embedding& network = networks[p];
    if (network.n_layers < 1 || uint32_t(network.activation) > DPL_LAST_ACTIVATION)
      return fail(DPL_INVALID_ARGUMENT, "network %d: %d layers, activation function %d", p,
                  network.n_layers, int(network.activation));
    int32_t width = 1;
    for (int32_t l = 0; l < network.n_layers; width = network.layers[l++].n_out)
      if (network.layers[l].n_in != width || network.layers[l].n_out < 1)
        return fail(DPL_INVALID_ARGUMENT, "layer %d of network %d: expected %d inputs, found %d", l,
                    p, width, network.layers[l].n_in);
    if (width > grid.n_features || grid.n_features % DPL_FEATURE_PADDING)
      return fail(DPL_INVALID_ARGUMENT, "%d features of a network in a table of %d", width,
                  grid.n_features);
  }
  return DPL_OK;
}

}  // namespace
}  // namespace dpl

struct dpl_tabulation {
  dpl::Grid grid;
  dpl_precision precision;
  std::vector<std::unique_ptr<dpl::Sweep>> sweeps;  // of each table

  // body(a table's number, a zero of the precision) on every table.
  template <class Body>
  dpl_status each(int threads, Body body) const {
    try {
      dpl::parallel_for(int64_t(sweeps.size()), threads, [&](int64_t p) {
        precision == DPL_FLOAT64 ? body(p, 0.0) : body(p, 0.0f);
      });
      return DPL_OK;
    } catch (const std::bad_alloc&) {
      return dpl::fail(DPL_OUT_OF_MEMORY, "out of memory for tables of %d nodes", grid.n_nodes);
    }
  }
};

dpl_status dpl_tabulate(const dpl_embedding* networks, int32_t n_tables, double start,
                        double spacing, int32_t n_nodes, int32_t n_features,
                        dpl_precision precision, int threads, void* coefficients,
                        dpl_tabulation** kept) {
  if (kept) *kept = nullptr;
  const dpl::Grid grid{start, spacing, n_nodes, n_features};
  dpl_status status = dpl::check(networks, n_tables, grid, threads);
  if (status != DPL_OK) return status;
  std::unique_ptr<dpl_tabulation> made;
  try {
    made = std::make_unique<dpl_tabulation>();
    made->grid = grid, made->precision = precision;
    made->sweeps.resize(size_t(n_tables));
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY, "out of memory for %d tables", n_tables);
  }
  status = made->each(threads, [&](int64_t p, auto zero) {
    using real = decltype(zero);
    made->sweeps[p] = std::make_unique<dpl::Sweep>(networks[p], grid);
    made->sweeps[p]->to_coefficients(static_cast<real*>(coefficients) + p * grid.table_size());
  });
  if (status == DPL_OK && kept) *kept = made.release();
  return status;
}

dpl_status dpl_tabulation_backward(const dpl_tabulation* kept, int threads,
                                   const void* grad_coefficients,
                                   const dpl_layer_gradient* const* gradients) {
  if (threads < 1) return dpl::fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
  return kept->each(threads, [&](int64_t p, auto zero) {
    using real = decltype(zero);
    kept->sweeps[p]->backward(
        static_cast<const real*>(grad_coefficients) + p * kept->grid.table_size(), gradients[p]);
  });
}

void dpl_tabulation_free(dpl_tabulation* kept) { delete kept; }
