// A transformer for training and evaluation in LibTorch: the Llama family and GPT-2, each layer
// with softmax or linear attention as its ModelConfig says. The mathematics is the engine's.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "convert/attention.h"
#include "convert/parameters.h"
#include "engine/model/config.h"

namespace t2r::convert {

class TrainingModel {
 public:
  // All parameters zero (Parameters); fill them by LoadParameters or the functions of init.h.
  TrainingModel(ModelConfig config, torch::Device device);
  // Shares the values of `other`, with gradients of its own (Parameters::Replica).
  static std::unique_ptr<TrainingModel> Replica(const TrainingModel& other);

  const ModelConfig& config() const { return config_; }
  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }

  // ids [B, T] (int64, on the model's device) to hidden states after the last norm, [B, T, hidden].
  // Throws ConvertError where T exceeds learned positions.
  torch::Tensor Hidden(const torch::Tensor& ids) const;
  // How far linear attention is from the softmax attention that it replaces: for each linear layer
  // the squared error of its output over the softmax output's square, summed over layers, over the
  // positions where `counted` [B, T] is 1. Every layer gets what the softmax model would give it,
  // so only feature maps have gradients. [].
  torch::Tensor TransferLoss(const torch::Tensor& ids, const torch::Tensor& counted) const;
  // Hidden states [..., hidden] to logits [..., vocabulary].
  torch::Tensor Logits(const torch::Tensor& hidden) const;

 private:
  TrainingModel(ModelConfig config, Parameters parameters);
  // A layer's attention: (layer, q, k, v), shapes as in attention.h.
  using AttentionFunction = std::function<torch::Tensor(
      int, const torch::Tensor&, const torch::Tensor&, const torch::Tensor&)>;
  torch::Tensor HiddenWith(const torch::Tensor& ids, const AttentionFunction& attention) const;
  torch::Tensor LlamaHidden(const torch::Tensor& ids, const AttentionFunction& attention) const;
  torch::Tensor Gpt2Hidden(const torch::Tensor& ids, const AttentionFunction& attention) const;
  bool IsLinear(int layer) const;
  torch::Tensor LinearLayer(int layer, const torch::Tensor& q, const torch::Tensor& k,
                            const torch::Tensor& v) const;
  torch::Tensor Linear(const std::string& name, const torch::Tensor& x) const;
  torch::Tensor RmsNorm(const std::string& name, const torch::Tensor& x) const;
  torch::Tensor LayerNorm(const std::string& name, const torch::Tensor& x) const;
  torch::Tensor Conv1d(const std::string& name, const torch::Tensor& x) const;
  // cos and sin of positions 0…T−1, [T, 1, 1, d/2] each.
  std::pair<torch::Tensor, torch::Tensor> RopeTable(int64_t length) const;

  ModelConfig config_;
  Parameters parameters_;
  torch::Tensor inverse_frequencies_;  // float64 [d/2]; Llama only
};

}  // namespace t2r::convert
