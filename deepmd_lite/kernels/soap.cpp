// Steps of SOAP: a task for each matrix.
#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

#include "runtime.h"
#include "soap_block.h"

namespace dpl {
namespace {

template <class real>
SoapKernel<real> soap_kernel() {
#if defined(DPL_X86)
  switch (dpl_current_instruction_set()) {
    case DPL_AVX512:
      return avx512_soap<real>();
    case DPL_AVX2:
      return avx2_soap<real>();
    default:
      break;
  }
#endif
  return baseline_soap<real>();
}

SoapSide side_of(const dpl_soap_side& side, int32_t length, int64_t k) {
  const int64_t start = k * length * side.n_kept;
  if (side.n_kept == 0) return {length, 0, nullptr, nullptr};
  return {length, side.n_kept, side.mean + start, side.basis + start};
}

// Numbers of working memory: at no time more than so many matrices of either shape are in use.
size_t soap_memory(const SoapSide& left, const SoapSide& right) {
  const auto padded = [](int32_t n) { return size_t(n + DPL_FEATURE_PADDING); };
  const size_t seen = padded(left.n_seen()) * (padded(right.n_seen()) + DPL_FEATURE_PADDING);
  const size_t sides =
      padded(left.length) * padded(left.n_columns) + padded(right.length) * padded(right.n_columns);
  return 12 * seen + 12 * sides;
}

// Products of numbers in a step that are worth a thread, some 0.2 ms: to wake a team for fewer
// costs more than it saves, and on a busy machine a hundred times more.
constexpr double kWorth = 2e6;

struct Task {
  const dpl_soap_matrices* batch;
  int64_t k;  // number of its matrix

  double work() const {
    const int64_t numbers = int64_t(batch->n_rows) * batch->n_columns;
    return double(numbers * (1 + batch->left.n_kept + batch->right.n_kept));
  }
};

template <class real>
void step(const SoapUpdate& update, const Task& task) {
  const dpl_soap_matrices& batch = *task.batch;
  const SoapSide left = side_of(batch.left, batch.n_rows, task.k);
  const SoapSide right = side_of(batch.right, batch.n_columns, task.k);
  const int64_t values = task.k * batch.n_rows * batch.n_columns;
  const int64_t seen = task.k * left.n_seen() * right.n_seen();
  const SoapMatrix<real> matrix{left,
                                right,
                                static_cast<real*>(batch.values) + values,
                                static_cast<const real*>(batch.gradient) + values,
                                batch.mean + seen,
                                batch.squares + seen};
  soap_kernel<real>()(update, matrix, workspace().optimizer.get<float>(soap_memory(left, right)));
}

SoapUpdate update_of(const dpl_soap& rule, double rate, double step) {
  const double power = std::pow(rule.decay, step),
               square_power = std::pow(rule.decay_squares, step);
  return {float(1 - rule.decay),
          float(1 - rule.decay_squares),
          float(rate / (1 - power)),
          float(1 / std::sqrt(1 - square_power)),
          float(rule.epsilon),
          float(rule.most * rate),
          std::fmod(step, rule.interval) == 0};
}

dpl_status check(const dpl_soap& rule, const dpl_soap_matrices* batches, int32_t n, int threads) {
  if (threads < 1) return fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
  if (n < 0) return fail(DPL_INVALID_ARGUMENT, "%d batches of matrices", n);
  if (rule.interval < 1)
    return fail(DPL_INVALID_ARGUMENT, "expected an interval of at least 1, found %d",
                rule.interval);
  for (const double decay : {rule.decay, rule.decay_squares})
    if (!(decay >= 0 && decay < 1))
      return fail(DPL_INVALID_ARGUMENT, "expected decays of 0 to below 1, found %g", decay);
  for (int32_t p = 0; p < n; ++p) {
    const dpl_soap_matrices& batch = batches[p];
    if (batch.n_matrices < 0 || batch.n_rows < 1 || batch.n_columns < 1)
      return fail(DPL_INVALID_ARGUMENT, "batch %d: %lld matrices of %d × %d", p,
                  static_cast<long long>(batch.n_matrices), batch.n_rows, batch.n_columns);
    if (batch.left.n_kept < 0 || batch.left.n_kept > batch.n_rows || batch.right.n_kept < 0 ||
        batch.right.n_kept > batch.n_columns)
      return fail(DPL_INVALID_ARGUMENT, "batch %d: bases of %d and %d columns for %d × %d numbers",
                  p, batch.left.n_kept, batch.right.n_kept, batch.n_rows, batch.n_columns);
  }
  return DPL_OK;
}

}  // namespace
}  // namespace dpl

dpl_status dpl_soap_step(const dpl_soap* rule, const dpl_soap_matrices* batches, int32_t n,
                         int threads) {
  using dpl::Task;
  const dpl_status status = dpl::check(*rule, batches, n, threads);
  if (status != DPL_OK) return status;
  try {
    std::vector<Task> tasks;
    double work = 0;
    for (int32_t p = 0; p < n; ++p) {
      *batches[p].step += 1;
      for (int64_t k = 0; k < batches[p].n_matrices; ++k) tasks.push_back({&batches[p], k});
      work += double(batches[p].n_matrices) * Task{&batches[p], 0}.work();
    }
    // the largest first, which others then need not wait for
    std::stable_sort(tasks.begin(), tasks.end(),
                     [](const Task& a, const Task& b) { return a.work() > b.work(); });
    const int team = int(std::min<double>(threads, 1 + work / dpl::kWorth));
    dpl::parallel_for(int64_t(tasks.size()), team, [&](int64_t t) {
      const dpl_soap_matrices& batch = *tasks[t].batch;
      const dpl::SoapUpdate update = dpl::update_of(*rule, batch.rate, double(*batch.step));
      batch.precision == DPL_FLOAT64 ? dpl::step<double>(update, tasks[t])
                                     : dpl::step<float>(update, tasks[t]);
    });
    return DPL_OK;
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY, "out of memory for the steps of %d batches of matrices", n);
  }
}
