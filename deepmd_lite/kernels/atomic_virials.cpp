// Virials of single atoms from forces of weighted energies (model/atomic_virials.py).
#include <new>
#include <vector>

#include "call.h"
#include "force_field.h"

namespace dpl {
namespace {

constexpr int kAxes = 3;

dpl_status atomic_virials(const dpl_force_field& field, const dpl_atoms& atoms, int threads,
                          const double* forces, double* virials) {
  double origin[kAxes] = {0, 0, 0};  // small weights, small rounding
  for (int64_t i = 0; i < atoms.n_local; ++i)
    for (int a = 0; a < kAxes; ++a)
      origin[a] += atoms.positions[kAxes * i + a] / double(atoms.n_local);
  std::vector<double> factors(size_t(atoms.n_local)), energies(size_t(atoms.n_local));
  std::vector<double> others(size_t(kAxes * atoms.n_all));
  for (int a = 0; a < kAxes; ++a) {
    for (int64_t i = 0; i < atoms.n_local; ++i)
      factors[size_t(i)] = atoms.positions[kAxes * i + a] - origin[a];
    double virial[9];
    int64_t beyond;
    const dpl_status status = field.evaluate(atoms, factors.data(), threads, energies.data(),
                                             others.data(), virial, &beyond);
    if (status != DPL_OK) return status;
    for (int64_t j = 0; j < atoms.n_all; ++j) {
      const double place = atoms.positions[kAxes * j + a] - origin[a];
      for (int b = 0; b < kAxes; ++b)
        virials[9 * j + kAxes * a + b] =
            place * forces[kAxes * j + b] - others[size_t(kAxes * j + b)];
    }
  }
  return DPL_OK;
}

}  // namespace
}  // namespace dpl

dpl_status dpl_force_field_atomic_virials(const dpl_force_field* handle, const dpl_atoms* atoms,
                                          int threads, const double* forces, double* virials) {
  try {
    const dpl_status status = dpl::check_atoms(*atoms, handle->n_types());
    if (status != DPL_OK) return status;
    return dpl::atomic_virials(*handle, *atoms, threads, forces, virials);
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY, "out of memory for the virials of %lld atoms",
                     (long long)atoms->n_all);
  }
}
