// Checks of arguments that the kernels of processor and GPU share, with their words.
#pragma once

#include <cmath>
#include <cstdint>

#include "dpl.h"
#include "physics.h"

namespace dpl {

// Keeps the message for dpl_last_error or dpl_cuda_last_error; returns `status`.
dpl_status fail(dpl_status status, const char* format, ...) __attribute__((format(printf, 2, 3)));

inline dpl_status check_counts(int64_t n_local, int64_t n_all) {
  if (n_local < 0 || n_all < n_local)
    return fail(DPL_INVALID_ARGUMENT, "expected 0 <= n_local <= n_all, found %lld and %lld",
                (long long)n_local, (long long)n_all);
  if (n_all > INT32_MAX)
    return fail(DPL_TOO_LARGE, "%lld rows; at most 2^31 - 1", (long long)n_all);
  return DPL_OK;
}

// All but davg and dstd, and but the number of features; `most_intervals` of all tables together.
inline dpl_status check_environment(const dpl_environment& env, const dpl_table& table,
                                    int64_t most_intervals) {
  if (!(env.rcut_smth >= 0 && env.rcut > env.rcut_smth && std::isfinite(env.rcut)))
    return fail(DPL_INVALID_ARGUMENT, "expected 0 <= rcut_smth < rcut, found %g and %g",
                env.rcut_smth, env.rcut);
  if (!(env.protection >= 0 && std::isfinite(env.protection)))
    return fail(DPL_INVALID_ARGUMENT, "protection must be at least 0, found %g", env.protection);
  if (degree_of(env.n_columns) == 0)
    return fail(DPL_INVALID_ARGUMENT, "expected (l + 1)² columns for l of 1 to %d, found %d",
                kMostDegree, env.n_columns);
  if (!(env.table_spacing > 0) || !std::isfinite(env.table_start))
    return fail(DPL_INVALID_ARGUMENT, "table: expected a positive spacing, found %g",
                env.table_spacing);
  const int64_t expected = env.type_one_side ? env.n_types : int64_t(env.n_types) * env.n_types;
  if (table.n_tables != expected)
    return fail(DPL_INVALID_ARGUMENT, "expected %lld embedding tables for %d types, found %d",
                (long long)expected, env.n_types, table.n_tables);
  if (table.n_intervals < 1 || int64_t(table.n_intervals) * table.n_tables > most_intervals)
    return fail(DPL_INVALID_ARGUMENT, "the table has %d intervals", table.n_intervals);
  return DPL_OK;
}

}  // namespace dpl
