#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "convert/calibrate/calibration.h"
#include "convert/calibrate/sizes.h"
#include "convert/commands.h"
#include "convert/data/files.h"
#include "convert/device.h"
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

// Sizes that --window auto tries for every layer, smallest first; sinks and fold are the flags'.
constexpr LinearSizes kRungs[] = {{16, 16, 0, 1},   {32, 32, 0, 1},   {64, 64, 0, 1},
                                  {128, 128, 0, 1}, {128, 256, 0, 1}, {128, 512, 0, 1}};

struct Texts {
  Corpus calibration;  // what samples are of
  Corpus biases;       // a part of it
  Corpus held_out;     // what losses are of
};

Texts LoadTexts(const SwapFlags& flags, const ModelConfig& config, const Tokenizer* tokenizer) {
  const auto limit = config.position_limit();
  int64_t length = limit.has_value() ? std::min(flags.tokens, *limit) : flags.tokens;
  // Within its sliding window the parent is the softmax model that it is compared with.
  if (HasSlidingWindow(config)) {
    length = std::min<int64_t>(length, config.linear_attention->window);
  }
  const Corpus all =
      config.encoder_decoder.has_value()
          ? LoadParallelCorpus(flags.text, flags.target, flags.corpus, length, config, tokenizer)
          : LoadCorpus(flags.text, flags.corpus, config, tokenizer);
  return {Excerpts(all, length, flags.documents, 0, 2),
          Excerpts(all, length, std::max<int64_t>(1, flags.documents / 6), 0, 2),
          Excerpts(all, length, flags.held_out, 1, 2)};
}

void CopyParent(const TrainingModel& parent, TrainingModel* model) {
  const torch::NoGradGuard no_grad;
  for (const auto& spec : parent.parameters().specs()) {
    model->parameters().Get(spec.name).detach().copy_(parent.parameters().Get(spec.name));
  }
}

// First values of all new parameters.
void SetNew(const SwapFlags& flags, const TrainingModel& parent, const Calibration& calibration,
            const Texts& texts, TrainingModel* model, Progress* progress) {
  InitializeFeatureMaps(model, flags.seed);
  const FeatureMapKind map = model->config().linear_attention->feature_map;
  if (map == FeatureMapKind::kCodebook) {
    calibration.SetCodebooks(model, flags.threads, progress);
  }
  if (map != FeatureMapKind::kNone) ChooseFarBiases(parent, texts.biases, model, progress);
}

// The parent's config with every layer as `swap` says, except those kept full.
ModelConfig Config(const SwapFlags& flags, const ModelConfig& parent, const LinearSizes& sizes,
                   std::vector<int> kept, std::vector<int> kept_cross) {
  SwapOptions swap;
  swap.feature_map = ParseFeatureMap(flags.feature_map);
  if (swap.feature_map != FeatureMapKind::kElu) swap.feature_size = sizes.features;
  swap.window = sizes.window;
  swap.sinks = flags.sinks;
  swap.fold = flags.fold;
  swap.rope_features = flags.rope_features;
  if (flags.sink_position >= 0) swap.sink_position = flags.sink_position;
  swap.keep_full = std::move(kept);
  swap.keep_full_cross = std::move(kept_cross);
  return SwappedConfig(parent, swap);
}

// The parent with every layer swapped at these sizes.
TrainingModel SwappedModel(const SwapFlags& flags, const TrainingModel& parent,
                           const Calibration& calibration, const Texts& texts,
                           const ModelConfig& config, Progress* progress) {
  TrainingModel model(config, parent.parameters().device());
  CopyParent(parent, &model);
  SetNew(flags, parent, calibration, texts, &model, progress);
  return model;
}

// What the swap of each causal attention of `model` alone costs, in nats/token over none; 0 for
// those that it keeps full. In the products that training has by default: some dozens of passes.
std::vector<double> CostsAlone(const SwapFlags& flags, const Texts& texts, TrainingModel* model,
                               Progress* progress) {
  const ModelConfig all = model->config();
  model->SetProducts(FastProducts(all.hidden_size));
  const auto nats = [&] {
    return Evaluate(*model, texts.held_out, flags.threads).nats_per_token();
  };
  ModelConfig none = all;
  std::fill(none.layer_types.begin(), none.layer_types.end(), LayerType::kFullAttention);
  if (none.encoder_decoder.has_value()) {
    auto& cross = none.encoder_decoder->cross_layer_types;
    std::fill(cross.begin(), cross.end(), LayerType::kFullAttention);
  }
  model->SetLayerTypes(none);
  const double before = nats();
  std::vector<double> costs(static_cast<size_t>(all.layers), 0.0);
  for (int layer = 0; layer < all.layers; ++layer) {
    if (!IsLinear(all, {layer, false})) continue;
    ModelConfig one = none;
    one.layer_types[static_cast<size_t>(layer)] = LayerType::kLinearAttention;
    model->SetLayerTypes(one);
    double& cost = costs[static_cast<size_t>(layer)];
    cost = nats() - before;
    progress->Show(static_cast<double>(layer + 1) / all.layers, "swapping layers alone", 0);
    const LinearSizes sizes = all.linear_attention->sizes(layer);
    char line[160];
    std::snprintf(line, sizeof(line), "layer %d alone, window %d, %d features: %+.5f nats/token",
                  layer, sizes.window, sizes.features, cost);
    progress->Line(line);
  }
  model->SetLayerTypes(all);
  model->SetProducts(torch::kFloat32);
  return costs;
}

// What each of `rungs` costs each layer alone, [rung][layer], in nats/token. Measured at the
// largest rung that all layers can have within the budget; elsewhere it follows the squared error
// of the layer's output, as a loss near its least does.
std::vector<std::vector<double>> RungCosts(const SwapFlags& flags, const TrainingModel& parent,
                                           const Calibration& calibration, const Texts& texts,
                                           const ModelConfig& config,
                                           const std::vector<LinearSizes>& rungs, int64_t budget,
                                           Progress* progress) {
  std::vector<ModelConfig> configs;
  size_t measured = 0;
  for (const LinearSizes& rung : rungs) {
    ModelConfig& uniform = configs.emplace_back(config);
    uniform.linear_attention->window = rung.window;
    uniform.linear_attention->feature_size = rung.features;
    if (StateBytes(uniform) <= budget) measured = configs.size() - 1;
  }
  std::vector<std::vector<double>> errors;
  std::vector<double> costs;
  for (size_t rung = 0; rung < rungs.size(); ++rung) {
    TrainingModel model = SwappedModel(flags, parent, calibration, texts, configs[rung], progress);
    errors.push_back(AttentionErrors(model, texts.held_out, progress));
    if (rung == measured) costs = CostsAlone(flags, texts, &model, progress);
  }
  std::vector<std::vector<double>> nats(rungs.size(), std::vector<double>(costs.size(), 0.0));
  for (size_t layer = 0; layer < costs.size(); ++layer) {
    const double unit = std::max(0.0, costs[layer]) / std::max(1e-12, errors[measured][layer]);
    for (size_t rung = 0; rung < rungs.size(); ++rung)
      nats[rung][layer] = unit * errors[rung][layer];
  }
  return nats;
}

std::vector<int> Costliest(const std::vector<double>& costs, int count) {
  std::vector<SwapCost> swaps;
  for (size_t i = 0; i < costs.size(); ++i) swaps.push_back({{static_cast<int>(i)}, costs[i]});
  return CostliestLayers(std::move(swaps), count);
}

void PrintState(const ModelConfig& config, int64_t tokens) {
  const int64_t cache = CacheBytes(config, 1);
  std::printf(
      "state: %lld bytes a session, whatever its length, in %d linear layers; the cache "
      "that they replace: %lld bytes at %lld tokens, %lld more with every token\n",
      static_cast<long long>(StateBytes(config)), config.linear_layers(),
      static_cast<long long>(cache * tokens * config.linear_layers()),
      static_cast<long long>(tokens), static_cast<long long>(cache * config.linear_layers()));
}

}  // namespace

void Swap(const SwapFlags& flags) {
  CheckDtype(flags.output.dtype);
  CheckOutputDirectory(flags.output.directory);
  if (flags.documents < 1 || flags.held_out < 1 || flags.tokens < 2) {
    throw ConvertError(
        "--calibration-documents, --valid-documents and --tokens-per-document must "
        "be at least 1, 1 and 2");
  }
  const WindowFlag window = ParseWindow(flags.window);
  Progress progress(stderr, 1);
  const ModelConfig parent_config = Unwrap(LoadModelConfig(flags.model));
  const int layers = parent_config.layers;
  const bool pairs = parent_config.encoder_decoder.has_value();
  const KeepFull kept = ParseKeepFull(flags.keep_full, layers, "--keep-full");
  const KeepFull kept_cross = ParseKeepFull(flags.keep_full_cross, layers, "--keep-full-cross");
  if (kept_cross.automatic > 0) {
    throw ConvertError("--keep-full-cross auto: name the layers, or use finetune --feature-map");
  }
  if (window.budget > 0 && (pairs || kept.automatic > 0)) {
    throw ConvertError(
        "--window auto:BYTES chooses sizes of a language model's layers, and has "
        "none to keep full by itself");
  }
  const LinearSizes sizes{flags.feature_size, window.budget > 0 ? kRungs[0].window : window.window,
                          flags.sinks, flags.fold};
  // Refuses what cannot be before anything is measured.
  ModelConfig config = Config(flags, parent_config, sizes, kept.layers, kept_cross.layers);

  const auto tokenizer = Unwrap(LoadTokenizer(flags.model));
  const Texts texts = LoadTexts(flags, parent_config, tokenizer.get());
  TrainingModel parent(parent_config, ParseDevice(flags.device));
  LoadParameters(flags.model, &parent, /*allow_missing_maps=*/false);
  const Evaluation before = Evaluate(parent, texts.held_out, flags.threads);
  progress.Line("parent: " + Describe(before));
  const Calibration calibration(parent, texts.calibration, config, flags.seed, flags.threads,
                                &progress);
  if (kept.automatic > 0) {
    TrainingModel all = SwappedModel(flags, parent, calibration, texts, config, &progress);
    const auto costs = CostsAlone(flags, texts, &all, &progress);
    config =
        Config(flags, parent_config, sizes, Costliest(costs, kept.automatic), kept_cross.layers);
  }
  if (window.budget > 0) {
    std::vector<LinearSizes> rungs(std::begin(kRungs), std::end(kRungs));
    for (LinearSizes& rung : rungs) {
      rung.sinks = flags.sinks;
      rung.fold = flags.fold;
      if (config.linear_attention->feature_map == FeatureMapKind::kNone) rung.features = 0;
    }
    const auto nats =
        RungCosts(flags, parent, calibration, texts, config, rungs, window.budget, &progress);
    LinearAttentionConfig& linear = *config.linear_attention;
    linear.layers = SpendBytes(config, rungs, nats, window.budget);
    for (const LinearSizes& layer : linear.layers) {
      linear.window = std::max(linear.window, layer.window);
      linear.feature_size = std::max(linear.feature_size, layer.features);
    }
  }
  const TrainingModel model = SwappedModel(flags, parent, calibration, texts, config, &progress);
  const Evaluation after = Evaluate(model, texts.held_out, flags.threads);
  std::printf("parent: %s\nswapped: %s\n", Describe(before).c_str(), Describe(after).c_str());
  for (size_t i = 0; i < config.linear_attention->layers.size(); ++i) {
    const LinearSizes& layer = config.linear_attention->layers[i];
    std::printf("layer %zu: window %d, %d features, %lld bytes\n", i, layer.window, layer.features,
                static_cast<long long>(StateBytes(config, layer)));
  }
  PrintState(config, flags.tokens);
  WriteModelDirectory(
      flags.output.directory,
      SwappedConfigJson(ReadFile(flags.model + "/config.json"), config, flags.output.dtype), model,
      flags.output.dtype, flags.model);
  progress.Line("wrote " + flags.output.directory);
}

}  // namespace t2r::convert
