// Feeds a fuzz target (fuzz_*.cc) seeds and seeded mutations of them: what a fuzzer does, in about
// a second and always the same. With clang, the same targets link with -fsanitize=fuzzer.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
std::vector<std::string> FuzzSeeds();

namespace {

void RunOne(const std::string& input) {
  EXPECT_EQ(LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size()),
            0);
}

std::string Mutate(std::string text, const std::vector<std::string>& seeds, std::mt19937& random) {
  for (size_t n = 1 + random() % 4; n > 0; --n) {
    const size_t at = text.empty() ? 0 : random() % text.size();
    switch (random() % 7) {
      case 0:
        if (!text.empty()) text[at] = static_cast<char>(random());
        break;
      case 1:
        if (!text.empty()) text[at] = static_cast<char>(text[at] ^ (1 << random() % 8));
        break;
      case 2:
        text.insert(at, 1, "\xFF\x80{}[]\"0"[random() % 8]);
        break;
      case 3:
        text.erase(at, 1 + random() % 8);
        break;
      case 4:
        text.resize(at);
        break;
      case 5:
        text.insert(at, text.substr(text.empty() ? 0 : random() % text.size(), random() % 32));
        break;
      default: {
        const std::string& other = seeds[random() % seeds.size()];
        if (!other.empty()) text.insert(at, other.substr(random() % other.size(), 16));
        break;
      }
    }
  }
  return text;
}

TEST(Mutations, NeverCrash) {
  const std::vector<std::string> seeds = FuzzSeeds();
  ASSERT_FALSE(seeds.empty());
  std::mt19937 random(7);
  for (const std::string& seed : seeds) RunOne(seed);
  for (int i = 0; i < 10000; ++i) RunOne(Mutate(seeds[random() % seeds.size()], seeds, random));
}

}  // namespace
