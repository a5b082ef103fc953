// libFuzzer entry for the safetensors reader: clang++ -fsanitize=fuzzer,address. The mutation test
// runs it too.
#include <string>
#include <string_view>

#include "engine/checkpoint/safetensors.h"
#include "tests/fuzz/model_fuzz.h"

namespace t2r::testing {

int FuzzSafetensors(const uint8_t* data, size_t size) {
  // Its own allocation, so that reads beyond the end are seen.
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const auto files = SafetensorsDirectory::Parse(bytes);
  if (!files.ok()) return files.status().message().empty() ? 1 : 0;
  uint64_t sum = 0;
  for (const auto& [name, tensor] : (*files)->tensors()) {
    const size_t count = static_cast<size_t>(tensor.elements()) * SizeOf(tensor.dtype);
    const auto* next = static_cast<const unsigned char*>(tensor.data);
    for (size_t i = 0; i < count; ++i) sum += next[i];
    if ((*files)->Find(name) != &tensor) return 1;
  }
  return sum == ~uint64_t{0} ? 1 : 0;
}

}  // namespace t2r::testing

#ifdef T2R_FUZZ_SAFETENSORS
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (t2r::testing::FuzzSafetensors(data, size) != 0) __builtin_trap();
  return 0;
}
#endif
