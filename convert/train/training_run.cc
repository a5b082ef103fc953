#include "convert/train/training_run.h"

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "convert/error.h"
#include "convert/model/model_dir.h"
#include "convert/train/loss.h"
#include "convert/train/trainer.h"

namespace t2r::convert {
namespace {

namespace fs = std::filesystem;

std::string Counts(const char* name, const Corpus& corpus) {
  std::string text = std::string(name) + ": " + std::to_string(corpus.tokens) + " tokens in " +
                     std::to_string(corpus.documents.size()) +
                     (corpus.pairs() ? " pairs" : " documents");
  if (corpus.pairs() && corpus.skipped > 0) {
    text += " (" + std::to_string(corpus.skipped) + " empty or too long left out)";
  }
  return text;
}

// What must be equal for a checkpoint to be resumed.
std::string Fingerprint(const TrainingRun& run, const Corpus& train) {
  const TrainOptions& options = run.training;
  nlohmann::json json = {{"config", run.config_json},
                         {"caller", run.fingerprint},
                         {"steps", options.steps},
                         {"tokens", options.tokens},
                         {"minutes", options.minutes},
                         {"learning_rate", options.learning_rate},
                         {"new_learning_rate", options.new_learning_rate},
                         {"schedule", options.schedule},
                         {"warmup", options.warmup_share},
                         {"weight_decay", options.weight_decay},
                         {"clip", options.clip_norm},
                         {"distill", options.distill},
                         {"distill_temperature", options.distill_temperature},
                         {"label_smoothing", options.label_smoothing},
                         {"transfer", options.transfer_share},
                         {"transfer_rate", options.transfer_rate},
                         {"window", options.window},
                         {"batch", options.batch_tokens},
                         {"seed", options.seed},
                         {"threads", options.threads},
                         {"train_tokens", train.tokens},
                         {"train_documents", train.documents.size()}};
  if (options.devices > 1) json["devices"] = options.devices;
  return json.dump();
}

}  // namespace

std::string WorkDirectory(const std::string& out) {
  fs::path path(out);
  if (!path.has_filename()) path = path.parent_path();
  return path.string() + ".work";
}

FeatureMapKind ParseFeatureMap(const std::string& name) {
  constexpr const char* kNames[] = {"t2r", "elu", "rfa", "hedgehog", "codebook", "none"};
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (name == kNames[i]) return static_cast<FeatureMapKind>(i);
  }
  throw ConvertError("--feature-map must be t2r, elu, rfa, hedgehog, codebook or none, not '" +
                     name + "'");
}

void CheckDevices(const TrainOptions& options) {
  if (options.devices == 1 || options.batch_tokens >= options.window * options.devices) return;
  throw ConvertError("--batch must be at least --devices times --window, " +
                     std::to_string(options.window * options.devices) +
                     ": it counts positions, and a device without a window has nothing to do");
}

void CheckDtype(const std::string& dtype) {
  if (dtype != "float32" && dtype != "bfloat16") {
    throw ConvertError("--save-dtype must be float32 or bfloat16, not '" + dtype + "'");
  }
}

Corpora LoadCorpora(const DataFlags& flags, int64_t window, const ModelConfig& config,
                    const Tokenizer* tokenizer, Progress* progress) {
  Corpora corpora;
  corpora.valid_windows = WithDefaults(flags.valid_windows, config);
  CorpusOptions options = flags.corpus;
  options.documents = flags.valid_documents;
  if (config.encoder_decoder.has_value()) {
    corpora.train = LoadParallelCorpus(flags.train, flags.train_target, flags.corpus, window,
                                       config, tokenizer);
    corpora.valid =
        LoadParallelCorpus(flags.valid, flags.valid_target, options, window, config, tokenizer);
  } else {
    if (!flags.train_target.empty() || !flags.valid_target.empty()) {
      throw ConvertError("--train-target and --valid-target are for encoder-decoders only");
    }
    CorpusOptions train = flags.corpus;
    if (flags.train_written) {
      train.ids = true;
      train.separator = "--";
      train.bos = false;  // it begins as the parent wrote it
    }
    corpora.train = LoadCorpus(flags.train, train, config, tokenizer);
    corpora.valid = LoadCorpus(flags.valid, options, config, tokenizer);
  }
  progress->Line(Counts("train", corpora.train) + "; " + Counts("valid", corpora.valid));
  return corpora;
}

void TrainAndWrite(TrainingRun run, const Corpora& corpora, Progress* progress) {
  const std::string work = WorkDirectory(run.output.directory);
  fs::create_directories(work);
  run.training.checkpoint = work + "/checkpoint.pt";
  run.training.fingerprint = Fingerprint(run, corpora.train);
  Trainer trainer(run.group, run.model, run.teacher, corpora.train, run.training);
  const auto evaluate = [&](const std::string& caption) {
    const Evaluation result =
        Evaluate(*run.model, corpora.valid, run.training.threads, corpora.valid_windows, progress);
    progress->Line(caption + ": " + Describe(result));
    return result.nats_per_token();
  };
  const bool resumed = trainer.Resume();
  if (!run.group->first()) {
    trainer.Run(progress, nullptr);
    return;
  }
  if (resumed) {
    progress->Line("resumed at step " + std::to_string(trainer.state().step) + " from " +
                   run.training.checkpoint);
  } else {
    trainer.state().reference_nats = run.parent_nats;
    trainer.state().initial_nats = evaluate("before training");
  }
  trainer.Run(progress, [&](const std::string& caption) { evaluate(caption); });
  run.group->Leave();
  const double final_nats = evaluate("after training");
  WriteModelDirectory(run.output.directory, run.config_json, *run.model, run.output.dtype,
                      run.side_files);
  fs::remove_all(work);
  char line[256];
  const TrainState& state = trainer.state();
  std::snprintf(
      line, sizeof(line),
      "nats/token: parent %.5f, before training %.5f, after %.5f; %lld steps, %lld tokens, "
      "%.1f minutes, %.0f tokens/s, %.0f a processor second",
      state.reference_nats, state.initial_nats, final_nats, static_cast<long long>(state.step),
      static_cast<long long>(state.tokens), state.seconds / 60.0,
      static_cast<double>(state.tokens) / state.seconds, trainer.TokensPerProcessorSecond());
  progress->Line(line);
  progress->Line("wrote " + run.output.directory);
}

}  // namespace t2r::convert
