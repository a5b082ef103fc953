// Where the tests find their files.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace t2r::testing {

inline std::string TestData(const std::string& name) {
  return std::string(T2R_SOURCE_DIR) + "/tests/engine/tokenizer/testdata/" + name;
}

// Checkpoints and texts that are not part of the repository; tests skip where they are absent.
inline std::string SharedData(const std::string& name) {
  const char* set = std::getenv("T2R_SHARED_DATA");
  const std::string base = set != nullptr ? set : std::string(T2R_SOURCE_DIR) + "/../shared/data";
  return base + "/" + name;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

// A directory for one test, removed with it.
class TempDirectory {
 public:
  TempDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "t2r_tokenizer_XXXXXX").string();
    path_ = mkdtemp(name.data()) == nullptr ? "" : name;
  }
  ~TempDirectory() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace t2r::testing
