#include "convert/train/checkpoint.h"

#include <torch/torch.h>

#include <sstream>
#include <vector>

#include "convert/data/files.h"
#include "convert/error.h"

namespace t2r::convert {
namespace {

constexpr int64_t kFormat = 1;

torch::Tensor Integers(const TrainState& s) {
  return torch::tensor({kFormat, s.step, s.epoch, s.batch, s.tokens, s.language_step},
                       torch::kInt64);
}

torch::Tensor Reals(const TrainState& s) {
  return torch::tensor({s.seconds, s.reference_nats, s.initial_nats}, torch::kFloat64);
}

torch::Tensor Bytes(const std::string& text) {
  return torch::tensor(std::vector<int64_t>(text.begin(), text.end()), torch::kInt64);
}

}  // namespace

void SaveCheckpoint(const std::string& path, const std::string& fingerprint,
                    const CheckpointTensors& tensors, const TrainState& state) {
  std::ostringstream out;
  torch::save(std::vector<torch::Tensor>{Integers(state), Reals(state), Bytes(fingerprint),
                                         tensors.values.detach(), tensors.moment1, tensors.moment2},
              out);
  WriteFileAtomically(path, std::move(out).str());
}

void LoadCheckpoint(const std::string& path, const std::string& fingerprint,
                    const CheckpointTensors& tensors, TrainState* state) {
  std::vector<torch::Tensor> loaded;
  try {
    std::istringstream in(ReadFile(path));
    torch::load(loaded, in, torch::kCPU);
  } catch (const c10::Error&) {
    throw ConvertError(path + ": not a checkpoint, or damaged; remove it to start anew");
  }
  if (loaded.size() != 6 || loaded[0].numel() != 6 || loaded[0][0].item<int64_t>() != kFormat) {
    throw ConvertError(path + ": not a checkpoint of this version; remove it to start anew");
  }
  const torch::Tensor expected = Bytes(fingerprint);
  if (!torch::equal(loaded[2], expected) || loaded[3].numel() != tensors.values.numel()) {
    throw ConvertError(path +
                       ": the checkpoint belongs to a run with other flags, data or model; "
                       "repeat that run's command, or remove the file to start anew");
  }
  const torch::NoGradGuard no_grad;
  state->step = loaded[0][1].item<int64_t>();
  state->epoch = loaded[0][2].item<int64_t>();
  state->batch = loaded[0][3].item<int64_t>();
  state->tokens = loaded[0][4].item<int64_t>();
  state->language_step = loaded[0][5].item<int64_t>();
  state->seconds = loaded[1][0].item<double>();
  state->reference_nats = loaded[1][1].item<double>();
  state->initial_nats = loaded[1][2].item<double>();
  for (const auto& [to, from] :
       {std::pair(tensors.values, loaded[3]), std::pair(tensors.moment1, loaded[4]),
        std::pair(tensors.moment2, loaded[5])}) {
    torch::Tensor target = to;
    target.copy_(from);
  }
}

}  // namespace t2r::convert
