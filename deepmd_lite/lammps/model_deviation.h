// Deviation of models from one another during a run: deepmd_lite/deviation.py has the definitions.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace deepmd_lite {

// One sample: begin, add of every model, the reverse communication that brings forces on ghosts to
// their owners (pack, unpack), write.
class ModelDeviation {
 public:
  // Writes to `file` on the first of the communicator's ranks, every `frequency` steps.
  ModelDeviation(MPI_Comm world, const std::string& file, int frequency, size_t n_models);
  ~ModelDeviation() { flush(); }

  bool writable() const { return rank_ != 0 || file_; }
  bool wanted(int64_t step) const { return step % frequency_ == 0; }
  void begin(int n_all);  // atoms and ghosts
  // Forces (rows, 3) of the rows that are these atoms, and the virial, (3, 3).
  void add(size_t model, const std::vector<int>& atoms, const std::vector<double>& forces,
           const double* virial);
  int pack(int n, int first, double* buffer) const;
  void unpack(int n, const int* atoms, const double* buffer);
  // Of the first n_centres of the atoms, which every rank has of its own; eV/Å and eV/atom. A step
  // that is evaluated several times (trials of a minimiser, of Monte Carlo) has the last row alone.
  void write(int64_t step, const std::vector<int>& atoms, int64_t n_centres);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  double of_forces(int atom) const;
  void flush();

  MPI_Comm world_;
  int rank_ = 0, frequency_;
  size_t n_models_;
  std::vector<double> forces_;   // (atoms, n_models, 3)
  std::vector<double> virials_;  // (n_models, 9)
  std::unique_ptr<std::FILE, Close> file_;
  int64_t step_ = -1;  // of the row that is still to be written
  std::string line_;
};

}  // namespace deepmd_lite
