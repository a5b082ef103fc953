// One layer's attention between the projections, linear or full: causal self-attention, or cross
// attention over an encoder's outputs.
#pragma once

#include <vector>

#include "engine/model/config.h"
#include "engine/model/model.h"
#include "engine/model/weight_loader.h"
#include "engine/ops/backend.h"

namespace t2r {

// A layer's feature map in host memory, as engine/ops/linear_attention.h and windowed_attention.h
// have it; empty where the map has no such tensor. rows = FeatureMap::projected_features().
struct FeatureMapWeights {
  int rows = 0;
  std::vector<float> weight;        // [G, rows, d]
  std::vector<float> bias;          // [G, rows]
  std::vector<float> query_weight;  // [G, rows, d]
  std::vector<float> query_bias;    // [H, rows]
  std::vector<float> far_bias;      // [H]
  std::vector<float> log_decay;     // [G]
};

// Reads the feature map of a layer's causal attention, or of its cross attention; columns as
// HeadOrder has them (engine/model/rope.h). Nothing where that is full. Throws ModelError, also for
// a decay that grows.
FeatureMapWeights ReadFeatureMap(const WeightLoader& loader, const ModelConfig& config, int layer,
                                 bool cross);

// Whether the map's projection should be folded into the query and key projections of a model that
// has nothing between them: only t2r and hedgehog without a window can, and only where a folded
// head's rows cost less than the projection and the map apart. false where the attention is full.
bool ShouldFold(const ModelConfig& config, int layer, bool cross);

// Holds the layer's feature map on the device and knows its place in states and pages.
class Attention {
 public:
  // Columns of the layer's [q | k | v] rows.
  int64_t query_columns() const { return query_width_ * heads_; }
  int64_t key_columns() const { return query_width_ * groups_; }
  int64_t value_columns() const { return int64_t{head_dim_} * groups_; }
  int64_t columns() const { return query_columns() + key_columns() + value_columns(); }

  // A layer's causal attention, or its cross attention, linear or full as the configuration says.
  // map: ReadFeatureMap's. folded: q and k hold pre-activations; `map` then is not needed on the
  // device.
  static Attention Load(WeightLoader& loader, const ModelConfig& config, int layer, bool cross,
                        const FeatureMapWeights& map, bool folded);

  // Causal self-attention. cos_sin [T, head_dim]: of Backend::RopeTable by HeadFrequencies and
  // RopeFactor, no data where the model has no rotary positions. qkv [T, columns()], before them,
  // heads of q and k in HeadOrder; its q and k may be turned in place.
  // out [T, heads · head_dim].
  void Run(Backend& backend, const Batch& batch, const Caches& caches, Tensor cos_sin, Tensor qkv,
           Tensor out) const;

  // Cross attention: takes in the encoder's outputs of sources (Model::Encode), projected to
  // kv [T, key_columns() + value_columns()].
  void WriteCrossKv(Backend& backend, const Batch& sources, const Caches& caches, Tensor kv) const;
  // Cross attention: what the batch's rows read of their sources. q [T, query_columns()],
  // out [T, heads · head_dim].
  void CrossAttend(Backend& backend, const Batch& batch, const Caches& caches, Tensor q,
                   Tensor out) const;

 private:
  enum class Kind : uint8_t { kFull, kLinear, kWindowed };

  Attention(const ModelConfig& config, int layer, bool cross);
  LinearAttentionArgs LinearArgs(LinearAttentionMode mode, const Caches& caches) const;
  WindowedAttentionArgs WindowedArgs(LinearAttentionMode mode, const Caches& caches) const;
  FullAttentionArgs FullArgs(FullAttentionMode mode, const KvCache& kv) const;
  // The angles' cosines and sines that windowed attention needs beside the rows' own.
  void LoadAngles(const ModelConfig& config, WeightLoader& loader);

  int index_ = 0;  // among the layers of Caches::kv or source_kv, or those of StateShapeOf
  int heads_ = 0;
  int groups_ = 0;
  int head_dim_ = 0;
  int64_t query_width_ = 0;  // of one head of q and of k
  Kind kind_ = Kind::kFull;
  // Of linear layers.
  FeatureMap map_;
  LinearSizes sizes_;
  bool rope_features_ = true;
  Normalizer normalizer_ = Normalizer::kClamp;
  float eps_ = 0;
  int64_t sink_position_ = 0;
  Buffer weight_, bias_, query_weight_, query_bias_, far_bias_, log_decay_;
  Buffer fold_cos_sin_, sink_cos_sin_;
};

}  // namespace t2r
