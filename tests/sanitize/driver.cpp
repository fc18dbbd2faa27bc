// Every entry point of dpl.h on ordinary and extreme systems, for AddressSanitizer and
// UndefinedBehaviorSanitizer to watch (make sanitize). Results must be finite and the same bits for
// one thread and three; whether they are right is what tests/consistency asks.
//
//   dpl_sanitize [CASES [SEED]]    CASES random shapes (default 20) for each instruction set, the
//                                  first of them from SEED (default 1), the next from SEED + 1 …
//                                  and fifty times as many damaged model files. With fewer
//                                  than a hundred: AVX2 only without AVX-512, and all that is
//                                  not random in float64 for the baseline, float32 for the rest
#include <sys/wait.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "calls.h"
#include "files.h"
#include "refused.h"
#include "shapes.h"

namespace {

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

struct Shape {
  int32_t n_types, one_side, n_intervals, n_features, n_columns = DPL_COLUMNS;
};

template <class real>
void all_moments(const std::vector<System>& systems, const std::vector<Shape>& shapes,
                 const std::string& where) {
  for (const Shape& s : shapes) {
    const Table<real> table(s.n_types, s.one_side, s.n_intervals, s.n_features, 7, s.n_columns);
    for (const System& system : systems) {
      doing() = where + "moments of " + system.name + ", " + std::to_string(s.n_types) +
                " types, " + std::to_string(s.n_intervals) + " intervals, " +
                std::to_string(s.n_features) + " features, " + std::to_string(s.n_columns) +
                " columns";
      const System own = of_types(system, s.n_types);
      require(moments(own, table, kThreads[0]) == moments(own, table, kThreads[1]),
              "the same bits for any number of threads");
    }
  }
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

// From a table that no pair is inside to one that every listed pair is.
void all_short_ranges(const std::vector<System>& systems) {
  for (int32_t n_types : {1, 2, 3})
    for (double longest : {1e-9, 1.0, kRcut, 1e3})
      for (int32_t n_intervals : {1, 50}) {
        const ShortRange table(n_types, n_intervals, longest);
        for (const System& system : systems) {
          doing() = "short-range table of " + system.name + ", " + std::to_string(n_types) +
                    " types, " + std::to_string(longest) + " Å";
          const System own = of_types(system, n_types);
          require(blended(table, own, kThreads[0]) == blended(table, own, kThreads[1]),
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
                          {100, 16, {50, 50, 50}},
                          {112, 112, {17}},
                          {33, 33, {1, 1, 2}}};
  for (int32_t axis : {0, 1, 2, 3, 5, 7, 8, 9, 15, 16}) forms.push_back({16, axis, {17}});
  for (int kind = DPL_LINEAR; kind <= DPL_LAST_ACTIVATION; ++kind)
    forms.push_back({20, 3, {60, 17, 17}, dpl_activation(kind), kind % 2 == 1});
  for (int32_t n_types : {1, 3})
    for (int32_t one_side : {0, 1})
      forms.push_back({16, 4, {17}, DPL_TANH, true, n_types, one_side, 1});
  const std::vector<std::vector<Features>> others{{{5, 5}}, {{7, 0}}, {{100, 16}, {1, 1}, {33, 3}}};
  for (const auto& more : others)  // residuals from the first layer on for the first of them
    for (int32_t axis : {0, 3})
      forms.push_back(
          {16, axis, {25 + 16 * std::max(axis, 1), 17}, DPL_TANH, true, 2, 1, 24, 46, more});
  int32_t degree = 2;
  for (const auto& [embedding, axis] : {std::pair{16, 1}, {5, 5}, {33, 7}, {112, 16}}) {
    Form form{embedding, axis, {17}};
    form.n_columns = DPL_COLUMNS_OF_DEGREE(degree);
    degree = degree < DPL_MOST_DEGREE ? degree + 1 : 2;
    form.n_cubic = std::min(embedding, DPL_MOST_CUBIC);
    form.others = {{embedding, axis}};
    forms.push_back(form);
  }
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
    for (size_t n : {0, 1, 7, 70}) {  // the last: more than one block
      doing() = name + ", training on " + std::to_string(n) + " atoms";
      require(trained(pass, networks, n, kThreads[0]) == trained(pass, networks, n, kThreads[1]),
              "the same bits for any number of threads");
    }
    dpl_pass_free(pass);
  }
}

template <class real>
void all_steps(const std::string& where) {
  doing() = where + "steps of the optimiser";
  const std::vector<Weights> shapes{
      {1, 1, 1, 0, 0},       {3, 1, 64, 0, 0},    {0, 4, 4, 4, 4},      {1, 1, 1, 1, 1},
      {2, 33, 17, 33, 17},   {1, 5, 48, 5, 0},    {1, 150, 16, 16, 16}, {2, 20, 131, 20, 7},
      {1, 300, 130, 32, 32}, {1, 64, 64, 64, 64}, {1, 129, 3, 129, 3}};
  require(stepped<real>(shapes, kThreads[0]) == stepped<real>(shapes, kThreads[1]),
          "the same bits for any number of threads");
}

// Callers in threads of their own, whose working memory ends with them.
template <class real>
void at_once(const System& system) {
  doing() = "two callers at once";
  dpl_potential* potential = created<real>({50, 16, {120, 120}});
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
  all_moments<real>(small, {{1, 1, 1, 16}, {2, 1, 24, 32}, {2, 0, 2, 48}, {3, 0, 24, 64}}, where);
  all_moments<real>(small, {{1, 1, 1, 16, 9}, {3, 0, 24, 48, 16}}, where);
  all_moments<real>(many, {{1, 1, 24, 112}, {3, 0, 24, 16}, {2, 1, 24, 32, 25}}, where);
  all_moments<real>(dense, {{2, 1, 24, 16}}, where);
  all_potentials<real>(small, forms(), where);
  all_potentials<real>(many, {{33, 16, {240, 50}}, {24, 4, {96}, DPL_GELU, false, 3, 0}}, where);
  all_potentials<real>(dense, {{24, 4, {24}, DPL_TANH, true, 2, 1, 24, 1e5}}, where);
  all_steps<real>(where);
  at_once<real>(many.front());
  refuse_all<real>(where);
  dpl_release_workspace();
}

constexpr int kBrief = 100;  // random shapes; with fewer of them there is little time

void random_numbers() {
  doing() = "random numbers";
  for (int64_t n : {0, 1, 1024, 3000}) {
    Exact<int64_t> ids(n);
    for (int64_t k = 0; k < n; ++k) ids[k] = k % 2 ? INT64_MAX - k : k - 1;
    Bits bits[2];
    for (int k = 0; k < 2; ++k) {
      const Exact<double> normals(3 * n);
      require_status(
          dpl_normals(n, ids.data(), UINT32_MAX, 7, INT64_MAX, kThreads[k], normals.data()),
          DPL_OK);
      require_finite(normals, "random numbers");
      bits[k].add(normals);
    }
    require(bits[0] == bits[1], "the same bits for any number of threads");
  }
  require_status(dpl_normals(-1, nullptr, 0, 0, 0, 1, nullptr), DPL_INVALID_ARGUMENT);
  require_status(dpl_normals(1, nullptr, 0, 0, 0, 0, nullptr), DPL_INVALID_ARGUMENT);
}

// What does not depend on the instruction set.
void close_pairs(const std::vector<System>& small, const std::vector<System>& many,
                 const std::vector<System>& dense) {
  for (const std::vector<System>* systems : {&small, &many, &dense})
    all_repulsions(*systems), all_short_ranges(*systems);
  random_numbers();
}

void everything(int set, int cases, uint64_t seed, const std::vector<System>& small,
                const std::vector<System>& many, const std::vector<System>& dense) {
  const std::string name = std::vector<std::string>{"baseline", "AVX2", "AVX-512"}[set];
  const auto which = dpl_instruction_set(set);
  doing() = "choice of instructions";
  if (!dpl_has_instruction_set(which)) {
    require_status(dpl_use_instruction_set(which), DPL_INVALID_ARGUMENT);
    std::printf("%s: not in this processor\n", name.c_str());
    return;
  }
  require_status(dpl_use_instruction_set(which), DPL_OK);
  require(dpl_current_instruction_set() == which, "the instruction set asked for");
  // the longest and the shortest vectors; all others where there is time for them
  const bool brief = cases < kBrief;
  if (!brief || set > DPL_BASELINE) run<float>(name + ", float32: ", small, many, dense);
  if (!brief || set == DPL_BASELINE) run<double>(name + ", float64: ", small, many, dense);
  for (int k = 0; k < cases; ++k) random_shape(name + ", ", seed + k);
  std::printf("%s: all well, with %d random shapes from %llu on\n", name.c_str(), cases,
              static_cast<unsigned long long>(seed));
}

}  // namespace

// Each instruction set in a process of its own: the choice is one for a process. Nothing may have
// run in threads before, which a new process would not have.
int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 20;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  int n_started = 0;
  for (int set = DPL_BASELINE; set <= DPL_AVX512 + 1; ++set) {
    // vectors of middle length, between those of 16 and 64 bytes: where there is time for them
    if (set == DPL_AVX2 && cases < kBrief && dpl_has_instruction_set(DPL_AVX512)) continue;
    ++n_started;
    const pid_t child = fork();
    require(child >= 0, "a process of its own");
    if (child > 0) continue;
    const std::vector<System> small = small_systems();
    std::vector<System> many, dense;
    many.push_back(listed("a cloud of 260", cloud(260, 3), 200));  // several blocks for a thread
    dense.push_back(listed("100,000 neighbours", ball(100000), 1));
    require(dense[0].offsets[1] == 100000, "all neighbours in the list");
    if (set <= DPL_AVX512)
      everything(set, cases, seed, small, many, dense);
    else
      close_pairs(small, many, dense), model_files(50 * cases, seed);
    return 0;
  }
  bool well = true;
  for (int status = 0; n_started > 0; --n_started) well = wait(&status) > 0 && status == 0 && well;
  return well ? 0 : 1;
}
