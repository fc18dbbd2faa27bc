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
  virtual dpl_status evaluate(const dpl_atoms& atoms, const double* weights, int threads,
                              double* energies, double* forces, double* virial,
                              int64_t* beyond) const = 0;
};

namespace dpl {
namespace {

constexpr int64_t kBlockAtoms = 192;    // rows of the matrix products
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

// A copy of a descriptor and what follows from it. A descriptor of another cutoff than the list's
// sees fewer edges.
template <class real>
struct Part {
  dpl_descriptor descriptor;  // with the arrays below
  int32_t n_features;
  int64_t row;  // numbers of an atom's moments
  std::vector<double> davg, dstd, sel;
  double scale;  // 1 / n_sel
  Buffer coefficients;
  std::vector<real> empty;  // (n_types of the centre, n_types, n_features)

  explicit Part(const dpl_descriptor& given);
  Part(Part&&) = default;
};

template <class real>
Part<real>::Part(const dpl_descriptor& given)
    : descriptor(given),
      n_features(given.table.n_features),
      row(int64_t(given.environment.n_columns) * given.table.n_features) {
  dpl_environment& env = descriptor.environment;
  dpl_table& table = descriptor.table;
  const int32_t n_types = env.n_types, n_columns = env.n_columns, n_m = n_features;
  davg.assign(env.davg, env.davg + n_types * n_columns);
  dstd.assign(env.dstd, env.dstd + n_types * n_columns);
  sel.assign(descriptor.sel, descriptor.sel + n_types);
  env.davg = davg.data(), env.dstd = dstd.data(), descriptor.sel = sel.data();
  double n_sel = 0;
  for (double n : sel) n_sel += n;
  scale = 1 / n_sel;
  const int64_t size = int64_t(table.n_tables) * table.n_intervals * kPowers * n_m;
  real* values = coefficients.get<real>(size);
  std::copy_n(static_cast<const real*>(table.coefficients), size, values);
  table.coefficients = values;
  for (int32_t a = 0; a < n_types; ++a) {
    const double s = -davg[a * n_columns] / dstd[a * n_columns];
    const double y = env.table_of_distance ? -env.rcut : s;
    const double in_table = (y - env.table_start) / env.table_spacing;
    const double q = std::floor(clamped_place(in_table, table.n_intervals - 1.0));
    for (int32_t b = 0; b < n_types; ++b) {
      const int64_t number = env.type_one_side ? b : a * n_types + b;
      const real* c = values + (number * table.n_intervals + int64_t(q)) * kPowers * n_m;
      const int powers = q == table.n_intervals - 1 ? 3 : kPowers;  // the end is a parabola
      for (int32_t m = 0; m < n_m; ++m) {
        double g = 0;
        for (int k = powers - 1; k >= 0; --k) g = g * (in_table - q) + double(c[k * n_m + m]);
        empty.push_back(real(s * g));
      }
    }
  }
}

// Adds the edge gradients of one problem to those of another whose cutoff is not smaller: its edges
// are among them, in the same order.
template <class real>
void add_gradients(int64_t n_atoms, const Edges<real>& from, Edges<real>& to) {
  for (int64_t i = 0; i < n_atoms; ++i)
    for (int32_t e = from.start[i], place = to.start[i]; e < from.start[i + 1]; ++e, ++place) {
      while (to.neighbor[place] != from.neighbor[e]) ++place;
      for (int k = 0; k < 3; ++k) to.gradient[k][place] += from.gradient[k][e];
    }
}

template <class real>
class Potential final : public dpl_potential {
 public:
  explicit Potential(const dpl_model& model);
  int32_t n_types() const override { return int32_t(fittings_.size()); }
  dpl_status evaluate(const dpl_atoms& atoms, const double* weights, int threads, double* energies,
                      double* forces, double* virial, int64_t* beyond) const override;

 private:
  // The atoms of a block in order of type, and what exists for them.
  struct Block {
    std::vector<int32_t> order, first;     // first of each type, and the end
    std::vector<int32_t*> counts;          // of each part (n, n_types) neighbours
    std::vector<real*> moments, gradient;  // of each part (n, row) in the order of the list
    real* descriptors;                     // (n, stride) in order of type
    double* energies;                      // (n) in order of type
  };

  Block make_block(const int32_t* types, int64_t begin, int64_t end) const;
  void energies(const FittingKernels<real>& kernels, const int32_t* types, const double* weights,
                int64_t begin, Block& block) const;
  void normalise(const FittingKernels<real>& kernels, size_t index, const int32_t* types,
                 int64_t begin, Block& block) const;
  Fault evaluate(const Blocks<real>& blocks, const FittingKernels<real>& kernels,
                 const double* weights, int64_t begin, int64_t end, std::vector<Edges<real>>& edges,
                 double* energies, int64_t* beyond) const;

  Packing packing_;
  std::vector<Part<real>> parts_;
  size_t widest_ = 0;  // the part of the largest cutoff
  std::vector<Fitting<real>> fittings_;
  int64_t rows_ = 0, stride_;  // numbers of an atom's moments, of all parts together
};

template <class real>
Potential<real>::Potential(const dpl_model& model)
    : packing_(model.fitting), stride_(Fitting<real>::stride(packing_)) {
  for (int32_t p = 0; p < model.fitting.n_descriptors; ++p) {
    parts_.emplace_back(model.descriptors[p]);
    rows_ += parts_[p].row;
    if (parts_[p].descriptor.environment.rcut > parts_[widest_].descriptor.environment.rcut)
      widest_ = p;
  }
  fittings_.resize(model.fitting.n_types);
  for (size_t a = 0; a < fittings_.size(); ++a)
    fittings_[a].load(model.fitting.networks[a], model.fitting.activation, packing_, 1);
}

template <class real>
typename Potential<real>::Block Potential<real>::make_block(const int32_t* types, int64_t begin,
                                                            int64_t end) const {
  const int64_t n = end - begin, n_types = int64_t(fittings_.size());
  const int64_t n_parts = int64_t(parts_.size());
  Workspace& memory = workspace();
  Block block;
  real* rows = memory.moments.get<real>(2 * n * rows_);
  block.descriptors = memory.descriptors.get<real>(n * stride_ + DPL_FEATURE_PADDING);
  block.energies = memory.atoms.get<double>(n * (1 + n_types * n_parts));
  int32_t* counts = reinterpret_cast<int32_t*>(block.energies + n);
  for (const Part<real>& part : parts_) {
    block.moments.push_back(rows), rows += n * part.row;
    block.gradient.push_back(rows), rows += n * part.row;
    block.counts.push_back(counts), counts += n * n_types;
  }
  block.first.assign(n_types + 1, 0);
  for (int64_t i = begin; i < end; ++i) ++block.first[types[i] + 1];
  for (int64_t a = 0; a < n_types; ++a) block.first[a + 1] += block.first[a];
  std::vector<int32_t> next(block.first);
  block.order.resize(n);
  for (int64_t i = begin; i < end; ++i) block.order[next[types[i]]++] = int32_t(i - begin);
  return block;
}

// Normalised moments of one part.
template <class real>
void Potential<real>::normalise(const FittingKernels<real>& kernels, size_t index,
                                const int32_t* types, int64_t begin, Block& block) const {
  const Part<real>& part = parts_[index];
  const int32_t n_m = part.n_features, n_types = this->n_types();
  std::vector<real> constant(n_m);
  for (const int32_t i : block.order) {
    const real* empty = part.empty.data() + int64_t(types[begin + i]) * n_types * n_m;
    std::fill(constant.begin(), constant.end(), real(0));
    for (int32_t b = 0; b < n_types; ++b, empty += n_m) {
      const real left = real(part.sel[b] - block.counts[index][int64_t(i) * n_types + b]);
      for (int32_t m = 0; m < n_m; ++m) constant[m] += left * empty[m];
    }
    kernels.normalise(part.descriptor.environment.n_columns, n_m, constant.data(), real(part.scale),
                      block.moments[index] + i * part.row);
  }
}

// Energies, and the gradient of minus their weighted sum with respect to the moments.
template <class real>
void Potential<real>::energies(const FittingKernels<real>& kernels, const int32_t* types,
                               const double* weights, int64_t begin, Block& block) const {
  for (size_t p = 0; p < parts_.size(); ++p) normalise(kernels, p, types, begin, block);
  const int32_t n = int32_t(block.order.size());
  std::vector<real*> to(n);
  std::vector<const real*> of(n);
  const auto rows = [&](const std::vector<real*>& arrays, const Packing::Part& place, auto& rows) {
    for (int32_t k = 0; k < n; ++k)
      rows[k] =
          arrays[place.descriptor] + block.order[k] * parts_[place.descriptor].row + place.offset;
    return rows.data();
  };
  for (const Packing::Part& place : packing_.parts())  // each ends where the next begins
    kernels.describe(place.shape, n, rows(block.moments, place, of),
                     block.descriptors + place.first_packed, stride_);
  for (int32_t a = 0; a < n_types(); ++a) {
    const int32_t first = block.first[a], m = block.first[a + 1] - first;
    if (m == 0) continue;
    real* scratch = workspace().layers.template get<real>(fittings_[a].scratch_size(m));
    fittings_[a].run(kernels, m, block.descriptors + first * stride_, scratch,
                     block.energies + first);
  }
  // of atoms of weight 0, whatever the network says of what is so close, infinite or not: nothing
  std::vector<real> scale(n);
  for (const Packing::Part& place : packing_.parts()) {
    for (int32_t k = 0; k < n; ++k)
      scale[k] =
          real(-parts_[place.descriptor].scale * (weights ? weights[begin + block.order[k]] : 1.0));
    kernels.describe_backward(place.shape, n, rows(block.moments, place, of),
                              block.descriptors + place.first_packed, stride_, scale.data(),
                              rows(block.gradient, place, to));
  }
}

// Edges of atoms of weight 0 that lie in the continuation of the table.
template <class real>
int64_t without_weight(const Problem<real>& p, const double* weights, int64_t begin, int64_t end,
                       const Edges<real>& edges) {
  int64_t n = 0;
  for (int64_t i = begin; i < end; ++i)
    if (weights[i] == 0)
      for (int32_t e = edges.start[i - begin]; e < edges.start[i - begin + 1]; ++e)
        n += (edges.bin[e] + 1) % p.n_intervals == 0;
  return n;
}

// Energies of the atoms of a block, and the edge gradients of all parts among those of the widest.
template <class real>
Fault Potential<real>::evaluate(const Blocks<real>& blocks, const FittingKernels<real>& kernels,
                                const double* weights, int64_t begin, int64_t end,
                                std::vector<Edges<real>>& edges, double* energies,
                                int64_t* beyond) const {
  const int32_t* types = blocks.problems[0].types;
  Block block = make_block(types, begin, end);
  for (size_t p = 0; p < parts_.size(); ++p) {
    const Problem<real>& problem = blocks.problems[p];
    int64_t far = 0;
    const BlockKernels<real>& moments = blocks.kernels[p];
    const Fault fault = moments.gather(problem, begin, end, edges[p], block.counts[p], &far);
    if (fault.status != DPL_OK) return fault;
    if (weights) far -= without_weight(problem, weights, begin, end, edges[p]);
    beyond[p] += far;
    moments.sum(problem, edges[p]);
    moments.spread(problem, begin, end, edges[p], block.moments[p]);
  }
  this->energies(kernels, types, weights, begin, block);
  for (size_t i = 0; i < block.order.size(); ++i)
    energies[begin + block.order[i]] = block.energies[i];
  for (size_t p = 0; p < parts_.size(); ++p)
    blocks.kernels[p].backward(blocks.problems[p], begin, end, edges[p], block.gradient[p]);
  for (size_t p = 0; p < parts_.size(); ++p)
    if (p != widest_) add_gradients(end - begin, edges[p], edges[widest_]);
  return {};
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
dpl_status Potential<real>::evaluate(const dpl_atoms& atoms, const double* weights, int threads,
                                     double* energies, double* forces, double* virial,
                                     int64_t* beyond) const {
  const std::vector<int64_t> rounds = block_starts(atoms, kRoundEdges);
  std::vector<dpl_descriptor> descriptors;
  for (const Part<real>& part : parts_) descriptors.push_back(part.descriptor);
  Blocks<real> blocks(atoms, descriptors, threads, nullptr, divide(atoms, rounds, threads));
  const FittingKernels<real> fitting = fitting_kernels<real>();
  PositionGradient to_forces(forces, atoms.n_all, workspace());
  std::fill(forces, forces + 3 * atoms.n_all, 0.0);
  std::vector<std::atomic<int64_t>> n_beyond(parts_.size());
  for (std::atomic<int64_t>& n : n_beyond) n = 0;
  for (const Round& round : blocks.rounds_of(rounds)) {
    to_forces.begin(round, blocks.starts, atoms.offsets, atoms.indices, threads);
    const auto body = [&](int64_t k, int64_t begin, int64_t end, auto& edges) {
      std::vector<int64_t> far(parts_.size());
      const Fault fault =
          evaluate(blocks, fitting, weights, begin, end, edges, energies, far.data());
      if (fault.status != DPL_OK) return fault;
      to_forces.add(k, begin, end, edges[widest_]);
      for (size_t p = 0; p < far.size(); ++p) n_beyond[p] += far[p];
      return fault;
    };
    if (!blocks.run(round, body)) return blocks.status();
    to_forces.end(threads);
  }
  add_up_virial(atoms.n_all, atoms.positions, forces, threads, virial);
  *beyond = 0;  // an edge is one, for however many parts it is too short
  for (const std::atomic<int64_t>& n : n_beyond) *beyond = std::max(*beyond, n.load());
  return DPL_OK;
}

dpl_status check_descriptor(const dpl_descriptor& d, const dpl_fitting& fitting,
                            const dpl_shape& shape) {
  const dpl_status status = check_model(d.environment, d.table);
  if (status != DPL_OK) return status;
  const int32_t n_columns = d.environment.n_columns;
  if (fitting.precision != d.table.precision || fitting.n_types != d.environment.n_types ||
      shape.n_features != d.table.n_features || shape.n_columns != n_columns)
    return fail(DPL_INVALID_ARGUMENT,
                "precision, types, features or columns of table and fitting differ");
  double n_sel = 0;
  for (int32_t a = 0; a < d.environment.n_types; ++a) {
    n_sel += d.sel[a];
    for (int32_t c = 1; c < n_columns; ++c)
      if (d.environment.davg[a * n_columns + c] != 0)
        return fail(DPL_INVALID_ARGUMENT, "davg must be 0 but in the first column");
  }
  if (!(n_sel > 0) || !std::isfinite(n_sel))
    return fail(DPL_INVALID_ARGUMENT, "the sum of sel must be positive, found %g", n_sel);
  return DPL_OK;
}

dpl_status check_potential(const dpl_model& model) {
  dpl_status status = check_fitting(model.fitting);
  for (int32_t p = 0; status == DPL_OK && p < model.fitting.n_descriptors; ++p)
    status = check_descriptor(model.descriptors[p], model.fitting, model.fitting.shapes[p]);
  return status;
}

}  // namespace
}  // namespace dpl

dpl_status dpl_potential_create(const dpl_model* model, dpl_potential** handle) {
  *handle = nullptr;
  try {
    const dpl_status status = dpl::check_potential(*model);
    if (status != DPL_OK) return status;
    if (model->fitting.precision == DPL_FLOAT64)
      *handle = new dpl::Potential<double>(*model);
    else
      *handle = new dpl::Potential<float>(*model);
    return DPL_OK;
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY, "out of memory for the weights of the model");
  }
}

void dpl_potential_free(dpl_potential* handle) { delete handle; }

dpl_status dpl_potential_evaluate(const dpl_potential* handle, const dpl_atoms* atoms,
                                  const double* weights, int threads, double* energies,
                                  double* forces, double* virial, int64_t* beyond) {
  try {
    if (threads < 1) return dpl::fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
    const dpl_status status = dpl::check_atoms(*atoms, handle->n_types());
    if (status != DPL_OK) return status;
    return handle->evaluate(*atoms, weights, threads, energies, forces, virial, beyond);
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY, "out of memory for the energies of %lld atoms, %lld edges",
                     (long long)atoms->n_local, (long long)atoms->offsets[atoms->n_local]);
  }
}
