#include "files.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "calls.h"

namespace {

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

void write(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

// A file of this process, gone at its end.
struct Scratch {
  std::string path = "/tmp/dpl_sanitize_XXXXXX";
  Scratch() { require(close(mkstemp(&path[0])) == 0, "a file to write"); }
  ~Scratch() { unlink(path.c_str()); }
};

uint64_t header_length(const std::string& content) {
  uint64_t length = 0;
  for (int k = 7; k >= 0; --k) length = 256 * length + uint8_t(content[size_t(k)]);
  return length;
}

void set_header_length(std::string& content, uint64_t length) {
  for (size_t k = 0; k < 8; ++k, length /= 256) content[k] = char(length % 256);
}

std::string damaged(std::string content, Random& random) {
  static const std::vector<std::string> pieces = {"\"",
                                                  "{",
                                                  "}",
                                                  "[",
                                                  "]",
                                                  ",",
                                                  "\\",
                                                  "\\u00",
                                                  "\\ud800",
                                                  "-",
                                                  "1e999",
                                                  "NaN",
                                                  "null",
                                                  "true",
                                                  "9e15",
                                                  "-1",
                                                  "0",
                                                  "123456789012345678901234567890",
                                                  std::string(300, '['),
                                                  std::string(1, '\0'),
                                                  "\xff",
                                                  "0.5",
                                                  "\"F32\"",
                                                  "\"I32\""};
  for (int n = 1 + random.below(3); n > 0; --n) {
    const uint64_t header = header_length(content);
    const bool whole = random.below(4) == 0;
    const size_t end = whole || header + 8 > content.size() ? content.size() : size_t(header) + 8;
    if (end < 10) return content;
    const size_t begin = whole ? 0 : 8;
    const size_t at = begin + size_t(random.below(int32_t(end - begin)));
    const std::string& piece = pieces[size_t(random.below(int32_t(pieces.size())))];
    const size_t before = content.size();
    switch (random.below(5)) {
      case 0:
        content[at] = char(content[at] ^ 1 << random.below(8));
        break;
      case 1:
        content.insert(at, piece);
        break;
      case 2:
        content.replace(at, piece.size(), piece);
        break;
      case 3:
        content.erase(at, size_t(1 + random.below(40)));
        break;
      default:
        content.resize(random.below(4) == 0 ? at : content.size());
    }
    // a header that still ends where it should is read to its end
    if (!whole && content.size() >= 8 && random.below(4) > 0)
      set_header_length(content, header + content.size() - before);
  }
  return content;
}

// Reads it, and evaluates one that can be.
dpl_status load(const std::string& path) {
  dpl_force_field* field = nullptr;
  const dpl_status status =
      dpl_force_field_load(path.c_str(), DPL_ITSELF, DPL_OF_THE_MODEL, 1, &field);
  if (status != DPL_OK) {
    require(field == nullptr && dpl_last_error()[0] != '\0', "a refusal in words");
    return status;
  }
  require(dpl_force_field_element(field, -1) == nullptr, "no element before the first");
  require(dpl_force_field_element(field, dpl_force_field_n_types(field)) == nullptr,
          "nor after the last");
  const System system = listed("a cloud of 12", cloud(12, 1), 9);
  const dpl_atoms atoms = system.atoms();
  std::vector<double> energies(9), forces(36), virials(9 * 12);
  double virial[9];
  int64_t beyond = 0;
  if (dpl_force_field_evaluate(field, &atoms, 2, energies.data(), forces.data(), virial, &beyond) ==
      DPL_OK)
    require(
        dpl_force_field_atomic_virials(field, &atoms, 2, forces.data(), virials.data()) == DPL_OK,
        "virials of atoms whose forces are there");
  dpl_force_field_free(field);
  return status;
}

}  // namespace

void model_files(int cases, uint64_t seed) {
  doing() = "the model of data/silicon";
  require_status(load(DPL_MODEL), DPL_OK);
  const std::string whole = read(DPL_MODEL);
  const Scratch scratch;
  int n_read = 0;
  for (int k = 0; k < cases; ++k) {
    doing() = "damaged model file " + std::to_string(seed + uint64_t(k));
    Random random(seed + uint64_t(k));
    write(scratch.path, damaged(whole, random));
    const dpl_status status = load(scratch.path);
    require(status == DPL_OK || status == DPL_FILE || status == DPL_OUT_OF_MEMORY,
            "a file is read or refused");
    n_read += status == DPL_OK;
  }
  std::printf("model files: all well, with %d damaged ones from %llu on, of which %d were read\n",
              cases, static_cast<unsigned long long>(seed), n_read);
}
