// Compiled once for each instruction set with DPL_ISA_BYTES and DPL_ISA_FITTING (name of the
// function that returns the table of kernels).
#include "fitting_block.h"

#include "gemm.h"
#include "invariants_block.h"
#include "simd.h"

namespace dpl {
namespace {

// --- activation functions -----------------------------------------------------------------------

template <class real>
struct Exponential;  // constants of exp for one precision

template <>
struct Exponential<double> {
  typedef int64_t bits __attribute__((vector_size(DPL_ISA_BYTES)));
  static constexpr double round = 6755399441055744.0;  // 1.5 · 2^52: adding it rounds
  static constexpr double log2e = 1.4426950408889634074;
  static constexpr double ln2_high = 6.93147180369123816490e-01;  // 32 bits of ln 2, and the rest
  static constexpr double ln2_low = 1.90821492927058770002e-10;
  static constexpr double limit = 700;
  static constexpr int mantissa = 52, bias = 1023, terms = 13;
};
template <>
struct Exponential<float> {
  typedef int32_t bits __attribute__((vector_size(DPL_ISA_BYTES)));
  static constexpr float round = 12582912.0f;  // 1.5 · 2^23
  static constexpr float log2e = 1.44269504f;
  static constexpr float ln2_high = 0.693359375f;
  static constexpr float ln2_low = -2.12194440e-4f;
  static constexpr float limit = 87;
  static constexpr int mantissa = 23, bias = 127, terms = 7;
};

// 1/k!
constexpr double kInverseFactorial[] = {1.0,
                                        1.0,
                                        1.0 / 2,
                                        1.0 / 6,
                                        1.0 / 24,
                                        1.0 / 120,
                                        1.0 / 720,
                                        1.0 / 5040,
                                        1.0 / 40320,
                                        1.0 / 362880,
                                        1.0 / 3628800,
                                        1.0 / 39916800,
                                        1.0 / 479001600,
                                        1.0 / 6227020800.0};

// e^x to a few units of the last place: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its series.
// x is moved into ±limit first; NaN stays NaN.
template <class real>
DPL_INLINE typename Simd<real>::vec exponential(typename Simd<real>::vec x) {
  using E = Exponential<real>;
  using vec = typename Simd<real>::vec;
  const vec zero = {}, limit = zero + E::limit;
  x = x > limit ? limit : x;
  x = x < -limit ? -limit : x;
  const vec shifted = x * E::log2e + E::round;
  const vec n = shifted - E::round;
  const vec r = (x - n * E::ln2_high) - n * E::ln2_low;
  vec series = zero + real(kInverseFactorial[E::terms]);
  for (int k = E::terms - 1; k >= 0; --k) series = series * r + real(kInverseFactorial[k]);
  // 2^n: the low bits of `shifted` hold n
  return series * vec((typename E::bits(shifted) + E::bias) << E::mantissa);
}

template <class real>
DPL_INLINE typename Simd<real>::vec hyperbolic_tangent(typename Simd<real>::vec x) {
  return 1 - 2 / (exponential<real>(x + x) + 1);
}

template <class real>
DPL_INLINE typename Simd<real>::vec logistic(typename Simd<real>::vec x) {
  return 1 / (1 + exponential<real>(-x));
}

// Calls body(f) with the function `kind`, f(x, value, first, second, third derivative). What is not
// used costs nothing.
template <class real, class Body>
DPL_INLINE void with_function(dpl_activation kind, Body body) {
  using vec = typename Simd<real>::vec;
  switch (kind) {
    case DPL_TANH:
      return body([](vec x, vec& f, vec& df, vec& d2f, vec& d3f) {
        f = hyperbolic_tangent<real>(x);
        df = 1 - f * f;
        d2f = -2 * f * df;
        d3f = -2 * (df * df + f * d2f);
      });
    case DPL_SIGMOID:
      return body([](vec x, vec& f, vec& df, vec& d2f, vec& d3f) {
        f = logistic<real>(x);
        df = f * (1 - f);
        d2f = df * (1 - 2 * f);
        d3f = d2f * (1 - 2 * f) - 2 * df * df;
      });
    case DPL_SOFTPLUS:
      return body([](vec x, vec& f, vec& df, vec& d2f, vec& d3f) {
        const vec zero{}, decay = exponential<real>(x > zero ? -x : x);
        for (int l = 0; l < Simd<real>::lanes; ++l)
          f[l] = (x[l] > 0 ? x[l] : real(0)) + real(__builtin_log1p(decay[l]));
        df = logistic<real>(x);
        d2f = df * (1 - df);
        d3f = d2f * (1 - 2 * df);
      });
    case DPL_SILU:
      return body([](vec x, vec& f, vec& df, vec& d2f, vec& d3f) {
        const vec s = logistic<real>(x), ds = s * (1 - s), d2s = ds * (1 - 2 * s);
        f = x * s;
        df = s + x * ds;
        d2f = 2 * ds + x * d2s;
        d3f = 3 * d2s + x * (d2s * (1 - 2 * s) - 2 * ds * ds);
      });
    case DPL_GELU:
      return body([](vec x, vec& f, vec& df, vec& d2f, vec& d3f) {
        const real c = real(0.79788456080286535588), k = real(0.044715);  // sqrt(2/pi)
        const vec t = hyperbolic_tangent<real>(c * (x + k * x * x * x)), dt = 1 - t * t;
        const vec du = c * (1 + 3 * k * x * x), d2u = 6 * c * k * x;
        const vec slope = dt * du, curve = dt * d2u - 2 * t * slope * du;
        const vec turn = dt * (6 * c * k) - 2 * t * slope * d2u -
                         2 * (slope * slope * du + t * curve * du + t * slope * d2u);
        f = real(0.5) * x * (1 + t);
        df = real(0.5) * (1 + t + x * slope);
        d2f = slope + real(0.5) * x * curve;
        d3f = real(1.5) * curve + real(0.5) * x * turn;
      });
    case DPL_RELU:
      return body([](vec x, vec& f, vec& df, vec& d2f, vec& d3f) {
        const vec zero{};
        f = x > zero ? x : zero;
        df = x > zero ? zero + 1 : zero;
        d2f = d3f = zero;
      });
    case DPL_RELU6:
      return body([](vec x, vec& f, vec& df, vec& d2f, vec& d3f) {
        const vec zero{}, six = zero + 6, inside = x < six ? zero + 1 : zero;
        f = x > zero ? (x < six ? x : six) : zero;
        df = x > zero ? inside : zero;
        d2f = d3f = zero;
      });
    case DPL_LINEAR:
      return body([](vec x, vec& f, vec& df, vec& d2f, vec& d3f) {
        const vec zero{};
        f = x;
        df = zero + 1;
        d2f = d3f = zero;
      });
    case DPL_ANY_ACTIVATION:  // refused before it comes here
      break;
  }
}

template <class real>
void activate(dpl_activation kind, int32_t n, int32_t width, const real* bias, const real* step,
              real* z, real* slope, real* y) {
  using S = Simd<real>;
  with_function<real>(kind, [&](auto function) {
    for (int32_t i = 0; i < n; ++i, z += width, slope += width, y += width)
      for (int32_t m = 0; m < width; m += S::lanes) {
        const auto x = S::load(z + m) + S::load(bias + m), scale = S::load(step + m);
        typename S::vec f, df, d2f, d3f;
        function(x, f, df, d2f, d3f);
        S::store(z + m, x);
        S::store(slope + m, scale * df);
        S::store(y + m, scale * f);
      }
  });
}

template <class real>
void second(dpl_activation kind, int32_t n, int32_t width, const real* step, const real* z,
            const real* g, real* x, real* u) {
  using S = Simd<real>;
  with_function<real>(kind, [&](auto function) {
    for (int32_t i = 0; i < n; ++i, z += width, g += width, x += width, u += width)
      for (int32_t m = 0; m < width; m += S::lanes) {
        typename S::vec f, df, d2f, d3f;
        function(S::load(z + m), f, df, d2f, d3f);
        const auto to_value = S::load(x + m), along = S::load(g + m) * S::load(u + m);
        S::store(x + m, S::load(step + m) * (df * to_value + d2f * along));
        S::store(u + m, f * to_value + df * along);
      }
  });
}

template <class real>
void jet(dpl_activation kind, int32_t n, int32_t width, const real* step, const real* z, real* y) {
  using S = Simd<real>;
  const int64_t order = int64_t(n) * width;
  with_function<real>(kind, [&](auto function) {
    for (int32_t i = 0; i < n; ++i, z += width, y += width)
      for (int32_t m = 0; m < width; m += S::lanes) {
        typename S::vec f, df, d2f, d3f;
        function(S::load(z + m), f, df, d2f, d3f);
        const auto z1 = S::load(z + order + m), z2 = S::load(z + 2 * order + m);
        const auto scale = S::load(step + m);
        S::store(y + m, scale * f);
        S::store(y + order + m, scale * (df * z1));
        S::store(y + 2 * order + m, scale * (d2f * z1 * z1 + df * z2));
      }
  });
}

template <class real>
void jet_backward(dpl_activation kind, int32_t n, int32_t width, const real* step, const real* z,
                  real* g, real* grad_bias, real* grad_step) {
  using S = Simd<real>;
  const int64_t order = int64_t(n) * width;
  with_function<real>(kind, [&](auto function) {
    for (int32_t i = 0; i < n; ++i, z += width, g += width)
      for (int32_t m = 0; m < width; m += S::lanes) {
        typename S::vec f, df, d2f, d3f;
        function(S::load(z + m), f, df, d2f, d3f);
        const auto z1 = S::load(z + order + m), z2 = S::load(z + 2 * order + m);
        const auto g0 = S::load(g + m), g1 = S::load(g + order + m);
        const auto g2 = S::load(g + 2 * order + m), scale = S::load(step + m);
        const auto curve = d2f * z1 * z1 + df * z2;
        const auto to_z = scale * (df * g0 + d2f * z1 * g1 + (d3f * z1 * z1 + d2f * z2) * g2);
        S::store(grad_step + m, S::load(grad_step + m) + f * g0 + df * z1 * g1 + curve * g2);
        S::store(grad_bias + m, S::load(grad_bias + m) + to_z);
        S::store(g + m, to_z);
        S::store(g + order + m, scale * (df * g1 + 2 * d2f * z1 * g2));
        S::store(g + 2 * order + m, scale * (df * g2));
      }
  });
}

// --- the rest -------------------------------------------------------------------------------

template <class real>
void product(int64_t n, const real* x, const real* y, real* out) {
  using S = Simd<real>;
  for (int64_t k = 0; k < n; k += S::lanes) S::store(out + k, S::load(x + k) * S::load(y + k));
}

template <class real>
void add(int64_t n, const real* x, real* out) {
  for (int64_t k = 0; k < n; ++k) out[k] += x[k];
}

template <class real>
double dot(int64_t n, const real* x, const real* y) {
  using S = Simd<real>;
  typename S::vec total = {};
  for (int64_t k = 0; k < n; k += S::lanes) total += S::load(x + k) * S::load(y + k);
  return double(sum(total));
}

}  // namespace

template <class real>
FittingKernels<real> DPL_ISA_FITTING() {
  return {normalise<real>,
          describe<real>,
          describe_backward<real>,
          describe_tangent<real>,
          describe_second<real>,
          activate<real>,
          second<real>,
          jet<real>,
          jet_backward<real>,
          outer<real>,
          multiply<real>,
          product<real>,
          add<real>,
          dot<real>};
}
template FittingKernels<float> DPL_ISA_FITTING<float>();
template FittingKernels<double> DPL_ISA_FITTING<double>();

}  // namespace dpl
