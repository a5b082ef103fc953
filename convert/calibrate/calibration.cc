#include "convert/calibrate/calibration.h"

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <utility>

#include "convert/error.h"
#include "convert/runtime.h"
#include "convert/train/loss.h"
#include "convert/train/shards.h"
#include "engine/io/mutex.h"
#include "engine/model/rope.h"

namespace t2r::convert {
namespace {

using torch::Tensor;
using Clock = std::chrono::steady_clock;

constexpr int64_t kKeys = 20000, kQueries = 4096;  // of an attention, at most about so many
constexpr int64_t kBatchTokens = 2048;
constexpr int kRounds = 15;
constexpr double kSharpness = 4;  // β: keys are softmax(−β/2 · distance²) to their centroids
constexpr double kRidge = 1e-4;   // of the second moment's mean diagonal

// Every stride-th row of [rows, …] where `kept` [rows] is not 0.
Tensor Chosen(const Tensor& kept, int64_t stride) {
  const Tensor rows = kept.flatten().nonzero().squeeze(1);
  return rows.index({torch::indexing::Slice(torch::indexing::None, torch::indexing::None, stride)});
}

// k-means by Lloyd's rounds from `count` of the points [n, d]; a centre that loses all its points
// moves to a random one. Centres [count, d], and the nearest of each point [n].
std::pair<Tensor, Tensor> KMeans(const Tensor& points, int64_t count, uint64_t seed) {
  at::Generator random = at::detail::createCPUGenerator(seed);
  const int64_t n = points.size(0);
  Tensor centres = points.index_select(0, torch::randperm(n, random).narrow(0, 0, count));
  const auto nearest = [&] {
    return torch::addmm(centres.square().sum(-1), points, centres.t(), -0.5, 1).argmax(-1);
  };
  for (int round = 0; round < kRounds; ++round) {
    const Tensor cell = nearest();
    const Tensor sizes = torch::bincount(cell, {}, count).to(torch::kFloat32).unsqueeze(1);
    const Tensor sums = torch::zeros_like(centres).index_add_(0, cell, points);
    const Tensor strays = points.index_select(0, torch::randint(n, {count}, random, torch::kInt64));
    centres = torch::where(sizes > 0, sums / sizes.clamp_min(1), strays);
  }
  return {centres, nearest()};
}

struct Rotation {
  Tensor cos, sin;  // [rotary_dim/2]
};

// Shares of distances from `window` on between a far key and its query: each of the positions, of
// which queries[i] see i keys before their own, counts its far keys alike, and so do positions.
Tensor DistanceShares(const std::vector<int64_t>& queries, int64_t window) {
  const auto length = static_cast<int64_t>(queries.size());
  std::vector<double> shares(static_cast<size_t>(std::max<int64_t>(1, length - window)), 0.0);
  double sum = 0;  // over positions from i on
  for (int64_t i = length - 1; i >= window; --i) {
    sum +=
        static_cast<double>(queries[static_cast<size_t>(i)]) / static_cast<double>(i - window + 1);
    shares[static_cast<size_t>(i - window)] = sum;
  }
  if (sum == 0) shares[0] = 1;  // no text is longer than the window
  const Tensor all = torch::tensor(shares, torch::kFloat64);
  return all / all.sum();
}

// Mean of the rotations by RoPE over distances low, low + 1 and so on by their shares, times
// `scale`.
Rotation MeanRotation(const std::vector<double>& inverse_frequencies, double scale, int64_t low,
                      const Tensor& shares) {
  const Tensor distances = torch::arange(low, low + shares.size(0), torch::kFloat64);
  const Tensor angles =
      torch::outer(distances, torch::tensor(inverse_frequencies, torch::kFloat64));
  const auto mean = [&](const Tensor& x) {
    return (torch::matmul(shares, x) * scale).to(torch::kFloat32);
  };
  return {mean(angles.cos()), mean(angles.sin())};
}

// Turns the first values of rows [n, d] by a rotation, or by its transpose.
Tensor Turn(const Tensor& rows, const Rotation& rotation, bool transposed) {
  const int64_t half = rotation.cos.size(0);
  const Tensor a = rows.narrow(-1, 0, half), b = rows.narrow(-1, half, half);
  const Tensor sin = transposed ? -rotation.sin : rotation.sin;
  return torch::cat({a * rotation.cos - b * sin, b * rotation.cos + a * sin,
                     rows.narrow(-1, 2 * half, rows.size(-1) - 2 * half)},
                    -1);
}

// For each centre c: the mean over queries q of log(mean of e^(q·(k − c)) over its cell's keys).
Tensor CellSpreads(const Tensor& queries, const Tensor& keys, const Tensor& centres,
                   const Tensor& cell) {
  const Tensor q = queries.to(torch::kFloat64);
  const Tensor own = torch::mm(q, centres.to(torch::kFloat64).t()).index_select(1, cell);
  // Exponents beyond 600 would overflow; so far out the caller's bound decides.
  const Tensor weights = (torch::mm(q, keys.to(torch::kFloat64).t()) - own).clamp(-600, 600).exp();
  const int64_t count = centres.size(0);
  const Tensor sums =
      torch::zeros({q.size(0), count}, torch::kFloat64).index_add_(1, cell, weights);
  const Tensor sizes = torch::bincount(cell, {}, count).to(torch::kFloat64);
  const Tensor spread = (sums / sizes.clamp_min(1)).log().mean(0);
  return torch::where(sizes > 0, spread, torch::zeros_like(spread)).to(torch::kFloat32);
}

// Progress over units of work that several threads finish.
class Meter {
 public:
  Meter(Progress* progress, std::string what, size_t units)
      : progress_(progress), what_(std::move(what)), units_(units) {}
  void Done() {
    const MutexLock lock(mutex_);
    ++done_;
    if (progress_ == nullptr) return;
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    const double fraction = static_cast<double>(done_) / static_cast<double>(units_);
    progress_->Show(fraction, what_, seconds * (1 - fraction) / fraction);
  }

 private:
  Progress* progress_;
  std::string what_;
  const size_t units_;
  const Clock::time_point start_ = Clock::now();
  Mutex mutex_;
  size_t done_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

std::vector<BatchPlan> WholeDocuments(const Corpus& corpus, int64_t batch_tokens) {
  int64_t longest = 1;
  for (const auto& ids : corpus.documents) {
    longest = std::max(longest, static_cast<int64_t>(ids.size()) - 1);
  }
  return PlanEpoch(CutWindows(corpus, longest), longest, batch_tokens, 0, 0);
}

Corpus Excerpts(const Corpus& corpus, int64_t length, int64_t count, int64_t first, int64_t parts) {
  const std::vector<Window> windows = CutWindows(corpus, length);
  const auto total = static_cast<int64_t>(windows.size());
  const int64_t taken = std::min(count, std::max<int64_t>(1, total / parts));
  Corpus excerpts;
  for (int64_t i = 0; i < taken; ++i) {
    const int64_t at = i * total / taken;
    const Window& window = windows[static_cast<size_t>(std::min(at + first, total - 1))];
    const auto& ids = corpus.documents[static_cast<size_t>(window.document)];
    const auto begin = ids.begin() + window.start;
    excerpts.documents.emplace_back(begin, begin + window.length + 1);
    excerpts.tokens += window.length + 1;
    if (corpus.pairs()) {
      excerpts.sources.push_back(corpus.sources[static_cast<size_t>(window.document)]);
    }
  }
  return excerpts;
}

Calibration::Calibration(const TrainingModel& parent, const Corpus& text,
                         const ModelConfig& swapped, uint64_t seed, int threads, Progress* progress)
    : seed_(seed) {
  const LinearAttentionConfig& linear = swapped.linear_attention.value();
  if (!linear.rope_features && swapped.rotary_dim > 0) {
    inverse_frequencies_ = RopeInverseFrequencies(swapped);
    rope_scale_ = RopeFactor(swapped) * RopeFactor(swapped);
  }
  for (const AttentionSite& site : AttentionSites(swapped)) {
    if (IsLinear(swapped, site)) sites_.push_back(site);
  }
  for (const auto& ids : text.documents) {
    positions_.resize(std::max(positions_.size(), ids.size()), 0);
    for (size_t i = 0; i < ids.size(); ++i) ++positions_[i];
  }
  const std::vector<BatchPlan> plans = WholeDocuments(text, kBatchTokens);
  int64_t source_tokens = 0;
  for (const auto& source : text.sources) source_tokens += static_cast<int64_t>(source.size());
  const auto stride = [](int64_t tokens, int64_t wanted) {
    return std::max<int64_t>(1, tokens / wanted);
  };
  // What batches gave, by batch and site: the sample's order does not depend on the threads.
  std::vector<std::vector<Sample>> parts(plans.size(), std::vector<Sample>(sites_.size()));
  Meter meter(progress, "calibrating: the parent reads", plans.size());
  ForEachShard(plans.size(), threads, [&](size_t shard, size_t shards) {
    for (size_t p = shard; p < plans.size(); p += shards) {
      const TokenBatch batch = MakeBatch(text, plans[p], parent.parameters().device());
      parent.VisitAttention(batch.input, [&](const AttentionSite& site, const AttentionInput& in,
                                             const Tensor& /*out*/) {
        const auto of = std::find_if(sites_.begin(), sites_.end(), [&](const auto& s) {
          return s.layer == site.layer && s.cross == site.cross;
        });
        if (of == sites_.end()) return;
        const auto at = static_cast<size_t>(of - sites_.begin());
        const LinearSizes sizes = linear.sizes(site.layer, site.cross);
        Tensor counted = batch.counted;
        if (!site.cross && sizes.sinks > 0) {  // sinks are never far
          counted = counted.clone();
          counted.narrow(1, 0, std::min<int64_t>(sizes.sinks, counted.size(1))).zero_();
        }
        const Tensor& q = linear.rope_features ? in.q : in.plain_q;
        const Tensor& k = linear.rope_features ? in.k : in.plain_k;
        const int64_t tokens = site.cross ? source_tokens : text.tokens;
        const Tensor keys =
            Chosen(site.cross ? batch.input.source_counted : counted, stride(tokens, kKeys));
        const Tensor queries = Chosen(counted, stride(text.tokens, kQueries));
        Sample& part = parts[p][at];
        part.keys = k.flatten(0, 1).index_select(0, keys).transpose(0, 1).contiguous();
        part.queries =
            (q.flatten(0, 1).index_select(0, queries).transpose(0, 1) * linear.query_scale)
                .reshape({q.size(2), -1, q.size(4)});
      });
      meter.Done();
    }
  });
  for (size_t site = 0; site < sites_.size(); ++site) {
    std::vector<Tensor> keys, queries;
    for (auto& part : parts) {
      keys.push_back(std::move(part[site].keys));
      queries.push_back(std::move(part[site].queries));
    }
    // k-means and the factors are the CPU's work, wherever the model is.
    samples_.push_back({torch::cat(keys, 1).cpu(), torch::cat(queries, 1).cpu()});
  }
}

Calibration::Codebook Calibration::Fit(const Sample& sample, int64_t group,
                                       const LinearSizes& sizes, bool rotated,
                                       uint64_t seed) const {
  const Tensor keys = sample.keys[group];
  Tensor queries = sample.queries[group];
  Rotation mean;
  if (rotated) {
    const int64_t near = std::max(1, sizes.window);
    mean = MeanRotation(inverse_frequencies_, rope_scale_, near, DistanceShares(positions_, near));
    queries = Turn(queries, mean, /*transposed=*/false);
  }
  const Tensor moment =
      torch::mm(queries.t(), queries).to(torch::kFloat64) / static_cast<double>(queries.size(0));
  const Tensor ridge =
      torch::eye(moment.size(0), torch::kFloat64) * (moment.diagonal().mean() * kRidge + 1e-30);
  const Tensor lower = torch::linalg_cholesky(moment + ridge);
  const Tensor metric = lower.to(torch::kFloat32);
  const auto [centres, cell] = KMeans(torch::mm(keys, metric), sizes.features, seed);
  // The centres among the keys: c L⁻¹.
  const Tensor middles =
      torch::mm(centres.to(torch::kFloat64), torch::linalg_inv(lower)).to(torch::kFloat32);
  const int64_t some = std::min<int64_t>(256, queries.size(0));
  const Tensor probes =
      queries.index_select(0, (torch::arange(some) * queries.size(0)).div(some, "floor"));
  return {torch::mm(centres, metric.t()) * kSharpness,
          centres.square().sum(-1) * (-0.5 * kSharpness),
          rotated ? Turn(middles, mean, /*transposed=*/true) : middles,
          CellSpreads(probes, keys, middles, cell).clamp(0, 2)};
}

void Calibration::SetCodebooks(TrainingModel* model, int threads, Progress* progress) const {
  const ModelConfig& config = model->config();
  const LinearAttentionConfig& linear = config.linear_attention.value();
  const int64_t groups = config.kv_heads, share = config.heads / config.kv_heads;
  for (size_t i = 0; i < sites_.size(); ++i) {
    const int features = linear.sizes(sites_[i].layer, sites_[i].cross).features;
    if (samples_[i].keys.size(1) < features) {
      throw ConvertError("the calibration text gives " + std::to_string(samples_[i].keys.size(1)) +
                         " keys for " + std::to_string(features) +
                         " centroids: give more text or a smaller --feature-size");
    }
  }
  const size_t units = sites_.size() * static_cast<size_t>(groups);
  Meter meter(progress, "calibrating: codebooks", units);
  ForEachShard(units, threads, [&](size_t shard, size_t shards) {
    const torch::NoGradGuard no_grad;
    for (size_t unit = shard; unit < units; unit += shards) {
      const size_t i = unit / static_cast<size_t>(groups);
      const auto group = static_cast<int64_t>(unit) % groups;
      const AttentionSite& site = sites_[i];
      if (!IsLinear(config, site)) {  // kept full after all
        meter.Done();
        continue;
      }
      const Codebook book = Fit(samples_[i], group, linear.sizes(site.layer, site.cross),
                                !site.cross && !inverse_frequencies_.empty(), seed_ + unit);
      const std::string prefix = AttentionPrefix(config, site) + "feature_map.";
      const auto row = [&](const char* name) {
        return model->parameters().Get(prefix + name).detach()[group];
      };
      row("key_weight").copy_(book.key_weight);
      row("key_bias").copy_(book.key_bias);
      row("query_weight").copy_(book.query_weight);
      model->parameters()
          .Get(prefix + "query_bias")
          .detach()
          .narrow(0, group * share, share)
          .copy_(book.query_bias);
      meter.Done();
    }
  });
}

std::vector<double> ChooseFarBiases(const TrainingModel& parent, const Corpus& text, int threads,
                                    TrainingModel* model, Progress* progress) {
  const torch::NoGradGuard no_grad;
  const OperatorThreads of_all(std::max(1, threads));
  const ModelConfig& config = model->config();
  const bool codebook = config.linear_attention->feature_map == FeatureMapKind::kCodebook;
  // A codebook has the logits' own scale; of the others it is anybody's guess.
  const std::vector<double> biases =
      codebook ? std::vector<double>{-3, -2, -1.5, -1, -0.5, 0, 0.5}
               : std::vector<double>{-12, -8, -6, -4, -3, -2, -1, 0, 1, 2};
  const auto sites = AttentionSites(config);
  const auto index = [&](const AttentionSite& site) {
    return static_cast<size_t>(site.layer + (site.cross ? config.layers : 0));
  };
  const auto bias = [&](const AttentionSite& site) -> Tensor {
    const std::string name =
        AttentionPrefix(config, site) + "feature_map." + (codebook ? "query_bias" : "far_bias");
    return model->parameters().Has(name) ? model->parameters().Get(name).detach() : Tensor();
  };
  std::vector<Tensor> errors(sites.size());  // [biases, H], or [1, H] where there is no bias
  std::vector<double> squares(sites.size(), 0.0);
  const std::vector<BatchPlan> plans = WholeDocuments(text, kBatchTokens);
  Meter meter(progress, "calibrating: far biases", plans.size());
  for (const BatchPlan& plan : plans) {
    const TokenBatch batch = MakeBatch(text, plan, parent.parameters().device());
    const Tensor rows = batch.counted.unsqueeze(-1);
    parent.VisitAttention(
        batch.input, [&](const AttentionSite& site, const AttentionInput& in, const Tensor& out) {
          if (!IsLinear(config, site)) return;
          const auto by_head = [&](const Tensor& x) {
            return (x * rows)
                .square()
                .view({-1, config.heads, config.head_dim})
                .sum(std::vector<int64_t>{0, 2});
          };
          std::vector<Tensor> by_bias;
          const auto measure = [&] {
            by_bias.push_back(by_head(model->LinearSite(batch.input, site, in) - out));
          };
          Tensor values = bias(site);
          if (values.defined()) {
            const Tensor first = values.clone();
            for (const double add : biases) {
              values.copy_(first + add);
              measure();
            }
            values.copy_(first);
          } else {
            measure();
          }
          Tensor& sum = errors[index(site)];
          const Tensor all = torch::stack(by_bias).to(torch::kCPU, torch::kFloat64);
          sum = sum.defined() ? sum + all : all;
          squares[index(site)] += by_head(out).sum(torch::kFloat64).item<double>();
        });
    meter.Done();
  }
  std::vector<double> left(static_cast<size_t>(config.layers), 0.0);
  for (const AttentionSite& site : sites) {
    const Tensor& error = errors[index(site)];
    if (!error.defined()) continue;
    if (!site.cross) {
      left[static_cast<size_t>(site.layer)] =
          error.amin(0).sum().item<double>() / std::max(1e-30, squares[index(site)]);
    }
    Tensor values = bias(site);
    if (!values.defined()) continue;
    const Tensor best = torch::tensor(biases)
                            .index_select(0, error.argmin(0))
                            .to(torch::TensorOptions(values.device()).dtype(torch::kFloat32));
    values.add_(codebook ? best.unsqueeze(1) : best);
  }
  return left;
}

}  // namespace t2r::convert
