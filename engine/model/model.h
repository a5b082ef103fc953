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
  DType weight_dtype = DType::kFloat32;  // matrices: float32, bfloat16, int8, int4
};

// Where sessions keep what they remember. kv holds the decoder's keys and values, source_kv those
// of the encoder's outputs.
struct Caches {
  const StatePool& states;
  const KvCache& kv;
  const KvCache& source_kv;
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  // Bytes of weights on the backend.
  virtual size_t weight_bytes() const = 0;
  // Bytes of activations for steps of up to `rows` rows, `logit_rows` of which have their logits
  // wanted.
  virtual int64_t WorkspaceBytes(int64_t rows, int64_t logit_rows) const = 0;
  // Takes that memory; once, before the first step. Throws DeviceError.
  virtual void AllocateWorkspace(int64_t rows, int64_t logit_rows) = 0;
  // Runs the batch: advances the states of its slots (and their key/value pages) and returns the
  // logits of batch.logit_rows, [at least logit_rows, vocabulary], valid until the next call.
  virtual Tensor Forward(const Batch& batch, const Caches& caches) = 0;
  // Encoder-decoders: encodes sources, a segment each, into their slots' cross attention: states,
  // and keys and values in batch.pages, which are of caches.source_kv. Other models have none.
  virtual void Encode(const Batch& sources, const Caches& caches);
};

// Builds the model of config.architecture. The weights may go once it returns. Throws ModelError
// (missing tensor, wrong shape; the message names it) or DeviceError.
std::unique_ptr<Model> MakeModel(const ModelConfig& config, const WeightSource& weights,
                                 Backend& backend, const ModelOptions& options);

// Causal linear layers, then linear cross attention; windows' keys and values kept as
// `window_dtype`.
StateShape StateShapeOf(const ModelConfig& config, DType window_dtype = DType::kFloat32);
// Keys and values of the full causal layers, and of the full cross attention, kept as `dtype`.
KvShape KvShapeOf(const ModelConfig& config, DType dtype = DType::kFloat32);
KvShape SourceKvShapeOf(const ModelConfig& config, DType dtype = DType::kFloat32);

}  // namespace t2r
