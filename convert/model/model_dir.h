// Reads the converter's input, an HF directory, and writes its output, the directory that the
// engine reads (docs/model-format.md).
#pragma once

#include <string>

#include "convert/model/model.h"
#include "engine/model/config.h"

namespace t2r::convert {

// Fills every parameter of `model` from the directory's safetensors, except LoRA's, and those of
// feature maps where `allow_missing_maps`: they keep their values. Throws ConvertError naming the
// tensor that is missing or has another shape.
void LoadParameters(const std::string& directory, TrainingModel* model, bool allow_missing_maps);

// The parent's config.json with the swap written into it: layer_types, cross_layer_types where
// there is cross attention, linear_attention and, where `dtype` is not empty, torch_dtype. Every
// other key is kept.
std::string SwappedConfigJson(const std::string& parent_json, const ModelConfig& swapped,
                              const std::string& dtype);

// Writes a model directory: config.json, model.safetensors in `dtype` ("float32" or "bfloat16";
// feature maps are float32 always), and the files of `side_files` (a directory; empty: none) that
// belong to a model: tokenizer, generation_config.json; LoRA's updates are added into the weights.
// All or nothing, as StagedDirectory has it.
void WriteModelDirectory(const std::string& directory, const std::string& config_json,
                         const TrainingModel& model, const std::string& dtype,
                         const std::string& side_files);

}  // namespace t2r::convert
