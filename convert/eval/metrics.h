// How good translations are: BLEU, chrF, character and word error rates of a whole corpus.
//
// Texts are valid UTF-8; characters are code points, and words what white space (Unicode's)
// separates. Hypothesis i has the one reference i. Throws ConvertError where there are not as many
// of one as of the other, or none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace t2r::convert {

enum class BleuTokens : uint8_t {
  k13a,         // sacreBLEU's default, the tokenisation of mteval-v13a
  kCharacters,  // sacreBLEU's "char"
};

// Papineni et al. 2002 over n-grams of 1 to 4 tokens, as sacreBLEU takes it over a corpus: an order
// without a match counts 1 / (2^i · its n-grams), i counting such orders ("exp" smoothing). 0 to
// 100.
double Bleu(const std::vector<std::string>& hypotheses, const std::vector<std::string>& references,
            BleuTokens tokens);

// Popović 2015, chrF2: n-grams of 1 to 6 characters, white space left out, recall counted twice.
// 0 to 100.
double ChrF(const std::vector<std::string>& hypotheses, const std::vector<std::string>& references);

// Insertions, deletions and substitutions that turn hypotheses into references, over the
// references' length in characters or words: 0 is perfect, and it may exceed 1.
double CharacterErrorRate(const std::vector<std::string>& hypotheses,
                          const std::vector<std::string>& references);
double WordErrorRate(const std::vector<std::string>& hypotheses,
                     const std::vector<std::string>& references);

// "BLEU 12.34, characters' BLEU 56.78, chrF 45.67, CER 0.2259, WER 0.7792 over 1590 lines".
std::string DescribeMetrics(const std::vector<std::string>& hypotheses,
                            const std::vector<std::string>& references);

// The tokens that BLEU counts.
std::vector<std::string> Tokenize13a(const std::string& text);

// Words, as above.
std::vector<std::string> SplitWords(const std::string& text);

}  // namespace t2r::convert
