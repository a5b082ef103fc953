#include "convert/train/trainer.h"

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <numbers>
#include <numeric>

#include "convert/error.h"
#include "convert/train/adamw.h"
#include "convert/train/adamw_tensors.h"
#include "convert/train/checkpoint.h"
#include "convert/train/gradient.h"
#include "convert/train/shards.h"

namespace t2r::convert {
namespace {

using torch::Tensor;
using Clock = std::chrono::steady_clock;

constexpr double kBeta1 = 0.9, kBeta2 = 0.98;
// Steps go on for at least so many times as long as a checkpoint took, before the next one.
constexpr double kSavingShare = 30;
// log_decay's share of its rate: its values are some 1e-3, of steps that are the rate's size.
constexpr double kLogDecayRate = 0.01;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Trainer::Trainer(DeviceGroup* group, TrainingModel* model, const TrainingModel* teacher,
                 const Corpus& train, TrainOptions options)
    : group_(group), model_(model), teacher_(teacher), train_(train), options_(std::move(options)) {
  const int budgets = (options_.steps > 0) + (options_.tokens > 0) + (options_.minutes > 0);
  if (budgets != 1) throw ConvertError("give exactly one of --steps, --tokens and --minutes");
  if (options_.window < 1) throw ConvertError("--window must be at least 1");
  if (options_.batch_tokens < options_.window) {
    throw ConvertError("--batch must be at least --window: it counts positions, not rows");
  }
  const auto limit = model_->config().position_limit();
  if (limit.has_value() && options_.window > *limit) {
    throw ConvertError("--window " + std::to_string(options_.window) + " exceeds the " +
                       std::to_string(*limit) + " learned positions of this model");
  }
  if (options_.distill < 0 || options_.distill > 1) {
    throw ConvertError("--distill must lie between 0 and 1");
  }
  if (options_.distill_temperature <= 0) {
    throw ConvertError("--distill-temperature must be above 0");
  }
  if (options_.distill > 0 && teacher_ == nullptr) throw ConvertError("--distill needs a parent");
  if (options_.label_smoothing < 0 || options_.label_smoothing >= 1) {
    throw ConvertError("--label-smoothing must be at least 0 and below 1");
  }
  if (options_.transfer_share < 0 || options_.transfer_share > 1) {
    throw ConvertError("the share of the transfer must lie between 0 and 1");
  }
  if (options_.schedule != "cosine" && options_.schedule != "inverse-sqrt") {
    throw ConvertError("--schedule must be cosine or inverse-sqrt, not '" + options_.schedule +
                       "'");
  }
  if (options_.schedule == "inverse-sqrt" && options_.warmup_share <= 0) {
    throw ConvertError("--schedule inverse-sqrt needs a --warmup above 0");
  }
  windows_ = CutWindows(train_, options_.window);
  for (int i = 0; i < std::max(1, options_.threads); ++i) {
    replicas_.push_back(TrainingModel::Replica(*model_));
  }
  moment1_ = torch::zeros_like(model_->parameters().flat());
  moment2_ = torch::zeros_like(model_->parameters().flat());
  int64_t at = 0;
  for (const auto& spec : model_->parameters().specs()) {
    const int64_t count = model_->parameters().Get(spec.name).numel();
    const Segment segment{{at, count}, spec.decay, spec.feature_map, IsLogDecay(spec)};
    at += count;
    if (spec.frozen) continue;
    if (!segments_.empty()) {
      Segment& last = segments_.back();
      if (last.range.begin + last.range.count == at && last.decay == segment.decay &&
          last.feature_map == segment.feature_map && last.log_decay == segment.log_decay) {
        last.range.count += count;
        continue;
      }
    }
    segments_.push_back(segment);
  }
}

bool Trainer::Resume() {
  if (options_.checkpoint.empty() || !std::filesystem::exists(options_.checkpoint)) return false;
  const torch::NoGradGuard no_grad;
  CheckpointTensors tensors{model_->parameters().flat(), moment1_, moment2_};
  LoadCheckpoint(options_.checkpoint, options_.fingerprint, tensors, &state_);
  return true;
}

void Trainer::SaveCheckpoint() const {
  convert::SaveCheckpoint(options_.checkpoint, options_.fingerprint,
                          {model_->parameters().flat(), moment1_, moment2_}, state_);
}

double Trainer::TokensPerProcessorSecond() const {
  return static_cast<double>(state_.tokens - first_tokens_) / std::max(1e-9, processor_seconds_);
}

double Trainer::Fraction() const {
  if (options_.steps > 0) {
    return static_cast<double>(state_.step) / static_cast<double>(options_.steps);
  }
  if (options_.tokens > 0) {
    return static_cast<double>(state_.tokens) / static_cast<double>(options_.tokens);
  }
  return state_.seconds / (60.0 * options_.minutes);
}

double Trainer::Schedule() const {
  const double fraction = std::min(1.0, Fraction());
  const double share = options_.transfer_share;
  // Through the present phase, 0 to 1.
  const double through = transferring()
                             ? fraction / share
                             : std::max(0.0, (fraction - share) / std::max(1e-9, 1.0 - share));
  if (through < options_.warmup_share) {
    // A first step has a rate above zero, whatever the budget.
    return std::max(0.05, through / options_.warmup_share);
  }
  if (options_.schedule == "inverse-sqrt") return std::sqrt(options_.warmup_share / through);
  const double after =
      (through - options_.warmup_share) / std::max(1e-9, 1.0 - options_.warmup_share);
  const double cosine = 0.5 * (1.0 + std::cos(std::numbers::pi * after));
  return options_.final_share + (1.0 - options_.final_share) * cosine;
}

double Trainer::Step() {
  if (transferring() && Fraction() >= options_.transfer_share) {
    state_.language_step = state_.step;
    const torch::NoGradGuard no_grad;
    moment1_.zero_();
    moment2_.zero_();
  }
  if (planned_epoch_ != state_.epoch) {
    epoch_ =
        PlanEpoch(windows_, options_.window, options_.batch_tokens, options_.seed, state_.epoch);
    planned_epoch_ = state_.epoch;
  }
  const BatchPlan& plan = epoch_[static_cast<size_t>(state_.batch)];
  const Objective objective = transferring() ? Objective::kTransfer : Objective::kLanguage;
  const double loss = BatchGradient(
      replicas_,
      {objective, teacher_, options_.distill, options_.distill_temperature,
       options_.label_smoothing},
      train_, plan, {static_cast<size_t>(group_->rank()), static_cast<size_t>(group_->size())});
  if (group_->size() > 1) {
    const Tensor gradient = replicas_[0]->parameters().flat_grad();
    for (const Segment& s : segments_) {
      if (Learns(s)) group_->Sum(gradient.narrow(0, s.range.begin, s.range.count));
    }
  }
  Update();
  for (const Window& window : plan.windows) state_.tokens += window.length;
  ++state_.step;
  if (++state_.batch == static_cast<int64_t>(epoch_.size())) {
    state_.batch = 0;
    ++state_.epoch;
  }
  return group_->Sum(loss);
}

void Trainer::Update() {
  const torch::NoGradGuard no_grad;
  const Tensor gradient = replicas_[0]->parameters().flat_grad();
  const size_t parts = replicas_.size();
  std::vector<double> squares(parts, 0.0);
  ForEachShard(parts, static_cast<int>(parts), [&](size_t part, size_t) {
    const torch::NoGradGuard inner_no_grad;
    for (const Segment& s : segments_) {
      if (!Learns(s)) continue;
      const Range mine = s.range.Part(part, parts);
      squares[part] +=
          std::pow(gradient.narrow(0, mine.begin, mine.count).norm().item<double>(), 2);
    }
  });
  const double norm = std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
  if (!std::isfinite(norm)) {
    throw ConvertError("the gradient is not finite at step " + std::to_string(state_.step) +
                       ": try a lower --learning-rate");
  }
  const double schedule = Schedule();
  const double old_rate = options_.learning_rate;
  const double new_rate = options_.new_learning_rate > 0 ? options_.new_learning_rate : old_rate;
  const int64_t first = std::max<int64_t>(0, state_.language_step);
  const double steps = static_cast<double>(state_.step - first) + 1.0;
  AdamwStep step;
  step.beta1 = static_cast<float>(kBeta1);
  step.beta2 = static_cast<float>(kBeta2);
  step.correction1 = static_cast<float>(1.0 - std::pow(kBeta1, steps));
  step.correction2 = static_cast<float>(1.0 - std::pow(kBeta2, steps));
  step.scale = options_.clip_norm > 0 && norm > options_.clip_norm
                   ? static_cast<float>(options_.clip_norm / norm)
                   : 1.0F;
  ForEachShard(parts, static_cast<int>(parts), [&](size_t part, size_t) {
    const torch::NoGradGuard inner_no_grad;
    for (const Segment& s : segments_) {
      if (!Learns(s)) continue;
      const double peak = transferring()  ? options_.transfer_rate
                          : s.feature_map ? new_rate
                                          : old_rate;
      AdamwStep own = step;
      own.rate = static_cast<float>(peak * schedule * (s.log_decay ? kLogDecayRate : 1.0));
      own.decay = s.decay && !transferring() ? static_cast<float>(options_.weight_decay) : 0.0F;
      own.bounded = s.log_decay;
      const Range mine = s.range.Part(part, parts);
      const auto part_of = [&mine](const Tensor& flat) {
        return flat.narrow(0, mine.begin, mine.count);
      };
      const Tensor values = part_of(model_->parameters().flat()), slope = part_of(gradient),
                   moment1 = part_of(moment1_), moment2 = part_of(moment2_);
      if (values.is_cpu()) {
        AdamwUpdate(own, mine.count, values.data_ptr<float>(), slope.data_ptr<float>(),
                    moment1.data_ptr<float>(), moment2.data_ptr<float>());
      } else {
        AdamwUpdateTensors(own, values, slope, moment1, moment2);
      }
    }
  });
}

void Trainer::Run(Progress* progress, const std::function<void(const std::string&)>& evaluate) {
  auto saved = Clock::now();
  double saving = 0;  // seconds that the last checkpoint took
  double next_evaluation = 0.1 * (std::floor(Fraction() * 10.0) + 1.0);
  double loss = 0, weight = 0;  // a moving mean, for display
  const int64_t first_tokens = first_tokens_ = state_.tokens;
  const double first_seconds = state_.seconds;
  group_->CopyFirst(model_->parameters().flat().detach());
  while (Fraction() < 1.0) {
    const auto start = Clock::now();
    const std::clock_t processor_start = std::clock();
    const double step_loss = Step();
    // One clock, so that a budget in minutes ends, and a rate falls, alike everywhere.
    state_.seconds = group_->OfFirst(state_.seconds + SecondsSince(start));
    processor_seconds_ +=
        static_cast<double>(std::clock() - processor_start) / static_cast<double>(CLOCKS_PER_SEC);
    if (state_.step == state_.language_step + 1) loss = weight = 0;
    loss = 0.9 * loss + 0.1 * step_loss;
    weight = 0.9 * weight + 0.1;

    const double fraction = std::min(1.0, Fraction());
    const double run_seconds = state_.seconds - first_seconds;
    progress->Update({fraction, state_.step, loss / weight,
                      static_cast<double>(state_.tokens - first_tokens) / run_seconds,
                      state_.seconds * (1.0 - fraction) / fraction});
    if (fraction >= 1.0) break;
    if (!group_->first()) continue;
    const bool due = options_.evaluate_every > 0 ? state_.step % options_.evaluate_every == 0
                                                 : fraction >= next_evaluation;
    if (due) {
      next_evaluation = 0.1 * (std::floor(fraction * 10.0) + 1.0);
      if (evaluate) evaluate("step " + std::to_string(state_.step));
    }
    const bool save = options_.checkpoint_every > 0
                          ? state_.step % options_.checkpoint_every == 0
                          : SecondsSince(saved) > std::max(60.0, kSavingShare * saving);
    if (save && !options_.checkpoint.empty()) {
      const auto begin = Clock::now();
      SaveCheckpoint();
      saved = Clock::now();
      saving = std::chrono::duration<double>(saved - begin).count();
    }
  }
  if (!options_.checkpoint.empty() && group_->first()) SaveCheckpoint();
  processor_seconds_ = group_->Sum(processor_seconds_);
}

}  // namespace t2r::convert
