// The whole potential for a block of atoms at a time, in one thread: list → moments → descriptor →
// network, forward and backward → forces. What exists for a block stays in its thread's cache.
//
// Bits do not depend on the number of threads: rounds follow from the list alone, a sum over edges
// is made in their order (gradients.h), and an atom's own result does not depend on its block.
#include <atomic>
#include <new>
#include <vector>

#include "call.h"
#include "fitting.h"

struct dpl_potential {
  virtual ~dpl_potential() = default;
  virtual int32_t n_types() const = 0;
  virtual dpl_status evaluate(const dpl_atoms& atoms, int threads, double* energies, double* forces,
                              double* virial, int64_t* beyond) const = 0;
};

namespace dpl {
namespace {

constexpr int64_t kBlockAtoms = 128;    // rows of the matrix products
constexpr int64_t kBlockEdges = 32768;  // bounds the memory of a thread
constexpr int64_t kVirialRows = 4096;   // summed before they are added to the total

// Where blocks begin, and n_local: rounds that begin at `rounds`, each divided into about equally
// expensive blocks, as many for each thread.
std::vector<int64_t> divide(const dpl_atoms& a, const std::vector<int64_t>& rounds, int threads) {
  std::vector<int64_t> starts{0};
  for (size_t k = 0; k + 1 < rounds.size(); ++k) {
    const int64_t begin = rounds[k], end = rounds[k + 1];
    const auto cost = [&](int64_t i) {
      return a.offsets[i] - a.offsets[begin] + kAtomCost * (i - begin);
    };
    int64_t n = std::max((end - begin + kBlockAtoms - 1) / kBlockAtoms, cost(end) / kBlockEdges);
    n = std::min((n + threads - 1) / threads * threads, end - begin);
    for (int64_t i = begin, block = 1; i < end; ++i)
      if (cost(i + 1) * n >= cost(end) * block) {
        starts.push_back(i + 1);
        while (cost(i + 1) * n >= cost(end) * block) ++block;
      }
  }
  return starts;
}

template <class real>
class Potential final : public dpl_potential {
 public:
  explicit Potential(const dpl_model& model);
  int32_t n_types() const override { return environment_.n_types; }
  dpl_status evaluate(const dpl_atoms& atoms, int threads, double* energies, double* forces,
                      double* virial, int64_t* beyond) const override;

 private:
  // The atoms of a block in order of type, and what exists for them.
  struct Block {
    std::vector<int32_t> order, first;  // first of each type, and the end
    int32_t* counts;                    // (n, n_types) neighbours
    real *moments, *gradient;           // (n, row_) in the order of the list
    real* descriptors;                  // (n, stride) in order of type
    double* energies;                   // (n) in order of type
  };

  Block block(const Problem<real>& p, int64_t begin, int64_t end) const;
  void energies(const FittingKernels<real>& kernels, const Problem<real>& p, int64_t begin,
                Block& block) const;

  dpl_environment environment_;
  dpl_table table_;
  DescriptorShape shape_;
  std::vector<double> davg_, dstd_, sel_;
  double scale_;  // 1 / n_sel
  Buffer coefficients_;
  std::vector<real> empty_;  // (n_types of the centre, n_types, n_features)
  std::vector<Fitting<real>> fittings_;
  int64_t row_, stride_;
};

template <class real>
Potential<real>::Potential(const dpl_model& model)
    : environment_(model.environment),
      table_(model.table),
      shape_(shape_of(model.fitting)),
      row_(int64_t(kColumns) * model.table.n_features),
      stride_(Fitting<real>::stride(shape_)) {
  const int32_t n_types = environment_.n_types, n_m = table_.n_features;
  davg_.assign(environment_.davg, environment_.davg + n_types * kColumns);
  dstd_.assign(environment_.dstd, environment_.dstd + n_types * kColumns);
  environment_.davg = davg_.data(), environment_.dstd = dstd_.data();
  sel_.assign(model.sel, model.sel + n_types);
  double n_sel = 0;
  for (double n : sel_) n_sel += n;
  scale_ = 1 / n_sel;
  const int64_t size = int64_t(table_.n_tables) * table_.n_intervals * kPowers * n_m;
  real* coefficients = coefficients_.get<real>(size);
  std::copy_n(static_cast<const real*>(table_.coefficients), size, coefficients);
  table_.coefficients = coefficients;
  for (int32_t a = 0; a < n_types; ++a) {
    const double s = -davg_[a * kColumns] / dstd_[a * kColumns];
    const double y = environment_.table_of_distance ? -environment_.rcut : s;
    const double place = (y - environment_.table_start) / environment_.table_spacing;
    const double q = std::floor(clamped_place(place, table_.n_intervals - 1.0));
    for (int32_t b = 0; b < n_types; ++b) {
      const int64_t table = environment_.type_one_side ? b : a * n_types + b;
      const real* c = coefficients + (table * table_.n_intervals + int64_t(q)) * kPowers * n_m;
      const int powers = q == table_.n_intervals - 1 ? 3 : kPowers;  // the end is a parabola
      for (int32_t m = 0; m < n_m; ++m) {
        double g = 0;
        for (int k = powers - 1; k >= 0; --k) g = g * (place - q) + double(c[k * n_m + m]);
        empty_.push_back(real(s * g));
      }
    }
  }
  fittings_.resize(n_types);
  for (int32_t a = 0; a < n_types; ++a)
    fittings_[a].load(model.fitting.networks[a], model.fitting.activation, shape_);
}

template <class real>
typename Potential<real>::Block Potential<real>::block(const Problem<real>& p, int64_t begin,
                                                       int64_t end) const {
  const int64_t n = end - begin;
  Workspace& memory = workspace();
  Block block;
  block.moments = memory.moments.get<real>(2 * n * row_);
  block.gradient = block.moments + n * row_;
  block.descriptors = memory.descriptors.get<real>(n * stride_ + DPL_FEATURE_PADDING);
  block.energies = memory.atoms.get<double>(n * (1 + p.n_types));
  block.counts = reinterpret_cast<int32_t*>(block.energies + n);
  block.first.assign(p.n_types + 1, 0);
  for (int64_t i = begin; i < end; ++i) ++block.first[p.types[i] + 1];
  for (int32_t a = 0; a < p.n_types; ++a) block.first[a + 1] += block.first[a];
  std::vector<int32_t> next(block.first);
  block.order.resize(n);
  for (int64_t i = begin; i < end; ++i) block.order[next[p.types[i]]++] = int32_t(i - begin);
  return block;
}

// Energies, and the gradient of minus their sum with respect to the moments.
template <class real>
void Potential<real>::energies(const FittingKernels<real>& kernels, const Problem<real>& p,
                               int64_t begin, Block& block) const {
  const int32_t n_m = p.n_features, n_types = p.n_types;
  std::vector<real> constant(n_m);
  for (size_t k = 0; k < block.order.size(); ++k) {
    const int32_t i = block.order[k];
    const real* empty = empty_.data() + int64_t(p.types[begin + i]) * n_types * n_m;
    std::fill(constant.begin(), constant.end(), real(0));
    for (int32_t b = 0; b < n_types; ++b, empty += n_m) {
      const real left = real(sel_[b] - block.counts[int64_t(i) * n_types + b]);
      for (int32_t m = 0; m < n_m; ++m) constant[m] += left * empty[m];
    }
    kernels.normalise(n_m, constant.data(), real(scale_), block.moments + i * row_);
    kernels.describe(shape_, block.moments + i * row_, block.descriptors + int64_t(k) * stride_);
  }
  for (int32_t a = 0; a < n_types; ++a) {
    const int32_t first = block.first[a], m = block.first[a + 1] - first;
    if (m == 0) continue;
    real* scratch = workspace().layers.template get<real>(fittings_[a].scratch_size(m));
    fittings_[a].run(kernels, m, block.descriptors + first * stride_, scratch,
                     block.energies + first);
  }
  for (size_t k = 0; k < block.order.size(); ++k) {
    const int64_t i = block.order[k];
    kernels.describe_backward(shape_, block.moments + i * row_,
                              block.descriptors + int64_t(k) * stride_, real(-scale_),
                              block.gradient + i * row_);
  }
}

// (3, 3) Σ over rows of position ⊗ force.
void add_up_virial(int64_t n, const double* positions, const double* forces, int threads,
                   double* virial) {
  const int64_t n_parts = (n + kVirialRows - 1) / kVirialRows;
  std::vector<double> parts(9 * n_parts, 0.0);
  parallel_for(n_parts, threads, [&](int64_t part) {
    double* sum = parts.data() + 9 * part;
    for (int64_t i = part * kVirialRows; i < std::min(n, (part + 1) * kVirialRows); ++i)
      for (int k = 0; k < 9; ++k) sum[k] += positions[3 * i + k / 3] * forces[3 * i + k % 3];
  });
  std::fill(virial, virial + 9, 0.0);
  for (int64_t k = 0; k < 9 * n_parts; ++k) virial[k % 9] += parts[k];
}

template <class real>
dpl_status Potential<real>::evaluate(const dpl_atoms& atoms, int threads, double* energies,
                                     double* forces, double* virial, int64_t* beyond) const {
  const std::vector<int64_t> rounds = block_starts(atoms, kRoundEdges);
  Blocks<real> blocks(atoms, environment_, table_, threads, nullptr,
                      divide(atoms, rounds, threads));
  const Problem<real>& p = blocks.problem;
  const FittingKernels<real> fitting = fitting_kernels<real>();
  PositionGradient to_forces(forces, atoms.n_all, workspace());
  std::fill(forces, forces + 3 * atoms.n_all, 0.0);
  std::atomic<int64_t> n_beyond{0};
  for (const Round& round : blocks.rounds_of(rounds)) {
    to_forces.begin(round, blocks.starts, atoms.offsets, atoms.indices, threads);
    const auto body = [&](int64_t k, int64_t begin, int64_t end, Edges<real>& edges) {
      Block own = block(p, begin, end);
      int64_t far = 0;
      const Fault fault = blocks.kernels.gather(p, begin, end, edges, own.counts, &far);
      if (fault.status != DPL_OK) return fault;
      blocks.kernels.sum(p, edges);
      blocks.kernels.spread(p, begin, end, edges, own.moments);
      this->energies(fitting, p, begin, own);
      for (size_t i = 0; i < own.order.size(); ++i)
        energies[begin + own.order[i]] = own.energies[i];
      blocks.kernels.backward(p, begin, end, edges, own.gradient);
      to_forces.add(k, begin, end, edges);
      n_beyond += far;
      return fault;
    };
    if (!blocks.run(round, body)) return blocks.status();
    to_forces.end(threads);
  }
  add_up_virial(atoms.n_all, atoms.positions, forces, threads, virial);
  *beyond = n_beyond;
  return DPL_OK;
}

dpl_status check_potential(const dpl_model& model) {
  dpl_status status = check_model(model.environment, model.table);
  if (status == DPL_OK) status = check_fitting(model.fitting);
  if (status != DPL_OK) return status;
  if (model.fitting.precision != model.table.precision ||
      model.fitting.n_types != model.environment.n_types ||
      model.fitting.n_features != model.table.n_features)
    return fail(DPL_INVALID_ARGUMENT, "precision, types or features of table and fitting differ");
  double n_sel = 0;
  for (int32_t a = 0; a < model.environment.n_types; ++a) {
    n_sel += model.sel[a];
    for (int c = 1; c < kColumns; ++c)
      if (model.environment.davg[a * kColumns + c] != 0)
        return fail(DPL_INVALID_ARGUMENT, "davg of x, y and z must be 0");
  }
  if (!(n_sel > 0) || !std::isfinite(n_sel))
    return fail(DPL_INVALID_ARGUMENT, "the sum of sel must be positive, found %g", n_sel);
  return DPL_OK;
}

}  // namespace
}  // namespace dpl

dpl_status dpl_potential_create(const dpl_model* model, dpl_potential** handle) {
  *handle = nullptr;
  try {
    const dpl_status status = dpl::check_potential(*model);
    if (status != DPL_OK) return status;
    if (model->table.precision == DPL_FLOAT64)
      *handle = new dpl::Potential<double>(*model);
    else
      *handle = new dpl::Potential<float>(*model);
    return DPL_OK;
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY, "out of memory for the weights of the model");
  }
}

void dpl_potential_free(dpl_potential* handle) { delete handle; }

dpl_status dpl_potential_evaluate(const dpl_potential* handle, const dpl_atoms* atoms, int threads,
                                  double* energies, double* forces, double* virial,
                                  int64_t* beyond) {
  try {
    if (threads < 1) return dpl::fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
    const dpl_status status = dpl::check_atoms(*atoms, handle->n_types());
    if (status != DPL_OK) return status;
    return handle->evaluate(*atoms, threads, energies, forces, virial, beyond);
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY, "out of memory for the energies of %lld atoms, %lld edges",
                     (long long)atoms->n_local, (long long)atoms->offsets[atoms->n_local]);
  }
}
