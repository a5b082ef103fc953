// Writes model directories for tests, and keeps them until the test ends.
#pragma once

#include <string>
#include <vector>

#include "engine/ops/dtype.h"
#include "testing/reference_model.h"

namespace t2r::testing {

// A directory of its own under the temporary directory, removed with all it holds.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  void Write(const std::string& name, const std::string& text) const;
  std::string Read(const std::string& name) const;

 private:
  std::string path_;
};

// Rounds every value to what `dtype` can hold (to nearest, ties to even).
Tensors Rounded(const Tensors& tensors, DType dtype);

// Writes the tensors, whose values must be exact in `dtype`, as model.safetensors or, for
// shards > 1, as that many files with an index.
void WriteWeights(const TemporaryDirectory& directory, const Tensors& tensors,
                  DType dtype = DType::kFloat32, int shards = 1);

// Directory of a file below the shared test data, or empty where that is absent.
std::string SharedData(const std::string& name);

}  // namespace t2r::testing
