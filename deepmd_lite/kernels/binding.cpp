// The Python module _kernels: shapes were checked in Python; here only pointers are passed on.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <vector>

#include "dpl.h"

namespace nb = nanobind;
using nb::ndarray;

namespace {

template <class T, class... Shape>
using Array = ndarray<T, nb::c_contig, nb::device::cpu, Shape...>;
template <class T>
using Matrix3 = Array<T, nb::shape<-1, 3>>;
template <class T>
using Vector = Array<T, nb::ndim<1>>;
using Real = ndarray<nb::c_contig, nb::device::cpu>;  // float32 or float64

// Raises deepmd_lite.system.InputError with the library's message (MemoryError when out of it).
void check(dpl_status status) {
  if (status == DPL_OK) return;
  nb::object error = status == DPL_OUT_OF_MEMORY
                         ? nb::module_::import_("builtins").attr("MemoryError")
                         : nb::module_::import_("deepmd_lite.system").attr("InputError");
  PyErr_SetString(error.ptr(), dpl_last_error());
  throw nb::python_error();
}

class NeighborList {
 public:
  NeighborList(Matrix3<const double> positions, Vector<const int32_t> types, int64_t n_local,
               double cutoff, int threads)
      : threads_(threads), n_local_(n_local) {
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
  int64_t n_local_, n_edges_ = 0;
};

// Atoms and their neighbours.
struct Atoms {
  Matrix3<const double> positions;
  Vector<const int32_t> types;
  Vector<const int64_t> offsets;
  Vector<const int32_t> indices;
  int threads;

  dpl_atoms view() const {
    return {int64_t(positions.shape(0)),
            int64_t(offsets.shape(0)) - 1,
            positions.data(),
            types.data(),
            offsets.data(),
            indices.data()};
  }
};

// The embedding and what finds an edge's place in it.
struct Table {
  Real coefficients;  // (n_tables, n_intervals, DPL_POWERS, n_features)
  Array<const double, nb::ndim<2>> davg, dstd;
  double rcut, rcut_smth, table_start, table_spacing;
  bool type_one_side;

  dpl_environment environment() const {
    return {rcut,        rcut_smth,   int32_t(davg.shape(0)), type_one_side, davg.data(),
            dstd.data(), table_start, table_spacing};
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
  using Weight = Array<const double, nb::ndim<2>>;
  using Numbers = Vector<const double>;
  std::vector<Weight> weights;
  std::vector<Numbers> biases;
  std::vector<std::optional<Numbers>> steps;
  Numbers weight_out;
  double bias_out;

  std::vector<dpl_layer> layers() const {
    std::vector<dpl_layer> list;
    for (size_t l = 0; l < weights.size(); ++l)
      list.push_back({int32_t(weights[l].shape(0)), int32_t(weights[l].shape(1)), weights[l].data(),
                      biases[l].data(), steps[l] ? steps[l]->data() : nullptr});
    return list;
  }
};

class Potential {
 public:
  Potential(const Table& table, int n_embedding, int n_axis, Vector<const double> sel,
            int activation, const std::vector<Network>& networks) {
    std::vector<std::vector<dpl_layer>> layers;
    std::vector<dpl_network> list;
    for (const Network& network : networks) {
      layers.push_back(network.layers());
      list.push_back({int32_t(layers.back().size()), layers.back().data(),
                      network.weight_out.data(), network.bias_out});
    }
    const dpl_model model{table.environment(),        table.view(), n_embedding, n_axis, sel.data(),
                          dpl_activation(activation), list.data()};
    check(dpl_potential_create(&model, &handle_));
  }
  ~Potential() { dpl_potential_free(handle_); }
  Potential(const Potential&) = delete;
  Potential& operator=(const Potential&) = delete;

  int64_t evaluate(const Atoms& given, Vector<double> energies, Matrix3<double> forces,
                   Matrix3<double> virial) const {
    const dpl_atoms atoms = given.view();
    int64_t beyond = 0;
    dpl_status status;
    {
      nb::gil_scoped_release unlocked;
      status = dpl_potential_evaluate(handle_, &atoms, given.threads, energies.data(),
                                      forces.data(), virial.data(), &beyond);
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
  m.attr("POWERS") = DPL_POWERS;
  m.attr("FEATURE_PADDING") = DPL_FEATURE_PADDING;

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
                          double table_start, double table_spacing, bool type_one_side) {
        new (self) Table{coefficients, davg,        dstd,          rcut,
                         rcut_smth,    table_start, table_spacing, type_one_side};
      });
  nb::class_<Call>(m, "Call")
      .def("__init__", [](Call* self, const Atoms& atoms,
                          const Table& table) { new (self) Call{atoms, table}; })
      .def_prop_ro("n_local", [](const Call& call) { return call.atoms.view().n_local; })
      .def_prop_ro("n_types", [](const Call& call) { return call.table.environment().n_types; })
      .def("with_coefficients", [](const Call& call, Real coefficients) {
        Call other = call;
        other.table.coefficients = coefficients;
        return other;
      });
  m.def("moments", [](const Call& call, Real moments, Array<int32_t, nb::ndim<2>> counts) {
    int64_t beyond = 0;
    run(call, [&](auto... arguments) {
      return dpl_moments(arguments..., moments.data(), counts.data(), &beyond);
    });
    return beyond;
  });
  m.def(
      "moments_backward",
      [](const Call& call, Real grad_moments, std::optional<Matrix3<double>> grad_positions,
         std::optional<Real> grad_coefficients) {
        run(call, [&](auto... arguments) {
          return dpl_moments_backward(arguments..., grad_moments.data(), pointer(grad_positions),
                                      pointer(grad_coefficients));
        });
      },
      nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none());
  m.def(
      "moments_double_backward",
      [](const Call& call, Real grad_moments, Matrix3<const double> tangent,
         std::optional<Real> grad_grad_moments, std::optional<Matrix3<double>> grad_positions,
         std::optional<Real> grad_coefficients) {
        run(call, [&](auto... arguments) {
          return dpl_moments_double_backward(arguments..., grad_moments.data(), tangent.data(),
                                             pointer(grad_grad_moments), pointer(grad_positions),
                                             pointer(grad_coefficients));
        });
      },
      nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none());

  nb::class_<Network>(m, "Network")
      .def("__init__", [](Network* self, std::vector<Network::Weight> weights,
                          std::vector<Network::Numbers> biases,
                          std::vector<std::optional<Network::Numbers>> steps,
                          Network::Numbers weight_out, double bias_out) {
        new (self) Network{weights, biases, steps, weight_out, bias_out};
      });
  nb::class_<Potential>(m, "Potential")
      .def(nb::init<const Table&, int, int, Vector<const double>, int,
                    const std::vector<Network>&>())
      .def("evaluate", &Potential::evaluate);
}
