// What the files that bind dpl.h to Python share.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <utility>

#include "dpl.h"

namespace nb = nanobind;
using nb::ndarray;

// A tensor of torch, its memory shared.
template <class Array>
struct Shared : Array {
  Shared() = default;
  explicit Shared(Array array) : Array(std::move(array)) {}
};

// Through torch's own capsule: Tensor.__dlpack__, which nanobind asks for, takes twenty times as
// long, more than the work on a few atoms.
template <class Array>
struct nanobind::detail::type_caster<Shared<Array>> {
  NB_TYPE_CASTER(Shared<Array>, make_caster<Array>::Name)

  template <class Flags>
  bool from_python(handle tensor, Flags flags, cleanup_list* cleanup) noexcept {
    static PyObject* const to_dlpack = PyObject_GetAttrString(
        steal(PyImport_ImportModule("torch.utils.dlpack")).ptr(), "to_dlpack");
    const object capsule = steal(PyObject_CallFunctionObjArgs(to_dlpack, tensor.ptr(), nullptr));
    make_caster<Array> array;
    if (!capsule.is_valid() || !array.from_python(capsule, flags, cleanup)) {
      PyErr_Clear();  // no tensor: nanobind says what was expected
      return false;
    }
    value = Shared<Array>(std::move(array.value));
    return true;
  }
};

namespace dpl_binding {

template <class T, class... Shape>
using Array = Shared<ndarray<T, nb::c_contig, nb::device::cpu, Shape...>>;
template <class T>
using Matrix3 = Array<T, nb::shape<-1, 3>>;
template <class T>
using Vector = Array<T, nb::ndim<1>>;
using Real = Shared<ndarray<nb::c_contig, nb::device::cpu>>;  // float32 or float64

// Raises deepmd_lite.system.InputError with the library's message (MemoryError when out of it).
inline void check(dpl_status status) {
  if (status == DPL_OK) return;
  nb::object error = status == DPL_OUT_OF_MEMORY
                         ? nb::module_::import_("builtins").attr("MemoryError")
                         : nb::module_::import_("deepmd_lite.system").attr("InputError");
  PyErr_SetString(error.ptr(), dpl_last_error());
  throw nb::python_error();
}

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

// The hidden layers of what has weights, biases and steps, valid as long as it.
template <class Networks>
std::vector<dpl_layer> layers_of(const Networks& network) {
  std::vector<dpl_layer> layers;
  for (size_t l = 0; l < network.weights.size(); ++l) {
    const Real& weight = network.weights[l];
    layers.push_back({int32_t(weight.shape(0)), int32_t(weight.shape(1)), weight.data(),
                      network.biases[l].data(),
                      network.steps[l] ? network.steps[l]->data() : nullptr});
  }
  return layers;
}
// Where the derivatives of such layers go.
template <class Networks>
std::vector<dpl_layer_gradient> gradients_of(const Networks& network) {
  std::vector<dpl_layer_gradient> layers;
  for (const dpl_layer& layer : layers_of(network))
    layers.push_back({const_cast<void*>(layer.weight), const_cast<void*>(layer.bias),
                      const_cast<void*>(layer.step)});
  return layers;
}

void bind_close_pairs(nb::module_& m);  // binding_close.cpp: what acts between close atoms
void bind_tables(nb::module_& m);       // binding_table.cpp: tables of embedding networks
void bind_soap(nb::module_& m);         // binding_soap.cpp: the optimiser

}  // namespace dpl_binding
