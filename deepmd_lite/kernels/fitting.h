// The network from descriptor to atomic energy of one type, for a block of atoms.
#pragma once

#include <utility>
#include <vector>

#include "fitting_block.h"
#include "runtime.h"

namespace dpl {

// The invariants that descriptors are made of, and where the numbers of each stand, full and
// packed.
class Packing {
 public:
  struct Part {
    Invariants shape;
    int32_t descriptor;           // of whose moments
    int64_t offset, size;         // their columns among the numbers of an atom's moments
    int32_t first, first_packed;  // numbers of the descriptors before it
  };
  Packing() = default;
  explicit Packing(const dpl_fitting& fitting) {
    for (int32_t k = 0; k < fitting.n_descriptors; ++k) {
      const dpl_shape& s = fitting.shapes[k];
      rows_.push_back(int64_t(s.n_columns) * s.n_features);
      if (s.n_columns == DPL_COLUMNS) {
        add(k, s, 0, s.n_columns, s.n_axis);
      } else {  // degree by degree
        add(k, s, 0, 1, 0);
        for (int l = 1; l <= degree_of(s.n_columns); ++l) add(k, s, l * l, 2 * l + 1, s.n_axis);
        if (s.n_cubic > 0) add(k, s, 1, kCubicColumns, 0, s.n_cubic);  // last: adds its gradient
      }
    }
  }

  const std::vector<Part>& parts() const { return parts_; }
  // Numbers of an atom's moments of each descriptor.
  const std::vector<int64_t>& rows() const { return rows_; }
  int32_t n_packed() const { return n_packed_; }
  // Where the i-th number of the full descriptors stands.
  int32_t place(int32_t i) const {
    size_t k = parts_.size() - 1;
    while (i < parts_[k].first) --k;
    return parts_[k].first_packed + parts_[k].shape.place(i - parts_[k].first);
  }

 private:
  void add(int32_t descriptor, const dpl_shape& s, int32_t column, int32_t n, int32_t n_axis,
           int32_t n_cubic = 0) {
    const int64_t n_m = s.n_features;
    const Invariants shape{s.n_features, s.n_embedding, n_axis, n, n_cubic};
    parts_.push_back({shape, descriptor, column * n_m, n * n_m, n_full_, n_packed_});
    n_full_ += shape.n_full();
    n_packed_ += shape.n_packed();
  }

  std::vector<Part> parts_;
  std::vector<int64_t> rows_;
  int32_t n_full_ = 0, n_packed_ = 0;
};

// How many numbers a descriptor has.
inline int64_t inputs_of(const dpl_shape& s) {
  const int64_t of_degree = s.n_axis > 0 ? s.n_axis : 1;
  if (s.n_columns == DPL_COLUMNS) return s.n_embedding * of_degree;
  return s.n_embedding * (1 + degree_of(s.n_columns) * of_degree) + cubic_size(s.n_cubic);
}

// Whether sizes, activation and layers fit together.
dpl_status check_fitting(const dpl_fitting& fitting);

template <class real>
FittingKernels<real> fitting_kernels();

// As many columns as `multiply` writes: numbers after the last one are 0 in every layer.
template <class real>
int64_t padded(int64_t n) {
  constexpr int64_t half = kPanel<real> / 2;
  return (n + half - 1) / half * half;
}

// A hidden layer, its weights in the layout that `multiply` reads.
template <class real>
struct Layer {
  int32_t n_in, n_out;        // the first layer's n_in is that of the packed descriptor
  int64_t ld_in, ld_out;      // distance of two atoms' numbers in memory
  Buffer weight, transposed;  // packed: (n_in, n_out), (n_out, n_in)
  std::vector<real> bias, step;
  bool has_step;
  int copies;  // how often the input is added to the output
  // First layer: the one or two inputs of the full descriptors that each packed one stands for (-1:
  // none), and the packed input that is added to each output.
  std::vector<std::pair<int32_t, int32_t>> source;
  std::vector<int32_t> residual;

  // Takes sizes, bias and step of a layer whose numbers of input are `ld_in` apart, and makes room
  // for its weight; with `packing` the input is packed.
  void shape(const dpl_layer& given, int64_t ld_in, const Packing* packing);
  // Copies of its weight (n_in of the full descriptors, n_out) the rows of the packed inputs
  // [first, first + kPanel), in both layouts.
  void pack(const real* weight, int32_t first);
  // Both, of all inputs.
  void load(const dpl_layer& given, int64_t ld_in, const Packing* packing);

  // y (m, ld_out) += the input x, as residual connections want it.
  void add_residual(const FittingKernels<real>& kernels, int32_t m, const real* x, real* y) const;
  // The way back: gradient (m, ld_in) of the input becomes the part of that of the output; returns
  // false, and does nothing, where there is none.
  bool begin_gradient(const FittingKernels<real>& kernels, int32_t m, const real* output,
                      real* input) const;
};

template <class real>
class Fitting {
 public:
  // Copies the weights; those of another call are replaced.
  void load(const dpl_network& network, dpl_activation activation, const Packing& packing,
            int threads);

  // Distance of two atoms' descriptors in memory, with room for what `describe` writes beyond the
  // last number.
  static int64_t stride(const Packing& packing) {
    return padded<real>(packing.n_packed() + DPL_FEATURE_PADDING);
  }

  // How many numbers of scratch `run` needs for m atoms.
  int64_t scratch_size(int64_t m) const;

  // Energies (m) of packed descriptors (m, stride), which become the gradients of the energies.
  void run(const FittingKernels<real>& kernels, int32_t m, real* descriptors, real* scratch,
           double* energies) const;

  const std::vector<Layer<real>>& layers() const { return layers_; }
  const std::vector<real>& weight_out() const { return weight_out_; }
  double bias_out() const { return bias_out_; }
  dpl_activation activation() const { return activation_; }

 private:
  void forward(const FittingKernels<real>& kernels, const Layer<real>& layer, int32_t m,
               const real* x, real* slope, real* y) const;

  dpl_activation activation_ = DPL_LINEAR;
  int64_t widest_ = 0;
  std::vector<Layer<real>> layers_;
  std::vector<real> weight_out_;
  double bias_out_ = 0;
};

}  // namespace dpl
