#include "engine/snapshot/byte_io.h"

namespace t2r {
namespace {

// Above any server's own bound.
constexpr uint64_t kMaxBiases = 65536;

}  // namespace

void WriteSampling(const SamplingParams& sampling, ByteWriter* out) {
  out->Number(sampling.temperature);
  out->Number(sampling.top_k);
  out->Number(sampling.top_p);
  out->Number(sampling.min_p);
  out->Number(sampling.repetition_penalty);
  out->Number(sampling.frequency_penalty);
  out->Number(sampling.presence_penalty);
  out->Number(sampling.seed);
  out->Number(sampling.sequence);
  out->Number<uint64_t>(sampling.logit_bias.size());
  for (const auto& [token, bias] : sampling.logit_bias) {
    out->Number(token);
    out->Number(bias);
  }
}

SamplingParams ReadSampling(ByteReader& in) {
  SamplingParams sampling;
  sampling.temperature = in.Number<float>("temperature");
  sampling.top_k = in.Number<int32_t>("top_k");
  sampling.top_p = in.Number<float>("top_p");
  sampling.min_p = in.Number<float>("min_p");
  sampling.repetition_penalty = in.Number<float>("repetition_penalty");
  sampling.frequency_penalty = in.Number<float>("frequency_penalty");
  sampling.presence_penalty = in.Number<float>("presence_penalty");
  sampling.seed = in.Number<uint64_t>("seed");
  sampling.sequence = in.Number<uint64_t>("sequence");
  const size_t biases = in.Count("logit_bias", kMaxBiases, sizeof(int32_t) + sizeof(float));
  for (size_t i = 0; i < biases; ++i) {
    const auto token = in.Number<int32_t>("logit_bias");
    sampling.logit_bias.emplace_back(token, in.Number<float>("logit_bias"));
  }
  return sampling;
}

}  // namespace t2r
