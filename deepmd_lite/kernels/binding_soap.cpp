// Bindings of the optimiser.
#include <nanobind/stl/array.h>

#include <array>

#include "binding.h"
#include "dpl_soap.h"

namespace dpl_binding {
namespace {

using State = Array<float>;

// Mean and basis (…, length, n_kept) of a side, or neither.
struct SoapSide {
  std::optional<State> mean, basis;

  dpl_soap_side view() const {
    if (!mean) return {0, nullptr, nullptr};
    return {int32_t(mean->shape(mean->ndim() - 1)), mean->data(), basis->data()};
  }
};

// The state of a batch of matrices, whose memory it shares.
struct SoapState {
  std::array<int64_t, 3> sizes;  // batch, rows, columns
  State step, mean, squares;
  SoapSide left, right;

  dpl_soap_matrices with(const Real& values, const Real& gradient, double rate) const {
    return {sizes[0],
            int32_t(sizes[1]),
            int32_t(sizes[2]),
            values.dtype() == nb::dtype<double>() ? DPL_FLOAT64 : DPL_FLOAT32,
            values.data(),
            gradient.data(),
            rate,
            step.data(),
            mean.data(),
            squares.data(),
            left.view(),
            right.view()};
  }
};

void step(const std::vector<Real>& values, const std::vector<Real>& gradients,
          const std::vector<const SoapState*>& states, const std::vector<double>& rates,
          double decay, double decay_squares, double epsilon, double most, int interval,
          int threads) {
  std::vector<dpl_soap_matrices> batches;
  for (size_t p = 0; p < states.size(); ++p)
    batches.push_back(states[p]->with(values[p], gradients[p], rates[p]));
  const dpl_soap rule{decay, decay_squares, epsilon, most, interval};
  dpl_status status;
  {
    nb::gil_scoped_release unlocked;
    status = dpl_soap_step(&rule, batches.data(), int32_t(batches.size()), threads);
  }
  check(status);
}

}  // namespace

void bind_soap(nb::module_& m) {
  nb::class_<SoapState>(m, "SoapState")
      .def(
          "__init__",
          [](SoapState* self, std::array<int64_t, 3> sizes, State step, State mean, State squares,
             std::optional<State> left, std::optional<State> left_basis, std::optional<State> right,
             std::optional<State> right_basis) {
            new (self)
                SoapState{sizes, step, mean, squares, {left, left_basis}, {right, right_basis}};
          },
          nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(),
          nb::arg().none(), nb::arg().none());
  m.def("soap_step", &step);
}

}  // namespace dpl_binding
