// A float32 model on the CPU whose products can be looked at, and done with other matrices.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "convert/eval/windows.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/executor/model_executor.h"
#include "engine/model/config.h"
#include "engine/ops/matmul.h"

namespace t2r::convert {

// Σ x xᵀ over the rows x that a matrix was multiplied with.
struct SecondMoments {
  int64_t cols = 0;         // K
  std::vector<float> sums;  // [K, K]
};

// A matrix that the engine multiplies with, made of projections as the files have them: the one
// that it loads as one, whose parts so have one type.
struct LoadedMatrix {
  const Matrix* matrix = nullptr;
  std::vector<std::string> names;  // of its tensors, in the order of their rows
  bool whole = false;              // they are all of it
};

class Recorder;

class WatchedModel {
 public:
  // Of a model without an encoder, for the windows that evaluation cuts `corpus` into.
  // config, files and corpus must outlive it. Throws ConvertError, ModelError or DeviceError.
  WatchedModel(const ModelConfig& config, const SafetensorsDirectory& files, const Corpus& corpus);

  // Those with projections that the engine takes as the files have them, in the order of the
  // network; not what it makes of several tensors or puts into another order.
  std::span<const LoadedMatrix> matrices() const;

  // Calls `take` once for each of them, with the second moments of what the corpus puts through it.
  // The corpus is run as often as `memory_bytes` of moments at a time need.
  void MeasureSecondMoments(
      int64_t memory_bytes,
      const std::function<void(const LoadedMatrix& loaded, const SecondMoments& moments)>& take);

  // From here on products with `matrix` are done with what `parts` hold, stacked, whose dtype is
  // theirs; none: with itself again.
  void Replace(const Matrix* matrix, std::span<const HostMatrix> parts);
  // Keeps what the model predicts as it is now: about so many predictions of the corpus, in whole
  // windows from all parts of it.
  void RememberPredictions(int64_t predictions);
  // The mean of KL(what was remembered ‖ what the model predicts now), in nats a token.
  double Divergence();

 private:
  void Run(std::span<const Window> windows);

  Recorder* recorder_;  // the executor's
  std::unique_ptr<ModelExecutor> executor_;
  const Corpus& corpus_;
  std::vector<Window> windows_;
  std::vector<Window> remembered_;
};

}  // namespace t2r::convert
