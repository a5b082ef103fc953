// First values of a swap's new parameters, from the keys and queries of the parent on some text.
//
// A codebook's centroids are k-means centres of the keys, in the metric in which an error of a key
// changes logits: the queries' second moment. Where features see q and k before their rotation, a
// query is first turned by the mean of RoPE's rotations over far distances, in which the high
// frequencies vanish by themselves.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/model/model.h"
#include "convert/progress.h"

namespace t2r::convert {

// Windows of at most `length` predictions, `count` of them evenly over the corpus (all where it has
// fewer), beginning with number `first` of each stretch's `parts`: excerpts of different `first` do
// not overlap.
Corpus Excerpts(const Corpus& corpus, int64_t length, int64_t count, int64_t first, int64_t parts);

// Batches of a corpus with each document one row, up to `batch_tokens` positions at once.
std::vector<BatchPlan> WholeDocuments(const Corpus& corpus, int64_t batch_tokens);

// What the parent's attentions read on a text: samples of keys and queries.
class Calibration {
 public:
  // Runs the parent once over `text`. `config` says what features see, and the queries' scale.
  Calibration(const TrainingModel& parent, const Corpus& text, const ModelConfig& swapped,
              uint64_t seed, int threads, Progress* progress);

  // Sets the codebooks of every linear attention of `model`, whose config may differ from
  // `swapped` in sizes, and keep more layers full. Throws ConvertError where there are fewer keys
  // than centroids.
  void SetCodebooks(TrainingModel* model, int threads, Progress* progress) const;

 private:
  struct Sample {
    torch::Tensor keys;     // [G, n, d], as features see them
    torch::Tensor queries;  // [G, m, d], scaled, of all heads of the group
  };
  struct Codebook {
    torch::Tensor key_weight, key_bias, query_weight, query_bias;  // of one group
  };
  // A centroid's query bias is the log of what a cell's keys weigh beyond their middle, held to [0,
  // 2]: the estimate of a wide cell is carried by its farthest keys.
  Codebook Fit(const Sample& sample, int64_t group, const LinearSizes& sizes, bool rotated,
               uint64_t seed) const;

  std::vector<AttentionSite> sites_;
  std::vector<Sample> samples_;              // of each site
  std::vector<double> inverse_frequencies_;  // empty: features see what logits see
  std::vector<int64_t> positions_;           // how many documents have a token at each position
  double rope_scale_ = 1;                    // of turned products: the square of RoPE's factor
  uint64_t seed_;
};

// Adds to each head's far bias (of a codebook: to the query biases of the head) the one of a few
// constants with which the attention's output is nearest to the parent's on `text`, each layer
// reading what the parent gives it. Maps without a bias stay as they are. Returns the squared error
// that is left of every causal linear attention's output over the square of the parent's, by
// layer; 0 for full ones. `threads`: of the operators, on which the last bits depend.
std::vector<double> ChooseFarBiases(const TrainingModel& parent, const Corpus& text, int threads,
                                    TrainingModel* model, Progress* progress);

}  // namespace t2r::convert
