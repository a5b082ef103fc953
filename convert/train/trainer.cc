#include "convert/train/trainer.h"

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <numbers>

#include "convert/error.h"
#include "convert/train/checkpoint.h"
#include "convert/train/gradient.h"

namespace t2r::convert {
namespace {

using torch::Tensor;
using Clock = std::chrono::steady_clock;

constexpr double kBeta1 = 0.9, kBeta2 = 0.98, kAdamEps = 1e-8;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Trainer::Trainer(TrainingModel* model, const TrainingModel* teacher, const Corpus& train,
                 TrainOptions options)
    : model_(model), teacher_(teacher), train_(train), options_(std::move(options)) {
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
  decay_ = model_->parameters().DecayMask() * options_.weight_decay;
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

double Trainer::Fraction() const {
  if (options_.steps > 0) {
    return static_cast<double>(state_.step) / static_cast<double>(options_.steps);
  }
  if (options_.tokens > 0) {
    return static_cast<double>(state_.tokens) / static_cast<double>(options_.tokens);
  }
  return state_.seconds / (60.0 * options_.minutes);
}

double Trainer::LearningRate() const {
  const double fraction = std::min(1.0, Fraction());
  const double share = options_.transfer_share;
  const double peak = transferring() ? options_.transfer_rate : options_.learning_rate;
  // Through the present phase, 0 to 1.
  const double through = transferring()
                             ? fraction / share
                             : std::max(0.0, (fraction - share) / std::max(1e-9, 1.0 - share));
  if (through < options_.warmup_share) {
    // A first step has a rate above zero, whatever the budget.
    return peak * std::max(0.05, through / options_.warmup_share);
  }
  if (options_.schedule == "inverse-sqrt") return peak * std::sqrt(options_.warmup_share / through);
  const double after =
      (through - options_.warmup_share) / std::max(1e-9, 1.0 - options_.warmup_share);
  const double cosine = 0.5 * (1.0 + std::cos(std::numbers::pi * after));
  return peak * (options_.final_share + (1.0 - options_.final_share) * cosine);
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
  const double loss = BatchGradient(replicas_,
                                    {objective, teacher_, options_.distill,
                                     options_.distill_temperature, options_.label_smoothing},
                                    train_, plan);
  Update(LearningRate());
  for (const Window& window : plan.windows) state_.tokens += window.length;
  ++state_.step;
  if (++state_.batch == static_cast<int64_t>(epoch_.size())) {
    state_.batch = 0;
    ++state_.epoch;
  }
  return loss;
}

// AdamW (Loshchilov and Hutter 2019) over the flat buffers.
void Trainer::Update(double learning_rate) {
  const torch::NoGradGuard no_grad;
  Tensor gradient = replicas_[0]->parameters().flat_grad();
  const double norm = gradient.norm().item<double>();
  if (!std::isfinite(norm)) {
    throw ConvertError("the gradient is not finite at step " + std::to_string(state_.step) +
                       ": try a lower --learning-rate");
  }
  if (options_.clip_norm > 0 && norm > options_.clip_norm) gradient.mul_(options_.clip_norm / norm);
  moment1_.mul_(kBeta1).add_(gradient, 1.0 - kBeta1);
  moment2_.mul_(kBeta2).addcmul_(gradient, gradient, 1.0 - kBeta2);
  const int64_t first = std::max<int64_t>(0, state_.language_step);
  const double steps = static_cast<double>(state_.step - first) + 1.0;
  const double correction1 = 1.0 - std::pow(kBeta1, steps);
  const double correction2 = 1.0 - std::pow(kBeta2, steps);
  Tensor values = model_->parameters().flat();
  if (!transferring()) values.sub_(values * decay_, learning_rate);
  values.addcdiv_(moment1_, (moment2_ / correction2).sqrt_().add_(kAdamEps),
                  -learning_rate / correction1);
  gradient.zero_();
}

void Trainer::Run(Progress* progress, const std::function<void(const std::string&)>& evaluate) {
  auto saved = Clock::now();
  double next_evaluation = 0.1 * (std::floor(Fraction() * 10.0) + 1.0);
  double loss = 0, weight = 0;  // a moving mean, for display
  const int64_t first_tokens = state_.tokens;
  const double first_seconds = state_.seconds;
  while (Fraction() < 1.0) {
    const auto start = Clock::now();
    const double step_loss = Step();
    state_.seconds += SecondsSince(start);
    if (state_.step == state_.language_step + 1) loss = weight = 0;
    loss = 0.9 * loss + 0.1 * step_loss;
    weight = 0.9 * weight + 0.1;

    const double fraction = std::min(1.0, Fraction());
    const double run_seconds = state_.seconds - first_seconds;
    progress->Update({fraction, state_.step, loss / weight,
                      static_cast<double>(state_.tokens - first_tokens) / run_seconds,
                      state_.seconds * (1.0 - fraction) / fraction});
    if (fraction >= 1.0) break;
    const bool due = options_.evaluate_every > 0 ? state_.step % options_.evaluate_every == 0
                                                 : fraction >= next_evaluation;
    if (due) {
      next_evaluation = 0.1 * (std::floor(fraction * 10.0) + 1.0);
      if (evaluate) evaluate("step " + std::to_string(state_.step));
    }
    const bool save = options_.checkpoint_every > 0 ? state_.step % options_.checkpoint_every == 0
                                                    : SecondsSince(saved) > 60.0;
    if (save && !options_.checkpoint.empty()) {
      SaveCheckpoint();
      saved = Clock::now();
    }
  }
  if (!options_.checkpoint.empty()) SaveCheckpoint();
}

}  // namespace t2r::convert
