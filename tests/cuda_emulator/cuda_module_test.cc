// The module's loading, recorded steps, and failures of the device, on the emulated module that
// T2R_CUDA_MODULE names.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "engine/ops/backend.h"
#include "tests/cuda_emulator/host_api.h"

namespace t2r::testing {
namespace {

using ::testing::HasSubstr;

class CudaModuleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("T2R_CUDA_MODULE");
    ASSERT_NE(path, nullptr) << "run by ctest as cuda_emulated_cuda_module_test";
    backend_ = MakeBackend({"cuda"});
    void* module = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    ASSERT_NE(module, nullptr);
    fail_ = reinterpret_cast<decltype(&t2r_emulator_fail)>(dlsym(module, "t2r_emulator_fail"));
    counts_ =
        reinterpret_cast<decltype(&t2r_emulator_counts)>(dlsym(module, "t2r_emulator_counts"));
    ASSERT_NE(fail_, nullptr) << path << " is not the emulated module";
    backend_->PrepareSteps({64, 64, 64, 64});
  }
  void TearDown() override {
    if (fail_ != nullptr) fail_("");
  }

  static Batch Decodes(int rows) {
    Batch batch;
    for (int i = 0; i < rows; ++i) {
      batch.tokens.push_back(i);
      batch.positions.push_back(10 + i);
      batch.segments.push_back({i, i, 1, 10 + i, 0});
      batch.logit_rows.push_back(i);
    }
    return batch;
  }

  std::string ErrorOf(const std::function<void()>& call) {
    try {
      call();
    } catch (const DeviceError& error) {
      return error.what();
    }
    return "no error";
  }

  std::unique_ptr<Backend> backend_;
  decltype(&t2r_emulator_fail) fail_ = nullptr;
  decltype(&t2r_emulator_counts) counts_ = nullptr;
};

TEST_F(CudaModuleTest, AutoTakesTheDevice) {
  std::string note = "earlier";
  const auto backend = MakeBackend({"auto", 1, &note});
  EXPECT_THAT(backend->Describe(), HasSubstr("cuda"));
  EXPECT_THAT(note, ::testing::StartsWith("cuda, since"));
}

TEST_F(CudaModuleTest, StepsOfDecodesAreRecordedAndReplayed) {
  std::vector<float> values(100 * 8);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const auto table = backend_->LoadTable({values.data(), DType::kFloat32, 100, 8});
  const Buffer out = backend_->Allocate(64 * 8 * 4);
  const int model = 0;
  int calls = 0;
  const auto step = [&](int rows, int first_token) {
    Batch batch = Decodes(rows);
    for (int32_t& token : batch.tokens) token += first_token;
    const StepShape shape = backend_->RunStep(&model, batch, [&](const StepShape& s) {
      ++calls;
      backend_->Embed(batch, *table, nullptr, 1.0F, {out.data(), DType::kFloat32, s.rows, 8, 8});
    });
    std::vector<float> host(64 * 8);
    backend_->CopyToHost(host.data(), out.data(), host.size() * 4);
    for (int row = 0; row < rows; ++row) {
      EXPECT_EQ(host[row * 8], static_cast<float>((first_token + row) * 8)) << row;
    }
    return shape.rows;
  };
  const auto before = counts_().graph_launches;
  EXPECT_EQ(step(3, 0), 4);
  EXPECT_EQ(counts_().graph_launches, before);
  EXPECT_EQ(step(3, 5), 4);
  EXPECT_EQ(step(4, 9), 4);
  EXPECT_EQ(step(4, 20), 4);
  EXPECT_EQ(calls, 2) << "once as it is, once to be recorded";
  EXPECT_EQ(counts_().graph_launches, before + 3);
  EXPECT_EQ(step(49, 1), 64);
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(step(5, 1), 8);
  EXPECT_EQ(calls, 4);
}

// Three decodes run as four rows, as they are, recorded and replayed: the fourth has no slot, and
// must leave what lies before the first one as it is, and all other slots and pages.
TEST_F(CudaModuleTest, PaddingLeavesEveryStateAndPageAlone) {
  constexpr int kDim = 4;
  constexpr int kSlots = 6;  // 0 is slot −1 of the call, 1 … 3 are its 0 … 2, 4 and 5 nobody's
  constexpr size_t kState = kDim * kDim + kDim;
  constexpr size_t kPage = 2 * kKvPageSize * kDim;
  const auto numbers = [](size_t count) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i % 97) * 0.01F + 0.5F;
    return values;
  };
  const std::vector<float> states = numbers(kSlots * kState);
  const std::vector<float> pages = numbers(kSlots * kPage);
  const Buffer state_pool = backend_->LoadVector(states);
  const Buffer page_pool = backend_->LoadVector(pages);
  const Buffer inputs = backend_->LoadVector(numbers(4 * kDim));
  const Buffer outputs = backend_->Allocate(2 * 4 * kDim * sizeof(float));
  Batch batch = Decodes(3);
  batch.pages = {1, 2, 3};
  for (int i = 0; i < 3; ++i) batch.segments[i].first_page = i;

  const int model = 0;
  const auto step = [&](const StepShape& shape) {
    EXPECT_EQ(shape.rows, 4);
    const Tensor in = {inputs.data(), DType::kFloat32, 4, kDim, kDim};
    LinearAttentionArgs linear;
    linear.heads = linear.groups = 1;
    linear.head_dim = linear.map.features = kDim;
    linear.map.kind = FeatureMapKind::kElu;
    linear.q = linear.k = linear.v = in;
    linear.out = {outputs.data(), DType::kFloat32, 4, kDim, kDim};
    linear.state = state_pool.f32() + kState;
    linear.slot_stride = kState;
    backend_->LinearAttention(batch, linear);
    FullAttentionArgs full;
    full.heads = full.groups = 1;
    full.head_dim = kDim;
    full.scale = 1;
    full.q = full.k = full.v = in;
    full.out = {outputs.f32() + 4 * kDim, DType::kFloat32, 4, kDim, kDim};
    full.pages = page_pool.data();
    full.page_stride = kPage;
    backend_->FullAttention(batch, full);
  };
  // At most `most` elements of slots 1 … 3 differ from what they were, none of the others.
  const auto expect_changes = [&](const Buffer& pool, const std::vector<float>& before,
                                  size_t most) {
    const size_t each = before.size() / kSlots;
    std::vector<float> now(before.size());
    backend_->CopyToHost(now.data(), pool.data(), now.size() * sizeof(float));
    for (size_t slot = 0; slot < kSlots; ++slot) {
      size_t changes = 0;
      for (size_t i = slot * each; i < (slot + 1) * each; ++i) changes += now[i] != before[i];
      if (slot >= 1 && slot <= 3) {
        EXPECT_GT(changes, 0U) << slot;
        EXPECT_LE(changes, most) << slot;
      } else {
        EXPECT_EQ(changes, 0U) << slot;
      }
    }
  };
  for (int i = 0; i < 3; ++i) {
    backend_->RunStep(&model, batch, step);
    expect_changes(state_pool, states, kState);
    expect_changes(page_pool, pages, 2 * kDim);
  }
}

TEST_F(CudaModuleTest, FreedMemoryVoidsTheRecords) {
  std::vector<float> values(800, 1.0F);
  const auto table = backend_->LoadTable({values.data(), DType::kFloat32, 100, 8});
  Buffer out = backend_->Allocate(64 * 8 * 4);
  const int model = 0;
  int calls = 0;
  const auto step = [&] {
    const Batch batch = Decodes(2);
    backend_->RunStep(&model, batch, [&](const StepShape& s) {
      ++calls;
      backend_->Embed(batch, *table, nullptr, 1.0F, {out.data(), DType::kFloat32, s.rows, 8, 8});
    });
  };
  for (int i = 0; i < 3; ++i) step();
  EXPECT_EQ(calls, 2);
  out = backend_->Allocate(64 * 8 * 4);
  step();
  EXPECT_EQ(calls, 3);
}

TEST_F(CudaModuleTest, AFailedAllocationIsADeviceErrorAndPasses) {
  fail_("malloc:1");
  const std::string error = ErrorOf([&] { backend_->Allocate(1000); });
  EXPECT_THAT(error, HasSubstr("cudaErrorMemoryAllocation"));
  EXPECT_THAT(error, HasSubstr("cudaMalloc of 1000 bytes"));
  EXPECT_NO_THROW(backend_->Allocate(1000));
}

TEST_F(CudaModuleTest, AfterAFailedKernelEveryCallThrows) {
  const Buffer x = backend_->Allocate(400);
  const Tensor tensor = {x.data(), DType::kFloat32, 4, 25, 25};
  fail_("launch:2");
  std::vector<float> host(100);
  backend_->Activate(ActivationKind::kRelu, tensor);
  backend_->Activate(ActivationKind::kRelu, tensor);
  const std::string error = ErrorOf([&] { backend_->CopyToHost(host.data(), x.data(), 400); });
  EXPECT_THAT(error, HasSubstr("cudaErrorLaunchFailure"));
  EXPECT_THAT(error, HasSubstr("restart"));
  EXPECT_THROW(backend_->Activate(ActivationKind::kRelu, tensor), DeviceError);
  EXPECT_THROW(backend_->Allocate(16), DeviceError);
  EXPECT_THROW(backend_->RunStep(nullptr, Decodes(2), [](const StepShape&) {}), DeviceError);
  EXPECT_THROW(backend_->Memory(), DeviceError);
}

TEST_F(CudaModuleTest, ALostDeviceIsADeviceError) {
  const Buffer x = backend_->Allocate(16);
  fail_("sync:1");
  EXPECT_THAT(ErrorOf([&] { backend_->CopyToDevice(x.data(), "0123456789abcde", 16); }),
              HasSubstr("the device is lost"));
  EXPECT_THROW(MakeBackend({"cuda"}), DeviceError);
}

TEST_F(CudaModuleTest, AFailureWhileRecordingLeavesTheNextStepWhole) {
  const int model = 0;
  const Batch batch = Decodes(2);
  const auto nothing = [](const StepShape&) {};
  backend_->RunStep(&model, batch, nothing);
  EXPECT_THROW(
      backend_->RunStep(&model, batch, [](const StepShape&) { throw DeviceError("no such op"); }),
      DeviceError);
  EXPECT_NO_THROW(backend_->RunStep(&model, batch, nothing));
}

TEST_F(CudaModuleTest, TellsItsMemoryBothWays) {
  const MemoryInfo before = backend_->Memory();
  const Buffer buffer = backend_->Allocate(size_t{1} << 20);
  EXPECT_EQ(backend_->Memory().free_bytes, before.free_bytes - (1 << 20));
  EXPECT_EQ(backend_->Memory().total_bytes, before.total_bytes);
}

TEST_F(CudaModuleTest, Float8IsRefusedWhereTensorCoresDoNotHaveIt) {
  const std::vector<float> ones(16 * 16, 1.0F);
  const HostMatrix matrix = {ones.data(), DType::kFloat32, 16, 16};
  EXPECT_EQ(backend_->LoadMatrix({&matrix, 1}, DType::kFloat8)->dtype(), DType::kFloat8);
  setenv("T2R_EMULATOR_SM", "80", 1);
  const auto old = MakeBackend({"cuda"});
  unsetenv("T2R_EMULATOR_SM");
  EXPECT_EQ(ErrorOf([&] {
              old->LoadMatrix({&matrix, 1}, DType::kFloat8);
            }),
            "fp8 weights need a GPU of sm_89 or newer, this is an sm_80: choose int8 or bfloat16 "
            "weights");
}

}  // namespace
}  // namespace t2r::testing
