// The network of each architecture in LibTorch: embeddings, layers and the last norm over a model's
// parameters. One a file, and a line in networks.cc.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "convert/model/attention.h"
#include "convert/model/parameters.h"
#include "engine/model/config.h"

namespace t2r::convert {

// What a model reads. Tensors are on its device.
struct ModelInput {
  torch::Tensor ids;  // [B, T] (int64)
  // Encoder-decoders only, else undefined: source ids [B, S] (int64), and which of them are there
  // (1) or padding (0), [B, S] (float32); each row has at least one.
  torch::Tensor source, source_counted;
  // Decoder-only models: a pass over some of the layers. `entering` [B, T, hidden], where it is
  // defined, enters first_layer in place of the embeddings; with end_layer the states that would
  // enter that layer come out, before any last norm.
  torch::Tensor entering{};
  int first_layer = 0;
  std::optional<int> end_layer{};
};

// One attention of the decoder, shapes as in attention.h and cross_attention.h.
using AttentionFunction = std::function<torch::Tensor(const AttentionSite&, const AttentionInput&)>;

// What networks are made of, for one pass on one thread. Refers to what it is made from. Names are
// those of TensorsOf without
// ".weight" and ".bias"; biases count where there are any.
class Layers {
 public:
  // lora_scale: lora_alpha / lora_rank, or 0 without LoRA. products: what factors of matrix
  // products are. inverse_frequencies: float64 [rotary_dim/2], or undefined.
  Layers(const ModelConfig& config, const Parameters& parameters, double lora_scale,
         torch::Dtype products, const torch::Tensor& inverse_frequencies)
      : config_(config),
        parameters_(parameters),
        lora_scale_(lora_scale),
        products_(products),
        inverse_frequencies_(inverse_frequencies) {}

  const ModelConfig& config() const { return config_; }
  const torch::Tensor& Get(const std::string& name) const { return parameters_.Get(name); }
  // The value of a parameter, the update that LoRA adds to it included.
  torch::Tensor Value(const std::string& name) const;
  torch::Tensor Linear(const std::string& name, const torch::Tensor& x) const;
  // A projection stored [inputs, outputs].
  torch::Tensor Conv1d(const std::string& name, const torch::Tensor& x) const;
  // Over the last dimension.
  torch::Tensor RmsNorm(const std::string& name, const torch::Tensor& x) const;
  torch::Tensor LayerNorm(const std::string& name, const torch::Tensor& x) const;
  // cos and sin of positions 0…T−1, none above `last`, times RopeFactor, [T, 1, 1, rotary_dim/2]
  // each.
  std::pair<torch::Tensor, torch::Tensor> RopeTable(int64_t length, int64_t last) const;
  // Turns the first rotary_dim values of each head by the table: pairs (i, i + rotary_dim/2), the
  // layout of HF's models. x [B, T, heads…, d].
  torch::Tensor Rope(const torch::Tensor& x,
                     const std::pair<torch::Tensor, torch::Tensor>& table) const;

 private:
  const ModelConfig& config_;
  const Parameters& parameters_;
  double lora_scale_;
  torch::Dtype products_;
  const torch::Tensor& inverse_frequencies_;
  mutable torch::Tensor wide_, narrow_;  // what Linear read last, and the same rounded
};

torch::Tensor Activate(ActivationKind kind, const torch::Tensor& x);

// The decoder's hidden states after the last norm (or as end_layer says), [B, T, hidden].
using Network = torch::Tensor (*)(const Layers& layers, const ModelInput& input,
                                  const AttentionFunction& attention);

// Throws ConvertError where there is none.
Network NetworkOf(const Architecture& architecture);

torch::Tensor LlamaHidden(const Layers& layers, const ModelInput& input,
                          const AttentionFunction& attention);
torch::Tensor Gpt2Hidden(const Layers& layers, const ModelInput& input,
                         const AttentionFunction& attention);
torch::Tensor GptNeoxHidden(const Layers& layers, const ModelInput& input,
                            const AttentionFunction& attention);
torch::Tensor MarianHidden(const Layers& layers, const ModelInput& input,
                           const AttentionFunction& attention);

}  // namespace t2r::convert
