// What the driver calls dpl.h with: arrays of exactly the promised size, systems, tables, networks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "dpl.h"
#include "dpl_soap.h"

constexpr double kRcut = 6.0, kRcutSmooth = 0.5;  // Å

// n numbers that end where their allocation ends, so that any access beyond is seen. They begin one
// number into it: no vector instruction may count on more than their natural alignment. All bits
// are set at first, which is NaN: what a kernel forgets to write is not finite.
template <class T>
class Exact {
 public:
  Exact() : Exact(size_t(0)) {}
  explicit Exact(size_t n) : n_(n), memory_(new T[n + 1]) {
    std::memset(static_cast<void*>(memory_.get()), 0xff, (n + 1) * sizeof(T));
  }
  explicit Exact(const std::vector<T>& values) : Exact(values.size()) {
    for (size_t k = 0; k < n_; ++k) data()[k] = values[k];
  }
  T* data() const { return memory_.get() + 1; }
  T& operator[](size_t k) const { return data()[k]; }
  size_t size() const { return n_; }

 private:
  size_t n_;
  std::unique_ptr<T[]> memory_;
};

// What is being done, for the message of a failure; set by whoever begins something.
inline std::string& doing() {
  static std::string what;
  return what;
}

inline void require(bool condition, const char* expected) {
  if (condition) return;
  std::fprintf(stderr, "%s: expected: %s; last error: %s\n", doing().c_str(), expected,
               dpl_last_error());
  std::exit(1);
}

inline void require_status(dpl_status found, dpl_status expected) {
  if (found != expected)
    require(false,
            ("status " + std::to_string(int(expected)) + ", found " + std::to_string(int(found)))
                .c_str());
  require(expected == DPL_OK || *dpl_last_error(), "a message about the failure");
}

template <class T>
void require_finite(const Exact<T>& values, const char* name) {
  bool finite = true;
  const T* const first = values.data();  // no calls in these loops: nothing here is inlined
  for (size_t k = 0, n = values.size(); k < n; ++k) finite &= __builtin_isfinite(first[k]) != 0;
  if (!finite) require(false, (std::string("finite ") + name).c_str());
}

// FNV-1a of the bits of results, number by number: to compare those of any number of threads.
class Bits {
 public:
  template <class T>
  void add(const Exact<T>& values) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "the bits of a number in one");
    const T* const first = values.data();
    for (size_t k = 0, n = values.size(); k < n; ++k) {
      uint64_t bits = 0;
      __builtin_memcpy(&bits, first + k, sizeof(T));
      hash_ = (hash_ ^ bits) * kPrime;
    }
  }
  bool operator==(const Bits& other) const { return hash_ == other.hash_; }

 private:
  static constexpr uint64_t kPrime = 1099511628211u;
  uint64_t hash_ = 14695981039346656037u;
};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double operator()(double low, double high) {
    return low + (high - low) * (double(engine_() >> 11) / 9007199254740992.0);
  }
  int32_t below(int32_t n) { return int32_t(engine_() % uint64_t(n)); }

 private:
  std::mt19937_64 engine_;
};

struct System {
  std::string name;
  int64_t n_all, n_local;
  Exact<double> positions;
  Exact<int32_t> types;
  Exact<int64_t> offsets;
  Exact<int32_t> indices;

  dpl_atoms atoms() const {
    return {n_all, n_local, positions.data(), types.data(), offsets.data(), indices.data()};
  }
};

// Environment and table. All intervals but the last hold numbers of order 1; the last one, which
// goes on without end, rises slowly, as that of a trained model does. Its powers above 2 do not
// count: here they are huge.
template <class real>
struct Table {
  int32_t n_types, one_side, n_intervals, n_features, n_columns;
  double rcut = kRcut, rcut_smth = kRcutSmooth, start = -0.6, spacing = 0.25, protection = 0;
  int32_t of_distance = 0;
  Exact<double> davg, dstd;
  Exact<real> coefficients;

  Table(int32_t types, int32_t side, int32_t intervals, int32_t features, uint64_t seed = 7,
        int32_t columns = DPL_COLUMNS)
      : n_types(types),
        one_side(side),
        n_intervals(intervals),
        n_features(features),
        n_columns(columns),
        davg(size_t(types) * columns),
        dstd(size_t(types) * columns),
        coefficients(size_t(n_tables()) * intervals * DPL_POWERS * features) {
    Random random(seed);
    for (size_t k = 0; k < davg.size(); ++k) {
      davg[k] = k % n_columns ? 0.0 : random(0.02, 0.1);  // a potential wants 0 in all others
      dstd[k] = random(0.2, 0.4);
    }
    for (size_t k = 0; k < coefficients.size(); ++k) {
      const int power = int(k / features % DPL_POWERS);
      const bool last = int32_t(k / features / DPL_POWERS % intervals) == intervals - 1;
      const double size = !last ? 1 : power == 0 ? 1 : power == 1 ? 1e-3 : power == 2 ? 1e-9 : 1e9;
      coefficients[k] = real(size * random(-1, 1));
    }
  }

  int32_t n_tables() const { return one_side ? n_types : n_types * n_types; }
  dpl_environment environment() const {
    return {rcut,        rcut_smth, n_types, one_side,   n_columns,  davg.data(),
            dstd.data(), start,     spacing, protection, of_distance};
  }
  dpl_table table() const {
    return {std::is_same<real, double>::value ? DPL_FLOAT64 : DPL_FLOAT32, n_tables(), n_intervals,
            n_features, coefficients.data()};
  }
};

// Repulsion of every pair of types. The radii grow with the types, up to `longest` (Å); those of
// type 0 with itself begin at the nucleus.
struct Repulsion {
  int32_t n_types;
  Exact<double> atomic_numbers, r_in, r_out;

  Repulsion(int32_t types, double longest)
      : n_types(types),
        atomic_numbers(size_t(types)),
        r_in(size_t(types) * types),
        r_out(size_t(types) * types) {
    for (int32_t a = 0; a < types; ++a) {
      atomic_numbers[a] = a == 0 ? 1 : 118;
      for (int32_t b = 0; b < types; ++b) {
        r_out[a * types + b] = longest * (a + b + 1) / (2 * types - 1);
        r_in[a * types + b] = a + b == 0 ? 0 : 0.4 * r_out[a * types + b];
      }
    }
  }
  dpl_repulsion view() const { return {n_types, atomic_numbers.data(), r_in.data(), r_out.data()}; }
};

// A table of pairs that takes over within `longest`, of cubics that do not fit together.
struct ShortRange {
  int32_t n_types, n_intervals;
  double longest;
  Exact<double> coefficients, bias;

  ShortRange(int32_t types, int32_t intervals, double longest_distance)
      : n_types(types),
        n_intervals(intervals),
        longest(longest_distance),
        coefficients(size_t(types) * types * intervals * 4),
        bias(size_t(types)) {
    for (size_t k = 0; k < coefficients.size(); ++k) coefficients[k] = 1 - 0.25 * double(k % 7);
    for (int32_t a = 0; a < types; ++a) bias[a] = a - 1;
  }
  dpl_short_range view() const {
    return {n_types,
            n_intervals,
            longest,
            0.1 * longest,
            0,
            0.9 * longest,
            0,
            longest / n_intervals,
            coefficients.data(),
            bias.data()};
  }
};

// n_embedding, n_axis, n_columns and n_cubic of a descriptor.
struct Features {
  int32_t embedding, axis, columns = DPL_COLUMNS, cubic = 0;
  int32_t numbers() const {
    const int32_t of_degree = std::max(axis, 1), n = cubic;
    const int32_t degrees = int32_t(std::lround(std::sqrt(columns))) - 1;
    return embedding * (columns == DPL_COLUMNS ? of_degree : 1 + degrees * of_degree) +
           n * n * (n + 1) / 2 + n * (n + 1) * (n + 2) / 6;
  }
};

// Networks of every element, all of the same widths, and the descriptors that they take.
template <class real>
struct Networks {
  std::vector<Exact<real>> numbers;
  std::vector<std::vector<dpl_layer>> layers;
  std::vector<dpl_network> networks;
  std::vector<dpl_shape> shapes;
  dpl_activation activation;

  Networks(int32_t n_types, const std::vector<Features>& each, const std::vector<int32_t>& widths,
           bool with_step, dpl_activation kind = DPL_TANH)
      : activation(kind) {
    int32_t n_inputs = 0;
    for (const Features& f : each) {
      const int32_t padding = DPL_FEATURE_PADDING;
      shapes.push_back({(f.embedding + padding - 1) / padding * padding, f.embedding, f.axis,
                        f.columns, f.cubic});
      n_inputs += f.numbers();
    }
    Random random(11);
    const auto draw = [&](size_t n, double low, double high) {
      numbers.emplace_back(n);
      for (size_t k = 0; k < n; ++k) numbers.back()[k] = real(random(low, high));
      return numbers.back().data();
    };
    for (int32_t a = 0; a < n_types; ++a) {
      std::vector<dpl_layer> own;
      int32_t width = n_inputs;
      for (int32_t next : widths) {
        const double scale = 1 / std::sqrt(double(width));
        const real* weight = draw(size_t(width) * next, -scale, scale);
        const real* bias = draw(next, -1, 1);
        own.push_back({width, next, weight, bias, with_step ? draw(next, 0.05, 0.15) : nullptr});
        width = next;
      }
      layers.push_back(std::move(own));
      const real* out = draw(width, -1, 1);
      networks.push_back({int32_t(widths.size()), layers.back().data(), out, -5.0 * (a + 1)});
    }
  }

  dpl_fitting fitting() const {
    return {std::is_same<real, double>::value ? DPL_FLOAT64 : DPL_FLOAT32,
            int32_t(networks.size()),
            int32_t(shapes.size()),
            shapes.data(),
            activation,
            networks.data()};
  }
};
