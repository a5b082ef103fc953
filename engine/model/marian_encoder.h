// Marian's encoder: softmax self-attention over whole sources.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/marian_parts.h"
#include "engine/model/weight_loader.h"

namespace t2r {

class MarianEncoder {
 public:
  // tokens: the source's embedding table. Throws as MakeModel does. config must outlive it.
  MarianEncoder(const ModelConfig& config, WeightLoader& loader,
                std::shared_ptr<const Matrix> tokens);

  // Columns of MarianWorkspace::projected that it needs.
  int64_t columns() const;

  // Within Backend::RunStep. Runs the sources, a segment each, on `stream`, and returns their
  // representations [rows, hidden] in the backend's activation type, which lie in the stream.
  Tensor Run(Backend& backend, const Batch& sources, MarianStream& stream) const;

 private:
  struct Layer {
    Norm attention_norm;
    Projection qkv;  // [q | k | v] output rows
    Projection out;
    MarianFeedForward feed_forward;
  };
  static Layer LoadLayer(WeightLoader& loader, const std::string& name);

  const ModelConfig& config_;
  MarianEmbedding embedding_;
  std::vector<Layer> layers_;
  Norm final_norm_;  // where config has one
};

}  // namespace t2r
