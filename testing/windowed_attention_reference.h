// Windowed attention (engine/ops/windowed_attention.h) in plain float64: every sum of the
// definition taken anew for every row, over the whole history.
#pragma once

#include <cstdint>
#include <vector>

#include "testing/ops_reference.h"

namespace t2r::testing {

// The parameters of one layer, in host memory. linear: heads, groups, head_dim, map (with
// query_scale), weight and bias; for a codebook these are A [G · M, d] and a [G, M].
struct WindowedLayer {
  LinearLayer linear;
  Mat query_weight;  // codebook: E [G · M, d]
  Mat query_bias;    // codebook: b [H, M]
  Mat far_bias;      // [1, H]; the maps of linear_attention.h beside a window
  Mat log_decay;     // [1, G], or empty
  int window = 0;
  int sinks = 0;
  int fold = 1;
  bool rope_features = true;
  int64_t sink_position = -1;               // < 0: none
  std::vector<double> inverse_frequencies;  // [d / 2]; empty: no rotary positions
  DType window_dtype = DType::kFloat32;     // of the keys and values kept one by one

  int64_t ring() const { return window == 0 ? 0 : int64_t{window} + fold - 1; }
  // Bytes of a slot's part for the layer: of the keys and values, and of S and z.
  int64_t window_bytes() const {
    return WindowBytes(ring() + sinks, linear.groups, linear.head_dim, window_dtype);
  }
  int64_t state_floats() const { return linear.state_floats(); }
};

// One session: rows are given in order, from position `start` on, into an empty state (all zeros,
// so that the keys and values before `start` are zeros too).
class WindowedReference {
 public:
  explicit WindowedReference(const WindowedLayer& layer, int64_t start = 0);

  // Takes in the rows' keys and values [T, G·d], as the projections gave them.
  void Append(const Mat& k, const Mat& v);
  // Appends each row, then attends with its query. q [T, H·d].
  Result Run(const Mat& q, const Mat& k, const Mat& v);
  // Without a window: what queries read of the state as it is.
  Result Read(const Mat& q) const;
  // S [G, M, d], then z [G, M], after the rows so far, and how far a float32 form may be away.
  Result State() const;

 private:
  struct Key {
    std::vector<double> rotated, rotated_error;  // k̂ [G·d], and the error of a float32 form
    std::vector<double> value, value_error;      // v [G·d]
    // f(k) [G, M], and relative errors [G].
    std::vector<double> features, feature_error;
  };
  struct Query {
    std::vector<double> value, error;  // [d]
  };

  int64_t position() const { return start_ + static_cast<int64_t>(keys_.size()); }  // the next
  // Of positions before `start`: zeros.
  const Key& KeyAt(int64_t j) const;
  // How far the window's form of a key or value [d] of a group may be away.
  std::vector<double> StoredError(const double* x) const;
  Key MakeKey(const double* k, const double* v, int64_t position) const;
  // x rotated by a position's angles.
  Query Rotate(const double* x, const double* error, int64_t position) const;
  // Keys before this are folded once row i is, and from where on they are.
  int64_t FoldedBefore(int64_t i) const;
  int64_t FirstFar() const;
  // S [M, d] and z [M] of a group at row i: values and errors.
  void Sums(int group, int64_t i, Mat* sums, Mat* errors) const;
  void Row(const double* q, int64_t i, double* out, double* bound) const;

  WindowedLayer layer_;
  int64_t start_;
  std::vector<Key> keys_;
  Key nothing_;
};

}  // namespace t2r::testing
