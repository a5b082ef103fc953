// A model directory with its matrices in 8 or 4 bits (docs/model-format.md, "Quantised matrices").
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "convert/data/corpus.h"
#include "engine/ops/dtype.h"

namespace t2r::convert {

struct QuantizeSummary {
  int64_t matrices = 0;      // that were quantised
  int64_t calibrated = 0;    // of them, for the inputs of a text
  int64_t bytes_before = 0;  // of their tensors
  int64_t bytes_after = 0;
};

// Writes `to`: the files of `from`, with every projection, head and table of embeddings quantised
// as `weights` (int8 or int4, then head and embeddings as int8) and the other tensors as they are;
// tensors that the model does not use are left out. Without `calibration` the same bits as
// quantising when the model is loaded; with it, a text for a model without an encoder, projections
// are quantised for the inputs that the text gives them (convert/quantize/compensation.h).
// `progress` is called with the share that is done and the tensor's name. Throws ConvertError:
// `from` is no model directory or is quantised already, a tensor is missing, has another shape or
// is not finite; `to` is something else's.
QuantizeSummary QuantizeModel(const std::string& from, const std::string& to, DType weights,
                              const Corpus* calibration,
                              const std::function<void(double, const std::string&)>& progress);

}  // namespace t2r::convert
