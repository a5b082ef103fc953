// Which numbers a loader refuses.
#include "engine/model/weight_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "testing/reference_model.h"

namespace t2r {
namespace {

using ::testing::HasSubstr;

class OneTensor : public WeightSource {
 public:
  explicit OneTensor(const HostTensor& tensor) : tensor_(tensor) {}
  const HostTensor* Find(std::string_view name) const override {
    return name == "model.embed_tokens.weight" ? &tensor_ : nullptr;
  }

 private:
  HostTensor tensor_;
};

// Patterns of a type, little endian.
struct Case {
  DType dtype;
  std::vector<uint32_t> finite;
  std::vector<uint32_t> refused;
};

TEST(WeightLoaderTest, NamesTheFirstElementThatIsNotFinite) {
  const std::vector<Case> cases = {
      {DType::kFloat32,
       {0x7f7fffff, 0xff7fffff, 1},
       {0x7f800000, 0xff800000, 0x7fc00000, 0xff800001}},
      {DType::kBFloat16, {0x7f7f, 0xff7f, 1}, {0x7f80, 0xff80, 0x7fc0, 0xff81}},
      {DType::kFloat16, {0x7bff, 0xfbff, 1}, {0x7c00, 0xfc00, 0x7e00, 0xfc01}}};
  testing::ModelSpec spec;
  spec.vocab = 200;
  const ModelConfig config = *ParseModelConfig(testing::ConfigOf(spec), "");
  const auto backend = MakeBackend({"cpu", 1});
  for (const Case& c : cases) {
    const size_t size = SizeOf(c.dtype);
    const auto count = static_cast<size_t>(spec.vocab * spec.hidden);
    std::vector<std::byte> bytes(count * size);
    const auto put = [&](size_t i, uint32_t bits) { std::memcpy(&bytes[i * size], &bits, size); };
    for (size_t i = 0; i < count; ++i) put(i, c.finite[i % c.finite.size()]);
    const OneTensor source({bytes.data(), c.dtype, {spec.vocab, spec.hidden}});
    const WeightLoader loader(config, source, *backend, DType::kFloat32);
    EXPECT_NO_THROW(loader.Get("model.embed_tokens.weight")) << NameOf(c.dtype);
    for (const uint32_t bits : c.refused) {
      for (const size_t at : {count - 1, size_t{4097}, size_t{0}}) {
        put(at, bits);
        try {
          loader.Get("model.embed_tokens.weight");
          ADD_FAILURE() << NameOf(c.dtype) << ' ' << std::hex << bits << " was taken";
        } catch (const ModelError& error) {
          EXPECT_THAT(error.what(), HasSubstr("its element " + std::to_string(at) + " "));
        }
      }
      for (const size_t at : {count - 1, size_t{4097}, size_t{0}}) put(at, c.finite[0]);
    }
  }
}

}  // namespace
}  // namespace t2r
