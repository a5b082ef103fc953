// The CPU backend's matrix products and attention: how they are cut into tasks.
#include <algorithm>
#include <cassert>
#include <cstring>

#include "engine/ops/cpu/cpu_backend.h"
#include "engine/ops/cpu/memory.h"
#include "engine/ops/cpu/packed_matrix.h"

namespace t2r {
namespace {

// Tasks a thread should find in a loop that has more to do than a few of them, so that one that
// falls behind leaves its share to others.
constexpr int64_t kTasksPerThread = 6;
// Floating-point operations and bytes a nanosecond a core does, roughly: only for choosing between
// one thread and all.
constexpr double kFlopsPerNanosecond = 40;
constexpr double kBf16FlopsPerNanosecond = 80;
constexpr double kIntOpsPerNanosecond = 100;
constexpr double kBytesPerNanosecond = 30;

// Pairs of rows and a group are gathered into tasks only where none of them takes longer.
constexpr double kGatheredNanoseconds = 10000;
// Fewer gathered pairs a thread are one task of it.
constexpr int64_t kFewPairs = 4;

// Nanoseconds of one thread for a product, roughly: its arithmetic and the weights' way from
// memory.
double ProductCost(int64_t rows, const Matrix& w, double flops_per_nanosecond) {
  return 2.0 * static_cast<double>(rows * w.rows() * w.cols()) / flops_per_nanosecond +
         static_cast<double>(w.bytes()) / kBytesPerNanosecond;
}

// The fields that every kind of product has.
void SetOutput(const Matrix& w, const float* bias, MatMulMode mode, Tensor out, ProductTask* task) {
  task->n = w.rows();
  task->bias = bias;
  task->accumulate = mode == MatMulMode::kAccumulate;
  task->out = out.f32();
  task->out_stride = out.stride;
}

}  // namespace

void CpuBackend::MatMul(Tensor x, const Matrix& w, const float* bias, MatMulMode mode, Tensor out) {
  assert(x.cols == w.cols() && out.cols == w.rows() && x.rows == out.rows);
  if (IsQuantized(w.dtype())) {
    return IntMatMul(x, static_cast<const QuantizedMatrix&>(w), bias, mode, out);
  }
  const auto& matrix = static_cast<const PackedMatrix&>(w);
  if (matrix.layout() == PanelLayout::kPairs) return PairMatMul(x, matrix, bias, mode, out);
  FloatMatMul(x, matrix, bias, mode, out);
}

template <typename Task, typename Run>
void CpuBackend::RunFewRows(const Task& all, int64_t rows, int64_t panel_count, int at_once,
                            double cost, const Run& run) {
  const int64_t columns = DivideUp(DivideUp(panel_count, pool_.threads()), at_once);
  ForTasks(columns * pool_.threads(), cost, [&](int64_t index, int worker) {
    const ThreadPool::Tasks share = pool_.ShareOf(static_cast<int>(index / columns), panel_count);
    const int64_t whole = (share.end - share.first) / at_once;  // columns, and a run's length
    const int64_t column = index % columns;
    Task task = all;
    task.end_row = rows;
    if (column < whole) {
      task.first_panel = share.first + column;
      task.panel_count = at_once;
      task.panel_step = whole;
    } else {
      task.first_panel = share.first + column * at_once;
      task.panel_count = std::max<int64_t>(0, share.end - task.first_panel);
    }
    run(task, worker);
  });
}

template <typename Task, typename Run>
void CpuBackend::RunProduct(const Task& all, const RowCut& cut, int64_t panel_count,
                            const PanelsAtOnce& at_once, int64_t most_panels, double cost,
                            const Run& run) {
  if (cut.rows() <= at_once.few_rows) {
    return RunFewRows(all, cut.rows(), panel_count, at_once.few, cost, run);
  }
  const int64_t blocks = cut.blocks();
  const int64_t fair = panel_count * cut.shares() / (kTasksPerThread * pool_.threads());
  const int64_t panels =
      std::min(std::max<int64_t>(fair / at_once.many, 1) * at_once.many, most_panels);
  const int64_t share_tasks = DivideUp(panel_count, panels) * blocks;
  const int64_t tasks = cut.shares() * share_tasks;
  // Row blocks of the same panels follow each other: the panels come from memory once a share.
  ForTasks(tasks, cost, [&](int64_t index, int worker) {
    const int64_t share = index / share_tasks;
    const int64_t block = index % blocks;
    Task task = all;
    task.first_panel = index % share_tasks / blocks * panels;
    task.panel_count = std::min(panels, panel_count - task.first_panel);
    task.next_panel = task.first_panel + (block + 1 < blocks ? 0 : panels);
    const int64_t end = pool_.ShareWith(index, tasks).end - share * share_tasks;
    task.next_end = std::min(DivideUp(end, blocks) * panels, panel_count);
    const Rows rows = cut.Block(share, block);
    task.first_row = rows.begin;
    task.end_row = rows.end;
    run(task, worker);
  });
}

void* CpuBackend::RowRoom(int64_t rows, int64_t row_bytes) {
  const auto bytes = static_cast<size_t>(std::max(max_rows_, rows) * row_bytes);
  if (narrow_rows_.bytes() < bytes) narrow_rows_ = AllocateHost(bytes);
  return narrow_rows_.data();
}

void CpuBackend::FloatMatMul(Tensor x, const PackedMatrix& w, const float* bias, MatMulMode mode,
                             Tensor out) {
  if (x.rows == 0) return;
  GemmTask all;
  all.x = x.f32();
  all.x_stride = x.stride;
  all.panels = w.panels();
  all.bfloat16 = w.dtype() == DType::kBFloat16;
  all.cols = w.cols();
  SetOutput(w, bias, mode, out, &all);
  const RowCut cut(x.rows, gemm_.panels.share_rows, pool_.threads());
  const int64_t fitting = kGemmScratchFloats / (cut.most_block_rows() * gemm_.panel_cols);
  RunProduct(all, cut, w.panel_count(), gemm_.panels, fitting,
             ProductCost(x.rows, w, kFlopsPerNanosecond), [&](GemmTask task, int worker) {
               task.scratch = Scratch(worker);
               gemm_.run(task);
             });
}

void CpuBackend::PairMatMul(Tensor x, const PackedMatrix& w, const float* bias, MatMulMode mode,
                            Tensor out) {
  Bf16GemmTask all;
  all.pairs = DivideUp(w.cols(), bf16_gemm_->input_multiple) * bf16_gemm_->input_multiple / 2;
  // Rows a multiple of 4096 bytes apart would compete for the same cache lines.
  all.x_stride = DivideUp(all.pairs, 16) * 16 + 16;
  auto* rows = static_cast<uint32_t*>(RowRoom(x.rows, all.x_stride * 4));
  if (x.rows == 0) return;
  ForRows(x.rows, 0.1 * static_cast<double>(x.cols),
          [&](int64_t t) { bf16_gemm_->round_row(x.f32_row(t), x.cols, rows + t * all.x_stride); });
  all.x = rows;
  all.panels = static_cast<const uint32_t*>(w.panels());
  SetOutput(w, bias, mode, out, &all);
  RunProduct(all, {x.rows, bf16_gemm_->panels.share_rows, pool_.threads()}, w.panel_count(),
             bf16_gemm_->panels, w.panel_count(), ProductCost(x.rows, w, kBf16FlopsPerNanosecond),
             [&](const Bf16GemmTask& task, int) { bf16_gemm_->run(task); });
}

void CpuBackend::IntMatMul(Tensor x, const QuantizedMatrix& w, const float* bias, MatMulMode mode,
                           Tensor out) {
  IntGemmTask all;
  all.groups = QuantGroups(w.cols());
  // Rows a multiple of 4096 bytes apart would compete for the same cache lines.
  all.planes = int_planes_;
  all.x_stride = DivideUp(all.groups * GroupBytes(all.planes), 64) * 64;
  if (all.x_stride % 4096 == 0) all.x_stride += 64;
  auto* rows = static_cast<int8_t*>(RowRoom(x.rows, all.x_stride));
  if (x.rows == 0) return;
  ForRows(x.rows, 0.4 * static_cast<double>(x.cols),
          [&](int64_t t) { quantize_row_(x.f32_row(t), x.cols, rows + t * all.x_stride); });
  all.x = rows;
  all.panels = w.panels();
  all.panel_bytes = w.panel_bytes();
  all.int4 = w.dtype() == DType::kInt4;
  SetOutput(w, bias, mode, out, &all);
  RunProduct(all, {x.rows, int_gemm_.panels.share_rows, pool_.threads()}, w.panel_count(),
             int_gemm_.panels, w.panel_count(), ProductCost(x.rows, w, kIntOpsPerNanosecond),
             [&](const IntGemmTask& task, int) { int_gemm_.run(task); });
}

template <typename Fn>
void CpuBackend::ForPairs(int64_t pairs, bool gather, double cost, const Fn& fn) {
  // Within a task what comes next is sure.
  const int64_t threads = pool_.threads();
  int64_t chunk = 1;
  if (gather) {
    chunk = std::max(chunk, pairs < kFewPairs * threads ? DivideUp(pairs, threads)
                                                        : pairs / (kTasksPerThread * threads));
  }
  const int64_t tasks = DivideUp(pairs, chunk);
  ForTasks(tasks, cost, [&](int64_t task, int worker) {
    const int64_t end = std::min((task + 1) * chunk, pairs);
    // Another thread may take a share's last task, and what it writes must stay in its cache.
    const int64_t sure = std::max(end, (pool_.ShareWith(task, tasks).end - 1) * chunk);
    for (int64_t i = task * chunk; i < end; ++i) fn(i, i + 1 < sure ? i + 1 : -1, worker);
  });
}

template <typename Fn>
void CpuBackend::ForSegmentGroups(const Batch& batch, int groups, double row_cost, const Fn& fn) {
  int64_t longest = 0;
  for (const Segment& segment : batch.segments) {
    longest = std::max<int64_t>(longest, segment.rows);
  }
  ForPairs(static_cast<int64_t>(batch.segments.size()) * groups, longest <= 4,
           row_cost * static_cast<double>(batch.rows() * groups),
           [&](int64_t i, int64_t next, int worker) {
             fn(batch.segments[i / groups], static_cast<int>(i % groups), next, worker);
           });
}

void CpuBackend::LinearAttention(const Batch& batch, const LinearAttentionArgs& args) {
  assert(args.heads % args.groups == 0);
  ReserveScratch(linear_attention_.scratch_floats(args));
  const double floats = static_cast<double>(args.map.features) * args.head_dim;
  // Each float of S takes two operations to update and two a head to read; features cost the like.
  const int uses = 1 + args.heads / args.groups;
  ForSegmentGroups(batch, args.groups, 100 + floats * 4 * uses / kFlopsPerNanosecond,
                   [&](const Segment& segment, int group, int64_t next, int worker) {
                     const float* state = nullptr;
                     if (next >= 0) {
                       state = args.State(batch.segments[next / args.groups].slot,
                                          static_cast<int>(next % args.groups));
                     }
                     linear_attention_.run(args, segment, group, state, Scratch(worker));
                   });
}

void CpuBackend::WindowedAttention(const Batch& batch, const WindowedAttentionArgs& args) {
  assert(args.heads % args.groups == 0 && args.fold >= 1);
  assert(args.window > 0 || args.map.kind == FeatureMapKind::kCodebook);
  assert(args.window == 0 || args.mode == LinearAttentionMode::kCausal);
  ReserveScratch(windowed_attention_.scratch_floats(args));
  const int num_queries_per_kv = args.heads / args.groups;
  const double dim = args.head_dim;
  // A key near by and a centroid take 4 d operations a head, a folded key 4 M d a group.
  const double flops = 4 * dim *
                       (static_cast<double>(args.ring() + args.sinks) * num_queries_per_kv +
                        static_cast<double>(args.map.features) * (num_queries_per_kv + 1));
  ForSegmentGroups(batch, args.groups, 100 + flops / kFlopsPerNanosecond,
                   [&](const Segment& segment, int group, int64_t next, int worker) {
                     WindowedAttentionNext then;
                     if (next >= 0) {
                       then.segment = &batch.segments[next / args.groups];
                       then.group = static_cast<int>(next % args.groups);
                     }
                     windowed_attention_.run(args, segment, group, then, Scratch(worker));
                   });
}

void CpuBackend::AppendToPages(const Batch& batch, const FullAttentionArgs& args) {
  const auto takes_part = [&](const Segment& segment) {
    return args.mode != FullAttentionMode::kCausal || !AppendsItself(segment);
  };
  int64_t rows = 0;
  for (const Segment& segment : batch.segments) rows += takes_part(segment) ? segment.rows : 0;
  if (rows == 0) return;
  const auto segments = static_cast<int64_t>(batch.segments.size());
  const double cost = 0.5 * static_cast<double>(rows * args.groups * args.head_dim);
  ForTasks(segments * args.groups, cost, [&](int64_t task, int) {
    const Segment& segment = batch.segments[task / args.groups];
    if (!takes_part(segment)) return;
    full_attention_.append(args, segment, batch.pages.data() + segment.first_page,
                           static_cast<int>(task % args.groups));
  });
}

void CpuBackend::FullAttention(const Batch& batch, const FullAttentionArgs& args) {
  assert(args.heads % args.groups == 0);
  if (args.mode != FullAttentionMode::kCross) AppendToPages(batch, args);
  if (args.mode != FullAttentionMode::kAppend) AttendToPages(batch, args);
}

void CpuBackend::AttendToPages(const Batch& batch, const FullAttentionArgs& args) {
  assert(first_block_.size() == batch.segments.size() + 1);
  ReserveScratch(full_attention_.scratch_floats(args));
  const bool cross = args.mode == FullAttentionMode::kCross;
  double positions = 0;  // pairs of a row and a position
  double most = 0;       // of a block of rows
  for (const Segment& segment : batch.segments) {
    const auto end =
        static_cast<double>(cross ? segment.source_rows : segment.position + segment.rows);
    positions += end * segment.rows;
    most = std::max(most, end * std::min(segment.rows, kAttentionRows));
  }
  const double position_cost = args.heads * (4.0 * args.head_dim + 16) / kFlopsPerNanosecond;
  const int64_t blocks = first_block_.back();
  const int64_t pairs = blocks * args.groups;
  const auto segment_of = [&](int64_t block) {
    return std::upper_bound(first_block_.begin(), first_block_.end(), block) -
           first_block_.begin() - 1;
  };
  const auto pages_of = [&](const Segment& segment) {
    return cross ? batch.source_pages.data() + segment.first_source_page
                 : batch.pages.data() + segment.first_page;
  };
  // Long contexts make tasks of their own: a first page fetched is little to them.
  ForPairs(pairs, most * position_cost < kGatheredNanoseconds * args.groups,
           positions * position_cost, [&](int64_t i, int64_t next, int worker) {
             const int64_t block = i / args.groups;
             const int64_t index = segment_of(block);
             const Segment& segment = batch.segments[index];
             const auto first =
                 static_cast<int32_t>((block - first_block_[index]) * kAttentionRows);
             FullAttentionNext then;
             if (next >= 0) {
               then.page = *pages_of(batch.segments[segment_of(next / args.groups)]);
               then.group = static_cast<int>(next % args.groups);
             }
             full_attention_.run(args, segment, pages_of(segment), first,
                                 std::min(kAttentionRows, segment.rows - first),
                                 static_cast<int>(i % args.groups), then, Scratch(worker));
           });
}

// As full attention over pages that last for this call.
void CpuBackend::EncoderAttention(const Batch& batch, const EncoderAttentionArgs& args) {
  FullAttentionArgs paged;
  paged.heads = args.heads;
  paged.groups = args.heads;
  paged.head_dim = args.head_dim;
  paged.scale = args.scale;
  paged.q = args.q;
  paged.k = args.k;
  paged.v = args.v;
  paged.out = args.out;
  paged.page_stride = 2LL * args.heads * kKvPageSize * args.head_dim;
  encoder_batch_.segments = batch.segments;
  encoder_batch_.pages.clear();
  for (Segment& segment : encoder_batch_.segments) {
    segment.position = 0;
    segment.first_page = static_cast<int32_t>(encoder_batch_.pages.size());
    segment.first_source_page = segment.first_page;
    segment.source_rows = segment.rows;
    for (int32_t row = 0; row < segment.rows; row += kKvPageSize) {
      encoder_batch_.pages.push_back(static_cast<int32_t>(encoder_batch_.pages.size()));
    }
  }
  encoder_batch_.source_pages = encoder_batch_.pages;
  const int64_t pages =
      std::max(max_encoder_pages_, static_cast<int64_t>(encoder_batch_.pages.size()));
  const size_t bytes = pages * paged.page_stride * sizeof(float);
  if (encoder_pages_.bytes() < bytes) encoder_pages_ = AllocateHost(bytes);
  paged.pages = encoder_pages_.data();
  paged.mode = FullAttentionMode::kAppend;
  AppendToPages(encoder_batch_, paged);
  paged.mode = FullAttentionMode::kCross;
  AttendToPages(encoder_batch_, paged);
}

}  // namespace t2r
