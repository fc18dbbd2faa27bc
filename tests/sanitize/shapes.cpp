#include "shapes.h"

#include <limits>

#include "calls.h"

namespace {

// A cloud, stretched or pressed together, near the origin or far from it, all or some of it local.
System random_system(Random& random) {
  const int n = random.below(4) ? random.below(60) : random.below(3);
  const double scale = random(0.5, 2), far = random.below(4) ? 0 : random(-1e5, 1e5);
  std::vector<Point> points = cloud(n, uint64_t(random.below(1 << 30)));
  for (Point& p : points) p = {scale * p.x + far, scale * p.y - far, scale * p.z};
  const int64_t n_local = random.below(2) ? n : random.below(n + 1);
  const double cutoff = random.below(2) ? kRcut : random(0.5, 12);
  System system = listed("a random cloud of " + std::to_string(n), points, n_local, cutoff,
                         uint64_t(random.below(1 << 30)));
  for (int64_t i = 0; i < n_local; ++i)  // any order and repetition within a row is allowed
    for (int64_t e = system.offsets[i]; e < system.offsets[i + 1]; ++e) {
      const auto other = system.offsets[i] + random.below(int32_t(e - system.offsets[i]) + 1);
      if (random.below(8))
        std::swap(system.indices[e], system.indices[other]);
      else
        system.indices[e] = system.indices[other];
    }
  return system;
}

// Of any degree where there are axes.
int32_t random_columns(int32_t n_axis, Random& random) {
  const int32_t degree = n_axis > 0 ? 1 + random.below(DPL_MOST_DEGREE) : 1;
  return DPL_COLUMNS_OF_DEGREE(degree);
}

int32_t random_cubic(int32_t n_columns, int32_t n_embedding, Random& random) {
  const bool any = n_columns != DPL_COLUMNS && random.below(3);
  return any ? random.below(std::min(n_embedding, DPL_MOST_CUBIC) + 1) : 0;
}

Form random_form(Random& random) {
  Form form;
  form.n_embedding = 1 + random.below(random.below(3) ? 40 : 128);
  form.n_axis = random.below(std::min(form.n_embedding, 20) + 1);  // 0: D = T_0
  form.n_types = 1 + random.below(kMaxTypes);
  form.one_side = random.below(2);
  form.n_intervals = 1 + random.below(random.below(2) ? 3 : 80);
  form.activation = dpl_activation(random.below(DPL_LAST_ACTIVATION + 1));
  form.with_step = random.below(2);
  form.sel = random(0.01, 200);
  form.n_columns = random_columns(form.n_axis, random);
  form.n_cubic = random_cubic(form.n_columns, form.n_embedding, random);
  int32_t width = form.first().numbers();
  for (int more = random.below(3) ? 0 : 1 + random.below(3); more > 0; --more) {
    const int32_t embedding = 1 + random.below(40);
    const int32_t axis = random.below(std::min(embedding, 20) + 1);
    const int32_t columns = random_columns(axis, random);
    const int32_t cubic = random_cubic(columns, embedding, random);
    form.others.push_back({embedding, axis, columns, cubic});
    width += form.others.back().numbers();
  }
  for (int layer = random.below(4); layer >= 0; --layer) {
    const int32_t kind = random.below(4);  // as wide, twice as wide (both residual), any
    const bool residual = width * (kind + 1) <= 260;
    width = kind < 2 && residual ? width * (kind + 1) : 1 + random.below(random.below(2) ? 8 : 130);
    form.widths.push_back(width);
  }
  return form;
}

// One thing wrong that every function must see. False where the system has no place for it.
bool spoil(System& s, int32_t n_types, Random& random) {
  const int64_t n_edges = s.offsets[s.n_local];
  const auto any = [&](int64_t n) { return random.below(int32_t(n)); };
  switch (random.below(4)) {
    case 0:
      if (s.n_all == 0) return false;
      s.positions[any(3 * s.n_all)] = random.below(2) ? std::numeric_limits<double>::infinity()
                                                      : std::numeric_limits<double>::quiet_NaN();
      return true;
    case 1:
      if (s.n_all == 0) return false;
      s.types[any(s.n_all)] = random.below(2) ? n_types + any(1 << 30) : -1 - any(1 << 30);
      return true;
    case 2:
      if (n_edges == 0) return false;
      s.indices[any(n_edges)] =
          random.below(2) ? int32_t(s.n_all) + any(1 << 30) : -1 - any(1 << 30);
      return true;
    default:
      if (n_edges == 0 || s.n_local < 2) return false;
      s.offsets[1 + any(s.n_local - 1)] = random.below(2) ? n_edges + 1 + any(1 << 30) : -1;
      return true;
  }
}

void require_refused(dpl_status status) {
  require(status != DPL_OK && *dpl_last_error(), "a refusal of what was spoiled");
}

template <class real>
void spoiled(const System& sound, const Table<real>& table, const dpl_potential* potential,
             Random& random) {
  System s = of_types(sound, table.n_types);
  if (!spoil(s, table.n_types, random)) return;
  const dpl_atoms atoms = s.atoms();
  const dpl_environment environment = table.environment();
  const dpl_table coefficients = table.table();
  const size_t n_moments = size_t(s.n_local) * table.n_columns * table.n_features;
  const Exact<real> moments(n_moments), grad = random_numbers<real>(n_moments, 3);
  const Exact<int32_t> counts(size_t(s.n_local) * table.n_types);
  const Exact<double> energies(s.n_local), forces(3 * s.n_all), virial(9);
  int64_t beyond = 0;
  require_refused(
      dpl_moments(&atoms, &environment, &coefficients, 2, moments.data(), counts.data(), &beyond));
  require_refused(dpl_moments_backward(&atoms, &environment, &coefficients, 2, grad.data(),
                                       forces.data(), nullptr));
  require_refused(dpl_potential_evaluate(potential, &atoms, nullptr, 2, energies.data(),
                                         forces.data(), virial.data(), &beyond));
}

template <class real>
void one(const std::string& name, uint64_t seed) {
  Random random(seed);
  const System system = random_system(random);
  const Form form = random_form(random);
  doing() = name + system.name + ", " + std::to_string(form.n_embedding) + " × " +
            std::to_string(form.n_axis) + " features of " + std::to_string(form.n_columns) +
            " columns, " + std::to_string(form.n_cubic) + " of third order, and those of " +
            std::to_string(form.others.size()) + " more descriptors, " +
            std::to_string(form.n_intervals) + " intervals, " + std::to_string(form.n_types) +
            " types, first width " + std::to_string(form.widths[0]) + ", activation " +
            std::to_string(int(form.activation));
  const Networks<real> networks = networks_of<real>(form);
  Table<real> table(form.n_types, form.one_side, form.n_intervals, networks.shapes[0].n_features,
                    seed, form.n_columns);
  table.rcut_smth = random.below(4) ? random(0, 0.99 * kRcut) : 0;
  table.start = random(-2, 2), table.spacing = random(0.01, 2);
  table.protection = random.below(2) ? 0 : random(0, 1);
  table.of_distance = random.below(2);
  if (table.of_distance) table.start = random(-2, 1) * kRcut;
  const System own = of_types(system, form.n_types);
  const int threads = 1 + random.below(5);
  require(moments(own, table, 1) == moments(own, table, threads),
          "moments of the same bits for any number of threads");
  dpl_potential* potential = created<real>(form);
  require(evaluate(potential, own, 1) == evaluate(potential, own, threads),
          "a potential of the same bits for any number of threads");
  spoiled(system, table, potential, random);
  dpl_potential_free(potential);
  dpl_pass* pass = nullptr;
  require_status(dpl_pass_create(networks.fitting().precision, &pass), DPL_OK);
  const size_t n = size_t(random.below(100));
  require(trained(pass, networks, n, 1) == trained(pass, networks, n, threads),
          "a training of the same bits for any number of threads");
  dpl_pass_free(pass);
  const int32_t n_nodes = 1 + random.below(80);
  require(tabulated<real>(form, table.start, table.spacing, n_nodes, 1) ==
              tabulated<real>(form, table.start, table.spacing, n_nodes, threads),
          "tables of the same bits for any number of threads");
  std::vector<Weights> weights;
  for (int k = 0; k < 3; ++k) {
    const int32_t rows = 1 + random.below(200), columns = 1 + random.below(100);
    weights.push_back(
        {random.below(3), rows, columns, random.below(rows + 1), random.below(columns + 1)});
  }
  require(stepped<real>(weights, 1) == stepped<real>(weights, threads),
          "steps of the same bits for any number of threads");
}

}  // namespace

void random_shape(const std::string& where, uint64_t seed) {
  const std::string name = "random case " + std::to_string(seed) + ": ";
  one<float>(where + "float32, " + name, seed);
  one<double>(where + "float64, " + name, seed);
}
