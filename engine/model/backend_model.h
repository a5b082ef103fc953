// What the architectures have in common: a forward pass that is one step of a backend.
#pragma once

#include <cstddef>

#include "engine/model/model.h"
#include "engine/model/workspace.h"

namespace t2r {

class BackendModel : public Model {
 public:
  const ModelConfig& config() const final { return config_; }
  size_t weight_bytes() const final { return weight_bytes_; }
  int64_t WorkspaceBytes(int64_t rows, int64_t logit_rows) const final {
    return workspace_.Bytes(rows, logit_rows);
  }
  void AllocateWorkspace(int64_t rows, int64_t logit_rows) final {
    workspace_.Allocate(backend_, rows, logit_rows);
  }
  Tensor Forward(const Batch& batch, const Caches& caches) final {
    const StepShape shape =
        backend_.RunStep(this, batch, [&](const StepShape& step) { Run(batch, step, caches); });
    return logits_.Rows(shape.logit_rows);
  }

 protected:
  BackendModel(const ModelConfig& config, Backend& backend) : config_(config), backend_(backend) {
    workspace_.AddLogitRows(&logits_, config.vocab_size, DType::kFloat32);
  }

  // The ops of a step (Backend::RunStep), up to logits_ of the rows that want them.
  virtual void Run(const Batch& batch, const StepShape& shape, const Caches& caches) = 0;

  const ModelConfig config_;
  Backend& backend_;
  size_t weight_bytes_ = 0;  // set when the weights are loaded
  Workspace workspace_;      // the families declare their activations when they are made
  Activation logits_;        // [logit_rows, vocabulary], float32
};

}  // namespace t2r
