#include "refused.h"

#include <functional>
#include <limits>

#include "arguments.h"

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int32_t kFeatures = 16, kIntervals = 4, kTypes = 2;
constexpr int64_t kTooMany = int64_t(1) << 31;

// Four atoms in a row, 1.5 Å apart; every one lists the others.
System chain() {
  System s{"four atoms",      4, 4, Exact<double>(12), Exact<int32_t>(4), Exact<int64_t>(5),
           Exact<int32_t>(12)};
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 3; ++k) s.positions[3 * i + k] = k == 0 ? 1.5 * i : 0;
    s.types[i] = i % kTypes;
    for (int k = 0; k < 3; ++k) s.indices[3 * i + k] = k < i ? k : k + 1;
  }
  for (int i = 0; i < 5; ++i) s.offsets[i] = 3 * i;
  return s;
}

// One argument of the list functions spoiled, and what must come of it.
struct BadList {
  const char* name;
  dpl_status expected;
  std::function<void(System&)> spoil;
  int threads = 2;
};

std::vector<BadList> bad_systems() {  // for the neighbours and all others alike
  return {
      {"fewer rows than atoms", DPL_INVALID_ARGUMENT, [](System& s) { s.n_all = 3; }},
      {"a negative number of atoms", DPL_INVALID_ARGUMENT, [](System& s) { s.n_local = -1; }},
      {"too many rows", DPL_TOO_LARGE, [](System& s) { s.n_all = kTooMany; }},
      {"no thread", DPL_INVALID_ARGUMENT, [](System&) {}, 0},
      {"a negative type", DPL_INVALID_ARGUMENT, [](System& s) { s.types[3] = -1; }},
      {"a huge type", DPL_INVALID_ARGUMENT, [](System& s) { s.types[0] = INT32_MAX; }},
      {"a position that is NaN", DPL_NOT_FINITE, [](System& s) { s.positions[11] = kNan; }},
      {"an infinite position", DPL_NOT_FINITE, [](System& s) { s.positions[0] = -kInfinity; }},
      {"two atoms in one place", DPL_COINCIDENT,
       [](System& s) { s.positions[9] = s.positions[6]; }},
      {"two atoms at 0.9e-6 Å", DPL_COINCIDENT,
       [](System& s) { s.positions[3] = s.positions[0] + 0.9e-6; }},
  };
}

std::vector<BadList> bad_lists() {
  return {
      {"a type beyond the model's", DPL_INVALID_ARGUMENT, [](System& s) { s.types[1] = kTypes; }},
      {"a list that begins late", DPL_INVALID_ARGUMENT, [](System& s) { s.offsets[0] = 1; }},
      {"offsets that descend", DPL_INVALID_ARGUMENT, [](System& s) { s.offsets[2] = 2; }},
      {"a negative offset", DPL_INVALID_ARGUMENT, [](System& s) { s.offsets[1] = INT64_MIN; }},
      {"an endless row", DPL_INVALID_ARGUMENT, [](System& s) { s.offsets[4] = INT64_MAX; }},
      {"a negative index", DPL_INVALID_ARGUMENT, [](System& s) { s.indices[0] = -1; }},
      {"the least index", DPL_INVALID_ARGUMENT, [](System& s) { s.indices[11] = INT32_MIN; }},
      {"an index one too large", DPL_INVALID_ARGUMENT, [](System& s) { s.indices[5] = 4; }},
      {"the largest index", DPL_INVALID_ARGUMENT, [](System& s) { s.indices[7] = INT32_MAX; }},
      {"an atom that lists itself", DPL_COINCIDENT, [](System& s) { s.indices[4] = 1; }},
  };
}

dpl_status build(const System& s, double cutoff, int threads) {
  dpl_neighbors* handle = nullptr;
  int64_t n_edges = -1;
  const dpl_status status = dpl_neighbors_build(s.n_all, s.n_local, s.positions.data(),
                                                s.types.data(), cutoff, threads, &handle, &n_edges);
  require((handle == nullptr) == (status != DPL_OK), "a handle if and only if all is well");
  dpl_neighbors_free(handle);
  return status;
}

void refuse_neighbors(const std::string& where) {
  for (const BadList& bad : bad_systems()) {
    doing() = where + "neighbours, " + bad.name;
    System s = chain();
    bad.spoil(s);
    require_status(build(s, kRcut, bad.threads), bad.expected);
  }
  for (double cutoff : {0.0, -1.0, kNan, kInfinity, 1e200}) {
    doing() = where + "neighbours within " + std::to_string(cutoff);
    require_status(build(chain(), cutoff, 1), DPL_INVALID_ARGUMENT);
  }
  doing() = where + "neighbours from one end of the numbers to the other";
  System s = chain();
  s.positions[0] = -1.7e308, s.positions[3] = 1.7e308;
  require_status(build(s, kRcut, 1), DPL_TOO_LARGE);
  doing() = where + "neighbours within next to nothing";
  require_status(build(chain(), 1e-300, 1), DPL_OK);
}

// The three operations on moments, with outputs of the size that the good arguments need.
template <class real>
void refuse_moments(const System& s, const dpl_environment& environment, const dpl_table& table,
                    int threads, dpl_status expected) {
  const dpl_atoms atoms = s.atoms();
  const size_t n = 4 * DPL_COLUMNS * kFeatures;
  const Exact<real> grad(std::vector<real>(n, real(0.5)));
  const Exact<double> tangent(std::vector<double>(12, 0.5));
  Exact<real> moments(n), mixed(size_t(kTypes) * kIntervals * DPL_POWERS * kFeatures);
  Exact<double> forces(12);
  Exact<int32_t> counts(4 * kTypes);
  int64_t beyond = 0;
  require_status(
      dpl_moments(&atoms, &environment, &table, threads, moments.data(), counts.data(), &beyond),
      expected);
  require_status(dpl_moments_backward(&atoms, &environment, &table, threads, grad.data(),
                                      forces.data(), mixed.data()),
                 expected);
  require_status(
      dpl_moments_double_backward(&atoms, &environment, &table, threads, grad.data(),
                                  tangent.data(), moments.data(), forces.data(), mixed.data()),
      expected);
}

// A model of one descriptor, to be spoiled.
struct Spoiled : dpl_descriptor {
  dpl_shape first;
  dpl_fitting fitting;
};

template <class real>
struct BadModel {
  const char* name;
  std::function<void(Spoiled&)> spoil;
};

template <class real>
std::vector<BadModel<real>> bad_tables() {
  static const Exact<double> zero(std::vector<double>(4 * kTypes, 0.0));
  static const Exact<double> nan(std::vector<double>(4 * kTypes, kNan));
  return {
      {"no types", [](Spoiled& m) { m.environment.n_types = 0; }},
      {"a negative number of types", [](Spoiled& m) { m.environment.n_types = INT32_MIN; }},
      {"columns of no kind", [](Spoiled& m) { m.environment.n_columns = 5; }},
      {"no cutoff", [](Spoiled& m) { m.environment.rcut = 0; }},
      {"a protection below 0", [](Spoiled& m) { m.environment.protection = -0.1; }},
      {"a protection that is NaN", [](Spoiled& m) { m.environment.protection = kNan; }},
      {"a cutoff that is NaN", [](Spoiled& m) { m.environment.rcut = kNan; }},
      {"an infinite cutoff", [](Spoiled& m) { m.environment.rcut = kInfinity; }},
      {"a switch beyond the cutoff", [](Spoiled& m) { m.environment.rcut_smth = kRcut; }},
      {"a negative switch", [](Spoiled& m) { m.environment.rcut_smth = -1; }},
      {"a width of 0", [](Spoiled& m) { m.environment.dstd = zero.data(); }},
      {"a width that is NaN", [](Spoiled& m) { m.environment.dstd = nan.data(); }},
      {"a mean that is NaN", [](Spoiled& m) { m.environment.davg = nan.data(); }},
      {"a spacing of 0", [](Spoiled& m) { m.environment.table_spacing = 0; }},
      {"a start that is NaN", [](Spoiled& m) { m.environment.table_start = kNan; }},
      {"too few tables", [](Spoiled& m) { m.table.n_tables = 1; }},
      {"tables of pairs where none are due", [](Spoiled& m) { m.table.n_tables = 4; }},
      {"no intervals", [](Spoiled& m) { m.table.n_intervals = 0; }},
      {"too many intervals", [](Spoiled& m) { m.table.n_intervals = INT32_MAX; }},
      {"no features", [](Spoiled& m) { m.table.n_features = 0; }},
      {"features that are not padded", [](Spoiled& m) { m.table.n_features = 17; }},
      {"a negative number of features", [](Spoiled& m) { m.table.n_features = -16; }},
  };
}

// The model has networks of two layers: 6 × 3 → 18 → 36.
template <class real>
std::vector<BadModel<real>> bad_networks() {
  static const Exact<double> shifted(std::vector<double>(4 * kTypes, 0.1));
  static const Exact<double> zero(std::vector<double>(kTypes, 0.0));
  static const Exact<double> nan(std::vector<double>(kTypes, kNan));
  static std::vector<dpl_layer> layers;
  static std::vector<dpl_network> networks;
  const auto change = [](Spoiled& m, const std::function<void(dpl_layer*)>& spoil) {
    layers.assign(m.fitting.networks[1].layers,
                  m.fitting.networks[1].layers + m.fitting.networks[1].n_layers);
    networks.assign(m.fitting.networks, m.fitting.networks + kTypes);
    spoil(layers.data());
    networks[1].layers = layers.data();
    m.fitting.networks = networks.data();
  };
  return {
      {"a negative axis", [](Spoiled& m) { m.first.n_axis = -1; }},
      {"no axis but layers for one", [](Spoiled& m) { m.first.n_axis = 0; }},
      {"a longer axis than embedding", [](Spoiled& m) { m.first.n_axis = 7; }},
      {"moments of no kind", [](Spoiled& m) { m.first.n_columns = 0; }},
      {"moments of other columns than the table's",
       [](Spoiled& m) { m.first.n_columns = DPL_COLUMNS_OF_DEGREE(2); }},
      {"third order without second degree", [](Spoiled& m) { m.first.n_cubic = 1; }},
      {"third order of fewer than no features", [](Spoiled& m) { m.first.n_cubic = -1; }},
      {"a longer embedding than the table",
       [](Spoiled& m) { m.first.n_embedding = kFeatures + 1; }},
      {"more inputs than can be counted",
       [](Spoiled& m) {
         m.table.n_features = m.first.n_features = m.first.n_embedding = m.first.n_axis = 1 << 17;
       }},
      {"another number of types", [](Spoiled& m) { m.fitting.n_types = 1; }},
      {"no descriptor", [](Spoiled& m) { m.fitting.n_descriptors = 0; }},
      {"another number of features", [](Spoiled& m) { m.first.n_features = 32; }},
      {"an unknown activation",
       [](Spoiled& m) { m.fitting.activation = dpl_activation(DPL_LAST_ACTIVATION + 1); }},
      {"a mean of x", [](Spoiled& m) { m.environment.davg = shifted.data(); }},
      {"no slots", [](Spoiled& m) { m.sel = zero.data(); }},
      {"a number of slots that is NaN", [](Spoiled& m) { m.sel = nan.data(); }},
      {"no layers",
       [](Spoiled& m) {
         networks.assign(m.fitting.networks, m.fitting.networks + kTypes);
         networks[0].n_layers = 0;
         m.fitting.networks = networks.data();
       }},
      {"a first layer of too few inputs",
       [=](Spoiled& m) { change(m, [](dpl_layer* layer) { layer[0].n_in = 17; }); }},
      {"a second layer of too many inputs",
       [=](Spoiled& m) { change(m, [](dpl_layer* layer) { layer[1].n_in = 19; }); }},
      {"a layer without outputs",
       [=](Spoiled& m) { change(m, [](dpl_layer* layer) { layer[1].n_out = 0; }); }},
  };
}

dpl_status evaluate(const dpl_potential* potential, const System& s, int threads) {
  const dpl_atoms atoms = s.atoms();
  Exact<double> energies(4), forces(12), virial(9);
  int64_t beyond = 0;
  return dpl_potential_evaluate(potential, &atoms, nullptr, threads, energies.data(), forces.data(),
                                virial.data(), &beyond);
}

struct BadRepulsion {
  const char* name;
  std::function<void(dpl_repulsion&)> spoil;
};

std::vector<BadRepulsion> bad_repulsions() {
  static const Exact<double> zero(std::vector<double>(kTypes * kTypes, 0.0));
  static const Exact<double> nan(std::vector<double>(kTypes * kTypes, kNan));
  static const Exact<double> infinite(std::vector<double>(kTypes * kTypes, kInfinity));
  static const Exact<double> negative(std::vector<double>(kTypes * kTypes, -1.0));
  static const Exact<double> huge(std::vector<double>(kTypes * kTypes, 1e200));
  return {
      {"no types", [](dpl_repulsion& r) { r.n_types = 0; }},
      {"a negative number of types", [](dpl_repulsion& r) { r.n_types = INT32_MIN; }},
      {"an atomic number of 0", [](dpl_repulsion& r) { r.atomic_numbers = zero.data(); }},
      {"an atomic number that is NaN", [](dpl_repulsion& r) { r.atomic_numbers = nan.data(); }},
      {"an infinite nucleus", [](dpl_repulsion& r) { r.atomic_numbers = infinite.data(); }},
      {"a negative radius", [](dpl_repulsion& r) { r.r_in = negative.data(); }},
      {"a radius that is NaN", [](dpl_repulsion& r) { r.r_in = nan.data(); }},
      {"an outer radius of 0", [](dpl_repulsion& r) { r.r_out = zero.data(); }},
      {"an outer radius that is NaN", [](dpl_repulsion& r) { r.r_out = nan.data(); }},
      {"an infinite outer radius", [](dpl_repulsion& r) { r.r_out = infinite.data(); }},
      {"an outer radius whose square is too large",
       [](dpl_repulsion& r) { r.r_out = huge.data(); }},
      {"radii that are the same", [](dpl_repulsion& r) { r.r_in = r.r_out; }},
  };
}

dpl_status repel(const dpl_repulsion& repulsion, const System& s, int threads) {
  const dpl_atoms atoms = s.atoms();
  const Exact<double> energies(std::vector<double>(4, 0.0)), forces(std::vector<double>(12, 0.0)),
      virial(std::vector<double>(9, 0.0));
  return dpl_repulsion_add(&repulsion, &atoms, nullptr, threads, energies.data(), forces.data(),
                           virial.data());
}

struct BadShortRange {
  const char* name;
  std::function<void(dpl_short_range&)> spoil;
};

std::vector<BadShortRange> bad_short_ranges() {
  static const Exact<double> nan(std::vector<double>(kTypes * kTypes * kIntervals * 4, kNan));
  return {
      {"no types", [](dpl_short_range& t) { t.n_types = 0; }},
      {"no intervals", [](dpl_short_range& t) { t.n_intervals = 0; }},
      {"a negative number of intervals", [](dpl_short_range& t) { t.n_intervals = INT32_MIN; }},
      {"smin_alpha 0", [](dpl_short_range& t) { t.smin_alpha = 0; }},
      {"smin_alpha that is NaN", [](dpl_short_range& t) { t.smin_alpha = kNan; }},
      {"smin_alpha whose inverse is infinite", [](dpl_short_range& t) { t.smin_alpha = 1e-310; }},
      {"sw_rmin below 0", [](dpl_short_range& t) { t.sw_rmin = -1; }},
      {"sw_rmin that is sw_rmax", [](dpl_short_range& t) { t.sw_rmin = t.sw_rmax; }},
      {"sw_rmax beyond rcut", [](dpl_short_range& t) { t.sw_rmax = 2 * t.rcut; }},
      {"rcut that is infinite", [](dpl_short_range& t) { t.rcut = kInfinity; }},
      {"rcut whose square is too large", [](dpl_short_range& t) { t.rcut = 1e200; }},
      {"a spacing of 0", [](dpl_short_range& t) { t.spacing = 0; }},
      {"an infinite spacing", [](dpl_short_range& t) { t.spacing = kInfinity; }},
      {"a start below 0", [](dpl_short_range& t) { t.start = -0.1; }},
      {"a start that is NaN", [](dpl_short_range& t) { t.start = kNan; }},
      {"a coefficient that is NaN", [](dpl_short_range& t) { t.coefficients = nan.data(); }},
      {"a bias that is NaN", [](dpl_short_range& t) { t.bias = nan.data(); }},
  };
}

// Both of its operations, which must agree.
dpl_status blend(const dpl_short_range& table, const System& s, int threads) {
  const dpl_atoms atoms = s.atoms();
  const Exact<double> energies(std::vector<double>(4, 0.0)), forces(std::vector<double>(12, 0.0)),
      virial(std::vector<double>(9, 0.0));
  const Exact<double> weights(4);
  const dpl_status status = dpl_short_range_weights(&table, &atoms, threads, weights.data());
  require_status(dpl_short_range_add(&table, &atoms, nullptr, threads, energies.data(),
                                     forces.data(), virial.data()),
                 status);
  return status;
}

// A pass: wrong arguments, and the way back without a way there.
template <class real>
void refuse_training(const std::string& where, const Networks<real>& networks) {
  const dpl_fitting fitting = networks.fitting();
  const size_t n = 4, n_moments = n * DPL_COLUMNS * fitting.shapes[0].n_features;
  const Exact<real> moments(std::vector<real>(n_moments, real(0.5)));
  const Exact<double> to_energies(std::vector<double>(n, 1.0));
  Exact<real> gradients(n_moments);
  const void* const given = moments.data();
  void* const slopes = gradients.data();
  Exact<double> energies(n);
  dpl_pass* pass = nullptr;
  require_status(dpl_pass_create(fitting.precision, &pass), DPL_OK);
  const auto there = [&](const dpl_fitting& f, int64_t count, int32_t type, int threads) {
    const Exact<int32_t> types(std::vector<int32_t>{0, 1, type, 0});
    return dpl_pass_energies(pass, &f, count, types.data(), &given, threads, energies.data(),
                             &slopes);
  };
  const auto back = [&](int threads) {
    return dpl_pass_backward(pass, &given, to_energies.data(), nullptr, threads, &slopes, nullptr);
  };
  const auto refuse = [&](const char* name, const dpl_fitting& f, int64_t count = 4,
                          int32_t type = 0, int threads = 2) {
    doing() = where + "training, " + name;
    require_status(there(f, count, type, threads), DPL_INVALID_ARGUMENT);
    require_status(back(1), DPL_INVALID_ARGUMENT);
  };
  refuse("no thread", fitting, 4, 0, 0);
  refuse("a negative number of atoms", fitting, -1);
  refuse("too many atoms", fitting, kTooMany);
  refuse("a type beyond the networks'", fitting, 4, kTypes);
  refuse("a negative type", fitting, 4, -1);
  dpl_fitting bad = fitting;
  bad.precision = fitting.precision == DPL_FLOAT32 ? DPL_FLOAT64 : DPL_FLOAT32;
  refuse("another precision", bad);
  bad = fitting;
  bad.n_types = 0;
  refuse("no types", bad);
  bad = fitting;
  bad.n_descriptors = 0;
  refuse("no descriptor", bad);
  bad = fitting;
  dpl_shape shape = fitting.shapes[0];
  shape.n_features = 17;
  bad.shapes = &shape;
  refuse("features that are not padded", bad);
  dpl_pass_free(pass);
  dpl_pass_free(nullptr);
}

void refuse_tables(const std::string& where) {
  const Networks<double> networks(1, {{1, 0}}, {3, 6}, true);
  const std::vector<dpl_layer>& layers = networks.layers[0];
  const dpl_embedding network{2, DPL_TANH, layers.data()};
  Exact<double> out(size_t(4) * DPL_POWERS * 32);
  const auto refuse = [&](const char* name, const dpl_embedding& given, double spacing = 0.1,
                          int32_t n_nodes = 4, int32_t n_features = 16, int threads = 2) {
    doing() = where + "a table, " + name;
    dpl_tabulation* kept = reinterpret_cast<dpl_tabulation*>(&out);
    require_status(dpl_tabulate(&given, 1, 0, spacing, n_nodes, n_features, DPL_FLOAT64, threads,
                                out.data(), &kept),
                   DPL_INVALID_ARGUMENT);
    require(kept == nullptr, "no handle");
  };
  refuse("no thread", network, 0.1, 4, 16, 0);
  refuse("no node", network, 0.1, 0);
  refuse("no spacing", network, 0);
  refuse("a spacing that is NaN", network, kNan);
  refuse("features that are not padded", network, 0.1, 4, 17);
  refuse("fewer features than the network has", network, 0.1, 4, 0);
  refuse("no layer", {0, DPL_TANH, layers.data()});
  refuse("an unknown function", {2, DPL_ANY_ACTIVATION, layers.data()});
  refuse("a first layer of several inputs", {1, DPL_TANH, layers.data() + 1});
  dpl_tabulation_free(nullptr);
}

void refuse_steps(const std::string& where) {
  const auto refuse = [&](const char* name, const dpl_soap& rule, int64_t n_matrices = 1,
                          int32_t n_rows = 3, int32_t left = 3, int32_t right = 2, int32_t n = 1,
                          int threads = 2) {
    doing() = where + "steps of the optimiser, " + name;
    const dpl_soap_matrices batch{n_matrices,
                                  n_rows,
                                  2,
                                  DPL_FLOAT64,
                                  nullptr,
                                  nullptr,
                                  1e-2,
                                  nullptr,
                                  nullptr,
                                  nullptr,
                                  {left, nullptr, nullptr},
                                  {right, nullptr, nullptr}};
    require_status(dpl_soap_step(&rule, &batch, n, threads), DPL_INVALID_ARGUMENT);
  };
  const dpl_soap sound{0.9, 0.95, 1e-12, 1, 3};
  refuse("no thread", sound, 1, 3, 3, 2, 1, 0);
  refuse("a negative number of batches", sound, 1, 3, 3, 2, -1);
  refuse("a negative number of matrices", sound, -1);
  refuse("no row", sound, 1, 0, 0);
  refuse("more directions than rows", sound, 1, 3, 4);
  refuse("a negative number of directions", sound, 1, 3, 3, -1);
  refuse("no interval", {0.9, 0.95, 1e-12, 1, 0});
  refuse("a decay of 1", {1, 0.95, 1e-12, 1, 3});
  refuse("a decay that is NaN", {0.9, kNan, 1e-12, 1, 3});
}

}  // namespace

template <class real>
void refuse_all(const std::string& where) {
  refuse_neighbors(where);
  const Table<real> table(kTypes, 1, kIntervals, kFeatures);
  const Networks<real> networks(kTypes, {{6, 3}}, {18, 36}, true);
  const Exact<double> sel(std::vector<double>(kTypes, 10));
  const Spoiled sound{
      {table.environment(), table.table(), sel.data()}, networks.shapes[0], networks.fitting()};
  const dpl_model model{&sound, sound.fitting};
  dpl_potential* potential = nullptr;
  require_status(dpl_potential_create(&model, &potential), DPL_OK);

  refuse_training(where, networks);
  refuse_tables(where);
  refuse_steps(where);
  const Repulsion repulsion(kTypes, kRcut);
  for (const BadRepulsion& bad : bad_repulsions()) {
    doing() = where + "repulsion, " + bad.name;
    dpl_repulsion spoiled = repulsion.view();
    bad.spoil(spoiled);
    require_status(repel(spoiled, chain(), 2), DPL_INVALID_ARGUMENT);
  }

  const ShortRange pairs(kTypes, kIntervals, kRcut);
  for (const BadShortRange& bad : bad_short_ranges()) {
    doing() = where + "short-range table, " + bad.name;
    dpl_short_range spoiled = pairs.view();
    bad.spoil(spoiled);
    require_status(blend(spoiled, chain(), 2), DPL_INVALID_ARGUMENT);
  }

  const auto refuse_list = [&](const BadList& bad) {
    doing() = where + bad.name;
    System s = chain();
    bad.spoil(s);
    refuse_moments<real>(s, sound.environment, sound.table, bad.threads, bad.expected);
    require_status(evaluate(potential, s, bad.threads), bad.expected);
    require_status(repel(repulsion.view(), s, bad.threads), bad.expected);
    require_status(blend(pairs.view(), s, bad.threads), bad.expected);
    require_status(evaluate(potential, chain(), 2), DPL_OK);  // nothing of it stays behind
  };
  for (const BadList& bad : bad_systems()) refuse_list(bad);
  for (const BadList& bad : bad_lists()) refuse_list(bad);
  dpl_potential_free(potential);
  dpl_potential_free(nullptr);

  const auto refuse_model = [&](const BadModel<real>& bad) {
    doing() = where + bad.name;
    Spoiled spoiled = sound;
    bad.spoil(spoiled);
    spoiled.fitting.shapes = &spoiled.first;
    const dpl_model wrong{&spoiled, spoiled.fitting};
    dpl_potential* none = reinterpret_cast<dpl_potential*>(&spoiled);
    require_status(dpl_potential_create(&wrong, &none), DPL_INVALID_ARGUMENT);
    require(none == nullptr, "no handle");
    return spoiled;
  };
  for (const BadModel<real>& bad : bad_networks<real>()) refuse_model(bad);
  for (const BadModel<real>& bad : bad_tables<real>()) {
    const Spoiled spoiled = refuse_model(bad);
    refuse_moments<real>(chain(), spoiled.environment, spoiled.table, 1, DPL_INVALID_ARGUMENT);
  }
}

template void refuse_all<float>(const std::string&);
template void refuse_all<double>(const std::string&);
