// Bindings of the tables of embedding networks in training.
#include "binding.h"

namespace dpl_binding {
namespace {

// Layers of one network each; arrays float64.
struct EmbeddingNetwork {
  std::vector<Real> weights, biases;
  std::vector<std::optional<Real>> steps;
};

// Networks and the grid of their tables.
struct Tabulation {
  std::vector<EmbeddingNetwork> networks;
  int activation;
  double start, spacing;
  int n_nodes, n_features;

  // operation(networks, status) with what is valid as long as the call.
  template <class Operation>
  void with_view(Operation operation) const {
    std::vector<std::vector<dpl_layer>> layers;
    std::vector<dpl_embedding> list;
    for (const EmbeddingNetwork& network : networks) {
      layers.emplace_back();
      for (size_t l = 0; l < network.weights.size(); ++l) {
        const Real& weight = network.weights[l];
        layers.back().push_back({int32_t(weight.shape(0)), int32_t(weight.shape(1)), weight.data(),
                                 network.biases[l].data(),
                                 network.steps[l] ? network.steps[l]->data() : nullptr});
      }
      list.push_back(
          {int32_t(layers.back().size()), dpl_activation(activation), layers.back().data()});
    }
    dpl_status status;
    {
      nb::gil_scoped_release unlocked;
      status = operation(list.data(), int32_t(list.size()));
    }
    check(status);
  }

  static dpl_precision precision(const Real& array) {
    return array.dtype() == nb::dtype<double>() ? DPL_FLOAT64 : DPL_FLOAT32;
  }

  void coefficients(int threads, Real out) const {
    with_view([&](const dpl_embedding* list, int32_t n) {
      return dpl_tabulate(list, n, start, spacing, n_nodes, n_features, precision(out), threads,
                          out.data());
    });
  }

  void backward(int threads, Real grad, const std::vector<EmbeddingNetwork>& gradients) const {
    std::vector<std::vector<dpl_layer_gradient>> layers;
    std::vector<const dpl_layer_gradient*> list;
    for (const EmbeddingNetwork& gradient : gradients) {
      layers.emplace_back();
      for (size_t l = 0; l < gradient.weights.size(); ++l)
        layers.back().push_back({gradient.weights[l].data(), gradient.biases[l].data(),
                                 gradient.steps[l] ? gradient.steps[l]->data() : nullptr});
    }
    for (const auto& each : layers) list.push_back(each.data());
    with_view([&](const dpl_embedding* networks, int32_t n) {
      return dpl_tabulate_backward(networks, n, start, spacing, n_nodes, n_features,
                                   precision(grad), threads, grad.data(), list.data());
    });
  }
};

}  // namespace

void bind_tables(nb::module_& m) {
  nb::class_<EmbeddingNetwork>(m, "EmbeddingNetwork")
      .def("__init__", [](EmbeddingNetwork* self, std::vector<Real> weights,
                          std::vector<Real> biases, std::vector<std::optional<Real>> steps) {
        new (self) EmbeddingNetwork{weights, biases, steps};
      });
  nb::class_<Tabulation>(m, "Tabulation")
      .def("__init__",
           [](Tabulation* self, std::vector<EmbeddingNetwork> networks, int activation,
              double start, double spacing, int n_nodes, int n_features) {
             new (self) Tabulation{networks, activation, start, spacing, n_nodes, n_features};
           })
      .def("coefficients", &Tabulation::coefficients)
      .def("backward", &Tabulation::backward);
}

}  // namespace dpl_binding
