#include "json.h"

#include <cmath>
#include <limits>
#include <locale>
#include <sstream>
#include <unordered_set>

namespace dpl {

constexpr int kDeepest = 64;
constexpr size_t kMostValues = 1'000'000;  // of a damaged file: a value takes a hundred bytes
constexpr double kLargestInteger = 9007199254740992;  // 2^53

class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : text_(text) {}

  Json document() {
    Json value = read(0);
    skip_space();
    if (at_ != text_.size()) fail("something follows the end");
    return value;
  }

 private:
  using Kind = Json::Kind;

  [[noreturn]] void fail(const std::string& what) const {
    throw FileError("its header is not JSON: " + what + " at byte " + std::to_string(at_));
  }

  bool next_is_in(const std::string& set) const {
    return at_ < text_.size() && set.find(text_[at_]) != std::string::npos;
  }

  void skip_space() {
    while (next_is_in(" \t\r\n")) ++at_;
  }

  bool take(const std::string& word) {
    if (text_.compare(at_, word.size(), word) != 0) return false;
    at_ += word.size();
    return true;
  }

  Json read(int depth) {
    if (depth > kDeepest) fail("nested too deeply");
    if (++n_values_ > kMostValues) fail("too many values");
    skip_space();
    Json value;
    if (take("{")) {
      value.kind_ = Kind::object;
      read_object(value, depth);
    } else if (take("[")) {
      value.kind_ = Kind::list;
      read_list(value, depth);
    } else if (take("\"")) {
      value.kind_ = Kind::string;
      value.string_ = rest_of_string();
    } else if (take("true")) {
      value.kind_ = Kind::boolean;
      value.number_ = 1;
    } else if (take("false")) {
      value.kind_ = Kind::boolean;
    } else if (!take("null")) {
      value.kind_ = Kind::number;
      value.number_ = number();
    }
    return value;
  }

  void read_object(Json& value, int depth) {
    std::unordered_set<std::string> names;
    for (bool first = true;; first = false) {
      skip_space();
      if (take("}")) return;
      if (!first && !take(",")) fail("expected , or }");
      skip_space();
      if (!take("\"")) fail("expected a name");
      std::string key = rest_of_string();
      if (!names.insert(key).second) fail("the name '" + key + "' a second time");
      skip_space();
      if (!take(":")) fail("expected :");
      value.items_.push_back(read(depth + 1));
      value.keys_.push_back(std::move(key));
    }
  }

  void read_list(Json& value, int depth) {
    for (bool first = true;; first = false) {
      skip_space();
      if (take("]")) return;
      if (!first && !take(",")) fail("expected , or ]");
      value.items_.push_back(read(depth + 1));
    }
  }

  double number() {
    if (take("NaN")) return std::numeric_limits<double>::quiet_NaN();
    const size_t start = at_;
    const bool negative = take("-");
    if (take("Infinity")) return (negative ? -1 : 1) * std::numeric_limits<double>::infinity();
    while (next_is_in("0123456789+-.eE")) ++at_;
    std::istringstream digits(text_.substr(start, at_ - start));
    digits.imbue(std::locale::classic());  // strtod would ask the program's locale for the point
    double value = 0;
    if (!(digits >> value) || digits.peek() != std::istringstream::traits_type::eof())
      fail("expected a value");
    return value;
  }

  std::string rest_of_string() {
    std::string result;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (uint8_t(text_[at_]) < 0x20) fail("a control character in a string");
      if (text_[at_] == '\\') {
        ++at_;
        result += escaped();
      } else {
        result += text_[at_++];
      }
    }
    if (!take("\"")) fail("a string without end");
    return result;
  }

  std::string escaped() {
    const std::string names = "\"\\/bfnrt", values = "\"\\/\b\f\n\r\t";
    if (at_ >= text_.size()) fail("a string without end");
    const size_t which = names.find(text_[at_]);
    if (which != std::string::npos) return ++at_, std::string(1, values[which]);
    if (!take("u")) fail("an unknown escape");
    uint32_t code = hexadecimal();
    if (code >= 0xD800 && code < 0xDC00 && take("\\u")) {
      const uint32_t low = hexadecimal();
      if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    return utf8(code);
  }

  uint32_t hexadecimal() {
    uint32_t code = 0;
    for (int k = 0; k < 4; ++k, ++at_) {
      const std::string digits = "0123456789abcdef";
      const char c = at_ < text_.size() ? text_[at_] : ' ';
      const size_t digit = digits.find(c >= 'A' && c <= 'F' ? char(c - 'A' + 'a') : c);
      if (digit == std::string::npos) fail("expected four hexadecimal digits");
      code = 16 * code + uint32_t(digit);
    }
    return code;
  }

  static std::string utf8(uint32_t code) {
    if (code < 0x80) return std::string(1, char(code));
    const uint32_t first[] = {0xC0, 0xE0, 0xF0};
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    std::string result(1, char(first[more - 1] | code >> 6 * more));
    while (more-- > 0) result += char(0x80 | (code >> 6 * more & 0x3F));
    return result;
  }

  const std::string& text_;
  size_t at_ = 0, n_values_ = 0;
};

Json Json::parse(const std::string& text) { return JsonReader(text).document(); }

void Json::expect(Kind kind) const {
  static const char* const names[] = {"null",   "true or false", "a number",
                                      "a text", "a list",        "an object"};
  if (kind_ != kind)
    throw FileError(std::string("its header is not valid: expected ") + names[int(kind)] +
                    ", found " + names[int(kind_)]);
}

bool Json::boolean() const { return expect(Kind::boolean), number_ != 0; }

double Json::number() const { return expect(Kind::number), number_; }

int64_t Json::integer() const {
  const double value = number();
  if (!(std::fabs(value) <= kLargestInteger) || value != std::floor(value))
    throw FileError("its header is not valid: expected a whole number, found " +
                    std::to_string(value));
  return int64_t(value);
}

const std::string& Json::string() const { return expect(Kind::string), string_; }

const std::vector<Json>& Json::items() const {
  if (kind_ != Kind::object) expect(Kind::list);
  return items_;
}

const std::vector<std::string>& Json::keys() const { return expect(Kind::object), keys_; }

const Json* Json::find(const std::string& key) const {
  expect(Kind::object);
  for (size_t k = 0; k < keys_.size(); ++k)
    if (keys_[k] == key) return &items_[k];
  return nullptr;
}

const Json& Json::operator[](const std::string& key) const {
  const Json* found = find(key);
  if (found == nullptr) throw FileError("its header is not valid: '" + key + "' is missing");
  return *found;
}

}  // namespace dpl
