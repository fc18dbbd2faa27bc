#include "runtime.h"

#include <atomic>
#include <cmath>
#include <cstdio>

namespace dpl {
namespace {

thread_local char last_error[512] = "";

bool supported(dpl_instruction_set set) {
  switch (set) {
    case DPL_BASELINE:
      return true;
#if defined(DPL_X86)
    case DPL_AVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case DPL_AVX512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    default:
      return false;
  }
}

std::atomic<int>& chosen_set() {
  static std::atomic<int> set{supported(DPL_AVX512) ? DPL_AVX512
                              : supported(DPL_AVX2) ? DPL_AVX2
                                                    : DPL_BASELINE};
  return set;
}

}  // namespace

dpl_status fail(dpl_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

dpl_status check_finite(const double* positions, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double* p = positions + 3 * i;
    if (!std::isfinite(p[0] + p[1] + p[2]) &&
        !(std::isfinite(p[0]) && std::isfinite(p[1]) && std::isfinite(p[2])))
      return fail(DPL_NOT_FINITE, "the position of row %lld is not finite: (%g, %g, %g)",
                  static_cast<long long>(i), p[0], p[1], p[2]);
  }
  return DPL_OK;
}

Workspace& workspace() {
  static thread_local Workspace memory;
  return memory;
}

}  // namespace dpl

const char* dpl_last_error(void) { return dpl::last_error; }

void dpl_release_workspace(void) { dpl::workspace() = dpl::Workspace(); }

int dpl_has_instruction_set(dpl_instruction_set set) { return dpl::supported(set); }

dpl_instruction_set dpl_current_instruction_set(void) {
  return static_cast<dpl_instruction_set>(dpl::chosen_set().load());
}

dpl_status dpl_use_instruction_set(dpl_instruction_set set) {
  if (!dpl::supported(set))
    return dpl::fail(DPL_INVALID_ARGUMENT,
                     "instruction set %d is not in this build or not in this processor",
                     static_cast<int>(set));
  dpl::chosen_set() = set;
  return DPL_OK;
}
