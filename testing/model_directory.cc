#include "testing/model_directory.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "engine/checkpoint/safetensors.h"

namespace t2r::testing {
namespace {

// float32 to IEEE half, to nearest, ties to even: through the value itself, scaled so that the
// half's last place is 1.
uint16_t ToHalf(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(value));
  if (magnitude == 0) return sign;
  const int exponent = std::max(std::ilogb(magnitude), -14);
  double units = std::nearbyint(std::ldexp(magnitude, 10 - exponent));  // 1024 … 2048 if normal
  int biased = exponent + 15;
  if (units == 2048) {
    units = 1024;
    ++biased;
  }
  if (units < 1024) return static_cast<uint16_t>(sign | static_cast<int>(units));
  return static_cast<uint16_t>(sign | (biased << 10) | (static_cast<int>(units) - 1024));
}

uint16_t Narrow(float value, DType dtype) {
  return dtype == DType::kBFloat16 ? FloatToBFloat16(value) : ToHalf(value);
}

}  // namespace

Tensors Rounded(const Tensors& tensors, DType dtype) {
  Tensors rounded = tensors;
  for (auto& [name, tensor] : rounded) {
    for (float& value : tensor.values) {
      if (dtype == DType::kBFloat16) value = BFloat16ToFloat(FloatToBFloat16(value));
      if (dtype == DType::kFloat16) value = Float16ToFloat(ToHalf(value));
    }
  }
  return rounded;
}

void WriteWeights(const TemporaryDirectory& directory, const Tensors& tensors, DType dtype,
                  int shards) {
  std::map<std::string, std::vector<uint16_t>> narrow;
  std::vector<std::map<std::string, HostTensor, std::less<>>> parts(shards);
  std::string index;
  const auto file_of = [shards](int shard) {
    if (shards == 1) return std::string("model.safetensors");
    return "model-0000" + std::to_string(shard + 1) + "-of-0000" + std::to_string(shards) +
           ".safetensors";
  };
  int shard = 0;
  for (const auto& [name, tensor] : tensors) {
    HostTensor host{tensor.values.data(), dtype, tensor.shape};
    if (dtype != DType::kFloat32) {
      for (const float value : tensor.values) narrow[name].push_back(Narrow(value, dtype));
      host.data = narrow[name].data();
    }
    parts[shard].emplace(name, host);
    index += (index.empty() ? "\"" : ", \"") + name + "\": \"" + file_of(shard) + "\"";
    shard = (shard + 1) % shards;
  }
  for (int i = 0; i < shards; ++i) {
    const absl::Status status = WriteSafetensors(directory.path() + "/" + file_of(i), parts[i]);
    ASSERT_TRUE(status.ok()) << status;
  }
  if (shards > 1) {
    directory.Write("model.safetensors.index.json", "{\"weight_map\": {" + index + "}}");
  }
}

}  // namespace t2r::testing
