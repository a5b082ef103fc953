// Writes model directories for tests, and keeps them until the test ends.
#pragma once

#include <string>
#include <vector>

#include "engine/ops/dtype.h"
#include "testing/reference_model.h"
#include "testing/temporary_directory.h"

namespace t2r::testing {

// Rounds every value to what `dtype` can hold (to nearest, ties to even).
Tensors Rounded(const Tensors& tensors, DType dtype);

// Writes the tensors, whose values must be exact in `dtype`, as model.safetensors or, for
// shards > 1, as that many files with an index.
void WriteWeights(const TemporaryDirectory& directory, const Tensors& tensors,
                  DType dtype = DType::kFloat32, int shards = 1);

}  // namespace t2r::testing
