#include "engine/executor/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "engine/executor/model_executor.h"
#include "tests/engine/model/counting_backend.h"
#include "tests/engine/model/engine_fixture.h"

namespace t2r::testing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kGiB = int64_t{1} << 30;

// A model with sizes but without weights: 1,000 bytes of workspace a row, 4 a logit.
class SizesOnly : public Model {
 public:
  SizesOnly(int linear, int full) {
    config_.layers = linear + full;
    config_.heads = 4;
    config_.kv_heads = 2;
    config_.head_dim = 64;
    config_.vocab_size = 1000;
    config_.layer_types.assign(linear, LayerType::kLinearAttention);
    config_.layer_types.resize(linear + full, LayerType::kFullAttention);
    config_.linear_attention.emplace().feature_size = 64;
  }
  const ModelConfig& config() const override { return config_; }
  size_t weight_bytes() const override { return 7 * kMiB; }
  int64_t WorkspaceBytes(int64_t rows, int64_t logit_rows) const override {
    return rows * 1000 + logit_rows * config_.vocab_size * 4;
  }
  void AllocateWorkspace(int64_t /*rows*/, int64_t /*logit_rows*/) override {}
  Tensor Forward(const Batch& /*batch*/, const Caches& /*caches*/) override { return {}; }

 private:
  ModelConfig config_;
};

MemoryInfo Device(int64_t total, int64_t free) { return {total, free, false}; }
MemoryInfo Machine(int64_t total, int64_t free) { return {total, free, true}; }

int64_t Needs(const MemoryPlan& plan) {
  return plan.workspace_bytes + plan.states_bytes() + plan.kv_bytes();
}

std::string ErrorOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const DeviceError& error) {
    return error.what();
  }
  return "no error";
}

TEST(MemoryPlanTest, ADevicesRestGoesToSessions) {
  const SizesOnly model(2, 0);
  const MemoryInfo device = Device(8 * kGiB, 3 * kGiB);
  const MemoryPlan plan = PlanMemory(model, device, {});
  // Layers · G · k · (d + 1) · 4.
  EXPECT_EQ(plan.slot_bytes, 2 * 2 * 64 * 65 * 4);
  EXPECT_EQ(plan.weight_bytes, 7 * kMiB);
  EXPECT_EQ(plan.max_step_tokens, 8192 + 128);
  EXPECT_EQ(plan.max_step_logit_rows, 8320);  // 64 MiB would be logits of 16,777 rows
  EXPECT_EQ(plan.workspace_bytes,
            model.WorkspaceBytes(plan.max_step_tokens, plan.max_step_logit_rows));
  EXPECT_EQ(plan.free_bytes, 3 * kGiB - Needs(plan));
  // A thirty-second of the device stays free, and less than one more session beside it.
  EXPECT_GE(plan.free_bytes, 256 * kMiB);
  EXPECT_LT(plan.free_bytes, 256 * kMiB + plan.slot_bytes);
  EXPECT_EQ(plan.pages, 0);
}

TEST(MemoryPlanTest, AskingForOneMoreThanFitsIsRefusedWithTheNumbers) {
  const SizesOnly model(2, 0);
  const MemoryInfo device = Device(kGiB, 600 * kMiB);
  PlanOptions options;
  options.sessions = PlanMemory(model, device, options).slots;
  EXPECT_GT(options.sessions, 1000);
  EXPECT_EQ(PlanMemory(model, device, options).slots, options.sessions);
  ++options.sessions;
  const std::string error = ErrorOf([&] { PlanMemory(model, device, options); });
  EXPECT_THAT(error, HasSubstr(std::to_string(options.sessions) + " sessions need "));
  EXPECT_THAT(error, HasSubstr(std::to_string(600 * kMiB) + " free of " + std::to_string(kGiB)));
  EXPECT_THAT(error, HasSubstr(std::to_string(32 * kMiB) + " stay in reserve"));
  EXPECT_THAT(error,
              HasSubstr("lower max_sessions to " + std::to_string(options.sessions - 1) + " "));
}

TEST(MemoryPlanTest, NoRoomForOneSessionSaysWhatElseToLower) {
  const SizesOnly model(2, 1);
  EXPECT_THAT(ErrorOf([&] { PlanMemory(model, Device(kGiB, 33 * kMiB), {}); }),
              HasSubstr("lower max_step_tokens or kv_cache_bytes"));
  PlanOptions options;
  options.kv_cache_bytes = 2 * kGiB;
  EXPECT_THAT(ErrorOf([&] { PlanMemory(model, Machine(kGiB, kGiB), options); }),
              HasSubstr("lower max_step_tokens or kv_cache_bytes"));
}

TEST(MemoryPlanTest, AMachinesMemoryIsShared) {
  const SizesOnly model(2, 0);
  const MemoryPlan rich = PlanMemory(model, Machine(kGiB, kGiB), {});
  EXPECT_EQ(rich.slots, 64);
  EXPECT_EQ(rich.max_step_tokens, 64 + 128);
  const MemoryPlan poor = PlanMemory(model, Machine(kGiB, 6 * kMiB), {});
  EXPECT_LT(poor.slots, 64);
  EXPECT_LE(Needs(poor), 3 * kMiB);
  PlanOptions options;
  options.sessions = 1000;  // a number may take all that is free
  EXPECT_EQ(PlanMemory(model, Machine(kGiB, 120 * kMiB), options).slots, 1000);
  EXPECT_THAT(ErrorOf([&] { PlanMemory(model, Machine(kGiB, 64 * kMiB), options); }),
              HasSubstr("1000 sessions need"));
}

TEST(MemoryPlanTest, WhereTheSystemDoesNotTellAnythingGoes) {
  PlanOptions options;
  options.sessions = 1000;
  EXPECT_EQ(PlanMemory(SizesOnly(2, 0), {}, options).slots, 1000);
}

TEST(MemoryPlanTest, FullLayersPagesGrowWithTheSessionsOrAreGiven) {
  const SizesOnly model(1, 2);
  const int64_t page = 2LL * 2 * 2 * 64 * 64 * 4;  // layers · (K, V) · G · positions · d · 4
  PlanOptions options;
  options.sessions = 3;
  const MemoryPlan plan = PlanMemory(model, Device(8 * kGiB, 8 * kGiB), options);
  EXPECT_EQ(plan.page_bytes, page);
  EXPECT_EQ(plan.pages, 3 * 2048 / 64);
  EXPECT_EQ(plan.kv_bytes(), plan.pages * page);
  options.position_limit = 65;
  EXPECT_EQ(PlanMemory(model, Device(8 * kGiB, 8 * kGiB), options).pages, 3 * 2);
  options.kv_dtype = DType::kBFloat16;
  EXPECT_EQ(PlanMemory(model, Device(8 * kGiB, 8 * kGiB), options).page_bytes, page / 2);

  options = {};
  options.kv_cache_bytes = 100 * page + 1;
  const MemoryPlan given = PlanMemory(model, Device(8 * kGiB, 8 * kGiB), options);
  EXPECT_EQ(given.pages, 100);
  EXPECT_GT(given.slots, 10000);
  options.kv_cache_bytes = page - 1;
  EXPECT_THROW(PlanMemory(model, Device(8 * kGiB, 8 * kGiB), options), ModelError);
}

TEST(MemoryPlanTest, PrefixesTakeAShareThatSessionsDoNotNeed) {
  const SizesOnly linear(2, 0);
  PlanOptions options;
  options.sessions = 10;
  options.prefix_cache_bytes = 20 * kMiB;
  MemoryPlan plan = PlanMemory(linear, Device(8 * kGiB, 8 * kGiB), options);
  EXPECT_EQ(plan.prefix_states, 20 * kMiB / plan.slot_bytes);
  EXPECT_EQ(plan.prefix_pages, 0);
  EXPECT_EQ(plan.prefix_bytes(), plan.prefix_states * plan.slot_bytes);
  EXPECT_EQ(plan.free_bytes, 8 * kGiB - Needs(plan) - plan.prefix_bytes());
  // An eighth of what sessions could have, and what these leave of it.
  plan = PlanMemory(linear, Machine(kGiB, 40 * kMiB), options);
  EXPECT_EQ(plan.prefix_states, 5 * kMiB / plan.slot_bytes);
  plan = PlanMemory(linear, Machine(kGiB, Needs(plan) + plan.slot_bytes), options);
  EXPECT_EQ(plan.prefix_states, 1);
  // Where the rest is the sessions', theirs is less by it.
  options.sessions = 0;
  const MemoryPlan with = PlanMemory(linear, Device(kGiB, 600 * kMiB), options);
  EXPECT_EQ(with.prefix_states, 20 * kMiB / with.slot_bytes);
  options.prefix_cache_bytes = 0;
  EXPECT_GT(PlanMemory(linear, Device(kGiB, 600 * kMiB), options).slots, with.slots + 100);

  // Pages for 1,024 positions each, or as many states as pages where there is nothing else.
  options.prefix_cache_bytes = 200 * kMiB;
  options.sessions = 1;
  plan = PlanMemory(SizesOnly(1, 1), Device(8 * kGiB, 8 * kGiB), options);
  EXPECT_EQ(plan.prefix_states, 200 * kMiB / (plan.slot_bytes + 16 * plan.page_bytes));
  EXPECT_EQ(plan.prefix_pages, 16 * plan.prefix_states);
  plan = PlanMemory(SizesOnly(0, 1), Device(8 * kGiB, 8 * kGiB), options);
  EXPECT_EQ(plan.prefix_states, 200 * kMiB / plan.page_bytes);
  EXPECT_EQ(plan.prefix_pages, plan.prefix_states);
}

TEST(MemoryPlanTest, StepsOfAGivenSizeHoldAGivenNumberOfSessions) {
  const SizesOnly model(1, 0);
  PlanOptions options;
  options.step_tokens = 100;
  EXPECT_EQ(PlanMemory(model, Device(kGiB, kGiB), options).max_step_tokens, 100);
  EXPECT_EQ(PlanMemory(model, Device(kGiB, kGiB), options).max_step_logit_rows, 100);
  options.sessions = 150;
  EXPECT_EQ(PlanMemory(model, Device(kGiB, kGiB), options).max_step_tokens, 150);
}

TEST(MemoryPlanTest, TheTableAddsUp) {
  MemoryPlan plan;
  plan.total_bytes = 1234567;
  plan.weight_bytes = 1000;
  plan.workspace_bytes = 200;
  plan.slot_bytes = 1024;
  plan.slots = 1000;
  plan.page_bytes = 10;
  plan.pages = 5;
  plan.prefix_states = 2;
  plan.prefix_pages = 3;
  plan.free_bytes = 7;
  plan.max_step_tokens = 192;
  plan.max_step_logit_rows = 64;
  EXPECT_EQ(ToTable(plan),
            "memory: weights                    1,000 bytes\n"
            "memory: workspace                    200 bytes  steps of 192 rows, logits of 64\n"
            "memory: states                 1,024,000 bytes  1,000 sessions of 1,024\n"
            "memory: keys, values                  50 bytes  5 pages of 64 positions, 10 each\n"
            "memory: prefixes                   2,078 bytes  2 states\n"
            "memory: free                           7 bytes  of 1,234,567");
}

// What the plan says is what an engine takes.
TEST(MemoryPlanTest, IsWhatIsAllocated) {
  for (const bool gpt2 : {false, true}) {
    ModelSpec spec;
    spec.gpt2 = gpt2;
    spec.linear = {true, false, true};
    if (gpt2) spec.groups = spec.heads;
    const TemporaryDirectory directory;
    directory.Write("config.json", ConfigOf(spec));
    WriteWeights(directory, RandomWeights(spec, 17));
    const auto config = LoadModelConfig(directory.path());
    ASSERT_TRUE(config.ok()) << config.status();
    std::shared_ptr<SafetensorsDirectory> files = *SafetensorsDirectory::Open(directory.path());
    auto backend = std::make_unique<CountingBackend>(MakeBackend({"cpu", 1}));
    CountingBackend& counting = *backend;
    auto model = MakeModel(*config, *files, *backend, {DType::kFloat32});
    PlanOptions options;
    options.sessions = 5;
    const MemoryPlan plan = PlanMemory(*model, Machine(kGiB, kGiB), options);
    EXPECT_GT(plan.workspace_bytes, 0);
    counting.allocated = 0;
    ModelExecutor executor(
        std::move(backend), std::move(model),
        {plan.slots, plan.max_step_tokens, plan.max_step_logit_rows, 256, plan.pages});
    EXPECT_EQ(counting.allocated, Needs(plan));
  }
}

}  // namespace
}  // namespace t2r::testing
