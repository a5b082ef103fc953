// Small random encoder-decoders (Marian) for tests.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "testing/reference_model.h"

namespace t2r::testing {

struct MarianSpec {
  int hidden = 32;
  int encoder_layers = 2;
  int decoder_layers = 3;
  int encoder_heads = 2;
  int decoder_heads = 4;
  int encoder_inner = 40;
  int decoder_inner = 48;
  int source_vocab = 53;
  int vocab = 41;  // the source's where `share`
  int positions = 160;
  std::string activation = "swish";
  bool before = false;  // normalize_before
  bool final_norm = false;
  bool scale = true;               // scale_embedding
  bool learned = false;            // positions
  bool stored = true;              // positions in the file
  bool share = false;              // one embedding table; then vocab is source_vocab
  bool tied = true;                // lm_head
  std::vector<bool> linear;        // causal attention, a layer each; empty: none
  std::vector<bool> linear_cross;  // the same for cross attention
  std::string map = "t2r";
  int features = 6;  // below the head's 8: t2r and hedgehog are folded
  std::string normalizer = "clamp";
  std::vector<int> suppressed;  // bad_words_ids

  int target_vocab() const { return share ? source_vocab : vocab; }
  int head_dim() const { return hidden / decoder_heads; }
};

// The text of config.json.
std::string ConfigOf(const MarianSpec& spec);
// Random weights of a size that keeps activations near 1; deterministic in the seed.
Tensors RandomWeights(const MarianSpec& spec, uint64_t seed);
// An engine on random weights; null (and a failure) when it does not load.
std::unique_ptr<Engine> RandomEngine(const MarianSpec& spec, const EngineOptions& options);

}  // namespace t2r::testing
