// What every compiled operation on a list of atoms shares: checks of the arguments, the arguments
// in the precision of the arithmetic, and the division of the atoms into blocks, one thread each.
#pragma once

#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

#include "checks.h"
#include "gradients.h"
#include "moments_block.h"
#include "runtime.h"

namespace dpl {

constexpr int64_t kAtomCost = 8;                   // an atom's own cost, in edges
constexpr int64_t kRoundEdges = int64_t(1) << 20;  // bounds the memory for edge gradients

inline dpl_status check_atoms(const dpl_atoms& a, int32_t n_types) {
  if (const dpl_status wrong = check_counts(a.n_local, a.n_all)) return wrong;
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

// The status of a call whose fault of the lowest row is `fault`.
inline dpl_status status_of(const Fault& fault, int64_t n_all) {
  const long long i = fault.row, j = fault.neighbor;
  switch (fault.status) {
    case DPL_OK:
      return DPL_OK;
    case DPL_COINCIDENT:
      return fail(DPL_COINCIDENT, "rows %lld and %lld coincide (distance < 1e-6 Å)", i, j);
    default:
      return fail(fault.status, "row %lld lists neighbour %lld; there are %lld rows", i, j,
                  (long long)n_all);
  }
}

inline dpl_status check_model(const dpl_environment& env, const dpl_table& table) {
  if (env.n_types < 1) return fail(DPL_INVALID_ARGUMENT, "n_types must be at least 1");
  if (const dpl_status wrong = check_environment(env, table, INT32_MAX)) return wrong;
  for (int32_t k = 0; k < env.n_types * env.n_columns; ++k)
    if (!(env.dstd[k] > 0) || !std::isfinite(env.dstd[k]) || !std::isfinite(env.davg[k]))
      return fail(DPL_INVALID_ARGUMENT, "davg must be finite and dstd positive, found %g and %g",
                  env.davg[k], env.dstd[k]);
  if (table.n_features < DPL_FEATURE_PADDING || table.n_features % DPL_FEATURE_PADDING)
    return fail(DPL_INVALID_ARGUMENT,
                "the table has %d features; pad it with zeros to a multiple of %d",
                table.n_features, DPL_FEATURE_PADDING);
  return DPL_OK;
}

template <class real>
BlockKernels<real> kernels(int n_columns) {
#if defined(DPL_X86)
  switch (dpl_current_instruction_set()) {
    case DPL_AVX512:
      return avx512_kernels<real>(n_columns);
    case DPL_AVX2:
      return avx2_kernels<real>(n_columns);
    default:
      break;
  }
#endif
  return baseline_kernels<real>(n_columns);
}

// The arrays of one problem's edges, taken from where `next` and `next_whole` point to.
template <class real>
Edges<real> carved(int64_t n, int64_t n_atoms, const Problem<real>& problem, real*& next,
                   int32_t*& next_whole) {
  const int n_columns = problem.n_columns;
  const auto take = [&](int64_t each = 1) { return (next += n * each) - n * each; };
  const auto take_whole = [&](int64_t size) { return (next_whole += size) - size; };
  Edges<real> edges{};
  for (real*& x : edges.x) x = take();
  edges.t = take();
  for (int c = 0; c < n_columns; ++c) edges.row[c] = take();
  for (int k = 0; k < contracted_size(n_columns); ++k) edges.contracted[k] = take();
  for (real*& gradient : edges.gradient) gradient = take();
  if (problem.tangent) {
    for (real*& d : edges.d) d = take();
    for (int c = 0; c < n_columns; ++c) edges.change[c] = take();
    edges.shift = take();
  }
  edges.sums = take(run_size(n_columns));
  edges.products = take(run_size(n_columns));
  for (int32_t** array :
       {&edges.neighbor, &edges.bin, &edges.run_bin, &edges.run_first, &edges.order})
    *array = take_whole(n);
  edges.start = take_whole(n_atoms);
  edges.run_start = take_whole(n_atoms);
  edges.lone_end = take_whole(n_atoms);
  edges.count = take_whole(problem.n_bins());
  return edges;
}

// The scratch of one thread for the edges of each of `problems`, at most n of each, of a block of
// at most n_atoms atoms.
template <class real>
std::vector<Edges<real>> scratch(int64_t n, int64_t n_atoms,
                                 const std::vector<Problem<real>>& problems) {
  n = (n + 64) / 16 * 16;
  n_atoms = (n_atoms + 32) / 16 * 16;
  int64_t n_real = 0, n_whole = 0;
  for (const Problem<real>& problem : problems) {
    const int c = problem.n_columns;
    n_real += 3 + 1 + c + contracted_size(c) + 3 + 2 * run_size(c);
    if (problem.tangent) n_real += 3 + c + 1;
    n_whole += 5 * n + 3 * n_atoms + problem.n_bins();
  }
  real* next = workspace().edges.get<real>(n * n_real);
  int32_t* next_whole = workspace().runs.get<int32_t>(n_whole);
  std::vector<Edges<real>> all;
  for (const Problem<real>& problem : problems)
    all.push_back(carved(n, n_atoms, problem, next, next_whole));
  return all;
}

// Where blocks of consecutive atoms begin, and n_local. A block ends as soon as it costs `cost`, in
// edges: the list alone decides, never the number of threads.
inline std::vector<int64_t> block_starts(const dpl_atoms& a, int64_t cost) {
  std::vector<int64_t> starts{0};
  for (int64_t i = 0, begin = 0; i < a.n_local; ++i)
    if (a.offsets[i + 1] - a.offsets[begin] + kAtomCost * (i + 1 - begin) >= cost)
      starts.push_back(begin = i + 1);
  if (starts.back() < a.n_local) starts.push_back(a.n_local);
  return starts;
}

// The arguments of one call in `real`, a problem for each descriptor, and its blocks.
template <class real>
class Blocks {
 public:
  Blocks(const dpl_atoms& a, const std::vector<dpl_descriptor>& descriptors, int threads,
         const double* tangent, std::vector<int64_t> starts)
      : starts(std::move(starts)), threads(threads) {
    for (const dpl_descriptor& d : descriptors) {
      problems.push_back(problem(a, d.environment, d.table, tangent));
      kernels.push_back(dpl::kernels<real>(d.environment.n_columns));
    }
  }
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;

  std::vector<Problem<real>> problems;
  std::vector<BlockKernels<real>> kernels;  // of each problem
  const std::vector<int64_t> starts;        // first atom of each block, and n_local
  const int threads;

  Round all() const { return round(0, int64_t(starts.size()) - 1); }

  // Consecutive blocks of at most max_atoms atoms and kRoundEdges edges (but at least one block)
  // that are handled before the reductions; the same for any number of threads.
  std::vector<Round> rounds(int64_t max_atoms) const {
    std::vector<Round> list;
    for (int64_t first = 0, last, n = all().last; first < n; first = last) {
      last = first + 1;
      while (last < n && starts[last + 1] - starts[first] <= max_atoms &&
             edges_before(last + 1) - edges_before(first) <= kRoundEdges)
        ++last;
      list.push_back(round(first, last));
    }
    return list;
  }

  // Rounds that begin at given atoms, each the first one of a block.
  std::vector<Round> rounds_of(const std::vector<int64_t>& atoms) const {
    std::vector<Round> list;
    for (size_t k = 0, first = 0; k + 1 < atoms.size(); ++k) {
      size_t last = first;
      while (starts[last] < atoms[k + 1]) ++last;
      list.push_back(round(int64_t(first), int64_t(last)));
      first = last;
    }
    return list;
  }

  // body(block, first atom, end, edges of each problem) -> Fault on the blocks of a round; keeps
  // the fault of the lowest row. Returns whether all is well so far.
  template <class Body>
  bool run(const Round& round, Body body) {
    parallel_for(round.last - round.first, threads, [&](int64_t k) {
      const int64_t block = round.first + k;
      const int64_t begin = starts[block], end = starts[block + 1];
      std::vector<Edges<real>> edges =
          scratch(edges_before(block + 1) - edges_before(block), end - begin, problems);
      const Fault fault = body(block, begin, end, edges);
      if (fault.status != DPL_OK) {
#pragma omp critical(dpl_fault)
        if (fault_.status == DPL_OK || fault.row < fault_.row) fault_ = fault;
      }
    });
    return fault_.status == DPL_OK;
  }

  dpl_status status() const { return status_of(fault_, problems[0].n_all); }

 private:
  Round round(int64_t first, int64_t last) const {
    return {first, last, edges_before(first), edges_before(last)};
  }
  int64_t edges_before(int64_t block) const { return problems[0].offsets[starts[block]]; }

  Problem<real> problem(const dpl_atoms& a, const dpl_environment& env, const dpl_table& table,
                        const double* tangent) {
    scales_.emplace_back();
    const int32_t n_scales = env.n_types * env.n_columns;
    for (int32_t k = 0; k < n_scales; ++k) scales_.back().push_back(real(env.davg[k]));
    for (int32_t k = 0; k < n_scales; ++k) scales_.back().push_back(real(1.0 / env.dstd[k]));
    Problem<real> problem{};
    problem.n_all = a.n_all, problem.n_local = a.n_local;
    problem.positions = a.positions, problem.types = a.types;
    problem.offsets = a.offsets, problem.indices = a.indices;
    problem.tangent = tangent;
    problem.limit = squared_limit(env.rcut);
    problem.switching = {real(env.rcut), real(env.rcut_smth), real(1 / (env.rcut - env.rcut_smth))};
    problem.protection = real(env.protection);
    problem.n_columns = env.n_columns;
    problem.mean = scales_.back().data();
    problem.inverse_width = problem.mean + n_scales;
    problem.n_types = env.n_types, problem.type_one_side = env.type_one_side != 0;
    problem.table_start = real(env.table_start);
    problem.inverse_spacing = real(1 / env.table_spacing);
    problem.table_of_distance = env.table_of_distance != 0;
    problem.coefficients = static_cast<const real*>(table.coefficients);
    problem.n_tables = table.n_tables, problem.n_intervals = table.n_intervals;
    problem.n_features = table.n_features;
    return problem;
  }

  std::vector<std::vector<real>> scales_;  // of each problem: means, then inverse widths
  Fault fault_;
};

}  // namespace dpl
