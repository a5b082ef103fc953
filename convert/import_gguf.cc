#include "convert/gguf/import_gguf.h"

#include <chrono>
#include <cstdio>

#include "convert/commands.h"
#include "convert/error.h"
#include "convert/progress.h"

namespace t2r::convert {
namespace {

DType DTypeNamed(const std::string& name) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    if (name == NameOf(dtype)) return dtype;
  }
  throw ConvertError("--dtype is '" + name + "'; it must be float32, bfloat16 or float16");
}

}  // namespace

void ImportGguf(const ImportGgufFlags& flags) {
  const GgufImportOptions options = {flags.file, flags.directory, DTypeNamed(flags.dtype),
                                     flags.pre_tokenizer};
  Progress progress(stdout, 1);
  const auto start = std::chrono::steady_clock::now();
  const auto show = [&](double share, const std::string& tensor) {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    progress.Show(share, tensor, share > 0 ? spent.count() * (1 - share) / share : 0);
  };
  const GgufImportSummary summary = ImportGgufFile(options, show);
  char parameters[32];
  std::snprintf(parameters, sizeof(parameters), "%.1f M",
                1e-6 * static_cast<double>(summary.parameters));
  progress.Line(summary.architecture + ", " + parameters + " parameters in " +
                std::to_string(summary.tensors) + " tensors (" + summary.types + ") as " +
                flags.dtype + "; tokenizer " + summary.tokenizer);
  progress.Line("written: " + flags.directory);
}

}  // namespace t2r::convert
