// Models from files: what deepmd_lite/model/file.py writes, read without Python.
#include "force_field.h"

#include <algorithm>
#include <map>
#include <new>

#include "call.h"
#include "fitting.h"

namespace dpl {
namespace {

constexpr int64_t kNewestFormat = 11, kFrameParameters = 11;  // the latter: the first with them
constexpr int64_t kMostIntervals = 8192;
constexpr double kRescale = 5;  // model/radial.py

// Numbers in double, and in the precision of the arithmetic for as long as a model is made of them.
class Numbers {
 public:
  explicit Numbers(dpl_precision precision) : precision_(precision) {}

  const void* keep(std::vector<double> values) {
    if (precision_ == DPL_FLOAT64) return doubles_.emplace_back(std::move(values)).data();
    return floats_.emplace_back(values.begin(), values.end()).data();
  }

 private:
  dpl_precision precision_;
  std::vector<std::vector<double>> doubles_;
  std::vector<std::vector<float>> floats_;
};

struct Descriptor {
  std::vector<double> davg, dstd, sel;
  dpl_descriptor own{};
  dpl_shape shape{};
};

struct Network {
  std::vector<dpl_layer> layers;
  dpl_network own{};
};

class ModelReader {
 public:
  ModelReader(const Safetensors& file, const Json& header, int32_t member, int precision)
      : file_(file),
        header_(header),
        config_(header["config"]),
        fitting_(config_["fitting_net"]),
        member_(member),
        n_types_(int32_t(config_["type_map"].items().size())),
        precision_(precision == DPL_OF_THE_MODEL ? own_precision() : dpl_precision(precision)),
        numbers_(precision_) {
    if (n_types_ < 1) throw FileError("its header is not valid: no elements");
    const std::string name = "members.weights";
    if (file_.has(name) && !file_.shape(name).empty()) n_members_ = int32_t(file_.shape(name)[0]);
    if (member_ >= n_members_)
      throw FileError("has " + std::to_string(n_members_) + " members, none of the number " +
                      std::to_string(member_));
  }

  std::unique_ptr<dpl_force_field> force_field() {
    auto field = std::make_unique<dpl_force_field>();
    for (const Json& name : config_["type_map"].items()) field->elements.push_back(name.string());
    field->precision = precision_;
    field->n_members = n_members_;
    read_descriptors(*field);
    read_networks();
    field->potential.reset(potential());
    if (has("repulsion")) read_repulsion(*field);
    if (has("use_srtab")) read_short_range(*field);
    return field;
  }

 private:
  dpl_precision own_precision() const {
    return fitting_["precision"].string() == "float32" ? DPL_FLOAT32 : DPL_FLOAT64;
  }

  bool has(const char* key) const {
    const Json* found = config_.find(key);
    return found != nullptr && !found->is_null();
  }

  static int64_t or_else(const Json* x, int64_t other) { return x ? x->integer() : other; }

  static std::vector<double> list_of_numbers(const Json& list) {
    std::vector<double> values;
    for (const Json& value : list.items()) values.push_back(value.number());
    return values;
  }

  void read_descriptors(dpl_force_field& field) {
    const Json& config = config_["descriptor"];
    const Json* several = config.find("list");
    const size_t n = several == nullptr ? 1 : several->items().size();
    descriptors_.resize(n);
    for (size_t k = 0; k < n; ++k) {
      const bool alone = n == 1;
      const Json& sel = alone ? header_["sel"] : entry(header_["sel"], k);
      const Json& grid = alone ? header_["grid"] : entry(header_["grid"], k);
      const std::string prefix = alone ? "" : "descriptors." + std::to_string(k) + ".";
      const Json& own = several == nullptr ? config : several->items()[k];
      descriptors_[k] = std::make_unique<Descriptor>();
      descriptors_[k]->sel = list_of_numbers(sel);
      if (int32_t(descriptors_[k]->sel.size()) != n_types_)
        throw FileError("its header is not valid: sel and type_map differ in length");
      read_descriptor(own, grid, prefix, *descriptors_[k]);
      field.cutoff = std::max(field.cutoff, descriptors_[k]->own.environment.rcut);
    }
  }

  static const Json& entry(const Json& list, size_t k) {
    if (!list.is_list() || k >= list.items().size())
      throw FileError("its header is not valid: not an entry of sel and grid for each descriptor");
    return list.items()[k];
  }

  void read_descriptor(const Json& config, const Json& grid, const std::string& prefix,
                       Descriptor& d) {
    const std::string type = config["type"].string();
    const int64_t degree = type == "se_e2_q" ? or_else(config.find("l_max"), 2) : 1;
    if (degree < 1 || degree > DPL_MOST_DEGREE) throw FileError("its header is not valid: l_max");
    const int32_t n_columns = int32_t(DPL_COLUMNS_OF_DEGREE(degree));
    d.davg = file_.doubles(prefix + "davg", {n_types_, n_columns});
    d.dstd = file_.doubles(prefix + "dstd", {n_types_, n_columns});
    const Json* protection = config.find("env_protection");
    const Json* excluded = config.find("exclude_types");
    const Json* of_distance = grid.find("of_distance");
    dpl_environment& e = d.own.environment;
    e.rcut = config["rcut"].number();
    e.rcut_smth = config["rcut_smth"].number();
    e.n_types = n_types_;
    e.n_columns = d.shape.n_columns = n_columns;
    // types that do not see each other distinguish centres: then every pair has its own table
    e.type_one_side = config["type_one_side"].boolean() && (!excluded || excluded->items().empty());
    e.table_start = grid["start"].number();
    e.table_spacing = grid["spacing"].number();
    e.protection = protection ? protection->number() : 0;
    e.table_of_distance = of_distance && of_distance->boolean();
    if (type == "se_e2_r") {
      shift(d, e);  // and no axes
    } else if (type == "se_e2_a" || type == "se_e2_q") {
      d.shape.n_axis = int32_t(config["axis_neuron"].integer());
      d.shape.n_cubic = int32_t(or_else(config.find("cubic_neuron"), 0));
    } else {
      throw FileError("has a descriptor of the unknown type " + type);
    }
    e.davg = d.davg.data();
    e.dstd = d.dstd.data();
    d.own.sel = d.sel.data();
    read_table(prefix + "table.nodes", grid["n_intervals"].integer(), d);
  }

  // Of `se_e2_r`: rows are normalised to y = s̃ + shift, at least 1 (model/radial.py).
  void shift(Descriptor& d, dpl_environment& e) const {
    double smallest = -d.davg[0] / d.dstd[0];
    for (int32_t a = 1; a < n_types_; ++a)
      smallest = std::min(smallest, -d.davg[a * DPL_COLUMNS] / d.dstd[a * DPL_COLUMNS]);
    const double by = 1 - smallest;
    for (int32_t a = 0; a < n_types_; ++a) d.davg[a * DPL_COLUMNS] -= by * d.dstd[a * DPL_COLUMNS];
    e.table_start += by;
  }

  void read_table(const std::string& name, int64_t n_intervals, Descriptor& d) {
    const int64_t n_tables = d.own.environment.type_one_side ? n_types_ : n_types_ * n_types_;
    if (n_intervals < 1 || n_intervals > kMostIntervals)
      throw FileError("its header is not valid: a table of " + std::to_string(n_intervals) +
                      " intervals");
    const std::vector<double> nodes = file_.doubles(name, {n_tables, n_intervals + 1, 3, -1});
    const int64_t m = file_.shape(name)[3];
    const int64_t padded =
        (m + DPL_FEATURE_PADDING - 1) / DPL_FEATURE_PADDING * DPL_FEATURE_PADDING;
    const double h = d.own.environment.table_spacing, scale[3] = {1, h, h * h};
    std::vector<double> coefficients(size_t(n_tables * (n_intervals + 1) * DPL_POWERS * padded),
                                     0.0);
    for (int64_t q = 0; q < n_tables * (n_intervals + 1); ++q) {
      const bool last = q % (n_intervals + 1) == n_intervals;
      for (int64_t f = 0; f < m; ++f) {
        double ends[6] = {0, 0, 0, 0, 0, 0};
        for (int k = 0; k < (last ? 3 : 6); ++k)
          ends[k] = scale[k % 3] * nodes[(3 * q + k) * m + f];
        hermite(ends, last, coefficients.data() + q * DPL_POWERS * padded + f, padded);
      }
    }
    d.shape.n_features = int32_t(padded);
    d.shape.n_embedding = int32_t(m);
    d.own.table = {precision_, int32_t(n_tables), int32_t(n_intervals + 1), int32_t(padded),
                   numbers_.keep(std::move(coefficients))};
  }

  // The quintic with these values, slopes and curvatures at t = 0 and 1 (model/table.py); the
  // parabola of the first three where the table ends.
  static void hermite(const double* ends, bool last, double* c, int64_t stride) {
    const double v = ends[0], s = ends[1], a = ends[2];
    c[0] = v;
    c[stride] = s;
    c[2 * stride] = 0.5 * a;
    if (last) return;
    const double w = ends[3], u = ends[4], b = ends[5];
    c[3 * stride] = -10 * v - 6 * s - 1.5 * a + 10 * w - 4 * u + 0.5 * b;
    c[4 * stride] = 15 * v + 8 * s + 1.5 * a - 15 * w + 7 * u - b;
    c[5 * stride] = -6 * v - 3 * s - 0.5 * a + 6 * w - 3 * u + 0.5 * b;
  }

  void read_networks() {
    int64_t n_in = 0;
    for (const auto& d : descriptors_) n_in += inputs_of(d->shape);
    const std::vector<double> bias = file_.doubles("energy_bias", {n_types_});
    networks_.resize(size_t(n_types_));
    for (int32_t a = 0; a < n_types_; ++a) {
      const std::string prefix = "fitting." + std::to_string(a) + ".";
      int64_t width = n_in;
      for (size_t l = 0; l < fitting_["neuron"].items().size(); ++l) {
        const int64_t n_out = fitting_["neuron"].items()[l].integer();
        networks_[a].layers.push_back(layer(prefix, std::to_string(l), width, n_out));
        width = n_out;
      }
      std::vector<double> weight_out = file_.doubles(prefix + "weight_out", {width});
      double bias_out = file_.doubles(prefix + "bias_out", {1})[0];
      if (member_ >= 0) change_last_layer(a, weight_out, bias_out);
      networks_[a].own = {int32_t(networks_[a].layers.size()), networks_[a].layers.data(),
                          numbers_.keep(std::move(weight_out)), bias_out + bias[a]};
    }
  }

  // Those of a member of the model's committee (model/members.py).
  void change_last_layer(int32_t a, std::vector<double>& weights, double& bias) const {
    const int64_t width = int64_t(weights.size());
    const auto changes = file_.doubles("members.weights", {n_members_, n_types_, width});
    const int64_t row = int64_t(member_) * n_types_ + a;
    for (int64_t i = 0; i < width; ++i) weights[size_t(i)] += changes[size_t(row * width + i)];
    bias += file_.doubles("members.biases", {n_members_, n_types_})[size_t(row)];
  }

  dpl_layer layer(const std::string& prefix, const std::string& l, int64_t n_in, int64_t n_out) {
    const std::string step = prefix + "step_" + l;
    return {int32_t(n_in), int32_t(n_out),
            numbers_.keep(file_.doubles(prefix + "weight_" + l, {1, n_in, n_out})),
            numbers_.keep(file_.doubles(prefix + "bias_" + l, {1, 1, n_out})),
            file_.has(step) ? numbers_.keep(file_.doubles(step, {1, 1, n_out})) : nullptr};
  }

  dpl_activation activation() const {
    static const std::map<std::string, dpl_activation> known = {
        {"linear", DPL_LINEAR}, {"none", DPL_LINEAR},       {"tanh", DPL_TANH},
        {"silu", DPL_SILU},     {"softplus", DPL_SOFTPLUS}, {"sigmoid", DPL_SIGMOID},
        {"gelu", DPL_GELU},     {"gelu_tf", DPL_GELU},      {"relu", DPL_RELU},
        {"relu6", DPL_RELU6}};
    const std::string& name = fitting_["activation_function"].string();
    const auto found = known.find(name);
    if (found == known.end()) throw FileError("has the unknown activation function " + name);
    return found->second;
  }

  dpl_potential* potential() const {
    std::vector<dpl_descriptor> descriptors;
    std::vector<dpl_shape> shapes;
    std::vector<dpl_network> networks;
    for (const auto& d : descriptors_) {
      descriptors.push_back(d->own);
      shapes.push_back(d->shape);
    }
    for (const Network& network : networks_) networks.push_back(network.own);
    const dpl_fitting fitting{precision_,    n_types_,     int32_t(shapes.size()),
                              shapes.data(), activation(), networks.data()};
    const dpl_model model{descriptors.data(), fitting};
    dpl_potential* made = nullptr;
    if (dpl_potential_create(&model, &made) != DPL_OK) throw FileError(dpl_last_error());
    return made;
  }

  void read_repulsion(dpl_force_field& field) const {
    field.has_repulsion = true;
    field.atomic_numbers = file_.doubles("repulsion.atomic_numbers", {n_types_});
    field.r_in = file_.doubles("repulsion.r_in", {n_types_, n_types_});
    field.r_out = file_.doubles("repulsion.r_out", {n_types_, n_types_});
  }

  void read_short_range(dpl_force_field& field) const {
    field.has_short_range = true;
    const std::string name = "short_range.coefficients";
    const std::vector<double> grid = file_.doubles("short_range.grid", {2});
    field.coefficients = file_.doubles(name, {n_types_, n_types_, -1, 4});
    field.bias = file_.doubles("short_range.bias", {n_types_});
    field.short_range = {n_types_,
                         int32_t(file_.shape(name)[2]),
                         field.cutoff,
                         config_["smin_alpha"].number(),
                         config_["sw_rmin"].number(),
                         config_["sw_rmax"].number(),
                         grid[0],
                         grid[1],
                         field.coefficients.data(),
                         field.bias.data()};
  }

  const Safetensors& file_;
  const Json& header_;
  const Json& config_;
  const Json& fitting_;
  int32_t member_, n_members_ = 0;
  int32_t n_types_;
  dpl_precision precision_;
  Numbers numbers_;
  std::vector<std::unique_ptr<Descriptor>> descriptors_;
  std::vector<Network> networks_;
};

std::unique_ptr<dpl_force_field> load(const std::string& path, int32_t member, int precision,
                                      int threads) {
  const Safetensors file(path);
  const Json header = Json::parse(file.header());
  const int64_t version = header["format_version"].integer();
  if (version < 1 || version > kNewestFormat)
    throw FileError("has format version " + std::to_string(version) +
                    "; this release reads up to " + std::to_string(kNewestFormat) +
                    ": update deepmd_lite");
  if (version >= kFrameParameters && header["config"]["fitting_net"]["numb_fparam"].integer() > 0)
    throw FileError("takes frame parameters; fix them: dpl convert model.dpl fixed.dpl --fparam X");
  auto field = ModelReader(file, header, member, precision).force_field();
  if (member < 0) check_reference_frames(file, header, *field, threads);
  return field;
}

}  // namespace
}  // namespace dpl

dpl_status dpl_force_field::evaluate(const dpl_atoms& atoms, const double* factors, int threads,
                                     double* energies, double* forces, double* virial,
                                     int64_t* beyond) const {
  std::vector<double> weights(has_short_range ? size_t(atoms.n_local) : 0);
  if (has_short_range) {
    const dpl_status status =
        dpl_short_range_weights(&short_range, &atoms, threads, weights.data());
    if (status != DPL_OK) return status;
    for (size_t i = 0; factors != nullptr && i < weights.size(); ++i) weights[i] *= factors[i];
  }
  const dpl_status status =
      dpl_potential_evaluate(potential.get(), &atoms, has_short_range ? weights.data() : factors,
                             threads, energies, forces, virial, beyond);
  if (status != DPL_OK) return status;
  if (has_short_range)
    return dpl_short_range_add(&short_range, &atoms, factors, threads, energies, forces, virial);
  if (!has_repulsion) return DPL_OK;
  const dpl_repulsion repulsion{n_types(), atomic_numbers.data(), r_in.data(), r_out.data()};
  return dpl_repulsion_add(&repulsion, &atoms, factors, threads, energies, forces, virial);
}

dpl_status dpl_force_field_load(const char* path, int32_t member, int precision, int threads,
                                dpl_force_field** handle) {
  *handle = nullptr;
  if (precision < DPL_OF_THE_MODEL || precision > DPL_FLOAT64)
    return dpl::fail(DPL_INVALID_ARGUMENT,
                     "precision must be DPL_FLOAT32, DPL_FLOAT64 or "
                     "DPL_OF_THE_MODEL, found %d",
                     precision);
  if (threads < 1) return dpl::fail(DPL_INVALID_ARGUMENT, "threads must be at least 1");
  if (member < DPL_ITSELF)
    return dpl::fail(DPL_INVALID_ARGUMENT, "member must be DPL_ITSELF or 0 and more, found %d",
                     member);
  try {
    *handle = dpl::load(path, member, precision, threads).release();
    return DPL_OK;
  } catch (const dpl::FileError& problem) {
    return dpl::fail(DPL_FILE, "%s: %s", path, problem.what());
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY, "%s: out of memory", path);
  } catch (const std::exception& problem) {  // std::length_error, of sizes that no model has
    return dpl::fail(DPL_FILE, "%s: its sizes cannot be: %s", path, problem.what());
  }
}

void dpl_force_field_free(dpl_force_field* handle) { delete handle; }

double dpl_force_field_cutoff(const dpl_force_field* handle) { return handle->cutoff; }

int32_t dpl_force_field_n_types(const dpl_force_field* handle) { return handle->n_types(); }

int32_t dpl_force_field_n_members(const dpl_force_field* handle) { return handle->n_members; }

const char* dpl_force_field_element(const dpl_force_field* handle, int32_t type) {
  const bool known = type >= 0 && type < handle->n_types();
  return known ? handle->elements[size_t(type)].c_str() : nullptr;
}

dpl_status dpl_force_field_evaluate(const dpl_force_field* handle, const dpl_atoms* atoms,
                                    int threads, double* energies, double* forces, double* virial,
                                    int64_t* beyond) {
  try {
    const dpl_status status = dpl::check_atoms(*atoms, handle->n_types());
    if (status != DPL_OK) return status;
    return handle->evaluate(*atoms, nullptr, threads, energies, forces, virial, beyond);
  } catch (const std::bad_alloc&) {
    return dpl::fail(DPL_OUT_OF_MEMORY, "out of memory for the weights of %lld atoms",
                     (long long)atoms->n_local);
  }
}
