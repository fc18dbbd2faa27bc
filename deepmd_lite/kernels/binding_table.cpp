// Bindings of the tables of embedding networks in training.
#include "binding.h"

namespace dpl_binding {
namespace {

// Layers of one network each; arrays float64.
struct EmbeddingNetwork {
  std::vector<Real> weights, biases;
  std::vector<std::optional<Real>> steps;
};

// Tables of networks, and the way back where it is wanted.
class Tabulation {
 public:
  Tabulation(const std::vector<EmbeddingNetwork>& networks, int activation, double start,
             double spacing, int n_nodes, int n_features, int threads, Real coefficients,
             bool keep) {
    std::vector<std::vector<dpl_layer>> layers;
    std::vector<dpl_embedding> list;
    for (const EmbeddingNetwork& network : networks) {
      layers.push_back(layers_of(network));
      list.push_back(
          {int32_t(layers.back().size()), dpl_activation(activation), layers.back().data()});
    }
    const bool is_double = coefficients.dtype() == nb::dtype<double>();
    dpl_status status;
    {
      nb::gil_scoped_release unlocked;
      status = dpl_tabulate(list.data(), int32_t(list.size()), start, spacing, n_nodes, n_features,
                            is_double ? DPL_FLOAT64 : DPL_FLOAT32, threads, coefficients.data(),
                            keep ? &kept_ : nullptr);
    }
    check(status);
  }
  ~Tabulation() { dpl_tabulation_free(kept_); }
  Tabulation(const Tabulation&) = delete;
  Tabulation& operator=(const Tabulation&) = delete;

  void backward(int threads, Real grad, const std::vector<EmbeddingNetwork>& gradients) const {
    std::vector<std::vector<dpl_layer_gradient>> layers;
    std::vector<const dpl_layer_gradient*> list;
    for (const EmbeddingNetwork& gradient : gradients) layers.push_back(gradients_of(gradient));
    for (const auto& each : layers) list.push_back(each.data());
    dpl_status status;
    {
      nb::gil_scoped_release unlocked;
      status = dpl_tabulation_backward(kept_, threads, grad.data(), list.data());
    }
    check(status);
  }

 private:
  dpl_tabulation* kept_ = nullptr;
};

}  // namespace

void bind_tables(nb::module_& m) {
  nb::class_<EmbeddingNetwork>(m, "EmbeddingNetwork")
      .def("__init__", [](EmbeddingNetwork* self, std::vector<Real> weights,
                          std::vector<Real> biases, std::vector<std::optional<Real>> steps) {
        new (self) EmbeddingNetwork{weights, biases, steps};
      });
  nb::class_<Tabulation>(m, "Tabulation")
      .def(nb::init<const std::vector<EmbeddingNetwork>&, int, double, double, int, int, int, Real,
                    bool>())
      .def("backward", &Tabulation::backward);
}

}  // namespace dpl_binding
