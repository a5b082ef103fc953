// libFuzzer entry for config.json. The mutation test runs it too.
#include <string>

#include "engine/engine.h"
#include "engine/model/rope.h"
#include "tests/fuzz/model_fuzz.h"

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
  if (config->encoder_decoder.has_value()) {
    const EncoderDecoderConfig& both = *config->encoder_decoder;
    const bool usable = both.encoder_layers >= 1 && both.encoder_heads >= 1 &&
                        config->hidden_size % both.encoder_heads == 0 &&
                        both.encoder_intermediate_size >= 1 && both.source_vocab_size >= 1 &&
                        both.max_source_positions >= 1 && both.decoder_start_token_id >= 0 &&
                        both.decoder_start_token_id < config->vocab_size &&
                        both.cross_layer_types.size() == config->layer_types.size() &&
                        SourceKvShapeOf(*config).page_bytes() >= 0;
    if (!usable) return 1;
  }
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
