// One layer's attention between the projections, linear or full: causal self-attention, or cross
// attention over an encoder's outputs.
#pragma once

#include <string>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/model.h"
#include "engine/model/weight_loader.h"
#include "engine/ops/backend.h"

namespace t2r {

// A layer's feature map in host memory: weight [G, rows, d] and bias [G, rows], empty where the map
// has none; rows = FeatureMap::projected_features().
struct FeatureMapWeights {
  int rows = 0;
  std::vector<float> weight;
  std::vector<float> bias;
};

// Reads `prefix`feature_map.* of a linear layer.
FeatureMapWeights ReadFeatureMap(const WeightLoader& loader, const std::string& prefix,
                                 const ModelConfig& config);

// Whether the map's projection should be folded into the query and key projections of a model that
// has nothing between them: only t2r and hedgehog can, and only where a folded head's rows cost
// less than the projection and the map apart.
bool ShouldFold(const ModelConfig& config);

// Holds the layer's feature map on the device and knows its place in states and pages.
class Attention {
 public:
  // Columns of the layer's [q | k | v] rows.
  int64_t query_columns() const { return query_width_ * heads_; }
  int64_t key_columns() const { return query_width_ * groups_; }
  int64_t value_columns() const { return int64_t{head_dim_} * groups_; }
  int64_t columns() const { return query_columns() + key_columns() + value_columns(); }

  // A full layer, the `index`-th of the caches' (Caches::kv, for cross attention source_kv).
  static Attention Full(const ModelConfig& config, int index);
  // A linear layer, the `index`-th of StateShapeOf. folded: q and k hold pre-activations; `map`
  // then is not needed on the device.
  static Attention Linear(const ModelConfig& config, int index, const FeatureMapWeights& map,
                          bool folded, WeightLoader& loader);

  // Causal self-attention. qkv [T, columns()], out [T, heads · head_dim].
  void Run(Backend& backend, const Batch& batch, const Caches& caches, Tensor qkv,
           Tensor out) const;

  // Cross attention: takes in the encoder's outputs of sources (Model::Encode), projected to
  // kv [T, key_columns() + value_columns()].
  void WriteCrossKv(Backend& backend, const Batch& sources, const Caches& caches, Tensor kv) const;
  // Cross attention: what the batch's rows read of their sources. q [T, query_columns()],
  // out [T, heads · head_dim].
  void CrossAttend(Backend& backend, const Batch& batch, const Caches& caches, Tensor q,
                   Tensor out) const;

 private:
  Attention(const ModelConfig& config, int index);
  LinearAttentionArgs LinearArgs(LinearAttentionMode mode, const Caches& caches) const;
  FullAttentionArgs FullArgs(FullAttentionMode mode, const KvCache& kv) const;

  int index_ = 0;
  int heads_ = 0;
  int groups_ = 0;
  int head_dim_ = 0;
  int64_t query_width_ = 0;  // of one head of q and of k
  bool linear_ = false;
  FeatureMap map_;
  Normalizer normalizer_ = Normalizer::kClamp;
  float eps_ = 0;
  Buffer weight_;
  Buffer bias_;
};

}  // namespace t2r
