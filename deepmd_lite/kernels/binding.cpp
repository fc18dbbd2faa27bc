// The Python module _kernels: Python checks shapes; here only pointers are passed on.
#include "binding.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

using namespace dpl_binding;

namespace {

class NeighborList {
 public:
  NeighborList(Matrix3<const double> positions, Vector<const int32_t> types, int64_t n_local,
               double cutoff, int threads)
      : threads_(threads) {
    dpl_status status;
    {
      nb::gil_scoped_release unlocked;
      status = dpl_neighbors_build(int64_t(positions.shape(0)), n_local, positions.data(),
                                   types.data(), cutoff, threads, &handle_, &n_edges_);
    }
    check(status);
  }
  ~NeighborList() { dpl_neighbors_free(handle_); }
  NeighborList(const NeighborList&) = delete;
  NeighborList& operator=(const NeighborList&) = delete;

  int64_t n_edges() const { return n_edges_; }
  void copy(Vector<int64_t> offsets, Vector<int32_t> indices) const {
    nb::gil_scoped_release unlocked;
    dpl_neighbors_copy(handle_, threads_, offsets.data(), indices.data());
  }

 private:
  dpl_neighbors* handle_ = nullptr;
  int threads_;
  int64_t n_edges_ = 0;
};

// The embedding and what finds an edge's place in it.
struct Table {
  Real coefficients;  // (n_tables, n_intervals, DPL_POWERS, n_features)
  Array<const double, nb::ndim<2>> davg, dstd;
  double rcut, rcut_smth, table_start, table_spacing, protection;
  bool type_one_side, table_of_distance;

  dpl_environment environment() const {
    return {rcut,
            rcut_smth,
            int32_t(davg.shape(0)),
            type_one_side,
            int32_t(davg.shape(1)),
            davg.data(),
            dstd.data(),
            table_start,
            table_spacing,
            protection,
            table_of_distance};
  }
  dpl_table view() const {
    const bool is_double = coefficients.dtype() == nb::dtype<double>();
    return {is_double ? DPL_FLOAT64 : DPL_FLOAT32, int32_t(coefficients.shape(0)),
            int32_t(coefficients.shape(1)), int32_t(coefficients.shape(3)), coefficients.data()};
  }
};

// What every derivative of the moments is computed from.
struct Call {
  Atoms atoms;
  Table table;
};

// One element's network: weights (n_in, n_out), biases (n_out), steps (n_out) or None.
struct Network {
  std::vector<Real> weights, biases;
  std::vector<std::optional<Real>> steps;
  Real weight_out;
  double bias_out;
};

// n_features, n_embedding, n_axis, n_columns and n_cubic of a descriptor
using Shape = std::tuple<int, int, int, int, int>;

// The networks of all elements and what they are applied to.
struct Fitting {
  std::vector<Shape> shapes;
  int activation;
  std::vector<Network> networks;

  // Calls operation with a dpl_fitting that is valid as long as the call.
  template <class Operation>
  void with_view(Operation operation) const {
    std::vector<std::vector<dpl_layer>> layers;
    std::vector<dpl_network> list;
    for (const Network& network : networks) {
      layers.push_back(layers_of(network));
      list.push_back({int32_t(layers.back().size()), layers.back().data(),
                      network.weight_out.data(), network.bias_out});
    }
    std::vector<dpl_shape> forms;
    for (const auto& [features, embedding, axis, columns, cubic] : shapes)
      forms.push_back({features, embedding, axis, columns, cubic});
    const bool is_double = networks.at(0).weight_out.dtype() == nb::dtype<double>();
    operation(dpl_fitting{is_double ? DPL_FLOAT64 : DPL_FLOAT32, int32_t(networks.size()),
                          int32_t(forms.size()), forms.data(), dpl_activation(activation),
                          list.data()});
  }
};

// Where the gradients of one network go, shaped as its arrays; that of bias_out is returned.
struct Gradient {
  std::vector<Real> weights, biases;
  std::vector<std::optional<Real>> steps;
  Real weight_out;
};

std::vector<void*> pointers(const std::vector<Real>& arrays) {
  std::vector<void*> found;
  for (const Real& array : arrays) found.push_back(array.data());
  return found;
}

class Pass {
 public:
  explicit Pass(bool is_double) {
    check(dpl_pass_create(is_double ? DPL_FLOAT64 : DPL_FLOAT32, &handle_));
  }
  ~Pass() { dpl_pass_free(handle_); }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  void energies(const Fitting& fitting, Vector<const int32_t> types,
                const std::vector<Real>& moments, int threads, Vector<double> energies,
                const std::vector<Real>& grad) {
    const auto given = pointers(moments), out = pointers(grad);
    dpl_status status = DPL_OK;
    fitting.with_view([&](const dpl_fitting& view) {
      nb::gil_scoped_release unlocked;
      status = dpl_pass_energies(handle_, &view, int64_t(types.shape(0)), types.data(),
                                 given.data(), threads, energies.data(), out.data());
    });
    check(status);
  }

  std::vector<double> backward(const std::vector<Real>& moments, Vector<const double> to_energies,
                               const std::optional<std::vector<Real>>& to_gradients, int threads,
                               const std::vector<Real>& grad,
                               const std::vector<Gradient>& gradients) {
    const auto given = pointers(moments), out = pointers(grad);
    const auto along = to_gradients ? pointers(*to_gradients) : std::vector<void*>();
    std::vector<std::vector<dpl_layer_gradient>> layers;
    std::vector<dpl_network_gradient> list;
    std::vector<double> bias_out(gradients.size());
    for (const Gradient& gradient : gradients) {
      layers.push_back(gradients_of(gradient));
      list.push_back(
          {layers.back().data(), gradient.weight_out.data(), bias_out.data() + list.size()});
    }
    dpl_status status;
    {
      nb::gil_scoped_release unlocked;
      status = dpl_pass_backward(handle_, given.data(), to_energies.data(),
                                 to_gradients ? along.data() : nullptr, threads, out.data(),
                                 list.data());
    }
    check(status);
    return bias_out;
  }

 private:
  dpl_pass* handle_ = nullptr;
};

class Potential {
 public:
  Potential(const std::vector<std::pair<Table, Vector<const double>>>& descriptors,
            const Fitting& fitting) {
    std::vector<dpl_descriptor> list;
    for (const auto& [table, sel] : descriptors)
      list.push_back({table.environment(), table.view(), sel.data()});
    dpl_status status = DPL_OK;
    fitting.with_view([&](const dpl_fitting& view) {
      const dpl_model model{list.data(), view};
      status = dpl_potential_create(&model, &handle_);
    });
    check(status);
  }
  ~Potential() { dpl_potential_free(handle_); }
  Potential(const Potential&) = delete;
  Potential& operator=(const Potential&) = delete;

  int64_t evaluate(const Atoms& given, std::optional<Vector<const double>> weights,
                   Vector<double> energies, Matrix3<double> forces, Matrix3<double> virial) const {
    const dpl_atoms atoms = given.view();
    int64_t beyond = 0;
    dpl_status status;
    {
      nb::gil_scoped_release unlocked;
      status = dpl_potential_evaluate(handle_, &atoms, weights ? weights->data() : nullptr,
                                      given.threads, energies.data(), forces.data(), virial.data(),
                                      &beyond);
    }
    check(status);
    return beyond;
  }

 private:
  dpl_potential* handle_ = nullptr;
};

template <class Operation>
void run(const Call& call, Operation operation) {
  dpl_status status;
  {
    const dpl_atoms atoms = call.atoms.view();
    const dpl_environment environment = call.table.environment();
    const dpl_table table = call.table.view();
    nb::gil_scoped_release unlocked;
    status = operation(&atoms, &environment, &table, call.atoms.threads);
  }
  check(status);
}

template <class A>
auto pointer(std::optional<A>& array) {
  return array ? array->data() : nullptr;
}

}  // namespace

NB_MODULE(_kernels, m) {
  nb::set_leak_warnings(false);  // a graph that is still alive at exit is no leak

  m.attr("COLUMNS") = DPL_COLUMNS;
  m.attr("MOST_DEGREE") = DPL_MOST_DEGREE;
  m.attr("MOST_CUBIC") = DPL_MOST_CUBIC;
  m.attr("POWERS") = DPL_POWERS;
  m.attr("FEATURE_PADDING") = DPL_FEATURE_PADDING;
#if defined(__clang__)
  m.attr("COMPILER") = __VERSION__;
#elif defined(__GNUC__)
  m.attr("COMPILER") = "GCC " __VERSION__;
#else
  m.attr("COMPILER") = "unknown";
#endif

  m.def("has_instruction_set", [](int set) {
    return dpl_has_instruction_set(static_cast<dpl_instruction_set>(set)) != 0;
  });
  m.def("current_instruction_set", [] { return int(dpl_current_instruction_set()); });
  m.def("use_instruction_set",
        [](int set) { check(dpl_use_instruction_set(static_cast<dpl_instruction_set>(set))); });

  nb::class_<NeighborList>(m, "NeighborList")
      .def(nb::init<Matrix3<const double>, Vector<const int32_t>, int64_t, double, int>())
      .def_prop_ro("n_edges", &NeighborList::n_edges)
      .def("copy", &NeighborList::copy);

  nb::class_<Atoms>(m, "Atoms")
      .def("__init__",
           [](Atoms* self, Matrix3<const double> positions, Vector<const int32_t> types,
              Vector<const int64_t> offsets, Vector<const int32_t> indices,
              int threads) { new (self) Atoms{positions, types, offsets, indices, threads}; });
  nb::class_<Table>(m, "Table")
      .def("__init__", [](Table* self, Real coefficients, Array<const double, nb::ndim<2>> davg,
                          Array<const double, nb::ndim<2>> dstd, double rcut, double rcut_smth,
                          double table_start, double table_spacing, double protection,
                          bool type_one_side, bool table_of_distance) {
        new (self) Table{coefficients, davg,          dstd,       rcut,          rcut_smth,
                         table_start,  table_spacing, protection, type_one_side, table_of_distance};
      });
  nb::class_<Call>(m, "Call")
      .def("__init__", [](Call* self, const Atoms& atoms,
                          const Table& table) { new (self) Call{atoms, table}; })
      .def_prop_ro("n_local", [](const Call& call) { return call.atoms.view().n_local; })
      .def_prop_ro("n_types", [](const Call& call) { return call.table.environment().n_types; })
      .def_prop_ro("n_columns", [](const Call& call) { return call.table.environment().n_columns; })
      .def("with_coefficients",
           [](const Call& call, Real coefficients) {
             Call other = call;
             other.table.coefficients = coefficients;
             return other;
           })
      .def("moments",
           [](const Call& call, Real moments, Array<int32_t, nb::ndim<2>> counts) {
             int64_t beyond = 0;
             run(call, [&](auto... arguments) {
               return dpl_moments(arguments..., moments.data(), counts.data(), &beyond);
             });
             return beyond;
           })
      .def(
          "backward",
          [](const Call& call, Real grad_moments, std::optional<Matrix3<double>> grad_positions,
             std::optional<Real> grad_coefficients) {
            run(call, [&](auto... arguments) {
              return dpl_moments_backward(arguments..., grad_moments.data(),
                                          pointer(grad_positions), pointer(grad_coefficients));
            });
          },
          nb::arg(), nb::arg().none(), nb::arg().none())
      .def(
          "double_backward",
          [](const Call& call, Real grad_moments, Matrix3<const double> tangent,
             std::optional<Real> grad_grad_moments, std::optional<Matrix3<double>> grad_positions,
             std::optional<Real> grad_coefficients) {
            run(call, [&](auto... arguments) {
              return dpl_moments_double_backward(
                  arguments..., grad_moments.data(), tangent.data(), pointer(grad_grad_moments),
                  pointer(grad_positions), pointer(grad_coefficients));
            });
          },
          nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none());

  nb::class_<Network>(m, "Network")
      .def("__init__",
           [](Network* self, std::vector<Real> weights, std::vector<Real> biases,
              std::vector<std::optional<Real>> steps, Real weight_out, double bias_out) {
             new (self) Network{weights, biases, steps, weight_out, bias_out};
           });
  nb::class_<Fitting>(m, "Fitting")
      .def("__init__",
           [](Fitting* self, std::vector<Shape> shapes, int activation,
              std::vector<Network> networks) { new (self) Fitting{shapes, activation, networks}; });
  nb::class_<Potential>(m, "Potential")
      .def(nb::init<const std::vector<std::pair<Table, Vector<const double>>>&, const Fitting&>())
      .def("evaluate", &Potential::evaluate, nb::arg(), nb::arg().none(), nb::arg(), nb::arg(),
           nb::arg());
  m.def("normals", [](Vector<const int64_t> ids, uint32_t seed, uint32_t stream, int64_t step,
                      int threads, Matrix3<double> normals) {
    check(dpl_normals(int64_t(ids.shape(0)), ids.data(), seed, stream, step, threads,
                      normals.data()));
  });
  bind_close_pairs(m);
  bind_tables(m);
  bind_soap(m);
  nb::class_<Gradient>(m, "Gradient")
      .def("__init__", [](Gradient* self, std::vector<Real> weights, std::vector<Real> biases,
                          std::vector<std::optional<Real>> steps, Real weight_out) {
        new (self) Gradient{weights, biases, steps, weight_out};
      });
  nb::class_<Pass>(m, "Pass")
      .def(nb::init<bool>())
      .def("energies", &Pass::energies)
      .def("backward", &Pass::backward, nb::arg(), nb::arg(), nb::arg().none(), nb::arg(),
           nb::arg(), nb::arg());
}
