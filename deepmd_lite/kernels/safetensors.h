// Arrays and metadata of a safetensors container.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "json.h"

namespace dpl {

using Shape = std::vector<int64_t>;

class Safetensors {
 public:
  // Reads the whole file. Throws FileError for one that is missing, truncated or not of the format.
  explicit Safetensors(const std::string& path);

  // The metadata of a model, JSON. Throws FileError where there is none, or where its checksum says
  // that it or the arrays have changed.
  const std::string& header() const;
  bool has(const std::string& name) const { return arrays_.count(name) > 0; }
  const Shape& shape(const std::string& name) const;
  // Numbers of an array of this shape (-1: any length). Throw FileError for one that is missing, of
  // another shape or type, or not finite. Of float64 or float32:
  std::vector<double> doubles(const std::string& name, const Shape& expected) const;
  std::vector<int32_t> integers(const std::string& name, const Shape& expected) const;

 private:
  struct Array {
    std::string type;
    Shape shape;
    size_t begin, n_bytes;  // of data_
  };
  const Array& array(const std::string& name) const;
  const Array& array(const std::string& name, const Shape& expected) const;
  Array located(const std::string& name, const Json& entry) const;

  std::string data_;  // what follows the header
  std::map<std::string, Array> arrays_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace dpl
