// Checkpoints and texts that are no part of the repository.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace t2r::testing {

// The path of `name` in the folder that the environment variable T2R_DATA names, by default
// ../shared/data beside the repository; "" where it is absent, and the test skips.
inline std::string SharedData(const std::string& name) {
  const char* const set = std::getenv("T2R_DATA");
  const std::string path =
      std::string(set != nullptr ? set : T2R_SOURCE_DIR "/../shared/data") + "/" + name;
  return std::filesystem::exists(path) ? path : "";
}

}  // namespace t2r::testing
