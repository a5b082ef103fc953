// The tensors of a model's files: names, shapes and what each is for. One list an architecture,
// which stands beside its forward pass (architectures.h); loaders, the converter and random models
// read it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/weights.h"

namespace t2r {

enum class TensorRole : uint8_t {
  kEmbedding,        // rows looked up by token id; the decoder's where there are two
  kSourceEmbedding,  // the encoder's, where it has its own
  kHead,             // hidden states to logits, where the embedding does not do it
  kPositions,        // rows looked up by position
  kProjection,       // a matrix of a layer
  kNormWeight,
  kBias,  // of a projection or a norm
  kFeatureMap,
  kLogitBias,  // added to the logits
};

struct TensorSpec {
  std::string name;  // what this project writes
  std::vector<int64_t> shape;
  TensorRole role = TensorRole::kProjection;
  std::vector<std::string> aliases;  // other names of the same tensor in files, best first
  // Files may leave it out: sinusoidal positions can be computed, a logit bias is then zero.
  bool optional = false;
  bool transposed = false;     // a projection stored [inputs, outputs], as GPT-2's Conv1D
  bool ends_residual = false;  // a projection whose result is added to the residual stream
};

// Every tensor of a model of this configuration, in a fixed order (docs/model-format.md).
std::vector<TensorSpec> TensorsOf(const ModelConfig& config);
// In the source under its name or an alias; null where it is not there.
const HostTensor* FindTensor(const WeightSource& source, const TensorSpec& tensor);
// The name of the matrix from hidden states to logits: the head or, where they are tied, the
// embedding.
const std::string& HeadOf(const std::vector<TensorSpec>& tensors);
// Prefix of the tensors of a layer's attention, its causal one or the one over an encoder's
// outputs: "model.layers.3.self_attn.", "model.decoder.layers.3.encoder_attn.", ….
std::string AttentionPrefix(const ModelConfig& config, int layer, bool cross);

// Builds such a list.
class TensorList {
 public:
  // Names below `optional_prefix` may stand in a file without it.
  explicit TensorList(const ModelConfig& config, std::string optional_prefix = "")
      : config_(config), optional_prefix_(std::move(optional_prefix)) {}

  // [rows, hidden].
  TensorSpec& Table(const std::string& name, TensorRole role, int64_t rows) {
    return Add(name, role, {rows, config_.hidden_size});
  }
  // `name`.weight [outputs, inputs] and, where `bias`, `name`.bias [outputs].
  void Projection(const std::string& name, int64_t outputs, int64_t inputs, bool bias,
                  bool ends_residual = false);
  // The same, stored [inputs, outputs] and always with a bias.
  void Conv1d(const std::string& name, int64_t inputs, int64_t outputs, bool ends_residual = false);
  // `name`.weight [size] and, where `bias`, `name`.bias [size].
  void Norm(const std::string& name, int64_t size, bool bias);
  // What the feature map of a layer's attention has, if that is linear, below
  // `attention`feature_map: of the causal one or of the one over an encoder's outputs.
  void FeatureMap(const std::string& attention, int layer, bool cross = false);
  // lm_head.weight, unless the embedding does its work.
  void Head();
  // The reference is good until the next tensor.
  TensorSpec& Add(const std::string& name, TensorRole role, std::vector<int64_t> shape);

  std::vector<TensorSpec> Take() { return std::move(tensors_); }

 private:
  const ModelConfig& config_;
  std::string optional_prefix_;
  std::vector<TensorSpec> tensors_;
};

}  // namespace t2r
