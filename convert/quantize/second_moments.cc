#include "convert/quantize/second_moments.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <thread>
#include <utility>

#include "convert/eval/score.h"
#include "convert/eval/windows.h"
#include "engine/executor/memory_plan.h"
#include "engine/executor/model_executor.h"
#include "engine/model/tensors.h"
#include "engine/ops/cpu/cpu_backend.h"
#include "engine/state/kv_cache.h"

namespace t2r::convert {
namespace {

constexpr int64_t kStepRows = 256;

// The CPU backend, which adds up what it multiplies the matrices that are watched with.
class Recorder : public CpuBackend {
 public:
  struct Loaded {
    const Matrix* matrix = nullptr;
    std::vector<std::string> names;  // of the parts that are tensors asked for
  };

  // names: of tensors, by their data.
  Recorder(int threads, std::map<const void*, std::string> names)
      : CpuBackend(threads, RowRounding::kNone), names_(std::move(names)) {}

  const std::vector<Loaded>& loaded() const { return loaded_; }
  void Watch(std::span<const Loaded> matrices) {
    watched_.clear();
    for (const Loaded& loaded : matrices) {
      const int64_t cols = loaded.matrix->cols();
      watched_[loaded.matrix] = {cols, std::vector<float>(static_cast<size_t>(cols * cols))};
    }
  }
  const SecondMoments& moments(const Matrix* matrix) const { return watched_.at(matrix); }

  std::unique_ptr<Matrix> LoadMatrix(std::span<const HostMatrix> parts, DType dtype) override {
    std::unique_ptr<Matrix> matrix = CpuBackend::LoadMatrix(parts, dtype);
    Loaded loaded = {matrix.get(), {}};
    for (const HostMatrix& part : parts) {
      const auto found = names_.find(part.data);
      if (found != names_.end()) loaded.names.push_back(found->second);
    }
    if (!loaded.names.empty()) loaded_.push_back(std::move(loaded));
    return matrix;
  }

  void MatMul(Tensor x, const Matrix& w, const float* bias, MatMulMode mode, Tensor out) override {
    const auto watched = watched_.find(&w);
    if (watched != watched_.end() && x.rows > 0) Add(x, &watched->second);
    CpuBackend::MatMul(x, w, bias, mode, out);
  }

 private:
  // Σ x xᵀ is Xᵀ X, a product as any other: of the columns with the columns.
  void Add(Tensor x, SecondMoments* moments) {
    std::vector<float> rows(static_cast<size_t>(x.rows * x.cols));
    std::vector<float> columns(rows.size());
    for (int64_t t = 0; t < x.rows; ++t) {
      std::memcpy(rows.data() + t * x.cols, x.f32_row(t),
                  static_cast<size_t>(x.cols) * sizeof(float));
      for (int64_t i = 0; i < x.cols; ++i) columns[i * x.rows + t] = x.f32_row(t)[i];
    }
    const HostMatrix host = {rows.data(), DType::kFloat32, x.cols, x.rows, /*transposed=*/true};
    const std::unique_ptr<Matrix> matrix = CpuBackend::LoadMatrix({&host, 1}, DType::kFloat32);
    CpuBackend::MatMul({columns.data(), DType::kFloat32, x.cols, x.rows, x.rows}, *matrix, nullptr,
                       MatMulMode::kAccumulate,
                       {moments->sums.data(), DType::kFloat32, x.cols, x.cols, x.cols});
  }

  std::map<const void*, std::string> names_;
  std::vector<Loaded> loaded_;
  std::map<const Matrix*, SecondMoments> watched_;
};

}  // namespace

void MeasureSecondMoments(
    const ModelConfig& config, const SafetensorsDirectory& files, const Corpus& corpus,
    int64_t memory_bytes,
    const std::function<void(const std::string& name, const SecondMoments& moments)>& take) {
  std::map<const void*, std::string> names;
  for (const TensorSpec& spec : TensorsOf(config)) {
    const HostTensor* tensor = FindTensor(files, spec);
    if (spec.role == TensorRole::kProjection && tensor != nullptr) {
      names[tensor->data] = spec.name;
    }
  }
  const auto threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  auto made = std::make_unique<Recorder>(threads, std::move(names));
  Recorder& recorder = *made;
  std::unique_ptr<Model> model = MakeModel(config, files, recorder, {DType::kFloat32});

  const std::vector<Window> windows = CutEvaluation(corpus, WithDefaults({}, config));
  PlanOptions plan;
  plan.sessions = 4;
  plan.step_tokens = kStepRows;
  for (const Window& window : windows) {
    plan.position_limit = std::max(plan.position_limit, window.length);
  }
  if (config.full_layers() > 0) {
    plan.kv_cache_bytes =
        plan.sessions * KvCache::PagesFor(plan.position_limit) * KvShapeOf(config).page_bytes();
  }
  const MemoryPlan memory = PlanMemory(*model, recorder.Memory(), plan);
  ExecutorOptions options;
  options.slots = memory.slots;
  options.max_step_tokens = memory.max_step_tokens;
  options.max_step_logit_rows = memory.max_step_logit_rows;
  options.position_limit = plan.position_limit;
  options.kv_pages = memory.pages;
  options.weight_dtype = DType::kFloat32;
  ModelExecutor executor(std::move(made), std::move(model), options);

  const std::span<const Recorder::Loaded> all = recorder.loaded();
  for (size_t first = 0; first < all.size();) {
    size_t end = first;
    int64_t bytes = 0;
    while (end < all.size()) {
      const int64_t cols = all[end].matrix->cols();
      bytes += cols * cols * static_cast<int64_t>(sizeof(float));
      if (end > first && bytes > memory_bytes) break;
      ++end;
    }
    recorder.Watch(all.subspan(first, end - first));
    ScoreWindows(
        &executor, corpus, windows, [](const Window&, std::span<const float>) {}, nullptr);
    for (; first < end; ++first) {
      for (const std::string& name : all[first].names) {
        take(name, recorder.moments(all[first].matrix));
      }
    }
  }
}

}  // namespace t2r::convert
