// Bindings of what acts between close atoms: the repulsion, and the table of pairs.
#include "binding.h"

namespace dpl_binding {
namespace {

void add_repulsion(const Atoms& given, Vector<const double> atomic_numbers,
                   Array<const double, nb::ndim<2>> r_in, Array<const double, nb::ndim<2>> r_out,
                   Vector<double> energies, Matrix3<double> forces, Matrix3<double> virial) {
  const dpl_atoms atoms = given.view();
  const dpl_repulsion repulsion{int32_t(atomic_numbers.shape(0)), atomic_numbers.data(),
                                r_in.data(), r_out.data()};
  dpl_status status;
  {
    nb::gil_scoped_release unlocked;
    status = dpl_repulsion_add(&repulsion, &atoms, nullptr, given.threads, energies.data(),
                               forces.data(), virial.data());
  }
  check(status);
}

// The table of pairs that takes over from the networks at short range.
struct ShortRange {
  Array<const double, nb::ndim<4>> coefficients;  // (n_types, n_types, n_intervals, 4)
  Vector<const double> bias;
  double rcut, smin_alpha, sw_rmin, sw_rmax, start, spacing;

  dpl_short_range view() const {
    return {int32_t(coefficients.shape(0)),
            int32_t(coefficients.shape(2)),
            rcut,
            smin_alpha,
            sw_rmin,
            sw_rmax,
            start,
            spacing,
            coefficients.data(),
            bias.data()};
  }

  void weights(const Atoms& given, Vector<double> weights) const {
    const dpl_atoms atoms = given.view();
    const dpl_short_range table = view();
    dpl_status status;
    {
      nb::gil_scoped_release unlocked;
      status = dpl_short_range_weights(&table, &atoms, given.threads, weights.data());
    }
    check(status);
  }

  void add(const Atoms& given, Vector<double> energies, Matrix3<double> forces,
           Matrix3<double> virial) const {
    const dpl_atoms atoms = given.view();
    const dpl_short_range table = view();
    dpl_status status;
    {
      nb::gil_scoped_release unlocked;
      status = dpl_short_range_add(&table, &atoms, nullptr, given.threads, energies.data(),
                                   forces.data(), virial.data());
    }
    check(status);
  }
};

}  // namespace

void bind_close_pairs(nb::module_& m) {
  m.def("add_repulsion", &add_repulsion);
  nb::class_<ShortRange>(m, "ShortRange")
      .def("__init__",
           [](ShortRange* self, Array<const double, nb::ndim<4>> coefficients,
              Vector<const double> bias, double rcut, double smin_alpha, double sw_rmin,
              double sw_rmax, double start, double spacing) {
             new (self)
                 ShortRange{coefficients, bias, rcut, smin_alpha, sw_rmin, sw_rmax, start, spacing};
           })
      .def("weights", &ShortRange::weights)
      .def("add", &ShortRange::add);
}

}  // namespace dpl_binding
