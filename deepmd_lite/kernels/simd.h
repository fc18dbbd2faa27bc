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

// The sums of four vectors, as one vector.
#if DPL_ISA_BYTES >= 32
DPL_INLINE __m256d sums_of(__m256d a, __m256d b, __m256d c, __m256d d) {
  const __m256d ab = _mm256_hadd_pd(a, b), cd = _mm256_hadd_pd(c, d);
  return _mm256_permute2f128_pd(ab, cd, 0x21) + _mm256_blend_pd(ab, cd, 0b1100);
}
DPL_INLINE __m128 sums_of(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm256_castps256_ps128(all) + _mm256_extractf128_ps(all, 1);
}
#else
template <class vec>
DPL_INLINE auto sums_of(vec a, vec b, vec c, vec d) {
  typedef decltype(a[0] + a[0]) real;
  typedef real four __attribute__((vector_size(4 * sizeof(real))));
  return four{sum(a), sum(b), sum(c), sum(d)};
}
#endif
#if DPL_ISA_BYTES == 64
DPL_INLINE __m256d halved(__m512d v) {
  return _mm512_castpd512_pd256(v) + _mm512_extractf64x4_pd(v, 1);
}
DPL_INLINE __m256 halved(__m512 v) {
  return _mm512_castps512_ps256(v) + _mm512_extractf32x8_ps(v, 1);
}
template <class vec>
DPL_INLINE auto sums_of(vec a, vec b, vec c, vec d) {
  return sums_of(halved(a), halved(b), halved(c), halved(d));
}
#endif

}  // namespace
}  // namespace dpl
