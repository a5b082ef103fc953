#include <cstdio>
#include <filesystem>
#include <numbers>
#include <string>

#include "convert/commands.h"
#include "convert/data/files.h"
#include "convert/data/self_text.h"
#include "convert/data/staged_directory.h"
#include "convert/devices/device_group.h"
#include "convert/error.h"
#include "convert/eval/keep_full.h"
#include "convert/model/init.h"
#include "convert/model/model_dir.h"
#include "convert/runtime.h"
#include "convert/status.h"
#include "convert/train/loss.h"
#include "convert/train/training_run.h"
#include "engine/engine.h"
#include "engine/tokenizer/tokenizer.h"

namespace t2r::convert {
namespace {

// The share of the budget that goes into attention transfer; `config` is the swapped model's.
double TransferShare(const FinetuneFlags& flags, const ModelConfig& config) {
  if (flags.stage == "finetune") return 0;
  if (flags.stage != "transfer" && flags.stage != "transfer,finetune") {
    throw ConvertError("--stage must be finetune, transfer or transfer,finetune, not '" +
                       flags.stage + "'");
  }
  if (!config.linear_attention.has_value()) {
    throw ConvertError(
        "--stage transfer trains feature maps, and the model has none: give "
        "--feature-map");
  }
  const FeatureMapKind map = config.linear_attention->feature_map;
  if (map == FeatureMapKind::kElu && config.linear_attention->window == 0) {
    throw ConvertError("--stage transfer trains feature maps, and elu has nothing to train");
  }
  if (map == FeatureMapKind::kNone) {
    throw ConvertError("--stage transfer trains feature maps, and a window alone has none");
  }
  if (flags.stage == "transfer") return 1;
  if (flags.transfer_share <= 0 || flags.transfer_share >= 1) {
    throw ConvertError("--transfer-share must lie between 0 and 1");
  }
  return flags.transfer_share;
}

// Layers named by hand, or chosen by what their swap costs.
std::vector<int> KeptLayers(const std::string& text, bool cross, const TrainingModel& parent,
                            const SwapOptions& swap, const Corpus& valid, uint64_t seed,
                            DeviceGroup* group, Progress* progress) {
  const char* flag = cross ? "--keep-full-cross" : "--keep-full";
  const KeepFull kept = ParseKeepFull(text, parent.config().layers, flag);
  if (kept.automatic == 0) return kept.layers;
  const std::string chosen = group->OfFirst([&] {
    const auto costs = MeasureSwapCosts(parent, swap, cross, valid, seed);
    for (const SwapCost& cost : costs) {
      char line[120];
      std::snprintf(line, sizeof(line), "swapping only %s: %+.5f nats/token",
                    Describe(cost.site).c_str(), cost.nats);
      progress->Line(line);
    }
    std::string layers;
    for (const int layer : CostliestLayers(costs, kept.automatic)) {
      layers += (layers.empty() ? "" : ",") + std::to_string(layer);
    }
    return layers;
  });
  return ParseKeepFull(chosen, parent.config().layers, flag).layers;
}

std::string LayersKept(const ModelConfig& config, bool cross) {
  std::string text;
  for (const AttentionSite& site : AttentionSites(config)) {
    if (site.cross == cross && !IsLinear(config, site)) {
      text += (text.empty() ? "" : ",") + std::to_string(site.layer);
    }
  }
  return text.empty() ? "none" : text;
}

ModelConfig Swapped(const FinetuneFlags& flags, const TrainingModel& parent, const Corpus& valid,
                    DeviceGroup* group, Progress* progress) {
  const ModelConfig& config = parent.config();
  SwapOptions swap{ParseFeatureMap(flags.feature_map), flags.feature_size, {}, {}};
  if (swap.feature_map == FeatureMapKind::kCodebook || swap.feature_map == FeatureMapKind::kNone) {
    throw ConvertError("--feature-map " + flags.feature_map +
                       " is calibrated: make the model by t2r-convert swap, and give the result "
                       "to finetune");
  }
  SwappedConfig(config, swap);  // refuses what cannot be before anything is measured
  if (!config.encoder_decoder.has_value() && !flags.keep_full_cross.empty()) {
    throw ConvertError("--keep-full-cross is given, but the model has no cross attention");
  }
  const uint64_t seed = flags.training.seed;
  const SwapOptions plain = swap;
  swap.keep_full = KeptLayers(flags.keep_full, false, parent, plain, valid, seed, group, progress);
  swap.keep_full_cross =
      KeptLayers(flags.keep_full_cross, true, parent, plain, valid, seed, group, progress);
  ModelConfig swapped = SwappedConfig(config, swap);
  std::string line = "layers that keep softmax: " + LayersKept(swapped, false);
  if (config.encoder_decoder.has_value()) {
    line += "; in cross attention: " + LayersKept(swapped, true);
  }
  progress->Line(line);
  return swapped;
}

// Throws ConvertError on flags that exclude each other, or that the parent cannot have.
void CheckFlags(const FinetuneFlags& flags, const ModelConfig& parent) {
  if (flags.feature_map.empty() && (!flags.keep_full.empty() || !flags.keep_full_cross.empty())) {
    throw ConvertError("--keep-full says which layers a swap leaves: give --feature-map too");
  }
  if (flags.half_life < 0) throw ConvertError("--decay must be at least 0");
  if (flags.half_life > 0 && flags.feature_map.empty() &&
      (!parent.linear_attention.has_value() ||
       parent.linear_attention->feature_map == FeatureMapKind::kNone)) {
    throw ConvertError(
        "--decay lets a recurrent state forget, and the model has none: make it by t2r-convert "
        "swap, or give --feature-map");
  }
  if (flags.trainable.lora_rank < 0) throw ConvertError("--lora-rank must be at least 0");
  if (flags.trainable.lora_rank > 0 && flags.random_weights) {
    throw ConvertError("--lora-rank updates pretrained weights: it excludes --random-weights");
  }
  if (flags.trainable.freeze_encoder && !parent.encoder_decoder.has_value()) {
    throw ConvertError("--freeze-encoder is given, but the model has no encoder");
  }
}

TrainOnly ParseTrainOnly(const std::string& name) {
  if (name == "all") return TrainOnly::kAll;
  if (name == "attention") return TrainOnly::kAttention;
  if (name == "new") return TrainOnly::kNew;
  throw ConvertError("--train-only must be all, attention or new, not '" + name + "'");
}

torch::Dtype ParseProducts(const std::string& name, const ModelConfig& config,
                           torch::Device device) {
  if (name == "float32") return torch::kFloat32;
  if (name == "bfloat16") return torch::kBFloat16;
  if (name != "auto") {
    throw ConvertError("--products must be auto, float32 or bfloat16, not '" + name + "'");
  }
  return FastProducts(config.hidden_size, device);
}

// The first weights of the model that is trained.
void Initialize(const FinetuneFlags& flags, TrainingModel* model) {
  if (flags.random_weights) {
    InitializeFromScratch(model, flags.training.seed);
    return;
  }
  LoadParameters(flags.model, model, /*allow_missing_maps=*/!flags.feature_map.empty());
  if (!flags.feature_map.empty()) InitializeFeatureMaps(model, flags.training.seed);
  InitializeLora(model, flags.training.seed);
  if (flags.half_life == 0) return;
  const torch::NoGradGuard no_grad;
  for (const auto& spec : model->parameters().specs()) {
    torch::Tensor value = model->parameters().Get(spec.name).detach();
    // One that the model brings along goes on from where it is.
    if (IsLogDecay(spec) && !spec.frozen && !value.any().item<bool>()) {
      value.fill_(-std::numbers::ln2 / flags.half_life);
    }
  }
}

// Lets `parent` write `tokens` tokens into `file`, unless it is there from a run that was stopped.
void WriteTrainingText(const FinetuneFlags& flags, const std::string& parent, int64_t tokens,
                       const std::string& file, Progress* progress) {
  if (std::filesystem::exists(file)) return;
  SelfTextOptions options;
  options.tokens = tokens;
  options.length = flags.training.window + 1;
  options.seed = flags.training.seed;
  options.threads = flags.training.threads;
  std::string text;
  for (const auto& ids : WriteSelfText(parent, options, progress)) {
    for (const int32_t id : ids) text += std::to_string(id) + " ";
    text += "\n--\n";
  }
  std::filesystem::create_directories(WorkDirectory(flags.output.directory));
  WriteFileAtomically(file, text);
}

// Where --train is self:N, the text that `parent` writes, in the run's working files; else as it
// is.
DataFlags TrainingData(const FinetuneFlags& flags, const std::string& parent, DeviceGroup* group,
                       Progress* progress) {
  DataFlags data = flags.data;
  const int64_t tokens = ParseSelfText(data.train);
  if (tokens == 0) return data;
  data.train = WorkDirectory(flags.output.directory) + "/self.ids";
  data.train_written = true;
  group->OfFirst([&] {
    WriteTrainingText(flags, parent, tokens, data.train, progress);
    return data.train;
  });
  return data;
}

}  // namespace

void Finetune(const FinetuneFlags& flags) {
  CheckDtype(flags.output.dtype);
  CheckDevices(flags.training);
  CheckOutputDirectory(flags.output.directory);
  Progress progress(stderr, flags.training.log_every);
  const ModelConfig parent_config = Unwrap(LoadModelConfig(flags.model));
  CheckFlags(flags, parent_config);
  DeviceGroup group(flags.device, flags.training.devices,
                    WorkDirectory(flags.output.directory) + "/devices");
  const torch::Device device = group.device();
  const std::string teacher = flags.parent.empty() ? flags.model : flags.parent;
  const auto tokenizer = Unwrap(LoadTokenizer(flags.model));
  const Corpora corpora =
      LoadCorpora(TrainingData(flags, teacher, &group, &progress), flags.training.window,
                  parent_config, tokenizer.get(), &progress);

  const ModelConfig teacher_config = Unwrap(LoadModelConfig(teacher));
  if (HasSlidingWindow(teacher_config) && flags.stage != "finetune" &&
      flags.training.window > teacher_config.linear_attention->window) {
    throw ConvertError(
        "--stage transfer compares with softmax attention, which the parent is only "
        "within its sliding window: give a --window of at most " +
        std::to_string(teacher_config.linear_attention->window));
  }
  if (teacher_config.vocab_size != parent_config.vocab_size) {
    throw ConvertError("--parent has a vocabulary of " + std::to_string(teacher_config.vocab_size) +
                       " tokens, the model one of " + std::to_string(parent_config.vocab_size));
  }
  TrainingModel parent(teacher_config, device);
  LoadParameters(teacher, &parent, /*allow_missing_maps=*/false);
  Evaluation before;
  if (group.first()) {
    before =
        Evaluate(parent, corpora.valid, flags.training.threads, corpora.valid_windows, &progress);
    progress.Line("parent: " + Describe(before));
  }
  const ModelConfig config = flags.feature_map.empty()
                                 ? parent_config
                                 : Swapped(flags, parent, corpora.valid, &group, &progress);

  TrainableOptions trainable = flags.trainable;
  trainable.only = ParseTrainOnly(flags.train_only);
  trainable.decay = flags.half_life > 0;
  TrainingModel model(config, device, trainable);
  Initialize(flags, &model);
  const torch::Dtype products = ParseProducts(flags.products, config, device);
  model.SetProducts(products);
  parent.SetProducts(products);
  TrainingRun run;
  run.group = &group;
  run.model = &model;
  run.teacher = flags.training.distill > 0 ? &parent : nullptr;
  run.training = flags.training;
  run.training.transfer_share = TransferShare(flags, config);
  run.output = flags.output;
  run.config_json =
      SwappedConfigJson(ReadFile(flags.model + "/config.json"), config, flags.output.dtype);
  run.fingerprint = "lora " + std::to_string(flags.trainable.lora_rank) + " " +
                    std::to_string(flags.trainable.lora_alpha) +
                    (flags.trainable.freeze_encoder ? " frozen encoder" : "") +
                    (flags.random_weights ? " random weights" : "") + " " + flags.train_only + " " +
                    std::to_string(flags.half_life) + " " +
                    (products == torch::kBFloat16 ? "bfloat16" : "float32") + " " + flags.parent;
  run.side_files = flags.model;
  run.parent_nats = before.nats_per_token();
  TrainAndWrite(std::move(run), corpora, &progress);
}

}  // namespace t2r::convert
