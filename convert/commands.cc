#include "convert/commands.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "convert/device.h"
#include "convert/error.h"
#include "convert/files.h"
#include "convert/init.h"
#include "convert/model_dir.h"
#include "convert/progress.h"
#include "convert/status.h"
#include "convert/tokenizer_training.h"
#include "convert/trainer.h"
#include "engine/model/load.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r::convert {
namespace {

namespace fs = std::filesystem;

// The working files of a run: its checkpoint, and what a resume must find again.
std::string WorkDirectory(const std::string& out) {
  fs::path path(out);
  if (!path.has_filename()) path = path.parent_path();
  return path.string() + ".work";
}

FeatureMapKind ParseFeatureMap(const std::string& name) {
  if (name == "t2r") return FeatureMapKind::kT2r;
  if (name == "elu") return FeatureMapKind::kElu;
  if (name == "rfa") return FeatureMapKind::kRfa;
  if (name == "hedgehog") return FeatureMapKind::kHedgehog;
  throw ConvertError("--feature-map must be t2r, elu, rfa or hedgehog, not '" + name + "'");
}

void CheckDtype(const std::string& dtype) {
  if (dtype != "float32" && dtype != "bfloat16") {
    throw ConvertError("--save-dtype must be float32 or bfloat16, not '" + dtype + "'");
  }
}

struct Corpora {
  Corpus train, valid;
};

Corpora LoadCorpora(const DataFlags& flags, const ModelConfig& config, const Tokenizer* tokenizer,
                    Progress* progress) {
  Corpora corpora;
  corpora.train = LoadCorpus(flags.train, flags.corpus, config, tokenizer);
  CorpusOptions options = flags.corpus;
  options.documents = flags.valid_documents;
  const auto limit = config.position_limit();
  // A learned position for each id that is fed: all but the last.
  if (limit.has_value()) options.max_tokens_per_document = *limit + 1;
  corpora.valid = LoadCorpus(flags.valid, options, config, tokenizer);
  progress->Line("train: " + std::to_string(corpora.train.tokens) + " tokens in " +
                 std::to_string(corpora.train.documents.size()) +
                 " documents; valid: " + std::to_string(corpora.valid.tokens) + " tokens in " +
                 std::to_string(corpora.valid.documents.size()) + " documents");
  return corpora;
}

// What must be equal for a checkpoint to be resumed.
std::string Fingerprint(const std::string& config_json, const TrainOptions& options,
                        const Corpus& train) {
  nlohmann::json json = {{"config", config_json},
                         {"steps", options.steps},
                         {"tokens", options.tokens},
                         {"minutes", options.minutes},
                         {"learning_rate", options.learning_rate},
                         {"warmup", options.warmup_share},
                         {"weight_decay", options.weight_decay},
                         {"clip", options.clip_norm},
                         {"distill", options.distill},
                         {"transfer", options.transfer_share},
                         {"transfer_rate", options.transfer_rate},
                         {"window", options.window},
                         {"batch", options.batch_tokens},
                         {"seed", options.seed},
                         {"threads", options.threads},
                         {"train_tokens", train.tokens},
                         {"train_documents", train.documents.size()}};
  return json.dump();
}

void TrainAndWrite(TrainingModel* model, const TrainingModel* teacher, const Corpora& corpora,
                   TrainOptions training, const OutputFlags& output, const std::string& config_json,
                   const std::string& side_files, double parent_nats, Progress* progress) {
  const std::string work = WorkDirectory(output.directory);
  fs::create_directories(work);
  training.checkpoint = work + "/checkpoint.pt";
  training.fingerprint = Fingerprint(config_json, training, corpora.train);
  Trainer trainer(model, teacher, corpora.train, training);
  const auto evaluate = [&](const std::string& caption) {
    const Evaluation result = Evaluate(*model, corpora.valid);
    progress->Line(caption + ": " + Describe(result));
    return result.nats_per_token();
  };
  if (trainer.Resume()) {
    progress->Line("resumed at step " + std::to_string(trainer.state().step) + " from " +
                   training.checkpoint);
  } else {
    trainer.state().reference_nats = parent_nats;
    trainer.state().initial_nats = evaluate("before training");
  }
  trainer.Run(progress, [&](const std::string& caption) { evaluate(caption); });
  const double final_nats = evaluate("after training");
  WriteModelDirectory(output.directory, config_json, *model, output.dtype, side_files);
  fs::remove_all(work);
  char line[256];
  const TrainState& state = trainer.state();
  std::snprintf(
      line, sizeof(line),
      "nats/token: parent %.5f, before training %.5f, after %.5f; %lld steps, %lld tokens, "
      "%.1f minutes, %.0f tokens/s",
      state.reference_nats, state.initial_nats, final_nats, static_cast<long long>(state.step),
      static_cast<long long>(state.tokens), state.seconds / 60.0,
      static_cast<double>(state.tokens) / state.seconds);
  progress->Line(line);
  progress->Line("wrote " + output.directory);
}

std::string PretrainConfigJson(const PretrainFlags& flags, int vocab_size, bool has_tokenizer) {
  const int kv_heads = flags.kv_heads > 0 ? flags.kv_heads : flags.heads;
  nlohmann::ordered_json json;
  if (flags.heads < 1 || flags.hidden % flags.heads != 0) {
    throw ConvertError("--hidden must be a multiple of --heads");
  }
  if (flags.architecture == "llama") {
    json = {{"architectures", {"LlamaForCausalLM"}},
            {"model_type", "llama"},
            {"hidden_size", flags.hidden},
            {"intermediate_size", flags.intermediate},
            {"num_hidden_layers", flags.layers},
            {"num_attention_heads", flags.heads},
            {"num_key_value_heads", kv_heads},
            {"head_dim", flags.hidden / flags.heads},
            {"hidden_act", "silu"},
            {"rms_norm_eps", 1e-5},
            {"rope_theta", 10000.0},
            {"max_position_embeddings", flags.positions},
            {"attention_bias", false},
            {"mlp_bias", false}};
  } else if (flags.architecture == "gpt2") {
    if (kv_heads != flags.heads) throw ConvertError("gpt2 has no grouped heads: omit --kv-heads");
    json = {{"architectures", {"GPT2LMHeadModel"}},
            {"model_type", "gpt2"},
            {"n_embd", flags.hidden},
            {"n_inner", flags.intermediate},
            {"n_layer", flags.layers},
            {"n_head", flags.heads},
            {"n_positions", flags.positions},
            {"activation_function", "gelu_new"},
            {"layer_norm_epsilon", 1e-5}};
  } else {
    throw ConvertError("--architecture must be llama or gpt2, not '" + flags.architecture + "'");
  }
  json["vocab_size"] = vocab_size;
  json["tie_word_embeddings"] = !flags.untied;
  if (has_tokenizer) {
    json["bos_token_id"] = 1;
    json["eos_token_id"] = 2;
  }
  json["torch_dtype"] = flags.output.dtype;
  return json.dump(2) + "\n";
}

}  // namespace

void Eval(const EvalFlags& flags) {
  const torch::Device device = ParseDevice(flags.device);
  const ModelConfig config = Unwrap(LoadModelConfig(flags.model));
  const auto tokenizer = Unwrap(LoadTokenizer(flags.model));
  const auto limit = config.position_limit();
  const Corpus corpus = LoadCorpus(flags.text, flags.corpus, config, tokenizer.get());
  if (limit.has_value()) {
    for (const auto& document : corpus.documents) {
      if (static_cast<int64_t>(document.size()) > *limit + 1) {
        throw ConvertError("a document of " + std::to_string(document.size()) +
                           " tokens exceeds the model's " + std::to_string(*limit) +
                           " learned positions: give --max-tokens-per-document " +
                           std::to_string(*limit + 1) + " or less");
      }
    }
  }
  TrainingModel model(config, device);
  LoadParameters(flags.model, &model, /*allow_missing_maps=*/false);
  std::printf("%s\n", Describe(Evaluate(model, corpus)).c_str());
}

void Finetune(const FinetuneFlags& flags) {
  CheckDtype(flags.output.dtype);
  CheckOutputDirectory(flags.output.directory);
  const torch::Device device = ParseDevice(flags.device);
  Progress progress(stderr, flags.training.log_every);
  const ModelConfig parent_config = Unwrap(LoadModelConfig(flags.model));
  ModelConfig config = parent_config;
  if (!flags.feature_map.empty()) {
    config = SwappedConfig(parent_config, {ParseFeatureMap(flags.feature_map), flags.feature_size,
                                           ParseKeepFull(flags.keep_full, parent_config.layers)});
  }
  const auto tokenizer = Unwrap(LoadTokenizer(flags.model));
  const Corpora corpora = LoadCorpora(flags.data, config, tokenizer.get(), &progress);

  TrainingModel parent(parent_config, device);
  LoadParameters(flags.model, &parent, /*allow_missing_maps=*/false);
  TrainingModel model(config, device);
  LoadParameters(flags.model, &model, /*allow_missing_maps=*/true);
  if (!flags.feature_map.empty()) InitializeFeatureMaps(&model, flags.training.seed);

  const Evaluation before = Evaluate(parent, corpora.valid);
  progress.Line("parent: " + Describe(before));
  const std::string config_json =
      SwappedConfigJson(ReadFile(flags.model + "/config.json"), config, flags.output.dtype);
  TrainAndWrite(&model, flags.training.distill > 0 ? &parent : nullptr, corpora, flags.training,
                flags.output, config_json, flags.model, before.nats_per_token(), &progress);
}

void Pretrain(const PretrainFlags& flags) {
  CheckDtype(flags.output.dtype);
  CheckOutputDirectory(flags.output.directory);
  const torch::Device device = ParseDevice(flags.device);
  Progress progress(stderr, flags.training.log_every);
  std::string side_files = flags.tokenizer;
  if (flags.train_tokenizer > 0) {
    if (!flags.tokenizer.empty()) throw ConvertError("give --tokenizer or --train-tokenizer");
    side_files = WorkDirectory(flags.output.directory) + "/tokenizer";
    const std::string path = side_files + "/tokenizer.model";
    if (!fs::exists(path)) {
      fs::create_directories(side_files);
      progress.Line("training a tokenizer of " + std::to_string(flags.train_tokenizer) + " pieces");
      WriteFileAtomically(path, TrainTokenizer(SplitDocuments(ReadFile(flags.data.train),
                                                              flags.data.corpus.separator),
                                               flags.train_tokenizer));
    }
  }
  std::unique_ptr<Tokenizer> tokenizer;
  if (!side_files.empty()) tokenizer = Unwrap(LoadTokenizer(side_files));
  const int vocab_size =
      flags.vocab_size > 0 ? flags.vocab_size : (tokenizer ? tokenizer->vocab_size() : 0);
  if (vocab_size < 1) {
    throw ConvertError("give --train-tokenizer, --tokenizer, or --vocab-size with --ids");
  }
  const std::string config_json = PretrainConfigJson(flags, vocab_size, tokenizer != nullptr);
  const ModelConfig config = Unwrap(ParseModelConfig(config_json, ""));
  const Corpora corpora = LoadCorpora(flags.data, config, tokenizer.get(), &progress);
  TrainingModel model(config, device);
  InitializeFromScratch(&model, flags.training.seed);
  progress.Line(std::to_string(model.parameters().count()) + " parameters");
  TrainAndWrite(&model, nullptr, corpora, flags.training, flags.output, config_json, side_files, 0,
                &progress);
}

}  // namespace t2r::convert
