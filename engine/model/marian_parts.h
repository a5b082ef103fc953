// What Marian's encoder and decoder have in common.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/projection.h"
#include "engine/model/weight_loader.h"
#include "engine/model/workspace.h"
#include "engine/ops/backend.h"

namespace t2r {

// Activations of a step, with a row each. Encoder and decoder share them: they never run at once.
struct MarianWorkspace {
  Activation x;          // the residual stream, float32 [hidden]
  Activation normed;     // [hidden]
  Activation projected;  // queries, keys and values
  Activation attn_out;   // what attention gives [hidden]
  Activation inner;      // of the feed-forward halves
};

// Token embeddings, scaled, plus positions.
struct MarianEmbedding {
  std::shared_ptr<const Matrix> tokens;
  std::unique_ptr<Matrix> positions;
  std::vector<float> sinusoids;  // where the positions are not stored; `positions` may refer to it
  float scale = 1.0F;
};

// side: "encoder" or "decoder". Stored positions are taken as they are; sinusoidal ones that are
// not stored are computed (Vaswani et al. 2017, section 3.5): sines, then cosines.
MarianEmbedding LoadMarianEmbedding(WeightLoader& loader, const std::string& side,
                                    std::shared_ptr<const Matrix> tokens,
                                    const ModelConfig& config);

struct MarianFeedForward {
  Norm norm;
  Projection up;
  Projection down;
};

// layer: "model.encoder.layers.0." and the like.
MarianFeedForward LoadMarianFeedForward(WeightLoader& loader, const std::string& layer);

// A step's residual stream x. Each half of a layer adds to it, with a layer norm before
// (normalize_before) or after.
class MarianStream {
 public:
  MarianStream(Backend& backend, const ModelConfig& config, const MarianWorkspace& workspace,
               int64_t rows);

  void Embed(const Batch& batch, const MarianEmbedding& embedding);
  // What the projections of an attention half read, in the backend's activation type. Valid until
  // AddAttention.
  Tensor Enter(const Norm& norm);
  // Ends the half: attn_out(), projected, goes onto the stream.
  void AddAttention(const Projection& out, const Norm& norm);
  void FeedForward(const MarianFeedForward& half);

  Tensor x() const { return x_; }
  // x in the activation type, where no norm comes before the halves or that type is float32.
  Tensor output() const { return output_; }
  Tensor normed() const { return normed_; }
  Tensor attn_out() const { return attn_out_; }
  Tensor Projected(int64_t cols) const { return workspace_.projected.Packed(x_.rows, cols); }

 private:
  // Once a half's output is added to x().
  void Leave(const Norm& norm);

  Backend& backend_;
  const ModelConfig& config_;
  const MarianWorkspace& workspace_;
  Tensor x_, normed_, attn_out_;
  Tensor output_;  // x_, or normed_ where that has another type
};

}  // namespace t2r
