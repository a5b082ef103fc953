#include "convert/model/model_dir.h"

#include <torch/torch.h>

#include <filesystem>
#include <iomanip>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "convert/data/files.h"
#include "convert/data/staged_directory.h"
#include "convert/model/init.h"
#include "convert/status.h"
#include "engine/checkpoint/safetensors.h"

namespace t2r::convert {
namespace {

namespace fs = std::filesystem;

// Files of a model directory that say nothing about its weights and go along unchanged.
constexpr const char* kSideFiles[] = {
    "tokenizer.model", "tokenizer.json",    "tokenizer_config.json",   "vocab.json",
    "merges.txt",      "added_tokens.json", "special_tokens_map.json", "generation_config.json",
    "source.spm",      "target.spm",        "target_vocab.json"};

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

torch::Dtype TorchType(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return torch::kFloat32;
    case DType::kBFloat16:
      return torch::kBFloat16;
    case DType::kFloat16:
      return torch::kFloat16;
    case DType::kInt8:
    case DType::kInt4:
    case DType::kFloat8:
      break;
  }
  throw ConvertError("unknown element type");
}

// The double that prints as the float does: 0.01, not 0.009999999776482582.
double Decimal(float value) {
  std::ostringstream text;
  text << std::setprecision(9) << value;
  for (int digits = 1; digits < 9; ++digits) {
    std::ostringstream shorter;
    shorter << std::setprecision(digits) << value;
    if (std::stof(shorter.str()) == value) return std::stod(shorter.str());
  }
  return std::stod(text.str());
}

}  // namespace

void LoadParameters(const std::string& directory, TrainingModel* model, bool allow_missing_maps) {
  const auto files = Unwrap(SafetensorsDirectory::Open(directory));
  const torch::NoGradGuard no_grad;
  for (const auto& spec : model->parameters().specs()) {
    if (spec.lora) continue;
    const HostTensor* source = FindTensor(*files, spec);
    if (source == nullptr) {
      if (spec.feature_map && allow_missing_maps) continue;
      if (spec.computed) {
        torch::Tensor parameter = model->parameters().Get(spec.name);
        parameter.copy_(ComputedValue(spec));
        continue;
      }
      throw ConvertError(directory + ": tensor " + spec.name + " is missing");
    }
    if (source->shape != spec.shape) {
      throw ConvertError(directory + ": tensor " + spec.name + " has shape " +
                         ShapeText(source->shape) + ", the configuration asks for " +
                         ShapeText(spec.shape));
    }
    // from_blob wants a mutable pointer; the values are only read.
    const torch::Tensor values =
        torch::from_blob(const_cast<void*>(source->data), source->shape, TorchType(source->dtype));
    torch::Tensor parameter = model->parameters().Get(spec.name);
    parameter.copy_(values);
  }
}

std::string SwappedConfigJson(const std::string& parent_json, const ModelConfig& swapped,
                              const std::string& dtype) {
  auto json = nlohmann::ordered_json::parse(parent_json);
  const auto types = [](const std::vector<LayerType>& layers) {
    auto names = nlohmann::ordered_json::array();
    for (const LayerType type : layers) {
      names.push_back(NameOf(type));
    }
    return names;
  };
  json["layer_types"] = types(swapped.layer_types);
  if (swapped.encoder_decoder.has_value()) {
    json["cross_layer_types"] = types(swapped.encoder_decoder->cross_layer_types);
  }
  if (swapped.linear_attention.has_value()) {
    // linear_attention says what a sliding window of the parent's was.
    if (json.contains("sliding_window")) json["sliding_window"] = nullptr;
    if (json.contains("use_sliding_window")) json["use_sliding_window"] = false;
    const auto& linear = *swapped.linear_attention;
    const bool windowed = linear.window > 0;
    nlohmann::ordered_json keys = {{"feature_map", NameOf(linear.feature_map)}};
    // A number, or a list where layers differ.
    const auto size = [&](const char* name, int LinearSizes::*member) {
      if (linear.layers.empty()) {
        keys[name] = linear.sizes(0).*member;
        return;
      }
      auto list = nlohmann::ordered_json::array();
      for (const LinearSizes& layer : linear.layers) list.push_back(layer.*member);
      keys[name] = list;
    };
    size("feature_size", &LinearSizes::features);
    if (windowed) {
      size("window", &LinearSizes::window);
      size("sinks", &LinearSizes::sinks);
      size("fold", &LinearSizes::fold);
    }
    if (windowed || linear.feature_map == FeatureMapKind::kCodebook) {
      keys["rope_features"] = linear.rope_features;
    }
    if (linear.sink_position.has_value()) keys["sink_position"] = *linear.sink_position;
    if (linear.feature_map != FeatureMapKind::kCodebook &&
        linear.feature_map != FeatureMapKind::kNone) {
      keys["normalizer"] = NameOf(linear.normalizer);
      keys["eps"] = Decimal(linear.eps);
    }
    keys["query_scale"] = Decimal(linear.query_scale);
    json["linear_attention"] = keys;
  }
  if (!dtype.empty()) {
    json.erase("dtype");
    json["torch_dtype"] = dtype;
  }
  return json.dump(2) + "\n";
}

void WriteModelDirectory(const std::string& directory, const std::string& config_json,
                         const TrainingModel& model, const std::string& dtype,
                         const std::string& side_files) {
  StagedDirectory staged(directory);
  const fs::path staging = staged.path();

  const torch::NoGradGuard no_grad;
  const bool narrow = dtype == "bfloat16";
  std::vector<torch::Tensor> kept;
  std::map<std::string, HostTensor, std::less<>> tensors;
  for (const auto& spec : model.parameters().specs()) {
    if (spec.lora) continue;
    const torch::Tensor value = model.Value(spec.name).detach().to(torch::kCPU);
    if (IsLogDecay(spec) && !value.any().item<bool>()) continue;
    // A codebook's biases are squared lengths: 8 bits of them would move keys between cells.
    const bool half = narrow && !spec.feature_map;
    kept.push_back(value.to(half ? torch::kBFloat16 : torch::kFloat32).contiguous());
    tensors[spec.name] = {kept.back().data_ptr(), half ? DType::kBFloat16 : DType::kFloat32,
                          spec.shape};
  }
  ThrowIfError(WriteSafetensors((staging / "model.safetensors").string(), tensors));
  WriteFileAtomically((staging / "config.json").string(), config_json);
  if (!side_files.empty()) {
    for (const char* name : kSideFiles) {
      const fs::path from = fs::path(side_files) / name;
      if (fs::exists(from)) {
        WriteFileAtomically((staging / name).string(), ReadFile(from.string()));
      }
    }
  }
  staged.Commit();
}

}  // namespace t2r::convert
