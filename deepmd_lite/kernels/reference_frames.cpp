// Structures that a model file remembers, evaluated again by whoever reads it
// (deepmd_lite/model/reference_frames.py).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "force_field.h"

namespace dpl {
namespace {

using Vector = std::array<double, 3>;

constexpr int64_t kMostAtoms = 512;
constexpr int64_t kMostRows = 200'000;

struct Frame {
  std::string name;
  std::array<bool, 3> periodic;
  std::vector<Vector> cell, positions, forces;
  std::vector<int32_t> types;
  std::vector<double> energies;
};

std::vector<Vector> rows(const std::vector<double>& numbers) {
  std::vector<Vector> result(numbers.size() / 3);
  for (size_t k = 0; k < numbers.size(); ++k) result[k / 3][k % 3] = numbers[k];
  return result;
}

Vector cross(const Vector& a, const Vector& b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

double dot(const Vector& a, const Vector& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// A unit vector normal to the other rows, which may be zero themselves.
Vector completing(const std::vector<Vector>& cell, size_t axis) {
  const Vector &one = cell[(axis + 1) % 3], &two = cell[(axis + 2) % 3];
  Vector normal = cross(one, two);
  const Vector& only = dot(one, one) > 0 ? one : two;
  if (dot(normal, normal) == 0 && dot(only, only) > 0) {
    Vector seed{0, 0, 0};
    seed[size_t(std::min_element(only.begin(), only.end(),
                                 [](double a, double b) { return std::fabs(a) < std::fabs(b); }) -
                only.begin())] = 1;
    normal = cross(only, seed);
  }
  if (dot(normal, normal) == 0) normal[axis] = 1;
  const double length = std::sqrt(dot(normal, normal));
  return {normal[0] / length, normal[1] / length, normal[2] / length};
}

Frame read(const Safetensors& file, const Json& entry, size_t k, int32_t n_types) {
  const std::string prefix = "reference." + std::to_string(k) + ".";
  Frame frame;
  frame.name = entry["source"].string();
  const std::vector<Json>& periodic = entry["pbc"].items();
  if (periodic.size() != 3) throw FileError("its reference frames are damaged: pbc");
  for (size_t axis = 0; axis < 3; ++axis) frame.periodic[axis] = periodic[axis].boolean();
  frame.types = file.integers(prefix + "types", {-1});
  const auto n = int64_t(frame.types.size());
  if (n > kMostAtoms) throw FileError("its reference frames are damaged: too many atoms");
  for (const int32_t type : frame.types)
    if (type < 0 || type >= n_types)
      throw FileError("its reference frames hold types beyond its type map");
  frame.cell = rows(file.doubles(prefix + "cell", {3, 3}));
  for (size_t axis = 0; axis < 3; ++axis)  // open directions need no vector
    if (!frame.periodic[axis] && dot(frame.cell[axis], frame.cell[axis]) == 0)
      frame.cell[axis] = completing(frame.cell, axis);
  frame.positions = rows(file.doubles(prefix + "positions", {n, 3}));
  frame.forces = rows(file.doubles(prefix + "forces", {n, 3}));
  frame.energies = file.doubles(prefix + "energies", {n});
  return frame;
}

// Atoms in the cell and their images within the cutoff of its faces, as deepmd_lite/neighbors.py
// makes them: one axis at a time, of the images kept so far.
struct Images {
  std::vector<Vector> positions;
  std::vector<int32_t> owners;

  Images(const Frame& frame, double cutoff) : positions(frame.positions) {
    for (size_t i = 0; i < positions.size(); ++i) owners.push_back(int32_t(i));
    for (size_t axis = 0; axis < 3; ++axis)
      if (frame.periodic[axis]) wrap(frame, axis);
    for (size_t axis = 0; axis < 3; ++axis)
      if (frame.periodic[axis]) repeat(frame, axis, cutoff);
  }

 private:
  // Of a point: how many cell vectors along the axis, and the height of the cell there.
  struct Axis {
    Vector along, normal;
    double height;
    Axis(const Frame& frame, size_t axis)
        : along(frame.cell[axis]),
          normal(cross(frame.cell[(axis + 1) % 3], frame.cell[(axis + 2) % 3])),
          height(std::fabs(dot(along, normal)) / std::sqrt(dot(normal, normal))) {
      if (!(height > 0)) throw FileError("its reference frames are damaged: a cell without volume");
    }
    double place(const Vector& r) const { return dot(r, normal) / dot(along, normal); }
    Vector moved(const Vector& r, double k) const {
      return {r[0] + k * along[0], r[1] + k * along[1], r[2] + k * along[2]};
    }
  };

  void wrap(const Frame& frame, size_t which) {
    const Axis axis(frame, which);
    for (Vector& r : positions) r = axis.moved(r, -std::floor(axis.place(r)));
  }

  void repeat(const Frame& frame, size_t which, double cutoff) {
    const Axis axis(frame, which);
    const double margin = cutoff / axis.height;
    const size_t n = positions.size();
    if (double(n) * (1 + 2 * margin) > double(kMostRows))
      throw FileError("its reference frames are damaged: a cell that is far too small");
    const auto reach = int64_t(std::ceil(margin));
    for (int64_t k = -reach; k <= reach; ++k)
      for (size_t i = 0; k != 0 && i < n; ++i) {
        const double place = axis.place(positions[i]) + double(k);
        if (place < -margin || place >= 1 + margin) continue;
        positions.push_back(axis.moved(positions[i], double(k)));
        owners.push_back(owners[i]);
      }
  }
};

struct Found {
  std::vector<double> energies;
  std::vector<Vector> forces;
};

void require(dpl_status status) {
  if (status != DPL_OK)
    throw FileError(std::string("its reference frames cannot be evaluated: ") + dpl_last_error());
}

Found evaluated(const Frame& frame, const dpl_force_field& field, int threads) {
  const Images images(frame, field.cutoff);
  const auto n = int64_t(frame.types.size()), n_all = int64_t(images.positions.size());
  std::vector<int32_t> types;
  for (const int32_t owner : images.owners) types.push_back(frame.types[size_t(owner)]);
  const double* const positions = n_all > 0 ? images.positions[0].data() : nullptr;
  dpl_neighbors* list = nullptr;
  int64_t n_edges = 0, beyond = 0;
  require(dpl_neighbors_build(n_all, n, positions, types.data(), field.cutoff, threads, &list,
                              &n_edges));
  std::vector<int64_t> offsets(size_t(n) + 1);
  std::vector<int32_t> indices(static_cast<size_t>(n_edges));
  dpl_neighbors_copy(list, threads, offsets.data(), indices.data());
  dpl_neighbors_free(list);
  Found found{std::vector<double>(size_t(n)), std::vector<Vector>(size_t(n))};
  std::vector<double> forces(size_t(3 * n_all));
  double virial[9];
  const dpl_atoms atoms{n_all, n, positions, types.data(), offsets.data(), indices.data()};
  require(field.evaluate(atoms, nullptr, threads, found.energies.data(), forces.data(), virial,
                         &beyond));
  for (size_t i = 0; i < images.owners.size(); ++i)
    for (size_t c = 0; c < 3; ++c) found.forces[size_t(images.owners[i])][c] += forces[3 * i + c];
  return found;
}

// `bias` (eV, of each element): what energies have of it is exact.
void compare(const Frame& frame, const Found& found, const std::vector<double>& bias,
             dpl_precision precision) {
  const double tolerance = precision == DPL_FLOAT64 ? 1e-8 : 1e-3;
  double force = 0, energy = 0, largest_force = 1, largest_energy = 1;
  bool finite = true;
  for (size_t i = 0; i < frame.types.size(); ++i) {
    const double difference = std::fabs(found.energies[i] - frame.energies[i]);
    finite = finite && std::isfinite(difference);
    energy = std::max(energy, difference);
    const double of_networks = frame.energies[i] - bias[size_t(frame.types[i])];
    largest_energy = std::max(largest_energy, std::fabs(of_networks));
    for (size_t c = 0; c < 3; ++c) {
      const double change = std::fabs(found.forces[i][c] - frame.forces[i][c]);
      finite = finite && std::isfinite(change);
      force = std::max(force, change);
      largest_force = std::max(largest_force, std::fabs(frame.forces[i][c]));
    }
  }
  if (finite && force <= tolerance * largest_force && energy <= tolerance * largest_energy) return;
  char words[256];
  std::snprintf(words, sizeof words,
                "gives other results here than when the file was written: forces differ by %.1e "
                "eV/Å, energies by %.1e eV/atom (allowed: %.0e, %.0e); copy the file again, or "
                "reinstall deepmd_lite",
                force, energy, tolerance * largest_force, tolerance * largest_energy);
  throw FileError("its reference frame (" + frame.name + ") " + words);
}

}  // namespace

void check_reference_frames(const Safetensors& file, const Json& header,
                            const dpl_force_field& field, int threads) {
  const Json* frames = header.find("reference_frames");
  for (size_t k = 0; frames != nullptr && k < frames->items().size(); ++k) {
    const Frame frame = read(file, frames->items()[k], k, field.n_types());
    const std::vector<double> bias = file.doubles("energy_bias", {field.n_types()});
    compare(frame, evaluated(frame, field, threads), bias, field.precision);
  }
}

}  // namespace dpl
