// The format: a little-endian uint64, the length of a header in JSON; the header, which gives type,
// shape and place of each array by its name; the arrays, dense, row-major and little-endian.
#include "safetensors.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace dpl {
namespace {

constexpr uint64_t kLongestHeader = 100'000'000;

std::string words(const Shape& shape) {
  std::string result = "(";
  for (const int64_t n : shape) result += (result.size() > 1 ? ", " : "") + std::to_string(n);
  return result + ")";
}

size_t item_size(const std::string& type) {
  static const std::map<std::string, size_t> sizes = {
      {"F64", 8}, {"I64", 8}, {"U64", 8},  {"F32", 4}, {"I32", 4}, {"U32", 4}, {"F16", 2},
      {"I16", 2}, {"U16", 2}, {"BF16", 2}, {"I8", 1},  {"U8", 1},  {"BOOL", 1}};
  const auto found = sizes.find(type);
  if (found == sizes.end()) throw FileError("holds an array of the unknown type " + type);
  return found->second;
}

template <class Stored, class T>
std::vector<T> copied(const char* bytes, size_t n_bytes) {
  std::vector<Stored> stored(n_bytes / sizeof(Stored));
  if (!stored.empty()) std::memcpy(stored.data(), bytes, n_bytes);  // wherever it is aligned
  return std::vector<T>(stored.begin(), stored.end());
}

// As zlib's: the reflected polynomial 0xedb88320 of IEEE 802.3, going on from `crc`.
uint32_t crc32(uint32_t crc, const std::string& bytes) {
  static const std::vector<uint32_t> of_byte = [] {
    std::vector<uint32_t> table(256);
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t value = byte;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0u);
      table[byte] = value;
    }
    return table;
  }();
  crc = ~crc;
  for (const char byte : bytes) crc = crc >> 8 ^ of_byte[(crc ^ uint8_t(byte)) & 0xff];
  return ~crc;
}

}  // namespace

Safetensors::Safetensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw FileError("cannot be opened");
  uint8_t prefix[8];
  if (!file.read(reinterpret_cast<char*>(prefix), sizeof prefix))
    throw FileError("not a model file of deepmd_lite: it has fewer than 8 bytes");
  uint64_t length = 0;
  for (int k = 7; k >= 0; --k) length = 256 * length + prefix[k];
  if (file.peek() != '{' || length > kLongestHeader)
    throw FileError("not a model file of deepmd_lite: expected a .dpl file");
  std::string header(size_t(length), '\0');
  if (!file.read(&header[0], std::streamsize(length))) throw FileError("ends within its header");
  data_.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  const Json contents = Json::parse(header);
  for (size_t k = 0; k < contents.keys().size(); ++k) {
    const std::string& name = contents.keys()[k];
    const Json& entry = contents.items()[k];
    if (name == "__metadata__")
      for (size_t m = 0; m < entry.keys().size(); ++m)
        metadata_[entry.keys()[m]] = entry.items()[m].string();
    else
      arrays_[name] = located(name, entry);
  }
}

Safetensors::Array Safetensors::located(const std::string& name, const Json& entry) const {
  Array array{entry["dtype"].string(), {}, 0, 0};
  uint64_t n = item_size(array.type);
  for (const Json& length : entry["shape"].items()) {
    array.shape.push_back(length.integer());
    if (array.shape.back() < 0 || (array.shape.back() > 0 && n > data_.size() / array.shape.back()))
      throw FileError("is truncated: the array '" + name + "' does not fit into it");
    n *= uint64_t(array.shape.back());
  }
  const std::vector<Json>& place = entry["data_offsets"].items();
  const bool two = place.size() == 2;
  const int64_t begin = two ? place[0].integer() : -1, end = two ? place[1].integer() : -1;
  if (begin < 0 || end < begin || uint64_t(end - begin) != n)
    throw FileError("its header is not valid: the place of the array '" + name + "'");
  if (uint64_t(end) > data_.size())
    throw FileError("is truncated: the array '" + name + "' does not fit into it");
  array.begin = size_t(begin);
  array.n_bytes = size_t(n);
  return array;
}

const std::string& Safetensors::header() const {
  const auto found = metadata_.find("deepmd_lite");
  if (found == metadata_.end())
    throw FileError("a safetensors file, but not a model of deepmd_lite");
  const std::string& text = found->second;
  const std::string seal = "{\"crc32\": \"", unset = "00000000";  // older files have no checksum
  if (text.compare(0, seal.size(), seal) == 0) {
    const std::string said = text.substr(seal.size(), unset.size());
    uint32_t crc = crc32(0, seal + unset + text.substr(seal.size() + said.size()));
    crc = crc32(crc, data_);
    char words[9];
    std::snprintf(words, sizeof words, "%08x", unsigned(crc));
    if (said != words)
      throw FileError("is damaged: the checksum of its contents is " + std::string(words) +
                      ", it was " + said + "; copy the file again from where it was written");
  }
  return text;
}

const Safetensors::Array& Safetensors::array(const std::string& name) const {
  const auto found = arrays_.find(name);
  if (found == arrays_.end()) throw FileError("the array '" + name + "' is missing");
  return found->second;
}

const Shape& Safetensors::shape(const std::string& name) const { return array(name).shape; }

const Safetensors::Array& Safetensors::array(const std::string& name, const Shape& expected) const {
  const Array& found = array(name);
  bool same = found.shape.size() == expected.size();
  for (size_t k = 0; same && k < expected.size(); ++k)
    same = expected[k] == -1 || expected[k] == found.shape[k];
  if (!same)
    throw FileError("the array '" + name + "' has shape " + words(found.shape) + ", expected " +
                    words(expected));
  return found;
}

std::vector<double> Safetensors::doubles(const std::string& name, const Shape& expected) const {
  const Array& found = array(name, expected);
  if (found.type != "F64" && found.type != "F32")
    throw FileError("the array '" + name + "' is of type " + found.type + ", expected F64 or F32");
  const char* bytes = data_.data() + found.begin;
  const std::vector<double> values = found.type == "F64"
                                         ? copied<double, double>(bytes, found.n_bytes)
                                         : copied<float, double>(bytes, found.n_bytes);
  for (const double value : values)
    if (!std::isfinite(value))
      throw FileError("the array '" + name + "' holds values that are not finite");
  return values;
}

std::vector<int32_t> Safetensors::integers(const std::string& name, const Shape& expected) const {
  const Array& found = array(name, expected);
  if (found.type != "I32")
    throw FileError("the array '" + name + "' is of type " + found.type + ", expected I32");
  return copied<int32_t, int32_t>(data_.data() + found.begin, found.n_bytes);
}

}  // namespace dpl
