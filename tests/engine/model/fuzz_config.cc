// libFuzzer entry for config.json. The mutation test runs it too.
#include <string>

#include "engine/model/load.h"
#include "tests/engine/model/fuzz.h"

namespace t2r::testing {

int FuzzConfig(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto config = ParseModelConfig(text, "");
  if (!config.ok()) return config.status().message().empty() ? 1 : 0;
  // What passes must be safe to size a model by.
  const bool sound = config->layers >= 1 && config->heads >= 1 && config->kv_heads >= 1 &&
                     config->heads % config->kv_heads == 0 && config->head_dim >= 1 &&
                     config->hidden_size >= 1 && config->intermediate_size >= 1 &&
                     config->vocab_size >= 1 &&
                     config->layer_types.size() == static_cast<size_t>(config->layers) &&
                     StateShapeOf(*config).bytes() >= 0 && KvShapeOf(*config).page_bytes() >= 0;
  for (const double frequency : RopeInverseFrequencies(*config)) {
    if (!(frequency >= 0)) return 1;
  }
  return sound ? 0 : 1;
}

}  // namespace t2r::testing

#ifdef T2R_FUZZ_CONFIG
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (t2r::testing::FuzzConfig(data, size) != 0) __builtin_trap();
  return 0;
}
#endif
