// Reading JSON (RFC 8259), with the NaN and Infinity that Python writes.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dpl {

// What is wrong with a file, in words that may follow its name.
struct FileError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A value. Asking for what it is not throws FileError.
class Json {
 public:
  static Json parse(const std::string& text);

  bool is_null() const { return kind_ == Kind::null; }
  bool is_list() const { return kind_ == Kind::list; }
  bool boolean() const;
  double number() const;
  int64_t integer() const;
  const std::string& string() const;
  // Entries of a list, or values of an object in the order of the text.
  const std::vector<Json>& items() const;
  const std::vector<std::string>& keys() const;

  const Json& operator[](const std::string& key) const;  // of an object; throws without it
  const Json* find(const std::string& key) const;        // nullptr without it

 private:
  friend class JsonReader;
  enum class Kind { null, boolean, number, string, list, object };
  void expect(Kind kind) const;

  Kind kind_ = Kind::null;
  double number_ = 0;  // of a boolean 0 or 1
  std::string string_;
  std::vector<Json> items_;
  std::vector<std::string> keys_;
};

}  // namespace dpl
