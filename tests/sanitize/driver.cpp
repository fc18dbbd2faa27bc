// Every entry point of dpl.h on ordinary and extreme systems, for AddressSanitizer and
// UndefinedBehaviorSanitizer to watch (make sanitize). Results must be finite and the same bits for
// one thread and three; whether they are right is what tests/consistency asks.
#include <thread>

#include "arguments.h"
#include "refused.h"

namespace {

constexpr int kThreads[] = {1, 3};
constexpr int32_t kMaxTypes = 3;

struct Point {
  double x, y, z;
};

// The list of the system, from the library itself; `cutoff` beyond kRcut leaves a skin in it.
System listed(const std::string& name, const std::vector<Point>& points, int64_t n_local,
              double cutoff = kRcut) {
  doing() = "neighbours of " + name;
  const int64_t n_all = int64_t(points.size());
  System system{name, n_all, n_local, Exact<double>(3 * n_all), Exact<int32_t>(n_all), {}, {}};
  Random random(5);
  for (int64_t i = 0; i < n_all; ++i) {
    const double xyz[] = {points[i].x, points[i].y, points[i].z};
    std::copy_n(xyz, 3, system.positions.data() + 3 * i);
    system.types[i] = random.below(kMaxTypes);
  }
  Bits bits[2];
  for (int k = 0; k < 2; ++k) {
    dpl_neighbors* handle = nullptr;
    int64_t n_edges = -1;
    require_status(dpl_neighbors_build(n_all, n_local, system.positions.data(), system.types.data(),
                                       cutoff, kThreads[k], &handle, &n_edges),
                   DPL_OK);
    system.offsets = Exact<int64_t>(n_local + 1);
    system.indices = Exact<int32_t>(n_edges);
    dpl_neighbors_copy(handle, kThreads[k], system.offsets.data(), system.indices.data());
    dpl_neighbors_free(handle);
    require(system.offsets[n_local] == n_edges, "offsets that end at n_edges");
    for (int64_t e = 0; e < n_edges; ++e)
      require(system.indices[e] >= 0 && system.indices[e] < n_all, "indices of rows");
    bits[k].add(system.offsets);
    bits[k].add(system.indices);
  }
  require(bits[0] == bits[1], "the same list for any number of threads");
  return system;
}

// Points in a box, about as dense as water, none closer than 0.1 Å to another.
std::vector<Point> cloud(int n, uint64_t seed) {
  Random random(seed);
  const double edge = std::cbrt(10.0 * n);
  std::vector<Point> points;
  while (int(points.size()) < n) {
    const Point p{random(0, edge), random(0, edge), random(0, edge)};
    bool free = true;
    for (const Point& q : points) free = free && std::hypot(p.x - q.x, p.y - q.y, p.z - q.z) > 0.1;
    if (free) points.push_back(p);
  }
  return points;
}

// One atom and n around it, evenly between 1 Å and the cutoff.
std::vector<Point> ball(int n) {
  Random random(9);
  std::vector<Point> points{{0, 0, 0}};
  while (int(points.size()) <= n) {
    const Point p{random(-kRcut, kRcut), random(-kRcut, kRcut), random(-kRcut, kRcut)};
    const double r = std::hypot(p.x, p.y, p.z);
    if (r > 1 && r < kRcut - 1e-6) points.push_back(p);
  }
  return points;
}

std::vector<System> small_systems() {
  std::vector<System> systems;
  systems.push_back(listed("nothing at all", {}, 0));
  systems.push_back(listed("ghosts alone", cloud(5, 1), 0));
  systems.push_back(listed("one atom", {{1, 2, 3}}, 1));
  systems.push_back(listed("two atoms at 0.1 Å", {{0, 0, 0}, {0.06, 0.08, 0}}, 2));
  systems.push_back(listed("two atoms at 1.1e-6 Å", {{0, 0, 0}, {0, 1.1e-6, 0}, {3, 0, 0}}, 3));
  systems.push_back(listed("atoms out of reach", {{0, 0, 0}, {-1e7, 1e7, 3e6}, {90, 0, 0}}, 3));
  systems.push_back(listed("far apart", {{-8e307, 0, 0}, {8e307, 1e-300, 8e307}, {2, 0, 0}}, 3));
  for (int n : {2, 3, 17, 40}) {
    const std::string name = "a cloud of " + std::to_string(n);
    systems.push_back(listed(name, cloud(n, uint64_t(n)), n));
    systems.push_back(listed(name + " with ghosts and a skin", cloud(n, 2), (n + 1) / 2, 8.0));
  }
  const System& whole = systems.back();
  System same{"one neighbour 3000 times",
              2,
              1,
              Exact<double>({0, 0, 0, 0, 2, 0}),
              Exact<int32_t>(std::vector<int32_t>{0, 1}),
              Exact<int64_t>({0, 3000}),
              Exact<int32_t>(std::vector<int32_t>(3000, 1))};
  require(whole.n_all > 0, "a system with atoms");
  systems.push_back(std::move(same));
  return systems;
}

// Types beyond those of a model become the last one.
System of_types(const System& s, int32_t n_types) {
  System copy{s.name,
              s.n_all,
              s.n_local,
              Exact<double>(s.positions.size()),
              Exact<int32_t>(s.types.size()),
              Exact<int64_t>(s.offsets.size()),
              Exact<int32_t>(s.indices.size())};
  std::copy_n(s.positions.data(), s.positions.size(), copy.positions.data());
  std::copy_n(s.offsets.data(), s.offsets.size(), copy.offsets.data());
  std::copy_n(s.indices.data(), s.indices.size(), copy.indices.data());
  for (int64_t i = 0; i < s.n_all; ++i) copy.types[i] = std::min(s.types[i], n_types - 1);
  return copy;
}

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
  const size_t n_moments = size_t(system.n_local) * DPL_COLUMNS * table.n_features;
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

struct Shape {
  int32_t n_types, one_side, n_intervals, n_features;
};

template <class real>
void all_moments(const std::vector<System>& systems, const std::vector<Shape>& shapes,
                 const std::string& where) {
  for (const Shape& s : shapes) {
    const Table<real> table(s.n_types, s.one_side, s.n_intervals, s.n_features);
    for (const System& system : systems) {
      doing() = where + "moments of " + system.name + ", " + std::to_string(s.n_types) +
                " types, " + std::to_string(s.n_intervals) + " intervals, " +
                std::to_string(s.n_features) + " features";
      const System own = of_types(system, s.n_types);
      require(moments(own, table, kThreads[0]) == moments(own, table, kThreads[1]),
              "the same bits for any number of threads");
    }
  }
}

struct Form {
  int32_t n_embedding, n_axis;
  std::vector<int32_t> widths;
  dpl_activation activation = DPL_TANH;
  bool with_step = true;
  int32_t n_types = 2, one_side = 1, n_intervals = 24;
  double sel = 46;
};

template <class real>
Networks<real> networks_of(const Form& form) {
  return {form.n_types, form.n_embedding, form.n_axis,
          form.widths,  form.with_step,   form.activation};
}

// A potential whose model is gone: whatever it needs it must have copied.
template <class real>
dpl_potential* created(const Form& form) {
  const Networks<real> networks = networks_of<real>(form);
  const Table<real> table(form.n_types, form.one_side, form.n_intervals, networks.n_features());
  const Exact<double> sel(std::vector<double>(form.n_types, form.sel));
  const dpl_model model{table.environment(), table.table(), sel.data(), networks.fitting()};
  dpl_potential* potential = nullptr;
  require_status(dpl_potential_create(&model, &potential), DPL_OK);
  return potential;
}

// Energies, gradients and the derivatives of a loss on both, twice with one pass.
template <class real>
Bits trained(dpl_pass* pass, const Networks<real>& networks, size_t n, int threads) {
  const dpl_fitting fitting = networks.fitting();
  const size_t n_moments = n * DPL_COLUMNS * networks.n_features();
  const Exact<real> moments = random_numbers<real>(n_moments, 6);
  const Exact<real> to_gradients = random_numbers<real>(n_moments, 7);
  const Exact<double> to_energies = random_numbers<double>(n, 8);
  Random random(5);
  Exact<int32_t> types(n);
  for (size_t i = 0; i < n; ++i) types[i] = random.below(fitting.n_types);
  Bits bits;
  for (bool with_gradients : {true, false}) {
    Exact<double> energies(n);
    Exact<real> gradients(n_moments), grad(n_moments);
    require_status(dpl_pass_energies(pass, &fitting, int64_t(n), types.data(), moments.data(),
                                     threads, energies.data(), gradients.data()),
                   DPL_OK);
    require_finite(energies, "energies"), require_finite(gradients, "gradients");
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
    require_status(dpl_pass_backward(pass, moments.data(), to_energies.data(),
                                     with_gradients ? to_gradients.data() : nullptr, threads,
                                     grad.data(), list.data()),
                   DPL_OK);
    require_finite(grad, "gradient of the moments"), require_finite(biases, "gradient of biases");
    bits.add(energies), bits.add(gradients), bits.add(grad), bits.add(biases);
    for (const Exact<real>& numbers : out) {
      require_finite(numbers, "gradient of the networks");
      bits.add(numbers);
    }
    require_status(dpl_pass_backward(pass, moments.data(), to_energies.data(), nullptr, threads,
                                     grad.data(), list.data()),
                   DPL_INVALID_ARGUMENT);  // once only
  }
  return bits;
}

Bits evaluate(const dpl_potential* potential, const System& system, int threads) {
  const dpl_atoms atoms = system.atoms();
  Exact<double> energies(system.n_local), forces(3 * system.n_all), virial(9);
  int64_t beyond = -1;
  require_status(dpl_potential_evaluate(potential, &atoms, threads, energies.data(), forces.data(),
                                        virial.data(), &beyond),
                 DPL_OK);
  require_finite(energies, "energies"), require_finite(forces, "forces");
  require_finite(virial, "virial");
  require(beyond >= 0 && beyond <= system.offsets[system.n_local], "a number of edges beyond");
  Bits bits;
  bits.add(energies), bits.add(forces), bits.add(virial);
  return bits;
}

Bits repelled(const Repulsion& repulsion, const System& system, int threads) {
  const dpl_repulsion pairs = repulsion.view();
  const dpl_atoms atoms = system.atoms();
  const Exact<double> energies(std::vector<double>(system.n_local, 1.0));
  const Exact<double> forces(std::vector<double>(3 * system.n_all, 2.0));
  const Exact<double> virial(std::vector<double>(9, 3.0));
  require_status(
      dpl_repulsion_add(&pairs, &atoms, threads, energies.data(), forces.data(), virial.data()),
      DPL_OK);
  require_finite(energies, "energies"), require_finite(forces, "forces");
  require_finite(virial, "virial");
  Bits bits;
  bits.add(energies), bits.add(forces), bits.add(virial);
  return bits;
}

// From radii that no pair is inside to radii that every listed one is.
void all_repulsions(const std::vector<System>& systems) {
  for (int32_t n_types : {1, 2, 3})
    for (double longest : {1e-9, 1.0, kRcut, 1e3}) {
      const Repulsion repulsion(n_types, longest);
      for (const System& system : systems) {
        doing() = "repulsion of " + system.name + ", " + std::to_string(n_types) + " types, " +
                  std::to_string(longest) + " Å";
        const System own = of_types(system, n_types);
        require(repelled(repulsion, own, kThreads[0]) == repelled(repulsion, own, kThreads[1]),
                "the same bits for any number of threads");
      }
    }
}

std::vector<Form> forms() {
  std::vector<Form> forms{{1, 1, {1}},
                          {5, 5, {7}},
                          {16, 1, {17, 34, 5}},
                          {6, 4, {24, 24, 24}},  // residuals from the first layer on
                          {6, 4, {48, 96, 96}},  // of two copies
                          {24, 4, {96}},
                          {24, 4, {192, 96}},
                          {31, 7, {7, 7, 14}, DPL_SILU, false},
                          {100, 16, {240, 240, 240}},
                          {112, 112, {17}},
                          {33, 33, {1, 1, 2}}};
  for (int32_t axis = 0; axis <= 16; ++axis) forms.push_back({16, axis, {17}});
  for (int kind = DPL_LINEAR; kind <= DPL_LAST_ACTIVATION; ++kind)
    for (bool with_step : {false, true})
      forms.push_back({20, 3, {60, 17, 17}, dpl_activation(kind), with_step});
  for (int32_t n_types : {1, 3})
    for (int32_t one_side : {0, 1})
      forms.push_back({16, 4, {17}, DPL_TANH, true, n_types, one_side, 1});
  return forms;
}

template <class real>
void all_potentials(const std::vector<System>& systems, const std::vector<Form>& forms,
                    const std::string& where) {
  for (const Form& form : forms) {
    const std::string name = where + "potential of " + std::to_string(form.n_embedding) + " × " +
                             std::to_string(form.n_axis) + ", first width " +
                             std::to_string(form.widths[0]) + ", activation " +
                             std::to_string(int(form.activation));
    doing() = name;
    dpl_potential* potential = created<real>(form);
    for (const System& system : systems) {
      doing() = name + ", " + system.name;
      const System own = of_types(system, form.n_types);
      require(evaluate(potential, own, kThreads[0]) == evaluate(potential, own, kThreads[1]),
              "the same bits for any number of threads");
    }
    dpl_potential_free(potential);
    const Networks<real> networks = networks_of<real>(form);
    dpl_pass* pass = nullptr;
    require_status(dpl_pass_create(networks.fitting().precision, &pass), DPL_OK);
    for (size_t n : {0, 1, 7, 150}) {
      doing() = name + ", training on " + std::to_string(n) + " atoms";
      require(trained(pass, networks, n, kThreads[0]) == trained(pass, networks, n, kThreads[1]),
              "the same bits for any number of threads");
    }
    dpl_pass_free(pass);
  }
}

// Callers in threads of their own, whose working memory ends with them.
template <class real>
void at_once(const System& system) {
  doing() = "two callers at once";
  dpl_potential* potential = created<real>({100, 16, {240, 240}});
  const System own = of_types(system, 2);
  Bits bits[2];
  std::thread other([&] { bits[1] = evaluate(potential, own, 1); });
  bits[0] = evaluate(potential, own, 3);
  other.join();
  require(bits[0] == bits[1], "the same bits from two callers");
  dpl_potential_free(potential);
}

template <class real>
void run(const std::string& where, const std::vector<System>& small,
         const std::vector<System>& many, const std::vector<System>& dense) {
  all_moments<real>(small, {{1, 1, 1, 16}, {2, 1, 24, 32}, {2, 0, 2, 48}, {3, 0, 24, 112}}, where);
  all_moments<real>(many, {{1, 1, 24, 112}, {3, 0, 24, 16}}, where);
  all_moments<real>(dense, {{2, 1, 24, 16}}, where);
  all_potentials<real>(small, forms(), where);
  all_potentials<real>(many, {{100, 16, {240, 240, 240}}, {24, 4, {96}, DPL_GELU, false, 3, 0}},
                       where);
  all_potentials<real>(dense, {{24, 4, {24}, DPL_TANH, true, 2, 1, 24, 1e5}}, where);
  at_once<real>(many.front());
  refuse_all<real>(where);
  dpl_release_workspace();
}

}  // namespace

int main() {
  const char* const names[] = {"baseline", "AVX2", "AVX-512"};
  const std::vector<System> small = small_systems();
  std::vector<System> many, dense;
  many.push_back(listed("a cloud of 500", cloud(500, 3), 400));  // several blocks for each thread
  dense.push_back(listed("100,000 neighbours", ball(100000), 1));
  require(dense[0].offsets[1] == 100000, "all neighbours in the list");
  all_repulsions(small);
  all_repulsions(many);
  all_repulsions(dense);
  for (int set = DPL_BASELINE; set <= DPL_AVX512; ++set) {
    const auto which = dpl_instruction_set(set);
    doing() = "choice of instructions";
    if (!dpl_has_instruction_set(which)) {
      require_status(dpl_use_instruction_set(which), DPL_INVALID_ARGUMENT);
      std::printf("%s: not in this processor\n", names[set]);
      continue;
    }
    require_status(dpl_use_instruction_set(which), DPL_OK);
    require(dpl_current_instruction_set() == which, "the instruction set asked for");
    run<float>(std::string(names[set]) + ", float32: ", small, many, dense);
    run<double>(std::string(names[set]) + ", float64: ", small, many, dense);
    std::printf("%s: all well\n", names[set]);
    std::fflush(stdout);
  }
  return 0;
}
