// Softmax attention: causal and cross over the paged cache, and within the segments of an encoder.
//
// One algorithm for rows that stand alone and for tiles, so that a row's bits do not depend on how
// its prompt was split. A row's keys, 64 a page from position 0, are cut into at most kSplits runs
// of whole pages, by the number of pages alone. Within a run the softmax goes page by page with a
// running maximum (Milakov & Gimelshein 2018, arXiv 1805.02867); runs are merged in order. A block
// takes up to kAttendWarps · kPairs pairs of a row and a query head of one group and reads each
// page of keys and values once for all of them. A block goes through the runs one after another;
// where rows that stand alone are few, several blocks share the runs of each, and a second kernel
// merges what they found: the same operations in the same order. All sums are float32.
//
// Bytes: a page of 64 · d keys and as many values for every block that reads it (a lone row: once a
// group). Operations: 4 · 64 · d a pair and page, by plain multiply-adds. A lone row's floor is its
// keys and values at the memory's bandwidth; a prompt in a full layer is bound by the
// multiply-adds.
#include <algorithm>
#include <string>

#include "engine/ops/cuda/attend_page.h"
#include "engine/ops/cuda/attention.h"

namespace t2r::cuda {
namespace {

// blockIdx: (tile, group · blocks of pairs, worker). partials null: the block goes through all runs
// and writes its outputs; else through runs worker, worker + workers … of a lone row, and leaves
// what they gave in partials [tile, query head, kSplits, PartialFloats(d)].
template <typename T, int kColumns, int kPairs>
__global__ void __launch_bounds__(kAttendThreads, 1)
    AttendKernel(AttendParameters<T> p, const RowTile* tiles, int pair_blocks, float* partials) {
  T2R_DYNAMIC_SHARED(float, shared);
  const RowTile tile = tiles[blockIdx.x];
  const int group = static_cast<int>(blockIdx.y) / pair_blocks;
  const int first_pair = static_cast<int>(blockIdx.y) % pair_blocks * kAttendWarps * kPairs;
  const int pairs = tile.rows * p.num_queries_per_kv;
  if (tile.slot < 0 || first_pair >= pairs) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const Segment segment = p.segments[tile.segment];

  // Queries and weights of a warp's pairs, then the page.
  float* const queries = shared + warp * kPairs * p.d;
  float* const weights = shared + kAttendWarps * kPairs * p.d + warp * kPairs * kKvPageSize;
  T* const page = reinterpret_cast<T*>(shared + kAttendWarps * kPairs * (p.d + kKvPageSize));
  int64_t keys[kPairs];
  for (int i = 0; i < kPairs; ++i) {
    const int pair = first_pair + warp * kPairs + i;
    keys[i] = pair < pairs ? KeysOf(p, segment, tile, pair / p.num_queries_per_kv) : 0;
    for (int c = lane; c < p.d; c += kWarpSize) {
      float value = 0.0F;
      if (pair < pairs) {
        const int64_t row = tile.first_row + pair / p.num_queries_per_kv;
        const int64_t head =
            static_cast<int64_t>(group) * p.num_queries_per_kv + pair % p.num_queries_per_kv;
        value = ToFloat(p.q[row * p.q_stride + head * p.d + c]) * p.scale;
      }
      queries[i * p.d + c] = value;
    }
  }
  // A tile lies within a page: its rows have as many pages each.
  const int64_t longest = KeysOf(p, segment, tile, tile.rows - 1);
  const int64_t pages = (longest + kKvPageSize - 1) / kKvPageSize;
  const int64_t per_split = PagesPerSplit(pages);

  Gathered<kColumns> total[kPairs];
  Gathered<kColumns> run[kPairs];
  for (Gathered<kColumns>& pair : total) pair.Clear();
  for (int64_t split = blockIdx.z; split * per_split < pages; split += gridDim.z) {
    for (Gathered<kColumns>& pair : run) pair.Clear();
    const int64_t end = (split + 1) * per_split < pages ? (split + 1) * per_split : pages;
    for (int64_t index = split * per_split; index < end; ++index) {
      const int64_t before = index * kKvPageSize;
      int n[kPairs];
      for (int i = 0; i < kPairs; ++i) {
        const int64_t rest = keys[i] - before;
        n[i] = static_cast<int>(rest < kKvPageSize ? rest : kKvPageSize);
      }
      const int64_t rest = longest - before;
      TakePage<T, kColumns, kPairs>(PageOf(p, segment, group, index), p.d,
                                    static_cast<int>(rest < kKvPageSize ? rest : kKvPageSize), n,
                                    page, queries, weights, run);
    }
    for (int i = 0; i < kPairs; ++i) {
      const int pair = first_pair + warp * kPairs + i;
      if (partials == nullptr) {
        total[i].Merge(run[i]);
      } else if (pair < pairs) {
        const int64_t head =
            (static_cast<int64_t>(blockIdx.x) * p.groups + group) * p.num_queries_per_kv + pair;
        StorePartial(run[i], p.d, partials + (head * kSplits + split) * PartialFloats(p.d));
      }
    }
  }
  if (partials != nullptr) return;
  for (int i = 0; i < kPairs; ++i) {
    const int pair = first_pair + warp * kPairs + i;
    if (pair < pairs) {
      StoreOutput(p, total[i], tile.first_row + pair / p.num_queries_per_kv,
                  group * p.num_queries_per_kv + pair % p.num_queries_per_kv);
    }
  }
}

// Merges the runs of lone rows in order: a warp a row and head. blockIdx: (single, heads /
// kAttendWarps).
template <typename T, int kColumns>
__global__ void __launch_bounds__(kAttendThreads)
    MergeKernel(AttendParameters<T> p, const RowTile* singles, const float* partials) {
  const RowTile tile = singles[blockIdx.x];
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int head = static_cast<int>(blockIdx.y * kAttendWarps + threadIdx.x / kWarpSize);
  const int heads = p.groups * p.num_queries_per_kv;
  if (tile.slot < 0 || head >= heads) return;
  const int64_t keys = KeysOf(p, p.segments[tile.segment], tile, 0);
  const int64_t pages = (keys + kKvPageSize - 1) / kKvPageSize;
  const int64_t per_split = PagesPerSplit(pages);
  const float* from =
      partials + (static_cast<int64_t>(blockIdx.x) * heads + head) * kSplits * PartialFloats(p.d);
  Gathered<kColumns> total;
  total.Clear();
  for (int64_t split = 0; split * per_split < pages; ++split) {
    Gathered<kColumns> run;
    run.high = from[0];
    run.sum = from[1];
    for (int c = 0; c < kColumns; ++c) {
      const int column = lane + c * kWarpSize;
      run.y[c] = column < p.d ? from[2 + column] : 0.0F;
    }
    total.Merge(run);
    from += PartialFloats(p.d);
  }
  StoreOutput(p, total, tile.first_row, head);
}

// Keys and values of the rows of some tiles into their pages. blockIdx: (tile, row).
template <typename T>
__global__ void __launch_bounds__(kAttendThreads)
    AppendKernel(AttendParameters<T> p, const T* k, int64_t k_stride, const T* v, int64_t v_stride,
                 T* cache, const RowTile* tiles) {
  const RowTile tile = tiles[blockIdx.x];
  const int row = static_cast<int>(blockIdx.y);
  if (tile.slot < 0 || row >= tile.rows) return;
  const int64_t position = tile.position + row;
  const Segment segment = p.segments[tile.segment];
  const int64_t d = p.d;
  T* const page = cache + p.pages[segment.first_page + position / kKvPageSize] * p.k_stride;
  for (int at = static_cast<int>(threadIdx.x); at < p.groups * p.d; at += kAttendThreads) {
    const int64_t to = (at / d * kKvPageSize + position % kKvPageSize) * d + at % d;
    page[to] = k[(tile.first_row + row) * k_stride + at];
    page[p.groups * kKvPageSize * d + to] = v[(tile.first_row + row) * v_stride + at];
  }
}

template <typename T, int kColumns, int kPairs>
void Attend(const OpContext& context, const AttendParameters<T>& p) {
  const DeviceBatch& batch = context.batch;
  const size_t shared = kAttendWarps * kPairs * (p.d + kKvPageSize) * sizeof(float) +
                        static_cast<size_t>(kKvPageSize) * PageStride<T>(p.d) * sizeof(T);
  const auto pair_blocks = [&](int rows) {
    return (rows * p.num_queries_per_kv + kAttendWarps * kPairs - 1) / (kAttendWarps * kPairs);
  };
  if (batch.tile_count > 0) {
    const int blocks = pair_blocks(kTileRows);
    Launch({"attend_tiles", dim3(batch.tile_count, p.groups * blocks), dim3(kAttendThreads), shared,
            context.stream},
           AttendKernel<T, kColumns, kPairs>, p, batch.tiles, blocks, nullptr);
  }
  if (batch.single_count > 0) {
    const int heads = p.groups * p.num_queries_per_kv;
    const int blocks = pair_blocks(1);
    // Enough blocks to fill a card; which of them takes a run changes no bits. Where every row has
    // blocks enough, each goes through its runs itself.
    constexpr int kBlocksWanted = 1024;
    const int64_t rows_and_groups = int64_t{batch.single_count} * p.groups * blocks;
    const int workers =
        static_cast<int>(std::clamp<int64_t>(kBlocksWanted / rows_and_groups, 1, kSplits));
    float* partials = nullptr;
    if (workers > 1) {
      partials = static_cast<float*>(
          context.scratch.Reserve(static_cast<size_t>(batch.single_count) * heads * kSplits *
                                  PartialFloats(p.d) * sizeof(float)));
    }
    Launch({"attend_singles", dim3(batch.single_count, p.groups * blocks, workers),
            dim3(kAttendThreads), shared, context.stream},
           AttendKernel<T, kColumns, kPairs>, p, batch.singles, blocks, partials);
    if (workers > 1) {
      Launch({"attend_merge", dim3(batch.single_count, (heads + kAttendWarps - 1) / kAttendWarps),
              dim3(kAttendThreads), 0, context.stream},
             MergeKernel<T, kColumns>, p, batch.singles, partials);
    }
  }
}

// A lane's columns, and pairs of a warp: fewer where a pair takes more registers.
template <typename T>
void AttendByWidth(const OpContext& context, const AttendParameters<T>& p) {
  if (p.d > kMaxHeadDim) {
    throw DeviceError(DeviceErrorKind::kInvalidArgument,
                      "softmax attention with head_dim " + std::to_string(p.d) +
                          ": the CUDA backend takes " + std::to_string(kMaxHeadDim) +
                          " at most; use the CPU backend");
  }
  if (p.d <= 32) return Attend<T, 1, 4>(context, p);
  if (p.d <= 64) return Attend<T, 2, 4>(context, p);
  if (p.d <= 128) return Attend<T, 4, 2>(context, p);
  return Attend<T, 8, 1>(context, p);
}

template <typename T>
AttendParameters<T> ParametersOf(const OpContext& context, const FullAttentionArgs& args) {
  AttendParameters<T> p = {};
  const bool cross = args.mode == FullAttentionMode::kCross;
  p.source = cross ? KeySource::kSourcePages : KeySource::kPages;
  p.groups = args.groups;
  p.num_queries_per_kv = args.heads / args.groups;
  p.d = args.head_dim;
  p.scale = args.scale;
  p.q = static_cast<const T*>(args.q.data);
  p.q_stride = args.q.stride;
  p.out = static_cast<T*>(args.out.data);
  p.out_stride = args.out.stride;
  p.k = static_cast<const T*>(args.pages);
  p.k_stride = args.page_stride;
  p.segments = context.batch.segments;
  p.pages = cross ? context.batch.source_pages : context.batch.pages;
  return p;
}

template <typename T>
void RunFullAttention(const OpContext& context, const FullAttentionArgs& args) {
  const AttendParameters<T> p = ParametersOf<T>(context, args);
  if (args.mode != FullAttentionMode::kCross) {
    const auto append = [&](const char* name, const RowTile* tiles, int count, int rows) {
      Launch({name, dim3(count, rows), dim3(kAttendThreads), 0, context.stream}, AppendKernel<T>, p,
             static_cast<const T*>(args.k.data), args.k.stride, static_cast<const T*>(args.v.data),
             args.v.stride, static_cast<T*>(args.pages), tiles);
    };
    append("append_tiles", context.batch.tiles, context.batch.tile_count, kTileRows);
    append("append_singles", context.batch.singles, context.batch.single_count, 1);
  }
  if (args.mode != FullAttentionMode::kAppend) AttendByWidth(context, p);
}

template <typename T>
void RunEncoderAttention(const OpContext& context, const EncoderAttentionArgs& args) {
  AttendParameters<T> p = {};
  p.source = KeySource::kSegment;
  p.groups = args.heads;
  p.num_queries_per_kv = 1;
  p.d = args.head_dim;
  p.scale = args.scale;
  p.q = static_cast<const T*>(args.q.data);
  p.q_stride = args.q.stride;
  p.out = static_cast<T*>(args.out.data);
  p.out_stride = args.out.stride;
  p.k = static_cast<const T*>(args.k.data);
  p.k_stride = args.k.stride;
  p.v = static_cast<const T*>(args.v.data);
  p.v_stride = args.v.stride;
  p.segments = context.batch.segments;
  AttendByWidth(context, p);
}

}  // namespace

void FullAttention(const OpContext& context, const FullAttentionArgs& args) {
  const DType dtype = args.mode == FullAttentionMode::kCross ? args.q.dtype : args.k.dtype;
  if (dtype == DType::kBFloat16) {
    RunFullAttention<BFloat16>(context, args);
  } else {
    RunFullAttention<float>(context, args);
  }
}

void EncoderAttention(const OpContext& context, const EncoderAttentionArgs& args) {
  if (args.q.dtype == DType::kBFloat16) {
    RunEncoderAttention<BFloat16>(context, args);
  } else {
    RunEncoderAttention<float>(context, args);
  }
}

}  // namespace t2r::cuda
