#include "engine/model/backend_model.h"

namespace t2r {

void BackendModel::LoadHead(WeightLoader& loader, const std::string& final_norm,
                            const std::string& bias) {
  if (!final_norm.empty()) {
    final_norm_ = LoadNorm(loader, final_norm);
    workspace_.AddLogitRows(&last_, config_.hidden_size, DType::kFloat32);
  }
  head_ = loader.LoadHead();
  if (!bias.empty()) head_bias_ = loader.LoadVector(bias);
  workspace_.AddLogitRows(&last_normed_, config_.hidden_size, dtype_);
}

void BackendModel::Logits(const Batch& batch, const StepShape& shape, Tensor x) {
  if (shape.logit_rows == 0) return;
  const Tensor normed = last_normed_.Rows(shape.logit_rows);
  if (final_norm_.weight.f32() == nullptr) {
    backend_.GatherLogitRows(batch, x, normed);
  } else {
    const Tensor last = last_.Rows(shape.logit_rows);
    backend_.GatherLogitRows(batch, x, last);
    Normalize(backend_, last, final_norm_, config_.norm_eps, normed);
  }
  backend_.MatMul(normed, *head_, head_bias_.f32(), MatMulMode::kStore,
                  logits_.Rows(shape.logit_rows));
}

}  // namespace t2r
