#include "convert/eval/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <string_view>

#include "convert/error.h"
#include "engine/text/utf8.h"

namespace t2r::convert {
namespace {

using Lines = std::vector<std::string>;

constexpr int kBleuOrders = 4;
constexpr int kChrFOrders = 6;

void CheckSizes(const Lines& hypotheses, const Lines& references) {
  if (hypotheses.size() != references.size()) {
    throw ConvertError("there are " + std::to_string(hypotheses.size()) + " translations and " +
                       std::to_string(references.size()) + " references: line i belongs to line i");
  }
  if (references.empty()) throw ConvertError("there is nothing to compare");
}

std::vector<uint32_t> CodePoints(const std::string& text) {
  if (const size_t bad = FindInvalidUtf8(text); bad != std::string::npos) {
    throw ConvertError("invalid UTF-8 at byte " + std::to_string(bad) + " of \"" +
                       text.substr(0, std::min<size_t>(bad, 24)) + "...\"");
  }
  std::vector<uint32_t> points;
  for (size_t at = 0; at < text.size();) points.push_back(NextCodePoint(text, &at));
  return points;
}

bool IsSpace(uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

std::vector<uint32_t> VisibleCharacters(const std::string& text) {
  std::vector<uint32_t> points = CodePoints(text);
  std::erase_if(points, IsSpace);
  return points;
}

template <typename T>
std::map<std::vector<T>, int64_t> Ngrams(const std::vector<T>& items, int order) {
  std::map<std::vector<T>, int64_t> counts;
  for (size_t i = 0; i + order <= items.size(); ++i) {
    ++counts[std::vector<T>(items.begin() + static_cast<std::ptrdiff_t>(i),
                            items.begin() + static_cast<std::ptrdiff_t>(i) + order)];
  }
  return counts;
}

template <typename T>
int64_t Matches(const std::map<std::vector<T>, int64_t>& a,
                const std::map<std::vector<T>, int64_t>& b) {
  int64_t matches = 0;
  for (const auto& [ngram, count] : a) {
    if (const auto it = b.find(ngram); it != b.end()) matches += std::min(count, it->second);
  }
  return matches;
}

int64_t NgramCount(size_t items, int order) {
  return std::max<int64_t>(0, static_cast<int64_t>(items) - order + 1);
}

// Levenshtein 1966.
template <typename T>
int64_t EditDistance(const std::vector<T>& a, const std::vector<T>& b) {
  std::vector<int64_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int64_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

template <typename Split>
double ErrorRate(const Lines& hypotheses, const Lines& references, const Split& split) {
  CheckSizes(hypotheses, references);
  int64_t edits = 0, length = 0;
  for (size_t i = 0; i < references.size(); ++i) {
    const auto reference = split(references[i]);
    edits += EditDistance(split(hypotheses[i]), reference);
    length += static_cast<int64_t>(reference.size());
  }
  if (length == 0) throw ConvertError("the references are empty");
  return static_cast<double>(edits) / static_cast<double>(length);
}

void ReplaceAll(std::string_view from, std::string_view to, std::string* text) {
  for (size_t at = text->find(from); at != std::string::npos;
       at = text->find(from, at + to.size())) {
    text->replace(at, from.size(), to);
  }
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsPoint(char c) { return c == '.' || c == ','; }

// ASCII signs that are always tokens of their own: all but letters, digits, ' , - . and controls.
bool IsSign(char c) {
  return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
         (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

// A pass of the tokenizer: where `applies` to two neighbouring bytes, both are written by `write`
// and passed over.
template <typename Applies, typename Write>
std::string Pass(const std::string& text, const Applies& applies, const Write& write) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (i + 1 < text.size() && applies(text[i], text[i + 1])) {
      write(text[i], text[i + 1], &out);
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::vector<std::string> BleuWords(const std::string& text, BleuTokens tokens) {
  if (tokens == BleuTokens::k13a) return Tokenize13a(text);
  std::vector<std::string> characters;
  for (const uint32_t point : VisibleCharacters(text)) {
    AppendCodePoint(point, &characters.emplace_back());
  }
  return characters;
}

}  // namespace

std::vector<std::string> SplitWords(const std::string& text) {
  std::vector<std::string> words;
  bool inside = false;
  for (const uint32_t point : CodePoints(text)) {
    if (IsSpace(point)) {
      inside = false;
      continue;
    }
    if (!inside) words.emplace_back();
    inside = true;
    AppendCodePoint(point, &words.back());
  }
  return words;
}

std::vector<std::string> Tokenize13a(const std::string& text) {
  std::string line = text;
  ReplaceAll("<skipped>", "", &line);
  ReplaceAll("-\n", "", &line);
  ReplaceAll("\n", " ", &line);
  ReplaceAll("&quot;", "\"", &line);
  ReplaceAll("&amp;", "&", &line);
  ReplaceAll("&lt;", "<", &line);
  ReplaceAll("&gt;", ">", &line);
  std::string spaced = " ";
  for (const char c : line + " ") {
    if (IsSign(c)) {
      spaced += ' ';
      spaced += c;
      spaced += ' ';
    } else {
      spaced += c;
    }
  }
  // Points and commas, unless between digits; dashes after digits.
  spaced = Pass(
      spaced, [](char a, char b) { return !IsDigit(a) && IsPoint(b); },
      [](char a, char b, std::string* out) {
        *out += {a, ' ', b, ' '};
      });
  spaced = Pass(
      spaced, [](char a, char b) { return IsPoint(a) && !IsDigit(b); },
      [](char a, char b, std::string* out) {
        *out += {' ', a, ' ', b};
      });
  spaced = Pass(
      spaced, [](char a, char b) { return IsDigit(a) && b == '-'; },
      [](char a, char b, std::string* out) {
        *out += {a, ' ', b, ' '};
      });
  return SplitWords(spaced);
}

double Bleu(const Lines& hypotheses, const Lines& references, BleuTokens tokens) {
  CheckSizes(hypotheses, references);
  std::array<int64_t, kBleuOrders> matches{}, totals{};
  int64_t length = 0, reference_length = 0;
  for (size_t i = 0; i < references.size(); ++i) {
    const auto hypothesis = BleuWords(hypotheses[i], tokens);
    const auto reference = BleuWords(references[i], tokens);
    length += static_cast<int64_t>(hypothesis.size());
    reference_length += static_cast<int64_t>(reference.size());
    for (int order = 1; order <= kBleuOrders; ++order) {
      totals[order - 1] += NgramCount(hypothesis.size(), order);
      matches[order - 1] += Matches(Ngrams(hypothesis, order), Ngrams(reference, order));
    }
  }
  // An order without any n-gram makes the geometric mean zero.
  if (matches[0] == 0 || totals[kBleuOrders - 1] == 0) return 0;
  double logs = 0, smoothing = 1;
  for (int i = 0; i < kBleuOrders; ++i) {
    if (matches[i] == 0) smoothing *= 2;
    const double precision = matches[i] == 0
                                 ? 1 / (smoothing * static_cast<double>(totals[i]))
                                 : static_cast<double>(matches[i]) / static_cast<double>(totals[i]);
    logs += std::log(precision);
  }
  const double brevity =
      length < reference_length
          ? std::exp(1 - static_cast<double>(reference_length) / static_cast<double>(length))
          : 1;
  return 100 * brevity * std::exp(logs / kBleuOrders);
}

double ChrF(const Lines& hypotheses, const Lines& references) {
  CheckSizes(hypotheses, references);
  std::array<int64_t, kChrFOrders> matches{}, given{}, wanted{};
  for (size_t i = 0; i < references.size(); ++i) {
    const auto hypothesis = VisibleCharacters(hypotheses[i]);
    const auto reference = VisibleCharacters(references[i]);
    for (int order = 1; order <= kChrFOrders; ++order) {
      const int64_t count = NgramCount(reference.size(), order);
      wanted[order - 1] += count;
      // A line that has no such n-gram in its reference says nothing of precision.
      if (count > 0) given[order - 1] += NgramCount(hypothesis.size(), order);
      matches[order - 1] += Matches(Ngrams(hypothesis, order), Ngrams(reference, order));
    }
  }
  double precision = 0, recall = 0;
  int orders = 0;
  for (int i = 0; i < kChrFOrders; ++i) {
    if (given[i] == 0 || wanted[i] == 0) continue;
    precision += static_cast<double>(matches[i]) / static_cast<double>(given[i]);
    recall += static_cast<double>(matches[i]) / static_cast<double>(wanted[i]);
    ++orders;
  }
  if (orders == 0 || precision + recall == 0) return 0;
  precision /= orders;
  recall /= orders;
  return 100 * 5 * precision * recall / (4 * precision + recall);
}

double CharacterErrorRate(const Lines& hypotheses, const Lines& references) {
  return ErrorRate(hypotheses, references, CodePoints);
}

double WordErrorRate(const Lines& hypotheses, const Lines& references) {
  return ErrorRate(hypotheses, references, SplitWords);
}

std::string DescribeMetrics(const Lines& hypotheses, const Lines& references) {
  char text[200];
  std::snprintf(text, sizeof(text),
                "BLEU %.2f, characters' BLEU %.2f, chrF %.2f, CER %.4f, WER %.4f over %lld lines",
                Bleu(hypotheses, references, BleuTokens::k13a),
                Bleu(hypotheses, references, BleuTokens::kCharacters), ChrF(hypotheses, references),
                CharacterErrorRate(hypotheses, references), WordErrorRate(hypotheses, references),
                static_cast<long long>(references.size()));
  return text;
}

}  // namespace t2r::convert
