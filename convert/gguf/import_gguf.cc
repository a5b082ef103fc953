#include "convert/gguf/import_gguf.h"

#include <map>
#include <memory>

#include "convert/data/files.h"
#include "convert/data/staged_directory.h"
#include "convert/error.h"
#include "convert/gguf/gguf_file.h"
#include "convert/gguf/model_plan.h"
#include "convert/gguf/tokenizer_plan.h"
#include "convert/gguf/write_tensors.h"
#include "convert/status.h"
#include "engine/io/mapped_file.h"

namespace t2r::convert {
namespace {

GgufImportSummary Summarize(const ModelPlan& plan, const TokenizerPlan& tokenizer) {
  GgufImportSummary summary;
  summary.architecture = plan.architecture;
  summary.tokenizer = tokenizer.kind;
  summary.tensors = static_cast<int64_t>(plan.tensors.size());
  std::map<std::string, int64_t> types;
  for (const PlannedTensor& tensor : plan.tensors) {
    int64_t parameters = 1;
    for (const int64_t size : tensor.shape) parameters *= size;
    summary.parameters += parameters;
    ++types[tensor.source->type->name];
  }
  for (const auto& [name, count] : types) {
    summary.types += (summary.types.empty() ? "" : ", ") + std::to_string(count) + " " + name;
  }
  return summary;
}

}  // namespace

GgufImportSummary ImportGgufFile(const GgufImportOptions& options,
                                 const std::function<void(double, const std::string&)>& progress) {
  CheckOutputDirectory(options.directory);
  const std::unique_ptr<MappedFile> mapped = Unwrap(MappedFile::Open(options.file));
  try {
    const GgufFile file = GgufFile::Parse(mapped->bytes());
    const ModelPlan plan = PlanModel(file, options.dtype);
    const TokenizerPlan tokenizer = PlanTokenizer(file, options.pre_tokenizer, plan.vocabulary);
    StagedDirectory staged(options.directory);
    const std::string path = staged.path() + "/";
    WriteFileAtomically(path + "config.json", plan.config_json);
    WriteFileAtomically(path + "generation_config.json", plan.generation_config_json);
    if (!tokenizer.tokenizer_json.empty()) {
      WriteFileAtomically(path + "tokenizer.json", tokenizer.tokenizer_json);
      WriteFileAtomically(path + "tokenizer_config.json", tokenizer.tokenizer_config_json);
    }
    WritePlannedTensors(path + "model.safetensors", plan, options.dtype, progress);
    staged.Commit();
    return Summarize(plan, tokenizer);
  } catch (const ConvertError& error) {
    throw ConvertError(options.file + ": " + error.what());
  }
}

}  // namespace t2r::convert
