#include "engine/text/oniguruma.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "engine/io/status_macros.h"
#include "engine/text/regex.h"

namespace t2r {
namespace {

constexpr int kMaxNesting = 32;

// One code point of any kind, line ends included.
constexpr char kAny[] = "(?s:.)";

// Classes as Oniguruma defines them: what stands between PCRE2's [ and ], or after its [^.
struct Class {
  std::string content;
  bool negated = false;
};
constexpr char kSpace[] = "\\t-\\r \\x{85}\\p{Z}";
constexpr char kWordOfPosix[] = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
// \w and \p{Word} take the superscripts and fractions of Latin-1 besides, but not inside a class.
constexpr char kWord[] = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";
constexpr char kHex[] = "0-9a-fA-F";

const std::map<std::string, Class, std::less<>>& PosixClasses() {
  static const auto* const classes = new std::map<std::string, Class, std::less<>>{
      {"alpha", {"\\p{Alphabetic}"}},
      {"digit", {"\\p{Nd}"}},
      {"alnum", {"\\p{Alphabetic}\\p{Nd}"}},
      {"upper", {"\\p{Uppercase}"}},
      {"lower", {"\\p{Lowercase}"}},
      {"space", {kSpace}},
      {"punct", {"\\p{P}\\p{S}"}},
      {"cntrl", {"\\p{Cc}"}},
      {"graph", {absl::StrCat("\\p{Cn}\\p{Cc}", kSpace), true}},
      {"print", {"\\p{Cn}\\p{Cc}\\x{2028}\\x{2029}", true}},
      {"xdigit", {kHex}},
      {"blank", {"\\t\\p{Zs}"}},
      {"word", {kWordOfPosix}},
      {"ascii", {"\\x{0}-\\x{7F}"}},
  };
  return *classes;
}

absl::Status Refuse(absl::string_view what) {
  return absl::UnimplementedError(
      absl::StrCat("the regular expression uses ", what, ", which is not supported"));
}

// \p{name}; PCRE2 takes a script's name for its extensions, Oniguruma for the script itself.
Class Property(const std::string& name, bool in_class) {
  std::string plain;
  for (const char c : name) {
    if (c != '_' && c != '-' && c != ' ') plain += static_cast<char>(std::tolower(c));
  }
  if (plain == "punct") return {"\\p{P}"};
  if (plain == "word") return {in_class ? kWordOfPosix : kWord};
  if (const auto found = PosixClasses().find(plain); found != PosixClasses().end()) {
    return found->second;
  }
  const std::string script = absl::StrCat("\\p{sc:", name, "}");
  if (Regex::CompilePcre(script).ok()) return {script};
  return {absl::StrCat("\\p{", name, "}")};
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\' && at_ + 1 < pattern_.size()) {
        T2R_RETURN_IF_ERROR(Escape());
      } else if (c == '[') {
        T2R_ASSIGN_OR_RETURN(const std::string set, SetAt(0));
        out_ += set;
      } else if (c == '{') {
        T2R_RETURN_IF_ERROR(Interval());
      } else if (Starts("(*")) {
        return Refuse("a verb, (*");
      } else if (Starts("(?")) {
        T2R_RETURN_IF_ERROR(Group());
      } else {
        out_ += c;
        ++at_;
      }
    }
    return std::move(out_);
  }

 private:
  bool Starts(std::string_view what) const { return pattern_.substr(at_).starts_with(what); }

  // What an escape stands for that is a class; nullopt: no class. Moves past it.
  absl::StatusOr<std::optional<Class>> ClassEscape(bool in_class) {
    const char c = pattern_[at_ + 1];
    const std::map<char, const char*> letters = {
        {'s', kSpace}, {'w', in_class ? kWordOfPosix : kWord}, {'d', "\\p{Nd}"}, {'h', kHex}};
    const auto found = letters.find(static_cast<char>(std::tolower(c)));
    if (found != letters.end()) {
      at_ += 2;
      return std::optional<Class>({found->second, std::isupper(c) != 0});
    }
    if ((c != 'p' && c != 'P') || at_ + 2 >= pattern_.size() || pattern_[at_ + 2] != '{') {
      return std::optional<Class>();
    }
    const size_t close = pattern_.find('}', at_);
    if (close == std::string_view::npos) return Refuse("{ without }");
    std::string name(pattern_.substr(at_ + 3, close - at_ - 3));
    const bool caret = name.starts_with('^');
    if (caret) name.erase(0, 1);
    Class result = Property(name, in_class);
    result.negated = result.negated != ((c == 'P') != caret);
    at_ = close + 1;
    return std::optional<Class>(std::move(result));
  }

  // An escape that is one character or, outside a class, an assertion.
  absl::StatusOr<std::string> OtherEscape() {
    const char c = pattern_[at_ + 1];
    at_ += 2;
    if (c == 'v') return std::string("\\x{B}");
    if (c == 'u') {
      const std::string_view digits = pattern_.substr(at_, 4);
      if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) {
        return Refuse("\\u without four digits");
      }
      at_ += 4;
      return absl::StrCat("\\x{", absl::string_view(digits.data(), 4), "}");
    }
    if (c == 'x') {
      const size_t close = Starts("{") ? pattern_.find('}', at_) : std::string_view::npos;
      if (close != std::string_view::npos) {
        const std::string text =
            absl::StrCat("\\x", std::string(pattern_.substr(at_, close + 1 - at_)));
        at_ = close + 1;
        return text;
      }
      const bool byte = at_ + 1 < pattern_.size() && std::isxdigit(pattern_[at_ + 1]) != 0;
      if (byte && pattern_[at_] > '7') return Refuse("\\x with a byte that is no ASCII");
      return std::string("\\x");
    }
    if (std::strchr("RXKGCMQEgkcNOyY", c) != nullptr) {
      return Refuse(absl::StrCat("\\", std::string(1, c)));
    }
    return absl::StrCat("\\", std::string(1, c));
  }

  absl::Status Escape() {
    T2R_ASSIGN_OR_RETURN(const std::optional<Class> named, ClassEscape(false));
    if (named.has_value()) {
      absl::StrAppend(&out_, named->negated ? "[^" : "[", named->content, "]");
      return absl::OkStatus();
    }
    if (Starts("\\b") || Starts("\\B")) {
      const std::string word = absl::StrCat("[", kWord, "]");
      const bool edge = Starts("\\b");
      absl::StrAppend(&out_, "(?:(?<=", word, ")(?", edge ? "!" : "=", word, ")|(?<!", word, ")(?",
                      edge ? "=" : "!", word, "))");
      at_ += 2;
      return absl::OkStatus();
    }
    T2R_ASSIGN_OR_RETURN(const std::string text, OtherEscape());
    out_ += text;
    return absl::OkStatus();
  }

  // {n,m}, or a { that is none.
  absl::Status Interval() {
    const size_t close = pattern_.find('}', at_);
    const std::string inside(
        close == std::string_view::npos ? "" : pattern_.substr(at_ + 1, close - at_ - 1));
    if (inside.empty() || inside == "," ||
        inside.find_first_not_of("0123456789,") != std::string::npos) {
      out_ += '{';
      ++at_;
      return absl::OkStatus();
    }
    at_ = close + 1;
    if (Starts("+")) return Refuse("{n,m}+");
    if (Starts("?") && inside.find(',') == std::string::npos) return Refuse("{n}?");
    absl::StrAppend(&out_, "{", inside.starts_with(',') ? "0" : "", inside, "}");
    return absl::OkStatus();
  }

  // "(?" and what belongs to it: Ruby's m is PCRE2's s, and an option without a group goes for
  // whole alternatives.
  absl::Status Group() {
    const size_t begin = at_ + 2;
    const size_t end = std::min(pattern_.find_first_not_of("imxsaudn-", begin), pattern_.size());
    const bool group = end < pattern_.size() && pattern_[end] == ':';
    const bool alone = end < pattern_.size() && pattern_[end] == ')';
    out_ += "(?";
    if (end == begin || (!group && !alone)) {
      at_ = begin;
      return absl::OkStatus();
    }
    if (alone && at_ > 0) return Refuse("an option inside the pattern that is no group's");
    for (const char c : pattern_.substr(begin, end - begin)) {
      if (std::strchr("saudn", c) != nullptr) {
        return Refuse(absl::StrCat("the option ", std::string(1, c)));
      }
      out_ += c == 'm' ? 's' : c;
    }
    at_ = end;
    return absl::OkStatus();
  }

  // The members between two && of a class: a simple class, and what PCRE2's classes cannot hold,
  // each an expression for one code point.
  struct Members {
    std::string simple;
    std::vector<std::string> others;

    std::string Expression() const {
      std::vector<std::string> all = others;
      if (!simple.empty() || others.empty())
        all.insert(all.begin(), absl::StrCat("[", simple, "]"));
      return all.size() == 1 ? all[0] : absl::StrCat("(?:", absl::StrJoin(all, "|"), ")");
    }
  };

  void AddClass(const Class& added, Members* members) {
    if (added.negated) {
      members->others.push_back(absl::StrCat("[^", added.content, "]"));
    } else {
      members->simple += added.content;
    }
  }

  absl::Status AddMember(int nesting, Members* members) {
    const char c = pattern_[at_];
    if (Starts("[:")) {
      const size_t close = pattern_.find(":]", at_);
      if (close != std::string_view::npos) {
        std::string_view name = pattern_.substr(at_ + 2, close - at_ - 2);
        const bool negated = name.starts_with('^');
        if (negated) name.remove_prefix(1);
        const auto found = PosixClasses().find(name);
        if (found != PosixClasses().end()) {
          Class posix = found->second;
          posix.negated = posix.negated != negated;
          AddClass(posix, members);
          at_ = close + 2;
          return absl::OkStatus();
        }
      }
    }
    if (c == '[') {
      std::string simple;
      T2R_ASSIGN_OR_RETURN(const std::string set, SetAt(nesting + 1, &simple));
      if (simple.empty()) {
        members->others.push_back(set);
      } else {
        members->simple += simple;
      }
      return absl::OkStatus();
    }
    if (c == '\\' && at_ + 1 < pattern_.size()) {
      T2R_ASSIGN_OR_RETURN(const std::optional<Class> named, ClassEscape(true));
      if (named.has_value()) {
        AddClass(*named, members);
        return absl::OkStatus();
      }
      T2R_ASSIGN_OR_RETURN(const std::string text, OtherEscape());
      members->simple += text;
      return absl::OkStatus();
    }
    members->simple += c;
    ++at_;
    return absl::OkStatus();
  }

  // The class at at_, moved past. `simple`: receives the content if [content] is the class.
  absl::StatusOr<std::string> SetAt(int nesting, std::string* simple = nullptr) {
    if (nesting > kMaxNesting) return Refuse("classes nested more than 32 deep");
    ++at_;
    const bool negated = Starts("^");
    if (negated) ++at_;
    std::vector<Members> operands(1);
    if (Starts("]")) {  // right here it is a member
      operands.back().simple = "\\]";
      ++at_;
    }
    while (at_ < pattern_.size() && pattern_[at_] != ']') {
      if (Starts("&&")) {
        operands.emplace_back();
        at_ += 2;
        continue;
      }
      T2R_RETURN_IF_ERROR(AddMember(nesting, &operands.back()));
    }
    if (at_ == pattern_.size()) {
      return absl::InvalidArgumentError("the regular expression has a [ without ]");
    }
    ++at_;
    if (operands.size() == 1 && operands[0].others.empty()) {
      const std::string& content = operands[0].simple;
      if (!negated && simple != nullptr) *simple = content;
      return absl::StrCat(negated ? "[^" : "[", content, "]");
    }
    std::string all;
    for (size_t i = 0; i + 1 < operands.size(); ++i) {
      if (operands[i].simple.empty() && operands[i].others.empty()) return Refuse("an empty class");
      absl::StrAppend(&all, "(?=", operands[i].Expression(), ")");
    }
    if (operands.back().simple.empty() && operands.back().others.empty()) {
      return Refuse("an empty class");
    }
    all += operands.back().Expression();
    return negated ? absl::StrCat("(?:(?!", all, ")", kAny, ")") : absl::StrCat("(?:", all, ")");
  }

  std::string_view pattern_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> FromOniguruma(std::string_view pattern) {
  return Translator(pattern).Run();
}

}  // namespace t2r
