#include <filesystem>
#include <memory>
#include <string>

#include "convert/commands.h"
#include "convert/data/files.h"
#include "convert/data/staged_directory.h"
#include "convert/data/tokenizer_training.h"
#include "convert/devices/device_group.h"
#include "convert/error.h"
#include "convert/model/init.h"
#include "convert/pretrain_config.h"
#include "convert/status.h"
#include "convert/train/training_run.h"
#include "engine/engine.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r::convert {
namespace {

namespace fs = std::filesystem;

// Trains a tokenizer into the run's working files; the directory.
std::string TrainedTokenizer(const PretrainFlags& flags, Progress* progress) {
  if (!flags.tokenizer.empty()) throw ConvertError("give --tokenizer or --train-tokenizer");
  if (flags.architecture == "marian") {
    throw ConvertError(
        "--train-tokenizer makes one tokenizer of one text; an encoder-decoder takes its pair from "
        "--tokenizer DIR, or ids with --ids");
  }
  const std::string directory = WorkDirectory(flags.output.directory) + "/tokenizer";
  const std::string path = directory + "/tokenizer.model";
  if (!fs::exists(path)) {
    fs::create_directories(directory);
    progress->Line("training a tokenizer of " + std::to_string(flags.train_tokenizer) + " pieces");
    WriteFileAtomically(path, TrainTokenizer(SplitDocuments(ReadFile(flags.data.train),
                                                            flags.data.corpus.separator),
                                             flags.train_tokenizer));
  }
  return directory;
}

}  // namespace

void Pretrain(const PretrainFlags& flags) {
  CheckDtype(flags.output.dtype);
  CheckDevices(flags.training);
  CheckOutputDirectory(flags.output.directory);
  DeviceGroup group(flags.device, flags.training.devices,
                    WorkDirectory(flags.output.directory) + "/devices");
  Progress progress(stderr, flags.training.log_every);
  const std::string side_files = group.OfFirst([&] {
    return flags.train_tokenizer > 0 ? TrainedTokenizer(flags, &progress) : flags.tokenizer;
  });
  std::unique_ptr<Tokenizer> tokenizer;
  if (!side_files.empty()) tokenizer = Unwrap(LoadTokenizer(side_files));
  const auto size = [&](int flag, int tokenizers) {
    return flag > 0 ? flag : (tokenizer ? tokenizers : 0);
  };
  const int vocab_size = size(flags.vocab_size, tokenizer ? tokenizer->vocab_size() : 0);
  const int source_vocab_size =
      size(flags.source_vocab_size, tokenizer ? tokenizer->source_vocab_size() : 0);
  if (vocab_size < 1) {
    throw ConvertError("give --train-tokenizer, --tokenizer, or --vocab-size with --ids");
  }
  if (flags.architecture == "marian" && source_vocab_size < 1) {
    throw ConvertError("give --tokenizer, or --source-vocab-size with --ids");
  }
  PretrainFlags read = flags;
  if (tokenizer && tokenizer->eos_id().has_value()) read.eos_token = *tokenizer->eos_id();
  const std::string config_json =
      PretrainConfigJson(read, vocab_size, source_vocab_size, tokenizer != nullptr);
  const ModelConfig config = Unwrap(ParseModelConfig(config_json, ""));
  const Corpora corpora =
      LoadCorpora(flags.data, flags.training.window, config, tokenizer.get(), &progress);
  TrainingModel model(config, group.device());
  InitializeFromScratch(&model, flags.training.seed);
  progress.Line(std::to_string(model.parameters().count()) + " parameters");
  TrainingRun run;
  run.group = &group;
  run.model = &model;
  run.training = flags.training;
  run.output = flags.output;
  run.config_json = config_json;
  run.side_files = side_files;
  TrainAndWrite(std::move(run), corpora, &progress);
}

}  // namespace t2r::convert
