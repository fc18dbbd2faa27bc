#include "model_deviation.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace deepmd_lite {

ModelDeviation::ModelDeviation(MPI_Comm world, const std::string& file, int frequency,
                               size_t n_models)
    : world_(world), frequency_(frequency), n_models_(n_models) {
  MPI_Comm_rank(world, &rank_);
  if (rank_ != 0) return;
  file_.reset(std::fopen(file.c_str(), "w"));
  if (!file_) return;
  std::fprintf(file_.get(), "#%11s", "step");
  for (const char* name :
       {"max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f"})
    std::fprintf(file_.get(), "%19s", name);
  std::fputc('\n', file_.get());
}

void ModelDeviation::begin(int n_all) {
  forces_.assign(size_t(n_all) * n_models_ * 3, 0.0);
  virials_.assign(n_models_ * 9, 0.0);
}

void ModelDeviation::add(size_t model, const std::vector<int>& atoms,
                         const std::vector<double>& forces, const double* virial) {
  for (size_t row = 0; row < atoms.size(); ++row)
    std::copy_n(forces.data() + 3 * row, 3,
                forces_.data() + 3 * (size_t(atoms[row]) * n_models_ + model));
  std::copy_n(virial, 9, virials_.data() + 9 * model);
}

int ModelDeviation::pack(int n, int first, double* buffer) const {
  const size_t width = 3 * n_models_;
  std::copy_n(forces_.data() + width * size_t(first), width * size_t(n), buffer);
  return int(width) * n;
}

void ModelDeviation::unpack(int n, const int* atoms, const double* buffer) {
  const size_t width = 3 * n_models_;
  for (int k = 0; k < n; ++k)
    for (size_t c = 0; c < width; ++c)
      forces_[width * size_t(atoms[k]) + c] += buffer[width * size_t(k) + c];
}

// sqrt ⟨|F − ⟨F⟩|²⟩ over the models.
double ModelDeviation::of_forces(int atom) const {
  const double* const own = forces_.data() + 3 * n_models_ * size_t(atom);
  double squares = 0;
  for (int c = 0; c < 3; ++c) {
    double mean = 0;
    for (size_t m = 0; m < n_models_; ++m) mean += own[3 * m + c] / double(n_models_);
    for (size_t m = 0; m < n_models_; ++m) squares += std::pow(own[3 * m + c] - mean, 2);
  }
  return std::sqrt(squares / double(n_models_));
}

void ModelDeviation::write(int64_t step, const std::vector<int>& atoms, int64_t n_centres) {
  const double infinity = std::numeric_limits<double>::infinity();
  double largest[2] = {-infinity, -infinity};  // of the forces, and minus the smallest
  double sums[2] = {0, double(n_centres)};
  for (int64_t row = 0; row < n_centres; ++row) {
    const double found = of_forces(atoms[size_t(row)]);
    largest[0] = std::max(largest[0], found);
    largest[1] = std::max(largest[1], -found);
    sums[0] += found;
  }
  MPI_Allreduce(MPI_IN_PLACE, largest, 2, MPI_DOUBLE, MPI_MAX, world_);
  MPI_Allreduce(MPI_IN_PLACE, sums, 2, MPI_DOUBLE, MPI_SUM, world_);
  MPI_Allreduce(MPI_IN_PLACE, virials_.data(), int(virials_.size()), MPI_DOUBLE, MPI_SUM, world_);
  double max_v = 0, min_v = infinity, squares_v = 0;
  for (int ab = 0; ab < 9; ++ab) {
    double mean = 0, squares = 0;
    for (size_t m = 0; m < n_models_; ++m) mean += virials_[9 * m + ab] / double(n_models_);
    for (size_t m = 0; m < n_models_; ++m) squares += std::pow(virials_[9 * m + ab] - mean, 2);
    const double found = std::sqrt(squares / double(n_models_)) / sums[1];
    max_v = std::max(max_v, found);
    min_v = std::min(min_v, found);
    squares_v += found * found;
  }
  // std::max and MPI_MAX pass over what is not a number; sums do not.
  if (std::isnan(sums[0])) largest[0] = largest[1] = sums[0];
  if (std::isnan(squares_v)) max_v = min_v = squares_v;
  const double columns[6] = {max_v,      min_v,       std::sqrt(squares_v) / 3,
                             largest[0], -largest[1], sums[0] / sums[1]};
  if (!file_) return;
  if (step != step_) flush();
  char cell[64];
  std::snprintf(cell, sizeof cell, "%12lld", static_cast<long long>(step));
  line_ = cell;
  for (const double value : columns) {
    std::snprintf(cell, sizeof cell, "%19.6e", std::fabs(value));  // nan has a sign, too
    line_ += cell;
  }
  step_ = step;
}

void ModelDeviation::flush() {
  if (!file_ || line_.empty()) return;
  std::fprintf(file_.get(), "%s\n", line_.c_str());
  std::fflush(file_.get());
  line_.clear();
}

}  // namespace deepmd_lite
