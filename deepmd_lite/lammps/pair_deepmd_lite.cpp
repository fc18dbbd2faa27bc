#include "pair_deepmd_lite.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "universe.h"
#include "update.h"
#include "utils.h"

using namespace LAMMPS_NS;
using deepmd_lite::ModelDeviation;

PairDeepmdLite::PairDeepmdLite(LAMMPS* lmp) : Pair(lmp) {
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  centroidstressflag = CENTROID_AVAIL;
}

PairDeepmdLite::~PairDeepmdLite() {
  if (!allocated) return;
  memory->destroy(setflag);
  memory->destroy(cutsq);
}

// --- what the input says ---------------------------------------------------------------------

// pair_style deepmd_lite MODEL ... [precision float64|float32] [out_file FILE] [out_freq N]
void PairDeepmdLite::settings(int narg, char** arg) {
  int precision = DPL_OF_THE_MODEL, frequency = 100;
  std::string file = "model_devi.out";
  bool asked = false;  // for the deviation of a committee in the file of the only model
  std::vector<std::string> paths;
  for (int k = 0; k < narg; ++k) {
    const std::string word = arg[k];
    if (word != "precision" && word != "out_file" && word != "out_freq") {
      if (word.size() < 5 || word.compare(word.size() - 4, 4, ".dpl") != 0)
        error->all(FLERR,
                   "pair_style deepmd_lite: expected a model file (.dpl), precision, "
                   "out_file or out_freq, found {}; models of DeePMD-kit become one by: "
                   "dpl convert graph.pb model.dpl",
                   word);
      paths.push_back(word);
      continue;
    }
    if (++k == narg) error->all(FLERR, "pair_style deepmd_lite: {} needs a value", word);
    const std::string value = arg[k];
    asked = asked || word != "precision";
    if (word == "out_file") {
      file = value;
    } else if (word == "out_freq") {
      frequency = utils::inumeric(FLERR, value, false, lmp);
      if (frequency < 1) error->all(FLERR, "pair_style deepmd_lite: out_freq must be at least 1");
    } else if (value == "float64" || value == "float32") {
      precision = value == "float64" ? DPL_FLOAT64 : DPL_FLOAT32;
    } else {
      error->all(FLERR, "pair_style deepmd_lite: precision: expected float64 or float32, found {}",
                 value);
    }
  }
  if (paths.empty()) error->all(FLERR, "pair_style deepmd_lite: expected a model file (.dpl)");
  models_.clear();
  cutoff_ = 0;
  builds_ = -1;
  for (int i = 1; allocated && i <= atom->ntypes; ++i)  // a style given again asks for pair_coeff
    std::fill_n(setflag[i] + 1, atom->ntypes, 0);
  for (const std::string& path : paths) load(path, DPL_ITSELF, precision);
  if (paths.size() == 1 && asked) {
    const int32_t n = dpl_force_field_n_members(models_[0].field.get());
    if (n == 0)
      error->all(FLERR,
                 "pair_style deepmd_lite: out_file and out_freq need several models, or a model "
                 "with a committee in its file: dpl uncertainty {} DATA -o OUT.dpl",
                 paths[0]);
    for (int32_t member = 0; member < n; ++member) load(paths[0], member, precision);
  }
  deviation_.reset();
  if (models_.size() > 1) {
    if (universe->existflag) file += "." + std::to_string(universe->iworld + 1);
    deviation_ = std::make_unique<ModelDeviation>(world, file, frequency, models_.size());
    if (!deviation_->writable())
      error->one(FLERR, "pair_style deepmd_lite: out_file {} cannot be written", file);
  }
  comm_reverse = models_.size() > 1 ? 3 * int(models_.size()) : 0;
}

void PairDeepmdLite::load(const std::string& path, int32_t member, int precision) {
  dpl_force_field* field = nullptr;
  if (dpl_force_field_load(path.c_str(), member, precision, comm->nthreads, &field) != DPL_OK)
    error->one(FLERR, "pair_style deepmd_lite: {}", dpl_last_error());
  models_.emplace_back();
  models_.back().path = path;
  models_.back().field.reset(field);
  cutoff_ = std::max(cutoff_, dpl_force_field_cutoff(field));
}

// pair_coeff * * ELEMENT ..., one for each type of atoms; NULL: not of this potential
void PairDeepmdLite::coeff(int narg, char** arg) {
  const int n = atom->ntypes;
  std::string known;
  for (int32_t t = 0; t < dpl_force_field_n_types(models_[0].field.get()); ++t)
    known += std::string(t > 0 ? " " : "") + dpl_force_field_element(models_[0].field.get(), t);
  if (narg != 2 + n)
    error->all(FLERR,
               "pair_coeff: expected * * and the element of each of the {} types of atoms "
               "(or NULL), found {} of them; {} knows {}",
               n, std::max(0, narg - 2), models_[0].path, known);
  if (!allocated) {
    allocated = 1;
    memory->create(setflag, n + 1, n + 1, "pair:setflag");
    memory->create(cutsq, n + 1, n + 1, "pair:cutsq");
    map = new int[n + 1];
  }
  map_element2type(narg - 2, arg + 2);
  for (Model& model : models_) {
    model.type_of.assign(size_t(n) + 1, -1);
    for (int type = 1; type <= n; ++type) {
      const char* const element = arg[1 + type];
      if (std::strcmp(element, "NULL") == 0) continue;
      for (int32_t t = 0; t < dpl_force_field_n_types(model.field.get()); ++t)
        if (std::strcmp(dpl_force_field_element(model.field.get(), t), element) == 0)
          model.type_of[size_t(type)] = t;
      if (model.type_of[size_t(type)] < 0)
        error->all(FLERR,
                   "pair_coeff: type {} is {}, which {} does not know; the first model "
                   "knows {}",
                   type, element, model.path, known);
    }
  }
}

void PairDeepmdLite::init_style() {
  if (std::strcmp(update->unit_style, "metal") != 0 && std::strcmp(update->unit_style, "real") != 0)
    error->all(FLERR, "pair_style deepmd_lite: expected units metal or real, found {}",
               update->unit_style);
  const bool real = std::strcmp(update->unit_style, "real") == 0;
  unit_ = utils::get_conversion_factor(utils::ENERGY, real ? utils::METAL2REAL : utils::NOCONVERT);
  if (!force->newton_pair)
    error->all(FLERR,
               "pair_style deepmd_lite: forces on ghost atoms go back to their owners: "
               "expected newton on, found off (by the command 'newton', or by a suffix such "
               "as gpu or kk)");
  if (atom->tag_enable == 0)
    error->all(FLERR, "pair_style deepmd_lite: atoms need IDs; remove 'atom_modify id no'");
  refuse_special_bonds();
  const bool excludes = neighbor->nex_type || neighbor->nex_group || neighbor->nex_mol;
  if (excludes && comm->me == 0)
    error->warning(FLERR,
                   "pair_style deepmd_lite: 'neigh_modify exclude' takes neighbours away "
                   "from a potential that was trained with all of them");
  neighbor->add_request(this, NeighConst::REQ_FULL);
}

// Weights of 0 take bonded atoms out of the neighbour list, where no one would miss them.
void PairDeepmdLite::refuse_special_bonds() const {
  int wrong = 0;
  for (int k = 1; k <= 3 && atom->molecular != Atom::ATOMIC; ++k) {
    if (force->special_lj[k] != 0.0 || force->special_coul[k] != 0.0) continue;
    if (atom->nspecial == nullptr) wrong = 1;  // atom_style template: its molecules would know
    for (int i = 0; atom->nspecial != nullptr && i < atom->nlocal; ++i) {
      const int before = k > 1 ? atom->nspecial[i][k - 2] : 0;
      if (known(i) && atom->nspecial[i][k - 1] > before) wrong = 1;
    }
  }
  int anywhere = 0;
  MPI_Allreduce(&wrong, &anywhere, 1, MPI_INT, MPI_MAX, world);
  if (anywhere)
    error->all(FLERR,
               "pair_style deepmd_lite: special_bonds take bonded atoms out of the list of "
               "neighbours, all of which the potential needs; add to the input: "
               "special_bonds lj/coul 1.0 1.0 1.0");
}

double PairDeepmdLite::init_one(int i, int j) {
  if (setflag[i][j] == 0) error->all(FLERR, "All pair coeffs are not set");
  return cutoff_;
}

void PairDeepmdLite::init_list(int /*id*/, NeighList* given) {
  list = given;
  builds_ = -1;
}

// --- a step ------------------------------------------------------------------------------------

void PairDeepmdLite::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  if (neighbor->ago == 0 || builds_ != neighbor->ncalls) {  // a run begins to count builds at 0
    choose_rows();
    copy_list();
    builds_ = neighbor->ncalls;
  }
  positions_.resize(3 * atom_of_.size());
  for (size_t row = 0; row < atom_of_.size(); ++row)
    std::copy_n(atom->x[atom_of_[row]], 3, positions_.data() + 3 * row);
  evaluate(models_[0]);
  add(models_[0]);
  if (vflag_atom || cvflag_atom) add_atomic_virials(models_[0]);
  if (deviation_ && deviation_->wanted(update->ntimestep)) compare();
}

bool PairDeepmdLite::known(int i) const { return models_[0].type_of[size_t(atom->type[i])] >= 0; }

void PairDeepmdLite::choose_rows() {
  const int n_all = atom->nlocal + atom->nghost;
  row_of_.assign(size_t(n_all), -1);
  atom_of_.clear();
  const auto choose = [&](int i) {
    if (row_of_[size_t(i)] >= 0 || !known(i)) return;
    row_of_[size_t(i)] = int(atom_of_.size());
    atom_of_.push_back(i);
  };
  for (int k = 0; k < list->inum; ++k) choose(list->ilist[k]);
  n_centres_ = int64_t(atom_of_.size());
  for (int i = 0; i < n_all; ++i) choose(i);
}

void PairDeepmdLite::copy_list() {
  size_t n_edges = 0;
  for (int64_t row = 0; row < n_centres_; ++row)
    n_edges += size_t(list->numneigh[atom_of_[size_t(row)]]);
  indices_.clear();
  indices_.reserve(n_edges);
  offsets_.reserve(size_t(n_centres_) + 1);
  offsets_.assign(1, 0);
  for (int64_t row = 0; row < n_centres_; ++row) {
    const int i = atom_of_[size_t(row)];
    for (int k = 0; k < list->numneigh[i]; ++k) {
      const int j = row_of_[size_t(list->firstneigh[i][k] & NEIGHMASK)];
      if (j >= 0) indices_.push_back(j);
    }
    offsets_.push_back(int64_t(indices_.size()));
  }
}

dpl_atoms PairDeepmdLite::rows(const Model& model) const {
  return {int64_t(atom_of_.size()), n_centres_,      positions_.data(),
          model.types.data(),       offsets_.data(), indices_.data()};
}

void PairDeepmdLite::evaluate(Model& model) {
  const size_t n_rows = atom_of_.size();
  model.types.resize(n_rows);
  model.energies.resize(size_t(n_centres_));
  model.forces.resize(3 * n_rows);
  for (size_t row = 0; row < n_rows; ++row)
    model.types[row] = model.type_of[size_t(atom->type[atom_of_[row]])];
  const dpl_atoms atoms = rows(model);
  int64_t beyond = 0;
  if (dpl_force_field_evaluate(model.field.get(), &atoms, comm->nthreads, model.energies.data(),
                               model.forces.data(), model.virial, &beyond) != DPL_OK)
    end_run();
  if (beyond > 0 && !model.warned) {
    model.warned = true;
    error->warning(FLERR,
                   "pair_style deepmd_lite: step {}: {} neighbours are closer than "
                   "the table of {} reaches; forces there are extrapolated",
                   update->ntimestep, beyond, model.path);
  }
}

void PairDeepmdLite::add(const Model& model) {
  for (size_t row = 0; row < atom_of_.size(); ++row)
    for (int c = 0; c < 3; ++c) atom->f[atom_of_[row]][c] += unit_ * model.forces[3 * row + c];
  for (int64_t row = 0; row < n_centres_; ++row) {
    const double energy = unit_ * model.energies[size_t(row)];
    if (eflag_global) eng_vdwl += energy;
    if (eflag_atom) eatom[atom_of_[size_t(row)]] += energy;
  }
  const int voigt[6] = {0, 4, 8, 1, 2, 5};  // LAMMPS' xx yy zz xy xz yz among the nine
  if (vflag_fdotr)
    virial_fdotr_compute();
  else if (vflag_global)
    for (int k = 0; k < 6; ++k) virial[k] += unit_ * model.virial[voigt[k]];
}

// Those of atoms and ghosts; LAMMPS gives the owners what belongs to ghosts.
void PairDeepmdLite::add_atomic_virials(const Model& model) {
  const dpl_atoms atoms = rows(model);
  virials_.resize(9 * atom_of_.size());
  if (dpl_force_field_atomic_virials(model.field.get(), &atoms, comm->nthreads, model.forces.data(),
                                     virials_.data()) != DPL_OK)
    end_run();
  const int order[9] = {0, 4, 8, 1, 2, 5, 3, 6, 7};  // xx yy zz xy xz yz yx zx zy
  for (size_t row = 0; row < atom_of_.size(); ++row) {
    const double* const own = virials_.data() + 9 * row;
    const int i = atom_of_[row];
    for (int k = 0; cvflag_atom && k < 9; ++k) cvatom[i][k] += unit_ * own[order[k]];
    for (int k = 0; vflag_atom && k < 6; ++k)  // the symmetric part
      vatom[i][k] += 0.5 * unit_ * (own[order[k]] + own[order[k < 3 ? k : k + 3]]);
  }
}

// The library's words, with the IDs of atoms where it names rows.
// Several ranks end by MPI_Abort, which kills the launcher's pipes with what is still in them.
void PairDeepmdLite::end_run() {
  const std::string words = last_error();
  if (comm->nprocs > 1) {
    std::fprintf(stderr, "pair_style deepmd_lite: step %lld: %s\n", (long long)update->ntimestep,
                 words.c_str());
    std::fflush(stderr);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
  error->one(FLERR, "pair_style deepmd_lite: step {}: {}", update->ntimestep, words);
}

std::string PairDeepmdLite::last_error() const {
  const std::string words = dpl_last_error();
  long long a = 0, b = 0;
  int end = 0;
  if (std::sscanf(words.c_str(), "rows %lld and %lld %n", &a, &b, &end) != 2 || end == 0)
    return words;
  const auto id = [&](long long row) { return std::to_string(atom->tag[atom_of_[size_t(row)]]); };
  return "atoms " + id(a) + " and " + id(b) + " " + words.substr(size_t(end));
}

// --- deviation of several models -------------------------------------------------------------

void PairDeepmdLite::compare() {
  const int n_all = atom->nlocal + atom->nghost;
  deviation_->begin(n_all);
  for (size_t m = 0; m < models_.size(); ++m) {
    if (m > 0) evaluate(models_[m]);
    deviation_->add(m, atom_of_, models_[m].forces, models_[m].virial);
  }
  comm->reverse_comm(this);
  deviation_->write(update->ntimestep, atom_of_, n_centres_);
}

int PairDeepmdLite::pack_reverse_comm(int n, int first, double* buffer) {
  return deviation_->pack(n, first, buffer);
}

void PairDeepmdLite::unpack_reverse_comm(int n, int* atoms, double* buffer) {
  deviation_->unpack(n, atoms, buffer);
}

double PairDeepmdLite::memory_usage() {
  double bytes = Pair::memory_usage();
  bytes += double(8 * (positions_.capacity() + offsets_.capacity()));
  bytes += double(4 * (indices_.capacity() + atom_of_.capacity() + row_of_.capacity()));
  for (const Model& model : models_)
    bytes += double(8 * (model.energies.capacity() + model.forces.capacity()) +
                    4 * model.types.capacity());
  return bytes;
}
