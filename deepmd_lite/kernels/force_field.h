// A model file in memory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dpl.h"
#include "safetensors.h"

struct dpl_force_field {
  struct Free {
    void operator()(dpl_potential* potential) const { dpl_potential_free(potential); }
  };

  std::vector<std::string> elements;
  double cutoff = 0;
  int32_t n_members = 0;
  dpl_precision precision = DPL_FLOAT64;
  std::unique_ptr<dpl_potential, Free> potential;

  bool has_repulsion = false;
  std::vector<double> atomic_numbers, r_in, r_out;
  bool has_short_range = false;
  dpl_short_range short_range{};  // points to the two below
  std::vector<double> coefficients, bias;

  int32_t n_types() const { return int32_t(elements.size()); }
  // Forces and virial of Σ factors_i energies_i; factors may be NULL: 1.
  dpl_status evaluate(const dpl_atoms& atoms, const double* factors, int threads, double* energies,
                      double* forces, double* virial, int64_t* beyond) const;
};

namespace dpl {

// Throws FileError where a structure that the file remembers gives other results than it says.
void check_reference_frames(const Safetensors& file, const Json& header,
                            const dpl_force_field& field, int threads);

}  // namespace dpl
