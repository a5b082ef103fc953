// A model: weights on a backend and the forward pass over them.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/model/config.h"
#include "engine/model/weights.h"
#include "engine/ops/backend.h"
#include "engine/state/kv_cache.h"
#include "engine/state/state_pool.h"

namespace t2r {

struct ModelOptions {
  DType weight_dtype = DType::kFloat32;  // matrices: float32 or bfloat16
  int64_t max_step_tokens = 512;         // rows of the largest batch: sizes the workspace
  int64_t max_step_outputs = 512;        // rows of the largest batch whose logits are wanted
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  // Bytes of weights on the backend.
  virtual size_t weight_bytes() const = 0;
  // Runs the batch: advances the states of its slots (and their key/value pages) and returns the
  // logits of batch.output_rows, [outputs, vocabulary], valid until the next call.
  virtual Tensor Forward(const Batch& batch, const StatePool& states, const KvCache& kv) = 0;
};

// Builds the model of config.architecture. The weights may go once it returns, except that a tied
// or looked-up embedding table may stay in place (Backend::LoadTable): keep the source alive as
// long as the model. Throws ModelError (missing tensor, wrong shape; the message names it) or
// DeviceError.
std::unique_ptr<Model> MakeModel(const ModelConfig& config, const WeightSource& weights,
                                 Backend& backend, const ModelOptions& options);

StateShape StateShapeOf(const ModelConfig& config);
KvShape KvShapeOf(const ModelConfig& config);

}  // namespace t2r
