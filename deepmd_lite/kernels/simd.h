// Vectors of DPL_ISA_BYTES bytes, in GCC's and clang's own notation (they know +, *, < and ?:).
// Everything is local to the translation unit that is compiled for this width; see physics.h.
#pragma once

#include <cstdint>

#include "dpl.h"
#include "physics.h"

#if DPL_ISA_BYTES > 16
#include <immintrin.h>
#endif

namespace dpl {
namespace {

template <class real>
struct Simd {
  static constexpr int lanes = DPL_ISA_BYTES / int(sizeof(real));
  static constexpr int vectors = lanes * 2 <= DPL_FEATURE_PADDING ? 2 : 1;
  static constexpr int block = lanes * vectors;  // features handled together
  typedef real vec __attribute__((vector_size(DPL_ISA_BYTES)));
  typedef real unaligned
      __attribute__((vector_size(DPL_ISA_BYTES), may_alias, aligned(alignof(real))));
  static_assert(DPL_FEATURE_PADDING % block == 0, "a block of features must divide the padding");

  DPL_INLINE vec load(const real* p) { return *reinterpret_cast<const unaligned*>(p); }
  DPL_INLINE void store(real* p, vec v) { *reinterpret_cast<unaligned*>(p) = v; }

  typedef int32_t ivec __attribute__((vector_size(4 * lanes)));
  typedef int32_t iunaligned __attribute__((vector_size(4 * lanes), may_alias, aligned(4)));
  DPL_INLINE ivec load(const int32_t* p) { return *reinterpret_cast<const iunaligned*>(p); }
  DPL_INLINE void store(int32_t* p, ivec v) { *reinterpret_cast<iunaligned*>(p) = v; }
};

template <class vec>
DPL_INLINE vec square_root(vec x) {
#if DPL_ISA_BYTES == 64
  if constexpr (sizeof(x[0]) == 8)
    return vec(_mm512_sqrt_pd(__m512d(x)));
  else
    return vec(_mm512_sqrt_ps(__m512(x)));
#elif DPL_ISA_BYTES == 32
  if constexpr (sizeof(x[0]) == 8)
    return vec(_mm256_sqrt_pd(__m256d(x)));
  else
    return vec(_mm256_sqrt_ps(__m256(x)));
#else
  for (unsigned l = 0; l < sizeof(vec) / sizeof(x[0]); ++l)
    x[l] = sizeof(x[0]) == 8 ? __builtin_sqrt(x[l]) : __builtin_sqrtf(x[l]);
  return x;
#endif
}

// Sum of the lanes.
#if DPL_ISA_BYTES == 64
DPL_INLINE double sum(__m512d v) { return _mm512_reduce_add_pd(v); }
DPL_INLINE float sum(__m512 v) { return _mm512_reduce_add_ps(v); }
#elif DPL_ISA_BYTES == 32
DPL_INLINE double sum(__m256d v) {
  const __m128d half = _mm256_castpd256_pd128(v) + _mm256_extractf128_pd(v, 1);
  return half[0] + half[1];
}
DPL_INLINE float sum(__m256 v) {
  const __m128 half = _mm256_castps256_ps128(v) + _mm256_extractf128_ps(v, 1);
  return (half[0] + half[2]) + (half[1] + half[3]);
}
#else
DPL_INLINE double sum(Simd<double>::vec v) { return v[0] + v[1]; }
DPL_INLINE float sum(Simd<float>::vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
#endif

}  // namespace
}  // namespace dpl
