// A model directory with its matrices in 8 or 4 bits (docs/model-format.md, "Quantised matrices").
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "convert/data/corpus.h"
#include "engine/ops/dtype.h"

namespace t2r::convert {

struct QuantizeOptions {
  DType weights = DType::kInt8;  // or int4, then head and embeddings as int8
  // A text for a model without an encoder: projections are quantised for the inputs that it gives
  // them (convert/quantize/compensation.h). Null: as when the model is loaded, to the same bits.
  const Corpus* calibration = nullptr;
  // With int4 and a text: bytes of the projections, in bits a weight, up to which those stay in
  // int8 that cost the most a byte in int4. What a projection costs alone is measured: the
  // divergence of the model's predictions on the text. At least what they take in int4. 0: none
  // stays.
  double bits = 0;
};

// Projections that the engine loads as one matrix, so that they have one type.
struct WidenedMatrix {
  std::vector<std::string> names;  // tensors
  double divergence = 0;           // in int4, alone: nats a token
  bool wide = false;               // it stays in int8
};

struct QuantizeSummary {
  int64_t matrices = 0;      // that were quantised
  int64_t calibrated = 0;    // of them, for the inputs of a text
  int64_t bytes_before = 0;  // of their tensors
  int64_t bytes_after = 0;
  // With QuantizeOptions::bits: the costliest first.
  std::vector<WidenedMatrix> widened;
  double bits = 0;               // a weight of the projections, as they are kept in memory
  double divergence_narrow = 0;  // nats a token with all of them in int4
  double divergence = 0;         // with those in int8 that were chosen
};

// Writes `to`: the files of `from`, with every projection, head and table of embeddings quantised
// and the other tensors as they are; tensors that the model does not use are left out. `progress`
// is called with the share of a stage that is done and what is worked on. Throws ConvertError:
// `from` is no model directory or is quantised already, a tensor is missing, has another shape or
// is not finite; `to` is something else's; the options do not go together.
QuantizeSummary QuantizeModel(const std::string& from, const std::string& to,
                              const QuantizeOptions& options,
                              const std::function<void(double, const std::string&)>& progress);

}  // namespace t2r::convert
