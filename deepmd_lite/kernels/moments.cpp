// The fused operation Σ_j G(s_ij) ⊗ row_ij and its derivatives. What happens within a block is in
// moments_block.cpp, blocks and arguments in call.h, the reductions over edges in gradients.h.
#include <atomic>
#include <new>
#include <type_traits>
#include <vector>

#include "call.h"

namespace dpl {
namespace {

constexpr int64_t kBlockEdges = 1024;               // cost of the block of atoms of one thread
constexpr int64_t kCachedBytes = int64_t(1) << 20;  // gradient of the moments, kept in L2

template <class real>
class Call {
 public:
  Call(const dpl_atoms& a, const dpl_environment& env, const dpl_table& table, int threads,
       const double* tangent)
      : blocks_(a, {{env, table, nullptr}}, threads, tangent, block_starts(a, kBlockEdges)) {}

  dpl_status moments(real* out, int32_t* counts, int64_t* beyond) {
    std::atomic<int64_t> n_beyond{0};
    blocks_.run(blocks_.all(), [&](int64_t, int64_t begin, int64_t end, auto& each) {
      Edges<real>& edges = each[0];
      int64_t n = 0;
      const Fault fault = kernels_.gather(p_, begin, end, edges, counts + begin * p_.n_types, &n);
      if (fault.status != DPL_OK) return fault;
      kernels_.sum(p_, edges);
      kernels_.spread(p_, begin, end, edges, out + begin * row_);
      n_beyond += n;
      return fault;
    });
    *beyond = n_beyond;
    return blocks_.status();
  }

  // Order 1 without a tangent, order 2 with one.
  dpl_status gradients(const real* grad_moments, real* grad_grad_moments, double* grad_positions,
                       double* grad_coefficients) {
    const bool second = p_.tangent != nullptr;
    const int threads = blocks_.threads;
    PositionGradient to_positions(grad_positions, p_.n_all, workspace());
    CoefficientGradient<real> to_table(p_, grad_coefficients, workspace());
    if (grad_positions) std::fill(grad_positions, grad_positions + 3 * p_.n_all, 0.0);
    const int64_t max_atoms =
        grad_coefficients ? kCachedBytes / (row_ * int64_t(sizeof(real))) : p_.n_local;
    for (const Round& round : blocks_.rounds(max_atoms)) {
      if (grad_positions)
        to_positions.begin(round, blocks_.starts, p_.offsets, p_.indices, threads);
      if (grad_coefficients) to_table.begin(round);
      const auto body = [&](int64_t block, int64_t begin, int64_t end, auto& each) {
        Edges<real>& edges = each[0];
        int64_t unused = 0;
        const Fault fault = kernels_.gather(p_, begin, end, edges, nullptr, &unused);
        if (fault.status != DPL_OK) return fault;
        if (grad_grad_moments || grad_coefficients)
          (second ? kernels_.sum_tangent : kernels_.sum)(p_, edges);
        if (grad_grad_moments)
          (second ? kernels_.spread_tangent : kernels_.spread)(p_, begin, end, edges,
                                                               grad_grad_moments + begin * row_);
        if (grad_positions) {
          (second ? kernels_.backward_tangent : kernels_.backward)(p_, begin, end, edges,
                                                                   grad_moments + begin * row_);
          to_positions.add(block, begin, end, edges);
        }
        if (grad_coefficients) to_table.add(block, p_.offsets[begin], begin, end, edges);
        return fault;
      };
      if (!blocks_.run(round, body)) break;
      if (grad_positions) to_positions.end(threads);
      if (grad_coefficients) to_table.end(blocks_.starts, grad_moments, kernels_, threads);
    }
    return blocks_.status();
  }

 private:
  Blocks<real> blocks_;
  const Problem<real>& p_ = blocks_.problems[0];
  const BlockKernels<real>& kernels_ = blocks_.kernels[0];
  const int64_t row_ = p_.row_size();
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
