// Whole files: what is written is the model that the file was made from.
#include "convert/gguf/import_gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "convert/error.h"
#include "convert/gguf/tensor_type.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/engine.h"
#include "testing/model_directory.h"
#include "tests/convert/gguf/model_gguf.h"

namespace t2r::convert {
namespace {

using ::t2r::testing::GgufBytes;
using ::t2r::testing::GgufOf;
using ::t2r::testing::LittleEndianBytes;
using ::t2r::testing::ModelSpec;
using ::t2r::testing::NamedTensor;
using ::t2r::testing::RandomWeights;
using ::t2r::testing::Rounded;
using ::t2r::testing::TemporaryDirectory;
using ::t2r::testing::Tensors;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::ThrowsMessage;

class ImportGgufTest : public ::testing::Test {
 protected:
  GgufImportSummary Import(const std::string& bytes, DType dtype = DType::kFloat32) {
    directory_.Write("model.gguf", bytes);
    const GgufImportOptions options = {directory_.path() + "/model.gguf", out(), dtype, ""};
    return ImportGgufFile(options, [&](double share, const std::string& tensor) {
      shares_.push_back(share);
      EXPECT_FALSE(tensor.empty());
    });
  }
  std::string out() const { return directory_.path() + "/out"; }

  // The directory holds exactly these values.
  void ExpectTensors(const Tensors& weights, DType dtype) {
    const auto files = SafetensorsDirectory::Open(out());
    ASSERT_TRUE(files.ok()) << files.status();
    EXPECT_EQ((*files)->tensors().size(), weights.size());
    for (const auto& [name, tensor] : Rounded(weights, dtype)) {
      const HostTensor* written = (*files)->Find(name);
      ASSERT_NE(written, nullptr) << name;
      ASSERT_EQ(written->shape, tensor.shape) << name;
      ASSERT_EQ(written->dtype, dtype) << name;
      for (size_t i = 0; i < tensor.values.size(); ++i) {
        float value = 0;
        if (dtype == DType::kFloat32) {
          value = static_cast<const float*>(written->data)[i];
        } else {
          const uint16_t bits = static_cast<const uint16_t*>(written->data)[i];
          value = dtype == DType::kFloat16 ? Float16ToFloat(bits) : BFloat16ToFloat(bits);
        }
        ASSERT_EQ(value, tensor.values[i]) << name << " " << i;
      }
    }
  }

  TemporaryDirectory directory_;
  std::vector<double> shares_;
};

ModelSpec SmallSpec() {
  ModelSpec spec;
  spec.layers = 2;
  return spec;
}

TEST_F(ImportGgufTest, RestoresALlama) {
  ModelSpec spec = SmallSpec();
  spec.attention_bias = true;
  const Tensors weights = RandomWeights(spec, 3);
  const std::string bytes = GgufOf(spec, weights, "llama").Bytes();
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const GgufImportSummary summary = Import(bytes, dtype);
    ExpectTensors(weights, dtype);
    EXPECT_EQ(summary.architecture, "llama");
    EXPECT_EQ(summary.tokenizer, "none");
    EXPECT_EQ(summary.tensors, static_cast<int64_t>(weights.size()));
    EXPECT_THAT(summary.types, HasSubstr(" F32"));
    const auto config = LoadModelConfig(out());
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->file_dtype, dtype);
    EXPECT_EQ(config->heads, 4);
    EXPECT_TRUE(config->attention_out_bias);
  }
  // As many shares as tensors, three times, growing from 0.
  ASSERT_EQ(shares_.size(), 3 * weights.size());
  EXPECT_EQ(shares_[0], 0);
  EXPECT_TRUE(std::is_sorted(shares_.begin(), shares_.begin() + weights.size()));
  EXPECT_LT(shares_.back(), 1);
}

TEST_F(ImportGgufTest, LeavesTheRowsOfQwen2InTheirOrder) {
  ModelSpec spec = SmallSpec();
  spec.qwen2 = spec.tied = true;
  const Tensors weights = RandomWeights(spec, 4);
  Import(GgufOf(spec, weights, "qwen2").Bytes());
  ExpectTensors(weights, DType::kFloat32);
  const auto config = LoadModelConfig(out());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_TRUE(config->qkv_bias);
  EXPECT_FALSE(config->attention_out_bias);
}

// A q of Q8_0 whose blocks are moved with their rows, and an embedding of more than one piece.
TEST_F(ImportGgufTest, DequantisesMovedRowsAndLongTensors) {
  ModelSpec spec = SmallSpec();
  spec.vocab = 4099;  // times 32: two pieces and a little
  Tensors weights = RandomWeights(spec, 5);
  GgufBytes file = GgufOf(spec, weights, "llama");
  NamedTensor& q = weights["model.layers.0.self_attn.q_proj.weight"];
  for (size_t i = 0; i < q.values.size(); ++i) {
    q.values[i] = 0.25F * static_cast<float>(static_cast<int>(i * 37 % 256) - 128);
  }
  std::string blocks;
  const NamedTensor stored = ::t2r::testing::Interleaved(q, spec.heads);
  for (size_t i = 0; i < stored.values.size(); ++i) {
    if (i % 32 == 0) blocks += std::string("\0\x34", 2);  // 0.25 as a half
    blocks += static_cast<char>(static_cast<int>(stored.values[i] / 0.25F));
  }
  file.DropTensor("blk.0.attn_q.weight").Tensor("blk.0.attn_q.weight", q.shape, 8, blocks);
  const GgufImportSummary summary = Import(file.Bytes());
  ExpectTensors(weights, DType::kFloat32);
  EXPECT_THAT(summary.types, HasSubstr("1 Q8_0"));
}

TEST_F(ImportGgufTest, RefusesValuesThatDoNotFit) {
  const ModelSpec spec = SmallSpec();
  Tensors weights = RandomWeights(spec, 6);
  weights["model.norm.weight"].values[3] = 70000;
  const std::string large = GgufOf(spec, weights, "llama").Bytes();
  EXPECT_THAT([&] { Import(large, DType::kFloat16); },
              ThrowsMessage<ConvertError>(AllOf(StartsWith(directory_.path() + "/model.gguf: "),
                                                HasSubstr("tensor model.norm.weight holds 70000"),
                                                HasSubstr("float16 cannot hold"))));
  EXPECT_FALSE(std::filesystem::exists(out()));
  EXPECT_FALSE(std::filesystem::exists(out() + ".writing"));
  EXPECT_NO_THROW(Import(large, DType::kBFloat16));
  weights["model.norm.weight"].values[3] = NAN;
  EXPECT_THAT([&] { Import(GgufOf(spec, weights, "llama").Bytes()); },
              ThrowsMessage<ConvertError>(HasSubstr("holds nan")));
}

// What was there stays until the new directory is whole, and is replaced by it then.
TEST_F(ImportGgufTest, ReplacesADirectoryOnlyByAWholeOne) {
  const ModelSpec spec = SmallSpec();
  const Tensors first = RandomWeights(spec, 7);
  Import(GgufOf(spec, first, "llama").Bytes());
  Tensors second = RandomWeights(spec, 8);
  const std::string bytes = GgufOf(spec, second, "llama").Bytes();
  EXPECT_THROW(Import(bytes.substr(0, bytes.size() - 1)), ConvertError);
  ExpectTensors(first, DType::kFloat32);
  Import(bytes);
  ExpectTensors(second, DType::kFloat32);
  EXPECT_FALSE(std::filesystem::exists(out() + ".replaced"));
}

TEST_F(ImportGgufTest, LeavesOtherDirectoriesAlone) {
  std::filesystem::create_directory(out());
  directory_.Write("out/letter.txt", "dear");
  EXPECT_THAT([&] { Import(GgufBytes().Bytes()); },
              ThrowsMessage<ConvertError>(HasSubstr("is not a model directory")));
  EXPECT_EQ(directory_.Read("out/letter.txt"), "dear");
}

TEST_F(ImportGgufTest, NamesAFileThatIsNotThere) {
  const GgufImportOptions options = {directory_.path() + "/none.gguf", out(), DType::kFloat32, ""};
  EXPECT_THAT([&] { ImportGgufFile(options, [](double, const std::string&) {}); },
              ThrowsMessage<ConvertError>(HasSubstr("cannot open " + options.file)));
}

}  // namespace
}  // namespace t2r::convert
