// The network from descriptor to atomic energy, for a block of atoms of one type.
#pragma once

#include <vector>

#include "fitting_block.h"
#include "runtime.h"

namespace dpl {

template <class real>
class Fitting {
 public:
  // Copies the weights. Throws std::bad_alloc.
  Fitting(const dpl_network& network, dpl_activation activation, const DescriptorShape& shape);

  // Distance of two descriptors in memory, with room for what `describe` writes beyond the last
  // number.
  static int64_t stride(const DescriptorShape& shape) {
    return padded(shape.n_packed() + DPL_FEATURE_PADDING);
  }

  // How many numbers of scratch `run` needs for m atoms.
  int64_t scratch_size(int64_t m) const;

  // Energies (m) of packed descriptors (m, stride), which become the gradients of the energies.
  void run(const FittingKernels<real>& kernels, int32_t m, real* descriptors, real* scratch,
           double* energies) const;

 private:
  struct Layer {
    int32_t n_in, n_out;
    int64_t ld_out;
    Buffer weight, transposed;  // packed: (n_in, n_out), (n_out, n_in)
    std::vector<real> bias, step;
    int copies;                     // how often the input is added to the output
    std::vector<int32_t> residual;  // first layer: the input that each output is added to
  };

  // As many columns as `multiply` writes: numbers after the last one are 0 in every layer.
  static int64_t padded(int64_t n) {
    constexpr int64_t half = kPanel<real> / 2;
    return (n + half - 1) / half * half;
  }
  void forward(const FittingKernels<real>& kernels, const Layer& layer, int32_t m, const real* x,
               int64_t ldx, real* slope, real* y) const;
  void backward(const FittingKernels<real>& kernels, const Layer& layer, int32_t m, real* slope,
                real*& gradient, real*& other) const;

  dpl_activation activation_;
  int64_t ld_in_, ld_widest_ = 0;
  std::vector<Layer> layers_;
  std::vector<real> weight_out_;
  double bias_out_;
};

}  // namespace dpl
