#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "convert/calibrate/calibration.h"
#include "convert/calibrate/divergence.h"
#include "convert/calibrate/layer_costs.h"
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
constexpr LinearSizes kRungs[] = {{16, 16, 0, 1},  {32, 32, 0, 1},   {32, 64, 0, 1},
                                  {64, 64, 0, 1},  {64, 96, 0, 1},   {64, 128, 0, 1},
                                  {64, 192, 0, 1}, {128, 256, 0, 1}, {64, 384, 0, 1},
                                  {64, 512, 0, 1}, {64, 768, 0, 1},  {64, 1024, 0, 1}};
// Those of them at which every layer's cost is measured; the others follow (CostsByError).
constexpr size_t kMeasuredRungs[] = {1, 6};

struct Texts {
  Corpus calibration;  // what samples are of
  Corpus biases;       // a part of it
  Corpus errors;       // a smaller part, for each of many sizes
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
          Excerpts(all, length, std::max<int64_t>(1, flags.documents / 12), 0, 2),
          Excerpts(all, length, flags.held_out, 1, 2)};
}

void CopyParent(const TrainingModel& parent, TrainingModel* model) {
  const torch::NoGradGuard no_grad;
  for (const auto& spec : parent.parameters().specs()) {
    model->parameters().Get(spec.name).detach().copy_(parent.parameters().Get(spec.name));
  }
}

// First values of all new parameters; what is left of the layers' errors (ChooseFarBiases).
std::vector<double> SetNew(const SwapFlags& flags, const TrainingModel& parent,
                           const Calibration& calibration, const Corpus& biases,
                           TrainingModel* model, Progress* progress) {
  InitializeFeatureMaps(model, flags.seed);
  if (model->config().linear_attention->feature_map == FeatureMapKind::kCodebook) {
    calibration.SetCodebooks(model, flags.threads, progress);
  }
  return ChooseFarBiases(parent, biases, flags.threads, model, progress);
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

// The parent with every layer swapped as `config` says, biases chosen on `biases`.
SizedSwap SwappedModel(const SwapFlags& flags, const TrainingModel& parent,
                       const Calibration& calibration, const Corpus& biases,
                       const ModelConfig& config, Progress* progress) {
  SizedSwap swap{TrainingModel(config, parent.parameters().device()), {}};
  CopyParent(parent, &swap.model);
  swap.errors = SetNew(flags, parent, calibration, biases, &swap.model, progress);
  swap.model.SetProducts(parent.products());
  return swap;
}

// kRungs with the flags' sinks and folds.
std::vector<LinearSizes> Rungs(const SwapFlags& flags, const ModelConfig& config) {
  std::vector<LinearSizes> rungs(std::begin(kRungs), std::end(kRungs));
  for (LinearSizes& rung : rungs) {
    rung.sinks = flags.sinks;
    rung.fold = flags.fold;
    if (config.linear_attention->feature_map == FeatureMapKind::kNone) rung.features = 0;
  }
  return rungs;
}

// As --window-dtype says, which the command's parser has checked.
DType WindowDType(const SwapFlags& flags) {
  for (const DType dtype : {DType::kBFloat16, DType::kInt8}) {
    if (flags.window_dtype == NameOf(dtype)) return dtype;
  }
  return DType::kFloat32;
}

// `config` with sizes for every layer within `budget` bytes; prints what they cost.
ModelConfig WithSizes(ModelConfig config, const std::vector<LinearSizes>& rungs,
                      const std::vector<std::vector<double>>& costs, int64_t budget,
                      DType window_dtype) {
  const std::vector<size_t> chosen = SpendBytes(config, rungs, costs, budget, window_dtype);
  LinearAttentionConfig& linear = *config.linear_attention;
  std::printf("sizes within %lld bytes\n", static_cast<long long>(budget));
  double sum = 0;
  for (size_t layer = 0; layer < chosen.size(); ++layer) {
    const size_t rung = chosen[layer];
    linear.layers.push_back(rungs[rung]);
    linear.window = std::max(linear.window, rungs[rung].window);
    linear.feature_size = std::max(linear.feature_size, rungs[rung].features);
    if (!IsLinear(config, {static_cast<int>(layer), false})) continue;
    const int64_t bytes = StateBytes(config, rungs[rung], window_dtype);
    sum += costs[rung][layer];
    std::printf("layer %zu: window %d, %d features, %lld bytes, %.5f nats/token alone", layer,
                rungs[rung].window, rungs[rung].features, static_cast<long long>(bytes),
                costs[rung][layer]);
    if (rung > 0) {
      const auto more =
          static_cast<double>(bytes - StateBytes(config, rungs[0], window_dtype)) / 1e6;
      std::printf(", %.5f saved a megabyte", (costs[0][layer] - costs[rung][layer]) / more);
    }
    std::printf("\n");
  }
  std::printf("sum of the layers alone: %.5f nats/token\n", sum);
  return config;
}

// `config` with the sizes of every layer of the swapped model in a directory.
ModelConfig WithSizesLike(ModelConfig config, const std::string& directory) {
  const ModelConfig other = Unwrap(LoadModelConfig(directory));
  const auto& theirs = other.linear_attention;
  LinearAttentionConfig& linear = *config.linear_attention;
  const std::string flag = "--window like:" + directory;
  if (other.layers != config.layers || other.kv_heads != config.kv_heads ||
      other.head_dim != config.head_dim || !theirs.has_value() ||
      theirs->feature_map != linear.feature_map) {
    throw ConvertError(flag + ": must be this model, swapped for the same feature map");
  }
  for (int layer = 0; layer < config.layers; ++layer) {
    const LinearSizes sizes = theirs->sizes(layer);
    if (IsLinear(config, {layer, false}) &&
        (!IsLinear(other, {layer, false}) || sizes.window == 0)) {
      throw ConvertError(flag + ": its layer " + std::to_string(layer) +
                         " has no window whose size this one's could have");
    }
    linear.layers.push_back(sizes);
  }
  linear.feature_size = theirs->feature_size;
  linear.window = theirs->window;
  linear.sinks = theirs->sinks;
  linear.fold = theirs->fold;
  return config;
}

std::vector<int> Costliest(const std::vector<double>& costs, int count) {
  std::vector<SwapCost> swaps;
  for (size_t i = 0; i < costs.size(); ++i) swaps.push_back({{static_cast<int>(i)}, costs[i]});
  return CostliestLayers(std::move(swaps), count);
}

void PrintState(const ModelConfig& config, int64_t tokens, DType window_dtype) {
  const int64_t cache = CacheBytes(config, 1);
  std::printf(
      "state: %lld bytes a session, windows in %s, whatever its length, in %d linear layers; the "
      "float32 cache that they replace: %lld bytes at %lld tokens, %lld more with every token\n",
      static_cast<long long>(StateBytes(config, window_dtype)), NameOf(window_dtype),
      config.linear_layers(), static_cast<long long>(cache * tokens * config.linear_layers()),
      static_cast<long long>(tokens), static_cast<long long>(cache * config.linear_layers()));
}

// Where the model within a budget goes: the only one to --out, of several each beside it.
std::string DirectoryOf(const SwapFlags& flags, const WindowFlag& window, size_t budget) {
  if (window.budgets.size() < 2) return flags.output.directory;
  return flags.output.directory + "-" + std::to_string(window.budgets[budget]);
}

}  // namespace

void Swap(const SwapFlags& flags) {
  CheckDtype(flags.output.dtype);
  const WindowFlag window = ParseWindow(flags.window);
  const DType window_dtype = WindowDType(flags);
  const size_t results = std::max<size_t>(1, window.budgets.size());
  for (size_t i = 0; i < results; ++i) CheckOutputDirectory(DirectoryOf(flags, window, i));
  if (flags.documents < 1 || flags.held_out < 1 || flags.tokens < 2) {
    throw ConvertError(
        "--calibration-documents, --valid-documents and --tokens-per-document must "
        "be at least 1, 1 and 2");
  }
  Progress progress(stderr, 1);
  const ModelConfig parent_config = Unwrap(LoadModelConfig(flags.model));
  const int layers = parent_config.layers;
  const bool pairs = parent_config.encoder_decoder.has_value();
  const KeepFull kept = ParseKeepFull(flags.keep_full, layers, "--keep-full");
  const KeepFull kept_cross = ParseKeepFull(flags.keep_full_cross, layers, "--keep-full-cross");
  if (kept_cross.automatic > 0) {
    throw ConvertError("--keep-full-cross auto: name the layers, or use finetune --feature-map");
  }
  const bool by_layer = !window.budgets.empty() || !window.like.empty();
  if (by_layer && (pairs || kept.automatic > 0)) {
    throw ConvertError(
        "--window auto:BYTES and like:DIR are sizes of a language model's layers, and have "
        "none to keep full by themselves");
  }
  const LinearSizes sizes{flags.feature_size, by_layer ? kRungs[0].window : window.window,
                          flags.sinks, flags.fold};
  // Refuses what cannot be before anything is measured.
  ModelConfig config = Config(flags, parent_config, sizes, kept.layers, kept_cross.layers);
  if (!window.like.empty()) config = WithSizesLike(std::move(config), window.like);
  const std::vector<LinearSizes> rungs = Rungs(flags, config);
  for (const int64_t budget : window.budgets) {
    const std::vector<double> none(static_cast<size_t>(layers), 0.0);
    SpendBytes(config, rungs, std::vector<std::vector<double>>(rungs.size(), none), budget,
               window_dtype);
  }

  const auto tokenizer = Unwrap(LoadTokenizer(flags.model));
  const Texts texts = LoadTexts(flags, parent_config, tokenizer.get());
  TrainingModel parent(parent_config, ParseDevice(flags.device));
  LoadParameters(flags.model, &parent, /*allow_missing_maps=*/false);
  parent.SetProducts(FastProducts(parent_config.hidden_size, parent.parameters().device()));
  const Evaluation before = Evaluate(parent, texts.held_out, flags.threads);
  progress.Line("parent: " + Describe(before));
  const Divergence divergence(parent, texts.held_out, flags.threads);
  const Calibration calibration(parent, texts.calibration, config, flags.seed, flags.threads,
                                &progress);
  if (kept.automatic > 0) {
    SizedSwap all = SwappedModel(flags, parent, calibration, texts.errors, config, &progress);
    const auto costs = CostsAlone(divergence, &all.model, &progress);
    config =
        Config(flags, parent_config, sizes, Costliest(costs, kept.automatic), kept_cross.layers);
  }
  std::vector<ModelConfig> configs{config};
  if (!window.budgets.empty()) {
    const auto costs = CostsBySize(
        divergence, rungs.size(), {std::begin(kMeasuredRungs), std::end(kMeasuredRungs)},
        [&](size_t rung) {
          ModelConfig uniform = config;
          uniform.linear_attention->window = rungs[rung].window;
          uniform.linear_attention->feature_size = rungs[rung].features;
          return SwappedModel(flags, parent, calibration, texts.errors, uniform, &progress);
        },
        &progress);
    configs.clear();
    for (const int64_t budget : window.budgets) {
      configs.push_back(WithSizes(config, rungs, costs, budget, window_dtype));
    }
  }
  for (size_t i = 0; i < results; ++i) {
    const SizedSwap swap =
        SwappedModel(flags, parent, calibration, texts.biases, configs[i], &progress);
    const Evaluation after = Evaluate(swap.model, texts.held_out, flags.threads);
    const std::string directory = DirectoryOf(flags, window, i);
    WriteModelDirectory(
        directory,
        SwappedConfigJson(ReadFile(flags.model + "/config.json"), configs[i], flags.output.dtype),
        swap.model, flags.output.dtype, flags.model);
    std::printf("%s\nparent: %s\nswapped: %s\ndivergence from the parent: %.5f nats/token\n",
                directory.c_str(), Describe(before).c_str(), Describe(after).c_str(),
                divergence.Of(swap.model));
    PrintState(configs[i], flags.tokens, window_dtype);
    std::fflush(stdout);
    progress.Line("wrote " + directory);
  }
}

}  // namespace t2r::convert
