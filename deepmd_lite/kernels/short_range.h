// The formulas of the short-range table (dpl.h), once, for host and device.
#pragma once

#include <algorithm>
#include <cmath>

#include "dpl.h"
#include "physics.h"

namespace dpl {

dpl_status fail(dpl_status status, const char* format, ...);  // of the library at hand

constexpr int kCubic = 4;
constexpr double kNoShare = 1e-18;  // of a soft minimum: less than its rounding

// A table with what follows from its radii.
struct ShortRangeTable {
  dpl_short_range given;
  SwitchParameters<double> switching;
  double near, limit;  // squared distances below these are within sw_rmax, within rcut
  double end;          // Å: from there on pairs have no energy
};

static inline ShortRangeTable short_range_table(const dpl_short_range& t) {
  return {t,
          {t.sw_rmax, t.sw_rmin, 1 / (t.sw_rmax - t.sw_rmin)},
          squared_limit(t.sw_rmax),
          squared_limit(t.rcut),
          std::min(t.rcut, t.start + t.n_intervals * t.spacing)};
}

static inline dpl_status check_radii(const dpl_short_range& t) {
  if (t.n_types < 1 || t.n_intervals < 1)
    return fail(DPL_INVALID_ARGUMENT, "expected at least 1 type and interval, found %d and %d",
                t.n_types, t.n_intervals);
  if (!(t.sw_rmin >= 0 && t.sw_rmax > t.sw_rmin && t.rcut >= t.sw_rmax &&
        std::isfinite(1 / (t.sw_rmax - t.sw_rmin)) && std::isfinite(t.rcut * t.rcut)))
    return fail(DPL_INVALID_ARGUMENT,
                "expected 0 <= sw_rmin < sw_rmax <= rcut, found %g, %g and %g", t.sw_rmin,
                t.sw_rmax, t.rcut);
  if (!(t.smin_alpha > 0 && t.spacing > 0 && t.start >= 0 && std::isfinite(t.smin_alpha) &&
        std::isfinite(1 / t.smin_alpha) && std::isfinite(1 / t.spacing) &&
        std::isfinite(t.start + t.n_intervals * t.spacing)))
    return fail(DPL_INVALID_ARGUMENT,
                "expected positive smin_alpha and spacing and a start of at least 0, found %g, %g "
                "and %g",
                t.smin_alpha, t.spacing, t.start);
  return DPL_OK;
}

static inline dpl_status nearer_than_begins(int64_t i, int64_t j, double distance, double start) {
  return fail(DPL_COINCIDENT,
              "rows %lld and %lld are %.4g Å apart; the short-range table begins at %.4g Å",
              (long long)i, (long long)j, distance, start);
}

// A neighbour's weight in the soft minimum, relative to one at distance `origin`: exponentials that
// could underflow cancel.
DPL_INLINE double weight_in_minimum(const ShortRangeTable& table, double origin, double r) {
  return std::exp((origin - r) / table.given.smin_alpha);
}

// V of types a and b at r >= start, and its slope.
DPL_INLINE void pair_energy(const ShortRangeTable& table, int32_t a, int32_t b, double r,
                            double& energy, double& slope) {
  const dpl_short_range& t = table.given;
  energy = slope = 0;
  if (r >= table.end) return;
  const double place = (r - t.start) / t.spacing;
  const int64_t last = t.n_intervals - 1, q = int64_t(place) < last ? int64_t(place) : last;
  const double* c = t.coefficients + ((int64_t(a) * t.n_types + b) * t.n_intervals + q) * kCubic;
  const double x = place - double(q);
  energy = ((c[3] * x + c[2]) * x + c[1]) * x + c[0];
  slope = ((3 * c[3] * x + 2 * c[2]) * x + c[1]) / t.spacing;
}

// Slope of an atom's energy along the length r of one of its edges, without the networks' forces.
// `value`: λ; `along`: slope along the soft minimum d, for which ∂d/∂r = share · (1 − (r − d)/α).
DPL_INLINE double slope_of_edge(const ShortRangeTable& table, double value, double along,
                                double soft, double share, double r, double pair_slope) {
  double total = 0.5 * value * pair_slope;
  if (along != 0 && share > kNoShare)
    total += along * share * (1 - (r - soft) / table.given.smin_alpha);
  return total;
}

// Slope of an atom's energy along its soft minimum. Here and below the energy of the networks does
// not matter where λ is 1, rounded: infinite, or of an atom whose neighbours were left out.
DPL_INLINE double slope_along(double value, double slope, double of_table, double of_networks) {
  return value == 1 || slope == 0 ? 0 : (of_table - of_networks) * slope;
}

// An atom's energy.
DPL_INLINE double blended(double value, double of_table, double of_networks) {
  return value == 1 ? of_table : of_networks + value * (of_table - of_networks);
}

}  // namespace dpl
