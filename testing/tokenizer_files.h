// Where the tests find their files.
#pragma once

#include <fstream>
#include <sstream>
#include <string>

#include "testing/shared_data.h"
#include "testing/temporary_directory.h"

namespace t2r::testing {

inline std::string TestData(const std::string& name) {
  return std::string(T2R_SOURCE_DIR) + "/tests/engine/tokenizer/testdata/" + name;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

}  // namespace t2r::testing
