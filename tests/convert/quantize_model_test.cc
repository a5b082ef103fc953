// Model directories in 8 and 4 bits: written, read back, and refused where they are damaged.
#include "convert/quantize/quantize_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>

#include "convert/error.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/model/weight_loader.h"
#include "engine/ops/cpu/packed_matrix.h"
#include "engine/ops/quantize.h"
#include "tests/engine/model/engine_fixture.h"

namespace t2r::convert {
namespace {

using t2r::testing::ConfigOf;
using t2r::testing::ModelSpec;
using t2r::testing::RandomWeights;
using t2r::testing::SomeIds;
using t2r::testing::TemporaryDirectory;
using t2r::testing::WriteWeights;
using ::testing::AllOf;
using ::testing::HasSubstr;

void Ignore(double /*share*/, const std::string& /*tensor*/) {}

absl::StatusOr<std::unique_ptr<Engine>> Load(const std::string& directory,
                                             const std::string& weights = "auto") {
  EngineOptions options;
  options.backend = "cpu";
  options.threads = 1;
  options.dtype = weights;
  return LoadEngine(directory, options);
}

std::vector<float> Scores(Executor& executor, int vocab) {
  const std::vector<int32_t> ids = SomeIds(40, vocab);
  ScheduledChunk chunk;
  chunk.slot = executor.Open({static_cast<int64_t>(ids.size())}, SamplingParams());
  chunk.tokens = std::span(ids).first(ids.size() - 1);
  chunk.targets = std::span(ids).subspan(1);
  std::vector<ChunkResult> results;
  executor.Step({&chunk, 1}, &results);
  executor.Close(chunk.slot);
  return results.at(0).scores;
}

ModelSpec Variant(int which) {
  ModelSpec spec;
  spec.gpt2 = which == 1;  // transposed matrices
  spec.phi3 = which == 2;
  spec.neox = which == 3;  // rows in another order than the engine's
  if (spec.neox) spec.groups = spec.heads;
  if (spec.neox || spec.gpt2) spec.head_dim = spec.hidden / spec.heads, spec.groups = spec.heads;
  spec.tied = which == 1;
  return spec;
}

class QuantizeModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_.Write("config.json", ConfigOf(spec_));
    WriteWeights(model_, RandomWeights(spec_, 3));
  }
  std::string Out() const { return out_.path() + "/quantised"; }

  ModelSpec spec_;
  TemporaryDirectory model_, out_;
};

TEST_F(QuantizeModelTest, GivesWhatQuantisingAtLoadGives) {
  for (int which = 0; which < 4; ++which) {
    const ModelSpec spec = Variant(which);
    const TemporaryDirectory model;
    model.Write("config.json", ConfigOf(spec));
    model.Write("tokenizer.json", "{}");
    WriteWeights(model, RandomWeights(spec, 3));
    for (const DType dtype : {DType::kInt8, DType::kInt4}) {
      SCOPED_TRACE(::testing::Message() << "variant " << which << ", " << NameOf(dtype));
      const QuantizeSummary summary = QuantizeModel(model.path(), Out(), {dtype}, Ignore);
      EXPECT_GT(summary.matrices, 0);
      EXPECT_LT(summary.bytes_after, summary.bytes_before / 3);
      EXPECT_TRUE(std::filesystem::exists(Out() + "/tokenizer.json"));
      const auto stored = Load(Out());
      ASSERT_TRUE(stored.ok()) << stored.status();
      const auto at_load = Load(model.path(), NameOf(dtype));
      ASSERT_TRUE(at_load.ok()) << at_load.status();
      EXPECT_EQ((*stored)->weight_dtype, NameOf(dtype));
      EXPECT_THAT((*stored)->warnings, ::testing::IsEmpty());
      EXPECT_EQ(Scores(*(*stored)->executor, spec.vocab),
                Scores(*(*at_load)->executor, spec.vocab));
    }
  }
}

TEST_F(QuantizeModelTest, FilesOfOneTypeAreNotLoadedAsAnother) {
  QuantizeModel(model_.path(), Out(), {DType::kInt8}, Ignore);
  for (const char* other : {"float32", "bfloat16", "int4"}) {
    const auto engine = Load(Out(), other);
    EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(engine.status().message()),
                AllOf(HasSubstr(".codes"), HasSubstr("int8"), HasSubstr(other)));
  }
}

TEST_F(QuantizeModelTest, RefusesWhatItCannotQuantise) {
  EXPECT_THROW(QuantizeModel(model_.path() + "/none", Out(), {DType::kInt8}, Ignore), ConvertError);
  QuantizeModel(model_.path(), Out(), {DType::kInt8}, Ignore);
  try {
    QuantizeModel(Out(), out_.path() + "/again", {DType::kInt4}, Ignore);
    FAIL() << "quantised twice";
  } catch (const ConvertError& error) {
    EXPECT_THAT(error.what(), HasSubstr("it is quantised"));
  }
  EXPECT_FALSE(std::filesystem::exists(out_.path() + "/again"));
}

// Two directories of a model, in 8 and in 4 bits, and some of the matrices of the first in place of
// the second's.
class MixedModelTest : public QuantizeModelTest {
 protected:
  void SetUp() override {
    QuantizeModelTest::SetUp();
    QuantizeModel(model_.path(), out_.path() + "/8", {DType::kInt8}, Ignore);
    QuantizeModel(model_.path(), out_.path() + "/4", {DType::kInt4}, Ignore);
    eight_ = *SafetensorsDirectory::Open(out_.path() + "/8");
    four_ = *SafetensorsDirectory::Open(out_.path() + "/4");
    mixed_.Write("config.json", ConfigOf(spec_));
  }
  void WriteMixed(const std::vector<std::string>& eight) {
    auto tensors = four_->tensors();
    for (const std::string& name : eight) {
      for (const std::string& part : {name + ".weight.codes", name + ".weight.scales"}) {
        tensors[part] = *eight_->Find(part);
      }
    }
    ASSERT_TRUE(WriteSafetensors(mixed_.path() + "/model.safetensors", tensors).ok());
  }

  std::unique_ptr<SafetensorsDirectory> eight_, four_;
  TemporaryDirectory mixed_;
};

// With "auto", or as int4, and what a matrix holds is what its codes stand for, to the bit.
TEST_F(MixedModelTest, EachMatrixIsLoadedAsItIsStored) {
  const std::string down = "model.layers.1.mlp.down_proj";
  const std::string attention = "model.layers.0.self_attn.";
  WriteMixed({attention + "q_proj", attention + "k_proj", attention + "v_proj", down});
  const auto narrow = Load(out_.path() + "/4");
  ASSERT_TRUE(narrow.ok()) << narrow.status();
  for (const char* weights : {"auto", "int4"}) {
    const auto mixed = Load(mixed_.path(), weights);
    ASSERT_TRUE(mixed.ok()) << mixed.status();
    EXPECT_EQ((*mixed)->weight_dtype, "int4");
    EXPECT_THAT((*mixed)->warnings, ::testing::IsEmpty());
    EXPECT_GT((*mixed)->memory.weight_bytes, (*narrow)->memory.weight_bytes);
    // No session goes on under the other's weights.
    EXPECT_NE((*mixed)->exactness_class, (*narrow)->exactness_class);
    EXPECT_NE(Scores(*(*mixed)->executor, spec_.vocab), Scores(*(*narrow)->executor, spec_.vocab));
  }

  const auto files = *SafetensorsDirectory::Open(mixed_.path());
  const ModelConfig config = *LoadModelConfig(mixed_.path());
  const auto backend = MakeBackend({"cpu", 1});
  WeightLoader loader(config, *files, *backend, DType::kInt4);
  for (const auto& [name, dtype] : {std::pair{down, DType::kInt8},
                                    {"model.layers.0.mlp.down_proj", DType::kInt4},
                                    {attention + "k_proj", DType::kInt8}}) {
    SCOPED_TRACE(name);
    const HostMatrix stored = loader.HostRows(name + ".weight");
    const std::unique_ptr<Matrix> loaded = loader.Load({&stored, 1});
    ASSERT_EQ(loaded->dtype(), dtype);
    std::vector<float> got(static_cast<size_t>(stored.cols));
    std::vector<float> want(got);
    for (int64_t n = 0; n < stored.rows; ++n) {
      static_cast<const LookupTable&>(*loaded).ReadRow(n, got.data());
      ReadStoredRow(stored, n, want.data());
      ASSERT_EQ(got, want);
    }
  }
}

TEST_F(MixedModelTest, PartsOfOneMatrixHaveOneType) {
  WriteMixed({"model.layers.1.mlp.up_proj"});
  const auto mixed = Load(mixed_.path());
  EXPECT_EQ(mixed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(mixed.status().message()),
              AllOf(HasSubstr("model.layers.1.mlp.up_proj.weight.codes is quantised as int8"),
                    HasSubstr("model.layers.1.mlp.gate_proj.weight.codes as int4")));
}

// Every tensor of a quantised matrix, missing, of another shape, of another type or not finite.
TEST_F(QuantizeModelTest, DamagedFilesAreRefusedByName) {
  QuantizeModel(model_.path(), Out(), {DType::kInt4}, Ignore);
  const auto files = SafetensorsDirectory::Open(Out());
  ASSERT_TRUE(files.ok());
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const std::string codes = name + ".codes";
  const std::string scales = name + ".scales";
  const auto refused = [&](const std::map<std::string, HostTensor, std::less<>>& tensors,
                           const std::string& what) {
    const TemporaryDirectory damaged;
    damaged.Write("config.json", ConfigOf(spec_));
    ASSERT_TRUE(WriteSafetensors(damaged.path() + "/model.safetensors", tensors).ok());
    const auto engine = Load(damaged.path());
    EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument) << what;
    EXPECT_THAT(std::string(engine.status().message()), HasSubstr(name)) << what;
  };
  for (const std::string& which : {codes, scales}) {
    auto tensors = (*files)->tensors();
    tensors.erase(which);
    refused(tensors, which + " missing");
    for (size_t d = 0; d < (*files)->Find(which)->shape.size(); ++d) {
      tensors = (*files)->tensors();
      tensors[which].shape[d] -= 1;
      refused(tensors, which + " shorter");
    }
    tensors = (*files)->tensors();
    tensors[which].dtype = DType::kFloat16;
    if (which == codes) tensors[which].shape[1] /= 2;
    refused(tensors, which + " of another type");
  }
  auto tensors = (*files)->tensors();
  std::vector<uint16_t> infinite(static_cast<size_t>(tensors[scales].elements()), 0x7f80);
  tensors[scales].data = infinite.data();
  refused(tensors, "infinite scales");
  // Bytes where no codes belong.
  tensors = (*files)->tensors();
  tensors["model.norm.weight"].dtype = DType::kInt8;
  const TemporaryDirectory damaged;
  damaged.Write("config.json", ConfigOf(spec_));
  ASSERT_TRUE(WriteSafetensors(damaged.path() + "/model.safetensors", tensors).ok());
  EXPECT_THAT(std::string(Load(damaged.path()).status().message()),
              AllOf(HasSubstr("model.norm.weight"), HasSubstr("I8")));
}

}  // namespace
}  // namespace t2r::convert
