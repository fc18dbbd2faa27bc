// The fused operation Σ_j G(s_ij) ⊗ row_ij and its derivatives: arguments, blocks and threads.
// What happens within a block is in moments_block.cpp, the reductions over edges in gradients.h.
#include <atomic>
#include <cmath>
#include <new>
#include <type_traits>
#include <vector>

#include "gradients.h"
#include "moments_block.h"
#include "runtime.h"

namespace dpl {
namespace {

constexpr int64_t kBlockEdges = 1024;  // edges of the block of atoms that a thread takes
constexpr int64_t kAtomCost = 8;       // an atom's own cost, in edges
constexpr int64_t kRoundEdges = int64_t(1) << 20;   // bounds the memory for edge gradients
constexpr int64_t kCachedBytes = int64_t(1) << 20;  // gradient of the moments, kept in L2

dpl_status check_atoms(const dpl_atoms& a, int32_t n_types) {
  if (a.n_local < 0 || a.n_all < a.n_local)
    return fail(DPL_INVALID_ARGUMENT, "expected 0 <= n_local <= n_all, found %lld and %lld",
                (long long)a.n_local, (long long)a.n_all);
  if (a.n_all > INT32_MAX)
    return fail(DPL_TOO_LARGE, "%lld rows; at most 2^31 - 1", (long long)a.n_all);
  if (a.offsets[0] != 0) return fail(DPL_INVALID_ARGUMENT, "offsets[0] must be 0");
  for (int64_t i = 0; i < a.n_local; ++i)
    if (a.offsets[i + 1] < a.offsets[i] || a.offsets[i + 1] - a.offsets[i] > INT32_MAX / 2)
      return fail(DPL_INVALID_ARGUMENT, "offsets of row %lld do not ascend: %lld, %lld",
                  (long long)i, (long long)a.offsets[i], (long long)a.offsets[i + 1]);
  for (int64_t i = 0; i < a.n_all; ++i)
    if (uint32_t(a.types[i]) >= uint32_t(n_types))
      return fail(DPL_INVALID_ARGUMENT, "the type of row %lld is %d; the table has %d types",
                  (long long)i, a.types[i], n_types);
  return check_finite(a.positions, a.n_all);
}

dpl_status check_model(const dpl_environment& env, const dpl_table& table) {
  if (env.n_types < 1) return fail(DPL_INVALID_ARGUMENT, "n_types must be at least 1");
  if (!(env.rcut_smth >= 0 && env.rcut > env.rcut_smth && std::isfinite(env.rcut)))
    return fail(DPL_INVALID_ARGUMENT, "expected 0 <= rcut_smth < rcut, found %g and %g",
                env.rcut_smth, env.rcut);
  for (int32_t k = 0; k < env.n_types * kColumns; ++k)
    if (!(env.dstd[k] > 0) || !std::isfinite(env.dstd[k]) || !std::isfinite(env.davg[k]))
      return fail(DPL_INVALID_ARGUMENT, "davg must be finite and dstd positive, found %g and %g",
                  env.davg[k], env.dstd[k]);
  if (!(env.table_spacing > 0) || !std::isfinite(env.table_start))
    return fail(DPL_INVALID_ARGUMENT, "table: expected a positive spacing, found %g",
                env.table_spacing);
  const int64_t expected = env.type_one_side ? env.n_types : int64_t(env.n_types) * env.n_types;
  if (table.n_tables != expected)
    return fail(DPL_INVALID_ARGUMENT, "expected %lld embedding tables for %d types, found %d",
                (long long)expected, env.n_types, table.n_tables);
  if (table.n_intervals < 1 || int64_t(table.n_intervals) * table.n_tables > INT32_MAX)
    return fail(DPL_INVALID_ARGUMENT, "the table has %d intervals", table.n_intervals);
  if (table.n_features < DPL_FEATURE_PADDING || table.n_features % DPL_FEATURE_PADDING)
    return fail(DPL_INVALID_ARGUMENT,
                "the table has %d features; pad it with zeros to a multiple of %d",
                table.n_features, DPL_FEATURE_PADDING);
  return DPL_OK;
}

template <class real>
BlockKernels<real> kernels() {
#if defined(DPL_X86)
  switch (dpl_current_instruction_set()) {
    case DPL_AVX512:
      return avx512_kernels<real>();
    case DPL_AVX2:
      return avx2_kernels<real>();
    default:
      break;
  }
#endif
  return baseline_kernels<real>();
}

// The scratch of one thread for at most n edges of a block of at most n_atoms atoms.
template <class real>
Edges<real> scratch(int64_t n, int64_t n_atoms, bool tangent) {
  n = (n + 64) / 16 * 16;
  n_atoms = (n_atoms + 32) / 16 * 16;
  const int64_t n_real = 3 + 1 + kColumns + kContracted + 3 + (tangent ? 3 + 2 * kColumns : 0);
  real* next = workspace().edges.get<real>(n * (n_real + 2) + n_atoms);
  const auto take = [&] { return (next += n) - n; };
  Edges<real> edges{};
  for (real*& x : edges.x) x = take();
  edges.t = take();
  for (real*& row : edges.row) row = take();
  for (real*& contracted : edges.contracted) contracted = take();
  for (real*& gradient : edges.gradient) gradient = take();
  if (tangent) {
    for (real*& d : edges.d) d = take();
    for (real*& change : edges.change) change = take();
    for (real*& moved : edges.moved) moved = take();
  }
  edges.neighbor = reinterpret_cast<int32_t*>(take());  // an int32 is no longer than a real
  edges.interval = reinterpret_cast<int32_t*>(take());
  edges.start = reinterpret_cast<int32_t*>(next);
  return edges;
}

// One call: its arguments in `real`, and the division into blocks, which depends on the list only.
template <class real>
class Call {
 public:
  Call(const dpl_atoms& a, const dpl_environment& env, const dpl_table& table, int threads,
       const double* tangent)
      : kernels_(kernels<real>()), threads_(threads) {
    for (int32_t k = 0; k < env.n_types * kColumns; ++k) {
      mean_.push_back(real(env.davg[k]));
      inverse_width_.push_back(real(1.0 / env.dstd[k]));
    }
    p_.n_all = a.n_all, p_.n_local = a.n_local;
    p_.positions = a.positions, p_.types = a.types;
    p_.offsets = a.offsets, p_.indices = a.indices;
    p_.tangent = tangent;
    p_.limit = squared_limit(env.rcut);
    p_.switching = {real(env.rcut), real(env.rcut_smth), real(1 / (env.rcut - env.rcut_smth))};
    p_.mean = mean_.data(), p_.inverse_width = inverse_width_.data();
    p_.n_types = env.n_types, p_.type_one_side = env.type_one_side != 0;
    p_.table_start = real(env.table_start), p_.inverse_spacing = real(1 / env.table_spacing);
    p_.coefficients = static_cast<const real*>(table.coefficients);
    p_.n_tables = table.n_tables, p_.n_intervals = table.n_intervals;
    p_.n_features = table.n_features;

    starts_.push_back(0);
    int64_t begin = 0;
    for (int64_t i = 0; i < a.n_local; ++i)
      if (cost(begin, i + 1) >= kBlockEdges) starts_.push_back(begin = i + 1);
    if (begin < a.n_local) starts_.push_back(a.n_local);
  }

  dpl_status moments(real* out, int32_t* counts, int64_t* beyond) {
    std::atomic<int64_t> n_beyond{0};
    run({0, n_blocks(), 0, 0}, [&](int64_t, int64_t begin, int64_t end, Edges<real>& edges) {
      int64_t n = 0;
      const Fault fault = kernels_.gather(p_, begin, end, edges, counts + begin * p_.n_types, &n);
      if (fault.status != DPL_OK) return fault;
      kernels_.forward(p_, begin, end, edges, out);
      n_beyond += n;
      return fault;
    });
    *beyond = n_beyond;
    return status();
  }

  // Order 1 without a tangent, order 2 with one.
  dpl_status gradients(const real* grad_moments, real* grad_grad_moments, double* grad_positions,
                       double* grad_coefficients) {
    const bool second = p_.tangent != nullptr;
    PositionGradient to_positions(grad_positions, p_.n_all, workspace());
    CoefficientGradient<real> to_table(p_, second, grad_coefficients, workspace());
    if (grad_positions) std::fill(grad_positions, grad_positions + 3 * p_.n_all, 0.0);
    for (const Round& round : rounds(grad_coefficients != nullptr)) {
      if (grad_positions) to_positions.begin(round, starts_, p_.offsets, p_.indices, threads_);
      if (grad_coefficients) to_table.begin(round);
      run(round, [&](int64_t block, int64_t begin, int64_t end, Edges<real>& edges) {
        int64_t unused = 0;
        const Fault fault = kernels_.gather(p_, begin, end, edges, nullptr, &unused);
        if (fault.status != DPL_OK) return fault;
        if (grad_grad_moments) kernels_.forward_tangent(p_, begin, end, edges, grad_grad_moments);
        if (grad_positions) {
          (second ? kernels_.backward_tangent : kernels_.backward)(p_, begin, end, edges,
                                                                   grad_moments);
          to_positions.add(block, begin, end, edges);
        }
        if (grad_coefficients) to_table.add(block, p_.offsets[begin], begin, end, edges);
        return fault;
      });
      if (fault_.status != DPL_OK) break;
      if (grad_positions) to_positions.end(threads_);
      if (grad_coefficients) to_table.end(starts_, grad_moments, kernels_, threads_);
    }
    return status();
  }

 private:
  int64_t n_blocks() const { return int64_t(starts_.size()) - 1; }
  int64_t cost(int64_t begin, int64_t end) const {
    return p_.offsets[end] - p_.offsets[begin] + kAtomCost * (end - begin);
  }

  // Consecutive blocks that are handled before the reductions; the same for any number of threads.
  std::vector<Round> rounds(bool for_table) const {
    const int64_t max_atoms =
        for_table ? kCachedBytes / int64_t(kColumns * p_.n_features * sizeof(real)) : p_.n_local;
    std::vector<Round> list;
    for (int64_t first = 0, last; first < n_blocks(); first = last) {
      last = first + 1;
      while (last < n_blocks() && starts_[last + 1] - starts_[first] <= max_atoms &&
             p_.offsets[starts_[last + 1]] - p_.offsets[starts_[first]] <= kRoundEdges)
        ++last;
      list.push_back({first, last, p_.offsets[starts_[first]], p_.offsets[starts_[last]]});
    }
    return list;
  }

  // body(block, first atom, end, edges) -> Fault on the blocks of a round; keeps the fault of the
  // lowest row.
  template <class Body>
  void run(const Round& round, Body body) {
    parallel_for(round.last - round.first, threads_, [&](int64_t k) {
      const int64_t block = round.first + k;
      const int64_t begin = starts_[block], end = starts_[block + 1];
      Edges<real> edges =
          scratch<real>(p_.offsets[end] - p_.offsets[begin], end - begin, p_.tangent != nullptr);
      const Fault fault = body(block, begin, end, edges);
      if (fault.status != DPL_OK) {
#pragma omp critical(dpl_fault)
        if (fault_.status == DPL_OK || fault.row < fault_.row) fault_ = fault;
      }
    });
  }

  dpl_status status() const {
    const long long i = fault_.row, j = fault_.neighbor;
    switch (fault_.status) {
      case DPL_OK:
        return DPL_OK;
      case DPL_COINCIDENT:
        return fail(DPL_COINCIDENT, "rows %lld and %lld coincide (distance < 1e-6 Å)", i, j);
      default:
        return fail(fault_.status, "row %lld lists neighbour %lld; there are %lld rows", i, j,
                    (long long)p_.n_all);
    }
  }

  Problem<real> p_{};
  BlockKernels<real> kernels_;
  int threads_;
  std::vector<real> mean_, inverse_width_;
  std::vector<int64_t> starts_;  // first atom of each block, and n_local
  Fault fault_;
};

template <class real>
dpl_status gradients(const dpl_atoms& atoms, const dpl_environment& env, const dpl_table& table,
                     int threads, const double* tangent, const void* grad_moments,
                     void* grad_grad_moments, double* grad_positions, void* grad_coefficients) {
  Call<real> call(atoms, env, table, threads, tangent);
  const int64_t size = int64_t(table.n_tables) * table.n_intervals * kPowers * table.n_features;
  real* out = static_cast<real*>(grad_coefficients);
  double* sums = nullptr;
  if (out) {
    if (std::is_same<real, double>::value)
      sums = reinterpret_cast<double*>(out);
    else
      sums = workspace().accumulator.get<double>(size);
    std::fill(sums, sums + size, 0.0);
  }
  const dpl_status status =
      call.gradients(static_cast<const real*>(grad_moments), static_cast<real*>(grad_grad_moments),
                     grad_positions, sums);
  if (out && static_cast<void*>(sums) != out)
    for (int64_t k = 0; k < size; ++k) out[k] = real(sums[k]);
  return status;
}

// Checks the arguments and calls `operation` with a zero of the table's precision.
template <class Operation>
dpl_status checked(const dpl_atoms* atoms, const dpl_environment* env, const dpl_table* table,
                   int threads, Operation operation) {
  try {
    if (threads < 1) return fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
    dpl_status status = check_model(*env, *table);
    if (status == DPL_OK) status = check_atoms(*atoms, env->n_types);
    if (status != DPL_OK) return status;
    return table->precision == DPL_FLOAT64 ? operation(0.0) : operation(0.0f);
  } catch (const std::bad_alloc&) {
    return fail(DPL_OUT_OF_MEMORY, "out of memory for the moments of %lld atoms, %lld edges",
                (long long)atoms->n_local, (long long)atoms->offsets[atoms->n_local]);
  }
}

}  // namespace
}  // namespace dpl

dpl_status dpl_moments(const dpl_atoms* atoms, const dpl_environment* environment,
                       const dpl_table* table, int threads, void* moments, int32_t* counts,
                       int64_t* beyond) {
  return dpl::checked(atoms, environment, table, threads, [&](auto zero) {
    using real = decltype(zero);
    return dpl::Call<real>(*atoms, *environment, *table, threads, nullptr)
        .moments(static_cast<real*>(moments), counts, beyond);
  });
}

dpl_status dpl_moments_backward(const dpl_atoms* atoms, const dpl_environment* environment,
                                const dpl_table* table, int threads, const void* grad_moments,
                                double* grad_positions, void* grad_coefficients) {
  return dpl::checked(atoms, environment, table, threads, [&](auto zero) {
    return dpl::gradients<decltype(zero)>(*atoms, *environment, *table, threads, nullptr,
                                          grad_moments, nullptr, grad_positions, grad_coefficients);
  });
}

dpl_status dpl_moments_double_backward(const dpl_atoms* atoms, const dpl_environment* environment,
                                       const dpl_table* table, int threads,
                                       const void* grad_moments, const double* tangent,
                                       void* grad_grad_moments, double* grad_positions,
                                       void* grad_coefficients) {
  return dpl::checked(atoms, environment, table, threads, [&](auto zero) {
    return dpl::gradients<decltype(zero)>(*atoms, *environment, *table, threads, tangent,
                                          grad_moments, grad_grad_moments, grad_positions,
                                          grad_coefficients);
  });
}
