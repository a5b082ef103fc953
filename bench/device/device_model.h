// Models that exist only on the device: a configuration of a known shape, and weights that are all
// views of one block of random values. Speed depends on shapes and dtypes only.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/executor/memory_plan.h"
#include "engine/executor/model_executor.h"
#include "engine/ops/cuda/cuda_backend.h"
#include "testing/shapes.h"

namespace t2r::bench {

// A Llama of the shape; features 0: every layer is softmax attention, else t2r with so many.
ModelConfig ConfigOf(const Shape& shape, int features);

// Every tensor of the configuration (TensorsOf), in bfloat16. Normalisations and
// projections alike are small random numbers: nothing overflows.
class RandomSource : public WeightSource {
 public:
  explicit RandomSource(const ModelConfig& config);
  const HostTensor* Find(std::string_view name) const override;

 private:
  std::map<std::string, HostTensor, std::less<>> tensors_;
  std::vector<uint16_t> block_;
};

// A model on a CUDA device of its own, with as many sessions as asked for or, if fewer, as fit.
struct DeviceModel {
  ModelConfig config;
  MemoryPlan memory;
  MemoryInfo after_weights;              // before anything else was allocated
  cuda::CudaBackend* backend = nullptr;  // the executor's
  std::unique_ptr<ModelExecutor> executor;
};

// positions: pages of full layers for so many a session. batch_invariant: as in BackendOptions.
// Throws DeviceError.
DeviceModel MakeDeviceModel(const Shape& shape, int features, int most_sessions,
                            int64_t prompt_chunk, int64_t positions, bool batch_invariant = true);

}  // namespace t2r::bench
