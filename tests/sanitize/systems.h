// Systems and their neighbour lists, which the library itself makes.
#pragma once

#include "arguments.h"

constexpr int kThreads[] = {1, 3};
constexpr int32_t kMaxTypes = 3;

struct Point {
  double x, y, z;
};

// The list of the system, from the library itself; `cutoff` beyond kRcut leaves a skin in it.
inline System listed(const std::string& name, const std::vector<Point>& points, int64_t n_local,
                     double cutoff = kRcut, uint64_t seed = 5) {
  doing() = "neighbours of " + name;
  const int64_t n_all = int64_t(points.size());
  System system{name, n_all, n_local, Exact<double>(3 * n_all), Exact<int32_t>(n_all), {}, {}};
  Random random(seed);
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
inline std::vector<Point> cloud(int n, uint64_t seed) {
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
inline std::vector<Point> ball(int n) {
  Random random(9);
  std::vector<Point> points{{0, 0, 0}};
  while (int(points.size()) <= n) {
    const Point p{random(-kRcut, kRcut), random(-kRcut, kRcut), random(-kRcut, kRcut)};
    const double r = std::hypot(p.x, p.y, p.z);
    if (r > 1 && r < kRcut - 1e-6) points.push_back(p);
  }
  return points;
}

// Types beyond those of a model become the last one.
inline System of_types(const System& s, int32_t n_types) {
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
