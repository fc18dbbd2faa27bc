// LAMMPS: pair_style deepmd_lite (docs/lammps.md).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dpl.h"
#include "model_deviation.h"
#include "pair.h"

namespace LAMMPS_NS {

class PairDeepmdLite : public Pair {
 public:
  explicit PairDeepmdLite(LAMMPS* lmp);
  ~PairDeepmdLite() override;

  void settings(int narg, char** arg) override;
  void coeff(int narg, char** arg) override;
  void init_style() override;
  double init_one(int i, int j) override;
  void init_list(int id, NeighList* given) override;
  void compute(int eflag, int vflag) override;
  int pack_reverse_comm(int n, int first, double* buffer) override;
  void unpack_reverse_comm(int n, int* atoms, double* buffer) override;
  double memory_usage() override;

 private:
  struct Free {
    void operator()(dpl_force_field* field) const { dpl_force_field_free(field); }
  };
  struct Model {
    std::string path;
    std::unique_ptr<dpl_force_field, Free> field;
    std::vector<int32_t> type_of;  // of the model, by LAMMPS' type; -1 for NULL and for 0
    std::vector<int32_t> types;    // of the rows; fix atom/swap changes them without a new list
    std::vector<double> energies, forces;
    double virial[9];
    bool warned = false;  // of atoms closer than any in its training data
  };

  void load(const std::string& path, int32_t member, int precision);
  bool known(int atom) const;
  void refuse_special_bonds() const;
  void choose_rows();
  void copy_list();
  void evaluate(Model& model);
  dpl_atoms rows(const Model& model) const;
  void add(const Model& model);
  void add_atomic_virials(const Model& model);
  void compare();
  void end_run();
  std::string last_error() const;

  std::vector<Model> models_;  // the first drives
  std::unique_ptr<deepmd_lite::ModelDeviation> deviation_;
  double cutoff_ = 0, unit_ = 1;  // Å; of an eV in LAMMPS' units
  bigint builds_ = -1;            // of the list that was copied; -1: none was

  // Rows are the atoms whose energies are wanted, then the others that the models know.
  int64_t n_centres_ = 0;
  std::vector<int> atom_of_;  // by row
  std::vector<int> row_of_;   // by atom, -1 for one that is no row
  std::vector<double> positions_, virials_;
  std::vector<int64_t> offsets_;
  std::vector<int32_t> indices_;
};

}  // namespace LAMMPS_NS
