#include "engine/executor/memory_plan.h"

#include <algorithm>
#include <cstdio>
#include <limits>

namespace t2r {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
// Logits are kept for every row that is scored, within this much memory.
constexpr int64_t kLogitBytes = int64_t{64} << 20;
constexpr int64_t kDefaultPositions = 2048;  // of a session, for the default key/value cache
constexpr int64_t kReserveShare = 32;        // of a device's memory
constexpr int64_t kMinReserve = int64_t{16} << 20;
constexpr int64_t kMaxReserve = int64_t{2} << 30;
constexpr int kSharedSessions = 64;
constexpr int64_t kPrefixShare = 8;  // prefixes' part of what sessions could have: 1 / this

// Sums and products that stay at kNoLimit where they would pass it; factors are not negative.
int64_t Times(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? kNoLimit : product;
}
int64_t Plus(int64_t a, int64_t b) {
  int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? kNoLimit : sum;
}

class Planner {
 public:
  Planner(const Model& model, const MemoryInfo& memory, const PlanOptions& options)
      : model_(model), memory_(memory), options_(options) {
    const ModelConfig& config = model.config();
    slot_bytes_ = StatePool::SlotBytes(StateShapeOf(config, options.window_dtype));
    page_bytes_ = KvShapeOf(config, options.kv_dtype).page_bytes();
    source_page_bytes_ = SourceKvShapeOf(config, options.kv_dtype).page_bytes();
    if (page_bytes_ > 0 && options.kv_cache_bytes > 0) {
      fixed_pages_ =
          std::min<int64_t>(options.kv_cache_bytes / page_bytes_, std::numeric_limits<int>::max());
      if (fixed_pages_ == 0) {
        throw ModelError("kv_cache_bytes is " + std::to_string(options.kv_cache_bytes) +
                         "; one page of " + std::to_string(kKvPageSize) + " positions takes " +
                         std::to_string(page_bytes_));
      }
    }
    if (!config.encoder_decoder) {
      if (page_bytes_ > 0) {
        prefix_state_pages_ = slot_bytes_ > 0 ? KvCache::PagesFor(kPrefixPositions) : 1;
      }
      prefix_state_bytes_ = Plus(slot_bytes_, Times(prefix_state_pages_, page_bytes_));
    }
    if (config.encoder_decoder) {
      source_ = std::min(config.encoder_decoder->max_source_positions, kMaxStepTokens);
      if (source_page_bytes_ > 0) source_pages_ = KvCache::PagesFor(source_);
    }
  }

  MemoryPlan Run() {
    const bool automatic = options_.sessions == 0;
    const int most = memory_.shared ? kSharedSessions : kMaxSessions;
    const bool known = memory_.total_bytes > 0;
    int64_t budget = kNoLimit;
    if (known && memory_.shared) {
      budget = automatic ? memory_.free_bytes / 2 : memory_.free_bytes;
    } else if (known) {
      budget = memory_.free_bytes - Reserve();
    }
    // Whole states: what is over is the sessions'.
    const int64_t prefixes =
        PrefixStates(std::min(options_.prefix_cache_bytes, budget / kPrefixShare)) *
        prefix_state_bytes_;
    const int fit = known ? std::max(Fit(budget - prefixes, most), Fit(budget, 1)) : most;
    const int sessions = automatic ? fit : options_.sessions;
    MemoryPlan plan = PlanFor(std::max(sessions, 1));
    if (sessions == 0 || Needs(plan) > budget) Refuse(plan, budget);
    AddPrefixes(std::min(prefixes, budget - Needs(plan)), &plan);
    return plan;
  }

 private:
  int64_t Reserve() const { return memory_.shared ? 0 : DeviceReserve(memory_.total_bytes); }

  static int64_t Needs(const MemoryPlan& plan) {
    return Plus(
        Plus(plan.workspace_bytes, Times(plan.slots, plan.slot_bytes)),
        Plus(Times(plan.pages, plan.page_bytes), Times(plan.source_pages, plan.source_page_bytes)));
  }

  MemoryPlan PlanFor(int sessions) const {
    MemoryPlan plan;
    plan.total_bytes = memory_.total_bytes;
    plan.weight_bytes = static_cast<int64_t>(model_.weight_bytes());
    plan.slots = sessions;
    plan.slot_bytes = slot_bytes_;
    const int64_t rows = std::min<int64_t>(sessions, kMaxDecodeRows) + options_.prompt_chunk;
    plan.max_step_tokens = options_.step_tokens == 0
                               ? rows
                               : std::max<int64_t>(options_.step_tokens, options_.sessions);
    // A source goes through the encoder in one piece.
    plan.max_step_tokens = std::max(plan.max_step_tokens, source_);
    plan.max_step_logit_rows = std::clamp<int64_t>(
        kLogitBytes / (int64_t{4} * model_.config().vocab_size),
        std::min<int64_t>({sessions, kMaxDecodeRows, plan.max_step_tokens}), plan.max_step_tokens);
    plan.workspace_bytes = model_.WorkspaceBytes(plan.max_step_tokens, plan.max_step_logit_rows);
    plan.page_bytes = page_bytes_;
    if (fixed_pages_ > 0) {
      plan.pages = fixed_pages_;
    } else if (page_bytes_ > 0) {
      const int64_t positions = options_.position_limit == 0
                                    ? kDefaultPositions
                                    : std::min(kDefaultPositions, options_.position_limit);
      plan.pages = KvCache::PagesFor(positions) * sessions;
    }
    plan.source_page_bytes = source_page_bytes_;
    plan.source_pages = source_pages_ * sessions;
    plan.free_bytes = std::max<int64_t>(memory_.free_bytes - Needs(plan), 0);
    return plan;
  }

  // States of prompts' beginnings that `bytes` hold.
  int64_t PrefixStates(int64_t bytes) const {
    if (prefix_state_bytes_ == 0) return 0;
    return std::clamp<int64_t>(bytes / prefix_state_bytes_, 0, kMaxPrefixStates);
  }

  void AddPrefixes(int64_t bytes, MemoryPlan* plan) const {
    plan->prefix_states = static_cast<int>(PrefixStates(bytes));
    plan->prefix_pages = plan->prefix_states * prefix_state_pages_;
    plan->free_bytes = std::max<int64_t>(plan->free_bytes - plan->prefix_bytes(), 0);
  }

  // The most sessions up to `most` whose plan keeps to the budget: what a plan needs only grows
  // with them.
  int Fit(int64_t budget, int most) const {
    int fit = 0;
    int beyond = most + 1;
    while (beyond - fit > 1) {
      const int middle = fit + (beyond - fit) / 2;
      (Needs(PlanFor(middle)) <= budget ? fit : beyond) = middle;
    }
    return fit;
  }

  [[noreturn]] void Refuse(const MemoryPlan& plan, int64_t budget) const {
    const auto text = [](int64_t number) { return std::to_string(number); };
    const int fit = Fit(budget, kMaxSessions);
    std::string message = text(plan.slots) +
                          (plan.slots == 1 ? " session needs " : " sessions need ") +
                          text(Needs(plan)) + " bytes: workspace " + text(plan.workspace_bytes) +
                          ", states " + text(plan.slots) + " x " + text(plan.slot_bytes);
    if (plan.page_bytes > 0) {
      message += ", keys and values " + text(plan.pages) + " x " + text(plan.page_bytes);
    }
    if (plan.source_page_bytes > 0) {
      message += ", of sources " + text(plan.source_pages) + " x " + text(plan.source_page_bytes);
    }
    message += "; beside weights of " + text(plan.weight_bytes) + " there are " +
               text(memory_.free_bytes) + " free of " + text(memory_.total_bytes);
    if (Reserve() > 0) message += ", of which " + text(Reserve()) + " stay in reserve";
    throw DeviceError(DeviceErrorKind::kOutOfMemory,
                      message + (fit > 0 ? ": lower max_sessions to " + text(fit) + " or less"
                                         : ": lower max_step_tokens or kv_cache_bytes, or take a "
                                           "smaller model or dtype"));
  }

  const Model& model_;
  const MemoryInfo memory_;
  const PlanOptions options_;
  int64_t slot_bytes_ = 0;
  int64_t page_bytes_ = 0;
  int64_t source_page_bytes_ = 0;
  // Of a state of a prompt's beginning, with its share of pages; 0: there are none.
  int64_t prefix_state_bytes_ = 0;
  int64_t prefix_state_pages_ = 0;
  int64_t fixed_pages_ = 0;   // 0: they grow with the sessions
  int64_t source_ = 0;        // tokens of the longest source
  int64_t source_pages_ = 0;  // of a session
};

// 1234567 as "1,234,567".
std::string Grouped(int64_t number) {
  std::string text = std::to_string(number);
  for (auto at = static_cast<int64_t>(text.size()) - 3; at > 0; at -= 3) {
    text.insert(static_cast<size_t>(at), ",");
  }
  return text;
}

std::string Line(const char* name, int64_t bytes, const std::string& what) {
  char line[160];
  std::snprintf(line, sizeof(line), "memory: %-12s %19s bytes  ", name, Grouped(bytes).c_str());
  std::string text = line + what;
  text.resize(text.find_last_not_of(' ') + 1);
  return text;
}

std::string Pages(int64_t pages, int64_t bytes) {
  return Grouped(pages) + " pages of " + std::to_string(kKvPageSize) + " positions, " +
         Grouped(bytes) + " each";
}

}  // namespace

int64_t DeviceReserve(int64_t total_bytes) {
  return std::clamp(total_bytes / kReserveShare, kMinReserve, kMaxReserve);
}

MemoryPlan PlanMemory(const Model& model, const MemoryInfo& memory, const PlanOptions& options) {
  return Planner(model, memory, options).Run();
}

std::string ToTable(const MemoryPlan& plan) {
  std::string cache = plan.pages > 0 ? Pages(plan.pages, plan.page_bytes) : "";
  if (plan.source_pages > 0) {
    cache += (cache.empty() ? "" : "; ") + std::string("sources: ") +
             Pages(plan.source_pages, plan.source_page_bytes);
  }
  return Line("weights", plan.weight_bytes, "") + "\n" +
         Line("workspace", plan.workspace_bytes,
              "steps of " + Grouped(plan.max_step_tokens) + " rows, logits of " +
                  Grouped(plan.max_step_logit_rows)) +
         "\n" +
         Line("states", plan.states_bytes(),
              Grouped(plan.slots) + " sessions of " + Grouped(plan.slot_bytes)) +
         "\n" + Line("keys, values", plan.kv_bytes(), cache) + "\n" +
         Line("prefixes", plan.prefix_bytes(), Grouped(plan.prefix_states) + " states") + "\n" +
         Line("free", plan.free_bytes, "of " + Grouped(plan.total_bytes));
}

}  // namespace t2r
