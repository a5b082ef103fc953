// A transformer for training and evaluation in LibTorch, each attention of the decoder softmax or
// linear as its ModelConfig says. The mathematics is the engine's.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "convert/model/attention.h"
#include "convert/model/networks.h"
#include "convert/model/parameters.h"
#include "engine/model/config.h"

namespace t2r::convert {

class TrainingModel {
 public:
  // All parameters zero (Parameters); fill them by LoadParameters or the functions of init.h.
  TrainingModel(ModelConfig config, torch::Device device,
                const TrainableOptions& trainable = TrainableOptions());
  // Shares the values of `other`, with gradients of its own (Parameters::Replica).
  static std::unique_ptr<TrainingModel> Replica(const TrainingModel& other);

  const ModelConfig& config() const { return config_; }
  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }

  // The decoder's hidden states after the last norm (or as the input's end_layer says), [B, T,
  // hidden]. Throws ConvertError where T or S exceeds stored positions.
  torch::Tensor Hidden(const ModelInput& input) const;
  // How far linear attention is from the softmax attention that it replaces: for each linear
  // attention the squared error of its output over the softmax output's square, over the positions
  // where `counted` [B, T] is 1, handed to `each` as [], and their sum. Every layer gets what the
  // softmax model would give it, so only feature maps have gradients; one that `each` takes
  // at once leaves nothing of its layer in memory.
  double TransferLoss(const ModelInput& input, const torch::Tensor& counted,
                      const std::function<void(const torch::Tensor&)>& each = nullptr) const;
  // One forward pass of the softmax model, without gradients: what every attention of the decoder
  // reads and gives [B, T, G·R·d].
  void VisitAttention(const ModelInput& input,
                      const std::function<void(const AttentionSite&, const AttentionInput&,
                                               const torch::Tensor&)>& visit) const;
  // The output of the linear attention at `site`, whatever the config says of its layer type: its
  // tensors must be there.
  torch::Tensor LinearSite(const ModelInput& input, const AttentionSite& site,
                           const AttentionInput& in) const;
  // Hidden states [..., hidden] to logits [..., vocabulary].
  torch::Tensor Logits(const torch::Tensor& hidden) const;
  // The output matrix [vocabulary, hidden], and logits by it as Narrow gives it.
  const torch::Tensor& OutputTable() const;
  torch::Tensor LogitsBy(const torch::Tensor& narrow_table, const torch::Tensor& hidden) const;
  // What factors of matrix products are: float32, or rounded to bfloat16, with float32 sums.
  void SetProducts(torch::Dtype dtype) { products_ = dtype; }
  torch::Dtype products() const { return products_; }
  torch::Tensor Narrow(const torch::Tensor& x) const { return x.to(products_); }
  // Takes which attentions are linear from `types`: of those that have maps, any may be softmax.
  void SetLayerTypes(const ModelConfig& types);
  // The value of a parameter, the update that LoRA adds to it included.
  torch::Tensor Value(const std::string& name) const;

 private:
  TrainingModel(ModelConfig config, Parameters parameters, double lora_scale);
  torch::Tensor HiddenWith(const ModelInput& input, const AttentionFunction& attention) const;
  torch::Tensor SoftmaxSite(const ModelInput& input, const AttentionSite& site,
                            const AttentionInput& in) const;
  // What networks compute with; refers to this model.
  Layers layers() const;

  ModelConfig config_;
  Parameters parameters_;
  double lora_scale_ = 0;  // lora_alpha / lora_rank; 0: no LoRA
  torch::Dtype products_ = torch::kFloat32;
  torch::Tensor inverse_frequencies_;  // float64 [rotary_dim/2]; undefined without rotary positions
  Network network_;
  std::string head_;  // HeadOf
};

}  // namespace t2r::convert
