// Calls of dpl.h whose results must be finite, and their bits.
#pragma once

#include "systems.h"

template <class T>
Exact<T> random_numbers(size_t n, uint64_t seed) {
  Random random(seed);
  Exact<T> numbers(n);
  for (size_t k = 0; k < n; ++k) numbers[k] = T(random(-1, 1));
  return numbers;
}

// Moments and their derivatives of both orders, every output alone and all together.
template <class real>
Bits moments(const System& system, const Table<real>& table, int threads) {
  const dpl_atoms atoms = system.atoms();
  const dpl_environment environment = table.environment();
  const dpl_table coefficients = table.table();
  const size_t n_moments = size_t(system.n_local) * table.n_columns * table.n_features;
  Exact<real> value(n_moments);
  Exact<int32_t> counts(size_t(system.n_local) * table.n_types);
  int64_t beyond = -1;
  require_status(dpl_moments(&atoms, &environment, &coefficients, threads, value.data(),
                             counts.data(), &beyond),
                 DPL_OK);
  require_finite(value, "moments");
  int64_t n_counted = 0;
  for (size_t k = 0; k < counts.size(); ++k) n_counted += counts[k];
  require(n_counted <= system.offsets[system.n_local] && beyond >= 0 && beyond <= n_counted,
          "no more neighbours than the list has");

  Bits bits;
  bits.add(value);
  bits.add(counts);
  const Exact<real> grad = random_numbers<real>(n_moments, 3);
  const Exact<double> tangent = random_numbers<double>(3 * system.n_all, 4);
  for (int wanted = 1; wanted <= 7; ++wanted) {
    Exact<real> moved(wanted & 4 ? n_moments : 0);
    Exact<double> forces(wanted & 2 ? 3 * system.n_all : 0);
    Exact<real> mixed(wanted & 1 ? table.coefficients.size() : 0);
    real* to_moved = wanted & 4 ? moved.data() : nullptr;
    double* to_forces = wanted & 2 ? forces.data() : nullptr;
    real* to_mixed = wanted & 1 ? mixed.data() : nullptr;
    if (!(wanted & 4)) {
      require_status(dpl_moments_backward(&atoms, &environment, &coefficients, threads, grad.data(),
                                          to_forces, to_mixed),
                     DPL_OK);
      require_finite(forces, "forces"), require_finite(mixed, "gradient of the table");
      bits.add(forces), bits.add(mixed);
    }
    require_status(
        dpl_moments_double_backward(&atoms, &environment, &coefficients, threads, grad.data(),
                                    tangent.data(), to_moved, to_forces, to_mixed),
        DPL_OK);
    require_finite(moved, "change of the moments"), require_finite(forces, "Hessian times tangent");
    require_finite(mixed, "change of the gradient of the table");
    bits.add(moved), bits.add(forces), bits.add(mixed);
  }
  return bits;
}

struct Form {
  int32_t n_embedding, n_axis;
  std::vector<int32_t> widths;
  dpl_activation activation = DPL_TANH;
  bool with_step = true;
  int32_t n_types = 2, one_side = 1, n_intervals = 24;
  double sel = 46;
  std::vector<Features> others = {};  // of further descriptors
  int32_t n_columns = DPL_COLUMNS, n_cubic = 0;

  Features first() const { return {n_embedding, n_axis, n_columns, n_cubic}; }
};

template <class real>
Networks<real> networks_of(const Form& form) {
  std::vector<Features> each{form.first()};
  each.insert(each.end(), form.others.begin(), form.others.end());
  return {form.n_types, each, form.widths, form.with_step, form.activation};
}

// A potential whose model is gone: whatever it needs it must have copied. Its first descriptor has
// neither the smallest nor the largest cutoff.
template <class real>
dpl_potential* created(const Form& form) {
  const Networks<real> networks = networks_of<real>(form);
  const Exact<double> sel(std::vector<double>(form.n_types, form.sel));
  std::vector<Table<real>> tables;
  std::vector<dpl_descriptor> descriptors;
  for (size_t k = 0; k < networks.shapes.size(); ++k) {
    const int32_t one_side = k % 2 ? 1 - form.one_side : form.one_side;
    const dpl_shape& shape = networks.shapes[k];
    tables.emplace_back(form.n_types, one_side, form.n_intervals, shape.n_features, 7 + k,
                        shape.n_columns);
    tables.back().rcut = k == 0 ? kRcut : k % 2 ? 1.3 * kRcut : 0.6 * kRcut;
  }
  for (const Table<real>& table : tables)
    descriptors.push_back({table.environment(), table.table(), sel.data()});
  const dpl_model model{descriptors.data(), networks.fitting()};
  dpl_potential* potential = nullptr;
  require_status(dpl_potential_create(&model, &potential), DPL_OK);
  return potential;
}

// Energies, gradients and the derivatives of a loss on both, twice with one pass.
template <class real>
Bits trained(dpl_pass* pass, const Networks<real>& networks, size_t n, int threads) {
  const dpl_fitting fitting = networks.fitting();
  std::vector<Exact<real>> moments, to_gradients, gradients, grad;
  std::vector<void*> given, along, slopes, back;  // the same, as they are passed on
  for (size_t k = 0; k < networks.shapes.size(); ++k) {
    const size_t size = n * networks.shapes[k].n_columns * networks.shapes[k].n_features;
    moments.push_back(random_numbers<real>(size, 6 + 10 * k));
    to_gradients.push_back(random_numbers<real>(size, 7 + 10 * k));
    gradients.emplace_back(size), grad.emplace_back(size);
    given.push_back(moments[k].data()), along.push_back(to_gradients[k].data());
    slopes.push_back(gradients[k].data()), back.push_back(grad[k].data());
  }
  const Exact<double> to_energies = random_numbers<double>(n, 8);
  Random random(5);
  Exact<int32_t> types(n);
  for (size_t i = 0; i < n; ++i) types[i] = random.below(fitting.n_types);
  Bits bits;
  for (bool with_gradients : {true, false}) {
    Exact<double> energies(n);
    require_status(dpl_pass_energies(pass, &fitting, int64_t(n), types.data(), given.data(),
                                     threads, energies.data(), slopes.data()),
                   DPL_OK);
    require_finite(energies, "energies");
    for (const Exact<real>& numbers : gradients) require_finite(numbers, "gradients");
    std::vector<Exact<real>> out;
    std::vector<std::vector<dpl_layer_gradient>> layers;
    std::vector<dpl_network_gradient> list;
    const auto take = [&](size_t size) { return (out.emplace_back(size), out.back().data()); };
    Exact<double> biases(size_t(fitting.n_types));
    for (int32_t a = 0; a < fitting.n_types; ++a) {
      layers.emplace_back();
      int32_t width = 0;
      for (const dpl_layer& layer : networks.layers[a]) {
        width = layer.n_out;
        real* weight = take(size_t(layer.n_in) * width);
        real* bias = take(width);
        layers.back().push_back({weight, bias, layer.step ? take(width) : nullptr});
      }
      real* weight_out = take(width);
      list.push_back({layers.back().data(), weight_out, &biases[a]});
    }
    require_status(dpl_pass_backward(pass, given.data(), to_energies.data(),
                                     with_gradients ? along.data() : nullptr, threads, back.data(),
                                     list.data()),
                   DPL_OK);
    require_finite(biases, "gradient of biases");
    bits.add(energies), bits.add(biases);
    for (size_t k = 0; k < grad.size(); ++k) {
      require_finite(grad[k], "gradient of the moments");
      bits.add(gradients[k]), bits.add(grad[k]);
    }
    for (const Exact<real>& numbers : out) {
      require_finite(numbers, "gradient of the networks");
      bits.add(numbers);
    }
    require_status(dpl_pass_backward(pass, given.data(), to_energies.data(), nullptr, threads,
                                     back.data(), list.data()),
                   DPL_INVALID_ARGUMENT);  // once only
  }
  return bits;
}

// Tables of networks of one scalar, all of the same widths, and the way back.
template <class real>
Bits tabulated(const Form& form, double start, double spacing, int32_t n_nodes, int threads) {
  const Networks<double> networks(form.n_types, {{1, 0}}, form.widths, form.with_step,
                                  form.activation);
  const dpl_precision precision = std::is_same<real, double>::value ? DPL_FLOAT64 : DPL_FLOAT32;
  const int32_t padding = DPL_FEATURE_PADDING;
  const int32_t n_features = (form.widths.back() + padding) / padding * padding;
  std::vector<dpl_embedding> list;
  std::vector<Exact<double>> out;
  std::vector<std::vector<dpl_layer_gradient>> layers;
  std::vector<const dpl_layer_gradient*> gradients;
  const auto take = [&](size_t n) { return (out.emplace_back(n), out.back().data()); };
  for (const auto& own : networks.layers) {
    list.push_back({int32_t(own.size()), form.activation, own.data()});
    layers.emplace_back();
    for (const dpl_layer& layer : own) {
      double* weight = take(size_t(layer.n_in) * layer.n_out);
      double* bias = take(layer.n_out);
      layers.back().push_back({weight, bias, layer.step ? take(layer.n_out) : nullptr});
    }
  }
  for (const auto& own : layers) gradients.push_back(own.data());
  const size_t size = list.size() * n_nodes * DPL_POWERS * n_features;
  Exact<real> coefficients(size);
  const Exact<real> grad = random_numbers<real>(size, 9);
  const int32_t n_tables = int32_t(list.size());
  const auto make = [&](dpl_tabulation** kept) {
    require_status(dpl_tabulate(list.data(), n_tables, start, spacing, n_nodes, n_features,
                                precision, threads, coefficients.data(), kept),
                   DPL_OK);
  };
  Bits bits;
  make(nullptr);
  bits.add(coefficients);
  dpl_tabulation* kept = nullptr;
  make(&kept);
  require_status(dpl_tabulation_backward(kept, 0, grad.data(), gradients.data()),
                 DPL_INVALID_ARGUMENT);
  require_status(dpl_tabulation_backward(kept, threads, grad.data(), gradients.data()), DPL_OK);
  dpl_tabulation_free(kept);
  require_finite(coefficients, "coefficients");
  bits.add(coefficients);
  for (const Exact<double>& numbers : out) {
    require_finite(numbers, "gradient of the embedding");
    bits.add(numbers);
  }
  return bits;
}

// A batch of matrices; a side keeps none of its directions (0), the leading ones or all.
struct Weights {
  int64_t n_matrices;
  int32_t n_rows, n_columns, left, right;
};

// Updates of SOAP, with turns of the bases: from gradients of numbers, of next to nothing and of 0.
template <class real>
Bits stepped(const std::vector<Weights>& shapes, int threads) {
  struct State {
    Exact<real> values, gradient;
    Exact<float> step, mean, squares, left, left_basis, right, right_basis;
  };
  std::vector<State> states;
  std::vector<dpl_soap_matrices> batches;
  for (const Weights& w : shapes) {
    const auto seen = [](int32_t length, int32_t kept) {
      return kept > 0 && kept < length ? length + kept : length;
    };
    const size_t n = size_t(w.n_matrices), numbers = n * w.n_rows * w.n_columns;
    const size_t means = n * seen(w.n_rows, w.left) * seen(w.n_columns, w.right);
    const size_t left = n * w.n_rows * w.left, right = n * w.n_columns * w.right;
    states.push_back(
        {random_numbers<real>(numbers, 1), Exact<real>(numbers),
         Exact<float>(std::vector<float>(1, 0.0f)), Exact<float>(std::vector<float>(means, 0.0f)),
         Exact<float>(std::vector<float>(means, 0.0f)),
         Exact<float>(std::vector<float>(left, 0.0f)), random_numbers<float>(left, 2),
         Exact<float>(std::vector<float>(right, 0.0f)), random_numbers<float>(right, 3)});
  }
  for (size_t p = 0; p < shapes.size(); ++p) {
    State& s = states[p];
    const Weights& w = shapes[p];
    const dpl_precision precision = std::is_same<real, double>::value ? DPL_FLOAT64 : DPL_FLOAT32;
    batches.push_back({w.n_matrices,
                       w.n_rows,
                       w.n_columns,
                       precision,
                       s.values.data(),
                       s.gradient.data(),
                       1e-2,
                       s.step.data(),
                       s.mean.data(),
                       s.squares.data(),
                       {w.left, s.left.data(), s.left_basis.data()},
                       {w.right, s.right.data(), s.right_basis.data()}});
  }
  const dpl_soap rule{0.9, 0.95, 1e-12, 10, 2};
  for (double size : {1.0, 1e-30, 0.0, 1.0}) {
    for (State& s : states) {
      Random random(4);
      for (size_t k = 0; k < s.gradient.size(); ++k) s.gradient[k] = real(size * random(-1, 1));
    }
    require_status(dpl_soap_step(&rule, batches.data(), int32_t(batches.size()), threads), DPL_OK);
  }
  Bits bits;
  for (const State& s : states) {
    require_finite(s.values, "values"), require_finite(s.mean, "mean gradient");
    require_finite(s.left_basis, "basis"), require_finite(s.right_basis, "basis");
    bits.add(s.values), bits.add(s.mean), bits.add(s.squares);
    bits.add(s.left), bits.add(s.left_basis), bits.add(s.right), bits.add(s.right_basis);
  }
  return bits;
}

// With and without weights, of which one in three is 0.
inline Bits evaluate(const dpl_potential* potential, const System& system, int threads) {
  const dpl_atoms atoms = system.atoms();
  const Exact<double> weights(system.n_local);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = 0.5 * double(i % 3);
  Exact<double> energies(system.n_local), forces(3 * system.n_all), virial(9);
  int64_t beyond = -1;
  require_status(dpl_potential_evaluate(potential, &atoms, nullptr, threads, energies.data(),
                                        forces.data(), virial.data(), &beyond),
                 DPL_OK);
  require_finite(energies, "energies"), require_finite(forces, "forces");
  require_finite(virial, "virial");
  require(beyond >= 0 && beyond <= system.offsets[system.n_local], "a number of edges beyond");
  Bits bits;
  bits.add(energies), bits.add(forces), bits.add(virial);
  int64_t fewer = -1;
  require_status(dpl_potential_evaluate(potential, &atoms, weights.data(), threads, energies.data(),
                                        forces.data(), virial.data(), &fewer),
                 DPL_OK);
  require_finite(forces, "weighted forces"), require_finite(virial, "weighted virial");
  require(fewer >= 0 && fewer <= beyond, "no more edges beyond with weights");
  bits.add(energies), bits.add(forces), bits.add(virial);
  return bits;
}

inline Bits repelled(const Repulsion& repulsion, const System& system, int threads) {
  const dpl_repulsion pairs = repulsion.view();
  const dpl_atoms atoms = system.atoms();
  const Exact<double> energies(std::vector<double>(system.n_local, 1.0));
  const Exact<double> forces(std::vector<double>(3 * system.n_all, 2.0));
  const Exact<double> virial(std::vector<double>(9, 3.0));
  require_status(dpl_repulsion_add(&pairs, &atoms, nullptr, threads, energies.data(), forces.data(),
                                   virial.data()),
                 DPL_OK);
  require_finite(energies, "energies"), require_finite(forces, "forces");
  require_finite(virial, "virial");
  Bits bits;
  bits.add(energies), bits.add(forces), bits.add(virial);
  return bits;
}

// What a table of pairs makes of energies and forces that are there, and its weights.
inline Bits blended(const ShortRange& table, const System& system, int threads) {
  const dpl_short_range pairs = table.view();
  const dpl_atoms atoms = system.atoms();
  const Exact<double> weights(system.n_local);
  require_status(dpl_short_range_weights(&pairs, &atoms, threads, weights.data()), DPL_OK);
  for (size_t i = 0; i < weights.size(); ++i)
    require(weights[i] >= 0 && weights[i] <= 1, "weights from 0 to 1");
  const Exact<double> energies(std::vector<double>(system.n_local, 1.0));
  const Exact<double> forces(std::vector<double>(3 * system.n_all, 2.0));
  const Exact<double> virial(std::vector<double>(9, 3.0));
  require_status(dpl_short_range_add(&pairs, &atoms, nullptr, threads, energies.data(),
                                     forces.data(), virial.data()),
                 DPL_OK);
  require_finite(energies, "energies"), require_finite(forces, "forces");
  require_finite(virial, "virial");
  Bits bits;
  bits.add(weights), bits.add(energies), bits.add(forces), bits.add(virial);
  return bits;
}
