// Windowed attention of one segment and group, row by row.
//
// A window in int8 begins with its scales: K's of the columns, then V's, group after group. A key's
// scale goes onto its scores, a value's onto its weights, so the passes over K and V are the same
// for every type of element.
//
// A group's window is K, then V: K in blocks of kKeyBlock columns, each [d, its width], so that the
// scores of its columns are chains over d that run side by side in vectors; V [columns, d]. Column
// j < n is sink j; position j ≥ n lies in column n + j mod R. A row's order of operations follows
// from its position alone: it sums sinks, then the ring from its first column on, then centroids,
// so its bits depend neither on its neighbours nor on how a prompt was split.
//
// A row costs, a head, 4 d operations for each of the w to w + C − 1 + n keys near by, 4 M d for
// the far part (E q and φS) once a key is folded, and, a group, 4 M d for its folded key (A k and
// S), in batches of C keys. It reads the group's K and V once for four heads together, S and z
// once, and writes one key and value; S and z are written once in C rows.
#include <cfloat>
#include <cmath>
#include <type_traits>

#include "engine/ops/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/windowed_attention.cc"
#include <hwy/foreach_target.h>
// Highway must come after foreach_target.h.
#include "engine/ops/cpu/features-inl.h"
#include "engine/ops/cpu/window_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace t2r {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kKeyBlock = 128;
// So many bytes of keys are fetched before their task begins, at most: they must fit the second
// level of caches beside what is in use.
constexpr int64_t kMostAhead = 256 << 10;
// Keys that are folded in one pass over S.
constexpr int64_t kFoldKeys = 32;

// ---- Vectors ----

// out = x rotated by the angles of cos_sin (n cosines, n sines): pairs (i, i + n).
HWY_INLINE void Rotate(const float* cos_sin, int64_t n, const float* x, float* out) {
  ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
    const VF a = io.Load(x + i);
    const VF b = io.Load(x + n + i);
    const VF c = io.Load(cos_sin + i);
    const VF s = io.Load(cos_sin + n + i);
    io.Store(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), out + i);
    io.Store(hn::MulAdd(b, c, hn::Mul(a, s)), out + n + i);
  });
}

// Turns x back, in place, by the angle of the row less that of `distance`.
HWY_INLINE void TurnBack(const float* row, const float* distance, int64_t n, float* x) {
  ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
    const VF row_cos = io.Load(row + i);
    const VF row_sin = io.Load(row + n + i);
    const VF far_cos = io.Load(distance + i);
    const VF far_sin = io.Load(distance + n + i);
    const VF c = hn::MulAdd(row_cos, far_cos, hn::Mul(row_sin, far_sin));
    const VF s = hn::Sub(hn::Mul(row_sin, far_cos), hn::Mul(row_cos, far_sin));
    const VF a = io.Load(x + i);
    const VF b = io.Load(x + n + i);
    io.Store(hn::MulAdd(a, c, hn::Mul(b, s)), x + i);
    io.Store(hn::Sub(hn::Mul(b, c), hn::Mul(a, s)), x + n + i);
  });
}

HWY_INLINE float Largest(const float* x, int64_t n, float floor) {
  const DF d;
  VF high = hn::Set(d, floor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) high = hn::Max(high, hn::LoadU(d, x + i));
  float largest = hn::GetLane(hn::MaxOfLanes(d, high));
  for (; i < n; ++i) largest = std::max(largest, x[i]);
  return largest;
}

// e^min(x − high, limit).
HWY_INLINE VF ShiftedExp(VF x, VF high, VF limit) {
  return hn::Exp(DF(), hn::Min(hn::Sub(x, high), limit));
}

// x[i] ← e^min(x[i] − high, limit); returns their sum.
HWY_INLINE float Exponentials(float* x, int64_t n, float high, float limit) {
  const DF d;
  const VF shift = hn::Set(d, high);
  const VF most = hn::Set(d, limit);
  VF sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF e = ShiftedExp(hn::LoadU(d, x + i), shift, most);
    hn::StoreU(e, d, x + i);
    sum = hn::Add(sum, e);
  }
  if (i < n) {
    StoreTail(ShiftedExp(LoadTail(x + i, n - i), shift, most), x + i, n - i);
    sum = hn::Add(sum, LoadTail(x + i, n - i));  // with zeros behind the tail
  }
  return Sum(sum);
}

HWY_INLINE float Dot(const float* a, const float* b, int64_t n) {
  VF sum = hn::Zero(DF());
  ForVectors(n, [&](int64_t i, auto io)
                    HWY_ATTR { sum = hn::MulAdd(io.Load(a + i), io.Load(b + i), sum); });
  return Sum(sum);
}

// ---- One row ----

// Columns [first, end) of a group's window.
struct Range {
  int64_t first = 0;
  int64_t end = 0;
};

// A group's state in a slot; null where the layer has none.
template <typename Element>
struct State {
  static constexpr bool kScaled = std::is_same_v<Element, int8_t>;

  State(const WindowedAttentionArgs& args, int32_t slot, int group) {
    const int64_t dim = args.head_dim;
    const int64_t features = args.map.features;
    if (args.state != nullptr) {
      float* sums = args.state + slot * args.slot_stride;
      s = sums + group * features * dim;
      z = sums + args.groups * features * dim + group * features;
    }
    const int64_t columns = args.ring() + args.sinks;
    if (columns == 0) return;
    float* window = static_cast<float*>(args.window_state) + slot * args.slot_stride;
    if constexpr (kScaled) {
      key_scales = window + group * 2 * columns;
      value_scales = key_scales + columns;
      window += int64_t{args.groups} * 2 * columns;
    }
    keys = reinterpret_cast<Element*>(window) + group * 2 * columns * dim;
    values = keys + columns * dim;
  }

  float* s = nullptr;
  float* z = nullptr;
  Element* keys = nullptr;
  Element* values = nullptr;
  float* key_scales = nullptr;    // of int8
  float* value_scales = nullptr;  // likewise
};

// A segment's rows, one group. `next` is what the same thread likely takes next.
template <typename Element>
class Task {
 public:
  Task(const WindowedAttentionArgs& args, const Segment& segment, int group,
       const WindowedAttentionNext& next, float* scratch)
      : args_(args),
        segment_(segment),
        group_(group),
        next_(next),
        dim_(args.head_dim),
        features_(args.map.features),
        num_queries_per_kv_(args.heads / args.groups),
        columns_(args.ring() + args.sinks),
        dim_stride_(RoundUpToLanes(dim_)),
        feature_stride_(RoundUpToLanes(features_)),
        score_stride_((columns_ + kKeyBlock - 1) / kKeyBlock * kKeyBlock) {
    const auto take = [&scratch](int64_t floats) {
      float* part = scratch;
      scratch += floats;
      return part;
    };
    near_query_ = take(num_queries_per_kv_ * dim_stride_);
    far_query_ = take(num_queries_per_kv_ * dim_stride_);
    sink_query_ = take(num_queries_per_kv_ * dim_stride_);
    key_ = take(dim_stride_);
    scores_ = take(num_queries_per_kv_ * score_stride_);
    phi_ = take(num_queries_per_kv_ * feature_stride_);
    y_ = take(num_queries_per_kv_ * dim_stride_);
    far_y_ = take(num_queries_per_kv_ * dim_stride_);
    folded_ = take(kFoldKeys * feature_stride_);
    folded_values_ = take(kFoldKeys * dim_stride_);
    first_keys_ = take(2 * kLanes);
    den_ = take(RoundUpToLanes(num_queries_per_kv_));
    feature_scratch_ = take(0);
    const State<Element> state(args, segment.slot, group);
    s_ = state.s;
    z_ = state.z;
    keys_ = state.keys;
    values_ = state.values;
    key_scales_ = state.key_scales;
    value_scales_ = state.value_scales;
  }

  static int64_t ScratchFloats(const WindowedAttentionArgs& args) {
    const int64_t num_queries_per_kv = args.heads / args.groups;
    const int64_t dim = RoundUpToLanes(args.head_dim);
    const int64_t features = RoundUpToLanes(args.map.features);
    const int64_t columns = args.ring() + args.sinks;
    return num_queries_per_kv * (5 * dim + (columns + kKeyBlock) + features) + dim +
           kFoldKeys * (features + dim) + 2 * kLanes + RoundUpToLanes(num_queries_per_kv) +
           FeatureScratchFloats(args.map, args.head_dim);
  }

  void Run() {
    for (int32_t r = 0; r < segment_.rows; ++r) Row(segment_.first_row + r, segment_.position + r);
  }

 private:
  static constexpr bool kScaled = State<Element>::kScaled;

  bool rotary() const { return args_.cos_sin.data != nullptr; }

  void Row(int64_t t, int64_t position) {
    row_cos_sin_ = rotary() ? args_.cos_sin.f32_row(t) : nullptr;
    const float* k =
        args_.mode == LinearAttentionMode::kRead ? nullptr : args_.k.f32_row(t) + group_ * dim_;
    const float* v = k == nullptr ? nullptr : args_.v.f32_row(t) + group_ * dim_;
    if (args_.window > 0) {
      const int64_t end = args_.folded_before(position);
      const int64_t before = position == 0 ? 0 : args_.folded_before(position - 1);
      if (features_ > 0 && end > before) Fold(end);
      Store(k, v, position);
    } else if (k != nullptr) {
      FoldOwn(k, v);
    }
    if (args_.mode == LinearAttentionMode::kAccumulate) return;
    Queries(t, position);
    if (args_.window > 0) {
      Attend(t, position);
    } else {
      Recall();
    }
    for (int h = 0; h < num_queries_per_kv_; ++h) {
      const VF divisor = hn::Set(DF(), den_[h]);
      float* out = args_.out.f32_row(t) + (int64_t{group_} * num_queries_per_kv_ + h) * dim_;
      ForVectors(dim_, [&](int64_t j, auto io) HWY_ATTR {
        io.Store(hn::Div(io.Load(y_ + h * dim_stride_ + j), divisor), out + j);
      });
    }
  }

  // The row's own key, rotated, and its value into their column.
  void Store(const float* k, const float* v, int64_t position) {
    const int64_t column =
        position < args_.sinks ? position : args_.sinks + position % args_.ring();
    const float* key = k;
    if (rotary()) {
      Rotate(row_cos_sin_, dim_ / 2, k, key_);
      key = key_;
    }
    const int64_t width = BlockWidth(column);
    Element* to = KeyColumn(column);
    Element* value = values_ + column * dim_;
    if constexpr (kScaled) {
      key_scales_[column] = StoreCodes(key, to, width);
      value_scales_[column] = StoreCodes(v, value, 1);
    } else {
      for (int64_t i = 0; i < dim_; ++i) to[i * width] = ToElement<Element>(key[i]);
      for (int64_t i = 0; i < dim_; ++i) value[i] = ToElement<Element>(v[i]);
    }
  }

  // x's codes, `stride` apart; returns their scale. What is not finite makes the scale NaN, so that
  // it is not lost; what is near float32's end is 0.
  float StoreCodes(const float* x, int8_t* to, int64_t stride) const {
    const DF d;
    VF high = hn::Zero(d);
    VF not_finite = hn::Zero(d);
    ForVectors(dim_, [&](int64_t i, auto io) HWY_ATTR {
      const VF v = io.Load(x + i);
      high = hn::Max(high, hn::Abs(v));
      not_finite = hn::MulAdd(v, hn::Zero(d), not_finite);
    });
    const float scale = hn::GetLane(hn::MaxOfLanes(d, high)) / 127 + Sum(not_finite);
    const bool usable = scale > 256 * FLT_MIN;  // not NaN
    const VF inverse = hn::Set(d, usable ? 1 / scale : 0.0F);
    for (int64_t i = 0; i < dim_; i += kLanes) {
      const int64_t n = std::min(kLanes, dim_ - i);
      HWY_ALIGN int32_t codes[kLanes] = {};
      if (usable) {
        const VF v = n == kLanes ? hn::LoadU(d, x + i) : LoadTail(x + i, n);
        hn::Store(hn::NearestInt(hn::Mul(v, inverse)), hn::RebindToSigned<DF>(), codes);
      }
      for (int64_t lane = 0; lane < n; ++lane) {
        to[(i + lane) * stride] = static_cast<int8_t>(codes[lane]);
      }
    }
    return usable || std::isnan(scale) ? scale : 0.0F;
  }

  int64_t BlockWidth(int64_t column) const {
    return std::min(kKeyBlock, columns_ - column / kKeyBlock * kKeyBlock);
  }
  // Element i of a column's key lies i · BlockWidth(column) behind.
  Element* KeyColumn(int64_t column) const {
    return keys_ + column / kKeyBlock * kKeyBlock * dim_ + column % kKeyBlock;
  }

  // f of a key (as the map sees it) into phi.
  void KeyFeatures(const float* key, float* phi) {
    if (args_.map.kind != FeatureMapKind::kCodebook) {
      ComputeFeatures(args_.map, dim_, group_, false, key, phi, feature_scratch_);
      return;
    }
    Logits(args_.map.weight, args_.map.bias + group_ * features_, key, phi);
    const float sum = Exponentials(phi, features_, Largest(phi, features_, -FLT_MAX), FLT_MAX);
    const VF total = hn::Set(DF(), sum);
    ForVectors(features_, [&](int64_t i, auto io)
                              HWY_ATTR { io.Store(hn::Div(io.Load(phi + i), total), phi + i); });
  }

  // out[m] = weight_m · x + bias[m]; x padded with zeros to whole vectors.
  void Logits(const float* weight, const float* bias, const float* x, float* out) {
    Project(weight + group_ * features_ * dim_, x, features_, dim_, feature_scratch_);
    ForVectors(features_, [&](int64_t i, auto io) HWY_ATTR {
      io.Store(hn::Add(io.Load(feature_scratch_ + i), io.Load(bias + i)), out + i);
    });
  }

  // Positions [end − C, end), sinks left out, move from the window into S and z.
  void Fold(int64_t end) {
    const int64_t fold = args_.fold;
    const float log_decay = args_.log_decay == nullptr ? 0.0F : args_.log_decay[group_];
    float keep = log_decay == 0 ? 1.0F : std::exp(log_decay * static_cast<float>(fold));
    for (int64_t first = end - fold; first < end; first += kFoldKeys) {
      const int64_t last = std::min(first + kFoldKeys, end);
      int64_t count = 0;
      for (int64_t j = std::max<int64_t>(first, args_.sinks); j < last; ++j) {
        const int64_t column = args_.sinks + j % args_.ring();
        const int64_t width = BlockWidth(column);
        const Element* key = KeyColumn(column);
        for (int64_t i = 0; i < dim_; ++i) key_[i] = FromElement(key[i * width]);
        if constexpr (kScaled) Scale(key_, dim_, key_scales_[column]);
        if (rotary() && !args_.rope_features) {
          TurnBack(row_cos_sin_, args_.fold_cos_sin + (end - 1 - j) * dim_, dim_ / 2, key_);
        }
        for (int64_t i = dim_; i < dim_stride_; ++i) key_[i] = 0.0F;
        float* phi = folded_ + count * feature_stride_;
        KeyFeatures(key_, phi);
        const float weight =
            log_decay == 0 ? 1.0F : std::exp(log_decay * static_cast<float>(end - 1 - j));
        if (weight != 1) Scale(phi, features_, weight);
        const Element* value = values_ + column * dim_;
        for (int64_t i = 0; i < dim_; ++i) {
          folded_values_[count * dim_stride_ + i] = FromElement(value[i]);
        }
        if constexpr (kScaled) {
          Scale(folded_values_ + count * dim_stride_, dim_, value_scales_[column]);
        }
        ++count;
      }
      Add(count, keep);
      keep = 1.0F;
    }
  }

  // Without a window: the row's own key.
  void FoldOwn(const float* k, const float* v) {
    if (rotary() && args_.rope_features) {
      Rotate(row_cos_sin_, dim_ / 2, k, key_);
    } else {
      std::copy_n(k, dim_, key_);
    }
    for (int64_t i = dim_; i < dim_stride_; ++i) key_[i] = 0.0F;
    KeyFeatures(key_, folded_);
    std::copy_n(v, dim_, folded_values_);
    Add(1, args_.log_decay == nullptr ? 1.0F : std::exp(args_.log_decay[group_]));
  }

  // x[i] ← x[i] · factors[i].
  static void Multiply(float* x, const float* factors, int64_t n) {
    ForVectors(n, [&](int64_t i, auto io)
                      HWY_ATTR { io.Store(hn::Mul(io.Load(x + i), io.Load(factors + i)), x + i); });
  }

  static void Scale(float* x, int64_t n, float factor) {
    ForVectors(n, [&](int64_t i, auto io) HWY_ATTR {
      io.Store(hn::Mul(io.Load(x + i), hn::Set(DF(), factor)), x + i);
    });
  }

  // S ← keep S + Σ_r f_r v_rᵀ and z ← keep z + Σ_r f_r for the `count` keys gathered. Their sum is
  // formed first: added one by one, small ones would vanish beside what a long session has summed.
  void Add(int64_t count, float keep) {
    const DF d;
    const VF factor = hn::Set(d, keep);
    ForVectors(features_, [&](int64_t m, auto io) HWY_ATTR {
      VF sum = hn::Zero(d);
      for (int64_t r = 0; r < count; ++r) {
        sum = hn::Add(sum, hn::LoadU(d, folded_ + r * feature_stride_ + m));
      }
      io.Store(hn::MulAdd(io.Load(z_ + m), factor, sum), z_ + m);
    });
    int64_t m = 0;
    for (; m + 4 <= features_; m += 4) AddRows<4>(count, factor, m);
    for (; m < features_; ++m) AddRows<1>(count, factor, m);
  }

  // Rows [m, m + kRows) of S.
  template <int kRows>
  HWY_INLINE void AddRows(int64_t count, VF factor, int64_t m) {
    const DF d;
    ForVectors(dim_, [&](int64_t j, auto io) HWY_ATTR {
      VF sum[kRows];
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) sum[i] = hn::Zero(d);
      for (int64_t r = 0; r < count; ++r) {
        const VF value = hn::LoadU(d, folded_values_ + r * dim_stride_ + j);
        const float* phi = folded_ + r * feature_stride_ + m;
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) sum[i] = hn::MulAdd(hn::Set(d, phi[i]), value, sum[i]);
      }
      float* s = s_ + m * dim_ + j;
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) {
        io.Store(hn::MulAdd(io.Load(s + i * dim_), factor, sum[i]), s + i * dim_);
      }
    });
  }

  // The row's queries times query_scale: rotated for the keys near by and for the sinks, and as φ
  // sees them; zeros behind each up to whole vectors.
  void Queries(int64_t t, int64_t position) {
    const VF scale = hn::Set(DF(), args_.map.query_scale);
    sinks_apart_ = args_.sink_cos_sin != nullptr && position > args_.sink_position;
    far_queries_ = rotary() && !args_.rope_features ? far_query_ : near_query_;
    for (int h = 0; h < num_queries_per_kv_; ++h) {
      const float* q = args_.q.f32_row(t) + (int64_t{group_} * num_queries_per_kv_ + h) * dim_;
      const int64_t at = h * dim_stride_;
      float* plain = far_queries_ + at;
      if (far_queries_ == near_query_ && rotary()) plain = far_query_ + at;  // in between
      ForVectors(dim_, [&](int64_t i, auto io) HWY_ATTR {
        hn::StoreU(hn::Mul(io.Load(q + i), scale), DF(), plain + i);
      });
      if (!rotary()) continue;
      for (int64_t i = dim_; i < dim_stride_; ++i) near_query_[at + i] = 0.0F;
      Rotate(row_cos_sin_, dim_ / 2, plain, near_query_ + at);
      if (sinks_apart_) Rotate(args_.sink_cos_sin, dim_ / 2, plain, sink_query_ + at);
    }
  }

  // The columns near(position) lies in, ascending; [0, *limit) are those that were ever written or
  // lie before such a one.
  int ActiveRanges(int64_t position, Range ranges[3], int64_t* limit) const {
    const int64_t n = args_.sinks;
    const int64_t ring = args_.ring();
    const int64_t sinks = std::min(n, position + 1);
    int count = 0;
    const auto add = [&](int64_t first, int64_t end) {
      if (first == end) return;
      if (count > 0 && ranges[count - 1].end == first) {
        ranges[count - 1].end = end;
      } else {
        ranges[count++] = {first, end};
      }
    };
    add(0, sinks);
    const int64_t low = std::max(n, args_.folded_before(position));
    if (low <= position) {
      const int64_t first = low % ring;
      const int64_t end = first + position + 1 - low;
      if (end > ring) add(n, n + end - ring);
      add(n + first, n + std::min(end, ring));
    }
    *limit = ranges[count - 1].end;
    return count;
  }

  void Attend(int64_t t, int64_t position) {
    Range ranges[3];
    int64_t limit = 0;
    const int count = ActiveRanges(position, ranges, &limit);
    Fetch fetch = Ahead(t, position);
    fetch.Begin(ScoreSteps(limit, dim_) + limit * ColumnCalls(dim_));
    const int64_t n = std::min<int64_t>(args_.sinks, position + 1);
    // Until a key has been folded S and z are 0, and all that is far with them.
    const bool far = features_ > 0 && args_.folded_before(position) > args_.sinks;
    for (int h = 0; h < num_queries_per_kv_; h += kHeads) {
      const int heads = std::min(kHeads, num_queries_per_kv_ - h);
      const int64_t at = h * dim_stride_;
      float* scores = scores_ + h * score_stride_;
      Score(heads, near_query_ + at, limit, scores, fetch);
      if constexpr (kScaled) {
        for (int i = 0; i < heads; ++i) Multiply(scores + i * score_stride_, key_scales_, limit);
      }
      if (sinks_apart_ && n > 0) {
        // The sinks' columns again, for queries of their own; what is behind them is kept.
        for (int i = 0; i < heads; ++i) {
          for (int64_t c = 0; c < n; ++c) {
            scores[i * score_stride_ + c] = KeyDot(sink_query_ + at + i * dim_stride_, c);
          }
        }
      }
      for (int i = 0; i < heads; ++i) {
        float* head = scores + i * score_stride_;
        int64_t gap = 0;
        for (int r = 0; r < count; ++r) {
          for (int64_t c = gap; c < ranges[r].first; ++c) head[c] = -FLT_MAX;
          gap = ranges[r].end;
        }
        high_[i] = Largest(head, limit, -FLT_MAX);
        den_[h + i] = Exponentials(head, limit, high_[i], FLT_MAX);
        if (far) Far(h + i, high_[i]);
        if constexpr (kScaled) Multiply(head, value_scales_, limit);
      }
      float* y = y_ + at;
      std::fill(y, y + heads * dim_stride_, 0.0F);
      for (int r = 0; r < count; ++r) {
        WeightedRows(heads, scores + ranges[r].first, score_stride_,
                     values_ + ranges[r].first * dim_, ranges[r].end - ranges[r].first, dim_, y,
                     dim_stride_, fetch);
      }
      if (!far) continue;
      const float* phi = phi_ + h * feature_stride_;
      if (args_.map.kind == FeatureMapKind::kCodebook) {
        for (int i = 0; i < heads; ++i) {
          den_[h + i] += Dot(phi + i * feature_stride_, z_, features_);
        }
        WeightedRows(heads, phi, feature_stride_, s_, features_, dim_, y, dim_stride_, fetch);
        continue;
      }
      float* far_y = far_y_ + at;
      std::fill(far_y, far_y + heads * dim_stride_, 0.0F);
      WeightedRows(heads, phi, feature_stride_, s_, features_, dim_, far_y, dim_stride_, fetch);
      for (int i = 0; i < heads; ++i) Join(h + i, high_[i], phi + i * feature_stride_);
    }
  }

  // What is to be fetched while row t is computed. With the last row that is what the next task
  // begins with: its S, its scales and its first keys. With the first it is this task's values
  // where they are in int8: wider ones the processor's own prefetching keeps up with.
  Fetch Ahead(int64_t t, int64_t position) const {
    Fetch fetch;
    const int64_t row_bytes = dim_ * static_cast<int64_t>(sizeof(Element));
    if (kScaled && t == segment_.first_row) {
      fetch.Add(values_, std::min(columns_, position + args_.sinks + 1) * row_bytes);
    }
    if (t != segment_.first_row + segment_.rows - 1 || next_.segment == nullptr) return fetch;
    const State<Element> next(args_, next_.segment->slot, next_.group);
    if (args_.folded_before(next_.segment->position) > args_.sinks) {
      fetch.Add(next.s, features_ * dim_ * static_cast<int64_t>(sizeof(float)));
    }
    if constexpr (kScaled) {
      fetch.Add(next.key_scales, 2 * columns_ * static_cast<int64_t>(sizeof(float)));
    }
    const int64_t blocks = (next_.segment->position + args_.sinks) / kKeyBlock + 1;
    fetch.Add(next.keys, std::min(std::min(columns_, blocks * kKeyBlock) * row_bytes, kMostAhead));
    return fetch;
  }

  // Adds the far sums, in units of e^far_bias, to those near by, in units of e^high.
  void Join(int h, float high, const float* phi) {
    const float far_den = Dot(phi, z_, features_);
    const float bias = args_.far_bias[int64_t{group_} * num_queries_per_kv_ + h];
    float most = high;
    if (far_den != 0) most = std::max(most, bias + std::log(std::abs(far_den)));
    const float near_scale = std::exp(high - most);
    // Bounded by 1 / |far_den|; where that is 0 the sums are too.
    const float far_scale = far_den == 0 ? 0.0F : std::exp(bias - most);
    den_[h] = den_[h] * near_scale + far_den * far_scale;
    float* y = y_ + h * dim_stride_;
    const float* far = far_y_ + h * dim_stride_;
    const VF a = hn::Set(DF(), near_scale);
    const VF b = hn::Set(DF(), far_scale);
    ForVectors(dim_, [&](int64_t j, auto io) HWY_ATTR {
      io.Store(hn::MulAdd(io.Load(far + j), b, hn::Mul(io.Load(y + j), a)), y + j);
    });
  }

  // φ of a head's query: a codebook's in units of e^high, at most e^kFarClamp of them.
  void Far(int h, float high) {
    float* phi = phi_ + h * feature_stride_;
    const float* q = far_queries_ + h * dim_stride_;
    if (args_.map.kind == FeatureMapKind::kCodebook) {
      Logits(args_.map.query_weight, QueryBias(h), q, phi);
      Exponentials(phi, features_, high, kFarClamp);
    } else {
      FeatureMap scaled = args_.map;
      scaled.query_scale = 1.0F;  // q is scaled already
      ComputeFeatures(scaled, dim_, group_, true, q, phi, feature_scratch_);
    }
  }

  const float* QueryBias(int h) const {
    return args_.map.query_bias + (int64_t{group_} * num_queries_per_kv_ + h) * features_;
  }

  // Without a window: the softmax of u + log z over the centroids, of their mean values.
  void Recall() {
    const DF d;
    for (int h = 0; h < num_queries_per_kv_; ++h) {
      float* phi = phi_ + h * feature_stride_;
      Logits(args_.map.query_weight, QueryBias(h), far_queries_ + h * dim_stride_, phi);
      ForVectors(features_, [&](int64_t i, auto io) HWY_ATTR {
        const VF z = io.Load(z_ + i);
        const VF mass = hn::Log(d, hn::Max(z, hn::Set(d, FLT_MIN)));
        io.Store(hn::IfThenElse(hn::Ge(z, hn::Set(d, FLT_MIN)), hn::Add(io.Load(phi + i), mass),
                                hn::Set(d, -FLT_MAX)),
                 phi + i);
      });
      den_[h] = Exponentials(phi, features_, Largest(phi, features_, -FLT_MAX), FLT_MAX);
      ForVectors(features_, [&](int64_t i, auto io) HWY_ATTR {
        const VF z = hn::Max(io.Load(z_ + i), hn::Set(d, FLT_MIN));
        io.Store(hn::Div(io.Load(phi + i), z), phi + i);
      });
    }
    std::fill(y_, y_ + num_queries_per_kv_ * dim_stride_, 0.0F);
    Fetch nothing;
    for (int h = 0; h < num_queries_per_kv_; h += kHeads) {
      WeightedRows(std::min(kHeads, num_queries_per_kv_ - h), phi_ + h * feature_stride_,
                   feature_stride_, s_, features_, dim_, y_ + h * dim_stride_, dim_stride_,
                   nothing);
    }
  }

  // scores[h][c] for c < limit and some behind, in whole blocks.
  void Score(int heads, const float* q, int64_t limit, float* scores, Fetch& fetch) {
    const Element* keys = keys_;
    if (columns_ * dim_ < kLanes) {
      // Too few for whole vectors to be read: from a copy with room behind it.
      auto* copy = reinterpret_cast<Element*>(first_keys_);
      std::copy_n(keys_, columns_ * dim_, copy);
      keys = copy;
    }
    for (int64_t c = 0; c < limit; c += kKeyBlock) {
      ForHeads(heads, [&]<int H>() HWY_ATTR {
        ScoreBlock<Element, H>(q, dim_stride_, keys + c * dim_, BlockWidth(c), dim_, scores + c,
                               score_stride_, fetch);
      });
    }
  }

  float KeyDot(const float* q, int64_t column) const {
    const int64_t width = BlockWidth(column);
    const Element* key = KeyColumn(column);
    float sum = 0;
    for (int64_t i = 0; i < dim_; ++i) sum += q[i] * FromElement(key[i * width]);
    if constexpr (kScaled) sum *= key_scales_[column];
    return sum;
  }

  const WindowedAttentionArgs& args_;
  const Segment& segment_;
  const int group_;
  const WindowedAttentionNext& next_;
  const int64_t dim_;             // d
  const int64_t features_;        // M
  const int num_queries_per_kv_;  // heads of the group
  const int64_t columns_;         // R + n
  const int64_t dim_stride_, feature_stride_, score_stride_;

  // The group's state.
  float* s_ = nullptr;
  float* z_ = nullptr;
  Element* keys_ = nullptr;
  Element* values_ = nullptr;
  float* key_scales_ = nullptr;    // of int8
  float* value_scales_ = nullptr;  // likewise

  // Scratch, rows of dim_stride_, feature_stride_ or score_stride_ a head or folded key.
  float* near_query_;
  float* far_query_;
  float* sink_query_;
  float* key_;
  float* scores_;
  float* phi_;
  float* y_;
  float* far_y_;
  float* folded_;
  float* folded_values_;
  float* first_keys_;
  float* den_;  // [num_queries_per_kv]
  float* feature_scratch_;

  // Of the current row.
  const float* row_cos_sin_ = nullptr;
  float* far_queries_ = nullptr;
  bool sinks_apart_ = false;
  float high_[kHeads] = {};
};

int64_t ScratchFloats(const WindowedAttentionArgs& args) {
  return Task<float>::ScratchFloats(args);
}

void Run(const WindowedAttentionArgs& args, const Segment& segment, int group,
         const WindowedAttentionNext& next, float* scratch) {
  if (args.window_dtype == DType::kInt8) {
    Task<int8_t>(args, segment, group, next, scratch).Run();
  } else if (args.window_dtype == DType::kBFloat16) {
    Task<uint16_t>(args, segment, group, next, scratch).Run();
  } else {
    Task<float>(args, segment, group, next, scratch).Run();
  }
}

}  // namespace

const WindowedAttentionKernels* WindowedAttentionTable() {
  static const WindowedAttentionKernels kTable = {ScratchFloats, Run};
  return &kTable;
}

}  // namespace HWY_NAMESPACE
}  // namespace t2r
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace t2r {
HWY_EXPORT(WindowedAttentionTable);
const WindowedAttentionKernels& ChooseWindowedAttentionKernels() {
  return *HWY_DYNAMIC_DISPATCH(WindowedAttentionTable)();
}
}  // namespace t2r
#endif
