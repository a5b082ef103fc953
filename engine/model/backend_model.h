// What the architectures have in common: a forward pass that is one step of a backend.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "engine/model/model.h"
#include "engine/model/projection.h"
#include "engine/model/weight_loader.h"
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
  BackendModel(const ModelConfig& config, Backend& backend, const ModelOptions& options)
      : config_(config), backend_(backend), dtype_(backend.activation_dtype(options.weight_dtype)) {
    workspace_.AddLogitRows(&logits_, config.vocab_size, DType::kFloat32);
  }

  // What Logits needs. final_norm, bias: the tensors' names; empty: there is none.
  void LoadHead(WeightLoader& loader, const std::string& final_norm, const std::string& bias = "");
  // The end of Run: to logits_, of the rows that want them, what the head makes of x [T, hidden],
  // normalised before. Without a final norm x has the type dtype_.
  void Logits(const Batch& batch, const StepShape& shape, Tensor x);

  // The ops of a step (Backend::RunStep), up to logits_ of the rows that want them.
  virtual void Run(const Batch& batch, const StepShape& shape, const Caches& caches) = 0;

  const ModelConfig config_;
  Backend& backend_;
  const DType dtype_;        // of activations
  size_t weight_bytes_ = 0;  // set when the weights are loaded
  Workspace workspace_;      // the families declare their activations when they are made

 private:
  Norm final_norm_;
  std::shared_ptr<const Matrix> head_;
  Buffer head_bias_;
  Activation last_, last_normed_;  // of the rows whose logits are wanted
  Activation logits_;              // [logit_rows, vocabulary], float32
};

// Architecture::make of a BackendModel.
template <typename Family>
std::unique_ptr<Model> MakeFamily(const ModelConfig& config, const WeightSource& weights,
                                  Backend& backend, const ModelOptions& options) {
  return std::make_unique<Family>(config, weights, backend, options);
}

}  // namespace t2r
