// No op takes memory, from the first step of an executor on: what they need is reserved before.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "engine/executor/model_executor.h"
#include "testing/marian_directory.h"
#include "tests/engine/model/counting_backend.h"
#include "tests/engine/model/engine_fixture.h"

namespace {

std::atomic<bool> watching{false};
std::atomic<int64_t> taken{0};  // times that memory was asked for while watching

void Note() {
  if (watching) ++taken;
}

}  // namespace

// What the program and its libraries take memory by. They stand before the system's, out of line:
// the compiler takes malloc and delete for a mismatch where it sees both.
__attribute__((noinline)) void* operator new(size_t bytes) {
  Note();
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept { std::free(memory); }

extern "C" void* mmap(void* address, size_t bytes, int protection, int flags, int file,
                      off_t offset) noexcept {
  Note();
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the system call gives an address as a number
  return reinterpret_cast<void*>(
      syscall(SYS_mmap, address, bytes, protection, flags, file, offset));
}

namespace t2r::testing {
namespace {

// Watches the ops of every step.
class WatchedBackend : public CountingBackend {
 public:
  using CountingBackend::CountingBackend;
  StepShape RunStep(const void* model, const Batch& batch,
                    const std::function<void(const StepShape&)>& ops) override {
    watching = armed;
    const StepShape shape = CountingBackend::RunStep(model, batch, ops);
    watching = false;
    return shape;
  }
  bool armed = false;
};

constexpr int kSlots = 3;
constexpr int64_t kRows = 160;

struct Watched {
  WatchedBackend* backend = nullptr;
  std::unique_ptr<ModelExecutor> executor;
};

template <typename Spec>
Watched Make(const Spec& spec) {
  const TemporaryDirectory directory;
  directory.Write("config.json", ConfigOf(spec));
  WriteWeights(directory, RandomWeights(spec, 2));
  const auto config = LoadModelConfig(directory.path());
  EXPECT_TRUE(config.ok()) << config.status();
  Watched made;
  const auto files = SafetensorsDirectory::Open(directory.path());
  EXPECT_TRUE(files.ok()) << files.status();
  auto backend = std::make_unique<WatchedBackend>(MakeBackend({"cpu", 2}));
  made.backend = backend.get();
  auto model = MakeModel(*config, **files, *backend, {DType::kFloat32});
  made.executor = std::make_unique<ModelExecutor>(
      std::move(backend), std::move(model),
      ExecutorOptions{kSlots, kRows, kRows, 0, 3 * kSlots, 3 * kSlots});
  made.backend->armed = true;
  return made;
}

// Prompts of all sessions in one step, the largest there can be, then a few decodes.
void RunSteps(Executor& executor, int64_t source) {
  const std::vector<int32_t> prompt = SomeIds(kRows / kSlots, 30);
  const std::vector<int32_t> sources = SomeIds(static_cast<int>(source), 30);
  std::vector<ScheduledChunk> chunks;
  for (int i = 0; i < kSlots; ++i) {
    const int slot = executor.Open({kRows / kSlots + 4, source}, Greedy());
    ASSERT_GE(slot, 0);
    chunks.push_back(MakeChunk(slot, prompt, 0, true));
    chunks.back().source = sources;
  }
  std::vector<ChunkResult> results;
  executor.Step(chunks, &results);
  const std::vector<int32_t> token = {3};
  for (int64_t step = 0; step < 4; ++step) {
    for (ScheduledChunk& chunk : chunks) {
      chunk = MakeChunk(chunk.slot, token, kRows / kSlots + step, true);
    }
    executor.Step(chunks, &results);
  }
}

TEST(AllocationsTest, NoOpOfADecoderAllocates) {
  for (const char* map : {"t2r", "elu", "hedgehog", "rfa"}) {
    for (const bool gpt2 : {false, true}) {
      ModelSpec spec;
      spec.gpt2 = gpt2;
      if (gpt2) spec.groups = spec.heads;
      spec.positions = 200;
      spec.map = map;
      spec.features = std::string(map) == "elu" ? spec.hidden / spec.heads : 16;
      spec.linear.assign(spec.layers, true);
      spec.linear[0] = false;
      const Watched watched = Make(spec);
      taken = 0;
      RunSteps(*watched.executor, 0);
      EXPECT_EQ(taken, 0) << map << (gpt2 ? ", gpt2" : ", llama");
    }
  }
}

TEST(AllocationsTest, NoOpOfAnEncoderDecoderAllocates) {
  for (const bool linear : {false, true}) {
    MarianSpec spec;
    spec.linear.assign(spec.decoder_layers, linear);
    spec.linear_cross = {true, linear, false};
    spec.features = 16;  // not folded
    const Watched watched = Make(spec);
    taken = 0;
    RunSteps(*watched.executor, 50);
    EXPECT_EQ(taken, 0) << linear;
  }
}

}  // namespace
}  // namespace t2r::testing
