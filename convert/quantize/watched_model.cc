#include "convert/quantize/watched_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <thread>
#include <utility>

#include "convert/eval/score.h"
#include "convert/eval/windows.h"
#include "engine/executor/memory_plan.h"
#include "engine/model/tensors.h"
#include "engine/ops/cpu/cpu_backend.h"
#include "engine/ops/cpu/thread_pool.h"
#include "engine/state/kv_cache.h"

namespace t2r::convert {
namespace {

constexpr int64_t kStepRows = 256;

int Threads() { return static_cast<int>(std::max(1U, std::thread::hardware_concurrency())); }

// KL(p ‖ q) of the distributions whose logits these are.
double KlOfLogits(std::span<const float> p, std::span<const float> q) {
  const float p_most = *std::max_element(p.begin(), p.end());
  const float q_most = *std::max_element(q.begin(), q.end());
  double p_sum = 0, q_sum = 0, difference = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const float weight = std::exp(p[i] - p_most);
    p_sum += weight;
    q_sum += std::exp(q[i] - q_most);
    difference += static_cast<double>(weight) * (p[i] - q[i]);
  }
  return difference / p_sum + (std::log(q_sum) + q_most) - (std::log(p_sum) + p_most);
}

}  // namespace

// The CPU backend, which adds up what it multiplies the matrices that are watched with, and sees
// the logits.
class Recorder : public CpuBackend {
 public:
  // names: of tensors, by their data; head: the data of the tensor that makes logits.
  Recorder(std::map<const void*, std::string> names, const void* head)
      : CpuBackend(Threads(), RowRounding::kNone),
        names_(std::move(names)),
        head_data_(head),
        kl_pool_(Threads()) {}

  const std::vector<LoadedMatrix>& loaded() const { return loaded_; }
  void Watch(std::span<const LoadedMatrix> matrices) {
    watched_.clear();
    for (const LoadedMatrix& loaded : matrices) {
      const int64_t cols = loaded.matrix->cols();
      watched_[loaded.matrix] = {cols, std::vector<float>(static_cast<size_t>(cols * cols))};
    }
  }
  const SecondMoments& moments(const Matrix* matrix) const { return watched_.at(matrix); }

  void Replace(const Matrix* matrix, std::span<const HostMatrix> parts) {
    replaced_.erase(matrix);
    if (parts.empty()) return;
    replaced_[matrix] = CpuBackend::LoadMatrix(parts, parts[0].dtype);
  }

  // From here on the head's inputs are kept, or compared with what was kept.
  void KeepLogits() { logits_ = Logits::kKept, head_inputs_.clear(); }
  void CompareLogits() { logits_ = Logits::kCompared, compared_ = 0, divergence_ = 0; }
  void IgnoreLogits() { logits_ = Logits::kIgnored; }
  double mean_divergence() const {
    return divergence_ / static_cast<double>(std::max<int64_t>(1, compared_));
  }

  std::unique_ptr<Matrix> LoadMatrix(std::span<const HostMatrix> parts, DType dtype) override {
    std::unique_ptr<Matrix> matrix = CpuBackend::LoadMatrix(parts, dtype);
    LoadedMatrix loaded = {matrix.get(), {}, false};
    for (const HostMatrix& part : parts) {
      const auto found = names_.find(part.data);
      if (found != names_.end()) loaded.names.push_back(found->second);
    }
    loaded.whole = loaded.names.size() == parts.size();
    if (!loaded.names.empty()) loaded_.push_back(std::move(loaded));
    if (parts[0].data == head_data_) head_ = matrix.get();
    return matrix;
  }

  void MatMul(Tensor x, const Matrix& w, const float* bias, MatMulMode mode, Tensor out) override {
    const auto watched = watched_.find(&w);
    if (watched != watched_.end() && x.rows > 0) Add(x, &watched->second);
    const auto replaced = replaced_.find(&w);
    CpuBackend::MatMul(x, replaced == replaced_.end() ? w : *replaced->second, bias, mode, out);
    if (&w == head_ && logits_ != Logits::kIgnored) TakeLogits(x, bias, out);
  }

 private:
  enum class Logits : uint8_t { kIgnored, kKept, kCompared };

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

  // The inputs of the head are a hundredth of the logits: these are made of them again.
  void TakeLogits(Tensor x, const float* bias, Tensor logits) {
    const int64_t rows = x.rows;
    if (logits_ == Logits::kKept) {
      for (int64_t t = 0; t < rows; ++t) {
        head_inputs_.insert(head_inputs_.end(), x.f32_row(t), x.f32_row(t) + x.cols);
      }
      return;
    }
    std::vector<float> before(static_cast<size_t>(rows * logits.cols));
    CpuBackend::MatMul(
        {head_inputs_.data() + compared_ * x.cols, DType::kFloat32, rows, x.cols, x.cols}, *head_,
        bias, MatMulMode::kStore, {before.data(), DType::kFloat32, rows, logits.cols, logits.cols});
    std::vector<double> each(static_cast<size_t>(rows));
    const auto count = static_cast<size_t>(logits.cols);
    kl_pool_.Run(rows, [&](int64_t t, int) {
      each[t] = KlOfLogits({before.data() + t * logits.cols, count}, {logits.f32_row(t), count});
    });
    for (const double kl : each) divergence_ += kl;
    compared_ += rows;
  }

  std::map<const void*, std::string> names_;
  const void* head_data_;
  const Matrix* head_ = nullptr;
  std::vector<LoadedMatrix> loaded_;
  std::map<const Matrix*, SecondMoments> watched_;
  std::map<const Matrix*, std::unique_ptr<Matrix>> replaced_;
  ThreadPool kl_pool_;
  Logits logits_ = Logits::kIgnored;
  std::vector<float> head_inputs_;  // of every prediction, in the order of the run
  int64_t compared_ = 0;            // predictions
  double divergence_ = 0;           // their sum
};

WatchedModel::WatchedModel(const ModelConfig& config, const SafetensorsDirectory& files,
                           const Corpus& corpus)
    : corpus_(corpus), windows_(CutEvaluation(corpus, WithDefaults({}, config))) {
  std::map<const void*, std::string> names;
  const std::vector<TensorSpec> specs = TensorsOf(config);
  const std::string head_name = HeadOf(specs);
  const void* head = nullptr;
  for (const TensorSpec& spec : specs) {
    const HostTensor* tensor = FindTensor(files, spec);
    if (tensor == nullptr) continue;
    if (spec.role == TensorRole::kProjection) names[tensor->data] = spec.name;
    if (spec.name == head_name) head = tensor->data;
  }
  auto recorder = std::make_unique<Recorder>(std::move(names), head);
  recorder_ = recorder.get();
  std::unique_ptr<Model> model = MakeModel(config, files, *recorder, {DType::kFloat32});

  PlanOptions plan;
  plan.sessions = 4;
  plan.step_tokens = kStepRows;
  for (const Window& window : windows_) {
    plan.position_limit = std::max(plan.position_limit, window.length);
  }
  if (config.full_layers() > 0) {
    plan.kv_cache_bytes =
        plan.sessions * KvCache::PagesFor(plan.position_limit) * KvShapeOf(config).page_bytes();
  }
  const MemoryPlan memory = PlanMemory(*model, recorder->Memory(), plan);
  ExecutorOptions options;
  options.slots = memory.slots;
  options.max_step_tokens = memory.max_step_tokens;
  options.max_step_logit_rows = memory.max_step_logit_rows;
  options.position_limit = plan.position_limit;
  options.kv_pages = memory.pages;
  options.weight_dtype = DType::kFloat32;
  executor_ = std::make_unique<ModelExecutor>(std::move(recorder), std::move(model), options);
}

std::span<const LoadedMatrix> WatchedModel::matrices() const { return recorder_->loaded(); }

void WatchedModel::Run(std::span<const Window> windows) {
  ScoreWindows(
      executor_.get(), corpus_, windows, [](const Window&, std::span<const float>) {}, nullptr);
}

void WatchedModel::MeasureSecondMoments(
    int64_t memory_bytes,
    const std::function<void(const LoadedMatrix& loaded, const SecondMoments& moments)>& take) {
  const std::span<const LoadedMatrix> all = matrices();
  for (size_t first = 0; first < all.size();) {
    size_t end = first;
    int64_t bytes = 0;
    while (end < all.size()) {
      const int64_t cols = all[end].matrix->cols();
      bytes += cols * cols * static_cast<int64_t>(sizeof(float));
      if (end > first && bytes > memory_bytes) break;
      ++end;
    }
    recorder_->Watch(all.subspan(first, end - first));
    Run(windows_);
    for (; first < end; ++first) take(all[first], recorder_->moments(all[first].matrix));
  }
  recorder_->Watch({});
}

void WatchedModel::Replace(const Matrix* matrix, std::span<const HostMatrix> parts) {
  recorder_->Replace(matrix, parts);
}

void WatchedModel::RememberPredictions(int64_t predictions) {
  int64_t all = 0;
  for (const Window& window : windows_) all += window.length;
  const auto step = static_cast<size_t>(std::max<int64_t>(1, all / predictions));
  remembered_.clear();
  for (size_t w = 0; w < windows_.size(); w += step) remembered_.push_back(windows_[w]);
  recorder_->KeepLogits();
  Run(remembered_);
  recorder_->IgnoreLogits();
}

double WatchedModel::Divergence() {
  recorder_->CompareLogits();
  Run(remembered_);
  recorder_->IgnoreLogits();
  return recorder_->mean_divergence();
}

}  // namespace t2r::convert
