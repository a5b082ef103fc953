// The emulator itself: that it finds what it is there to find.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/ops/cuda/cuda_compat.h"
#include "engine/ops/tensor.h"
#include "tests/cuda_emulator/runtime.h"

namespace t2r::cuda {
namespace {

using ::testing::HasSubstr;

// Each thread gives its number to its neighbour.
__global__ void Rotate(int* out, bool barrier) {
  T2R_SHARED(int, values, 64);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (barrier) __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = values[(threadIdx.x + 1) % 64];
}

__global__ void Diverge() {
  if (threadIdx.x < 3) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}

__global__ void ReadDeadLane(int* out) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = __shfl_sync(0xffffffffU, 1, 20);
}

__global__ void ReadUnwritten(float* out) {
  T2R_SHARED(float, values, 4);
  T2R_DYNAMIC_SHARED(float, more);
  out[0] = values[1];
  out[1] = more[3];
}

__global__ void WarpFunctions(int* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int* mine = out + threadIdx.x * 8;
  mine[0] = __shfl_xor_sync(kFullMask, lane, 1);
  mine[1] = __shfl_up_sync(kFullMask, lane, 1);
  mine[2] = __shfl_down_sync(kFullMask, lane, 1);
  mine[3] = static_cast<int>(__ballot_sync(kFullMask, lane < 3 ? 1 : 0));
  mine[4] = __reduce_add_sync(kFullMask, lane);
  mine[5] = lane < 16 ? __reduce_max_sync(0xffffU, lane) : __reduce_min_sync(0xffff0000U, lane);
  mine[6] = __syncthreads_count(lane == 0 ? 1 : 0);
  mine[7] = static_cast<int>(WarpSum(0.5F));
}

__global__ void Count(int* total) { atomicAdd(total, 1); }

__global__ void Grow(int* value) { *value = *value * 2 + 1; }

class EmulatorTest : public ::testing::TestWithParam<emulator::LaneOrder> {
 protected:
  void SetUp() override {
    emulator::Runtime::Get().order = GetParam();
    Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  }
  void TearDown() override {
    t2r_emulator_fail("");
    for (void* data : device_) Check(cudaFree(data), "free");
    Check(cudaStreamDestroy(stream_), "stream");
  }
  template <typename T>
  T* Device(const std::vector<T>& values) {
    void* data = nullptr;
    Check(cudaMalloc(&data, values.size() * sizeof(T)), "malloc");
    device_.push_back(data);
    Check(cudaMemcpyAsync(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice,
                          stream_),
          "copy");
    return static_cast<T*>(data);
  }
  template <typename T>
  std::vector<T> Host(const T* device, size_t count) {
    std::vector<T> values(count);
    Check(
        cudaMemcpyAsync(values.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost, stream_),
        "copy");
    return values;
  }
  std::string ErrorAtSync() {
    try {
      Check(cudaStreamSynchronize(stream_), "sync");
    } catch (const DeviceError& error) {
      return error.what();
    }
    return "no error";
  }

  cudaStream_t stream_ = nullptr;
  std::vector<void*> device_;
};

TEST_P(EmulatorTest, BarriersOrderAndTheirLackShows) {
  int* out = Device(std::vector<int>(128));
  Launch({"rotate", dim3(2), dim3(64), 0, stream_}, Rotate, out, true);
  const std::vector<int> good = Host(out, 128);
  for (int i = 0; i < 128; ++i) EXPECT_EQ(good[i], (i % 64 + 1) % 64);
  Launch({"rotate", dim3(2), dim3(64), 0, stream_}, Rotate, out, false);
  EXPECT_NE(Host(out, 128), good) << "a missing barrier went unnoticed";
}

TEST_P(EmulatorTest, ThreadsThatWaitForEverAreReported) {
  Launch({"diverge", dim3(1), dim3(32), 0, stream_}, Diverge);
  const std::string error = ErrorAtSync();
  EXPECT_THAT(error, HasSubstr("kernel diverge, block (0, 0, 0)"));
  EXPECT_THAT(error, HasSubstr("3 for the block's barrier at"));
  EXPECT_THAT(error, HasSubstr("emulator_test.cc:"));
  EXPECT_THAT(error, HasSubstr("29 for their warp"));
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorLaunchFailure) << "it is sticky";
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, 4), cudaErrorLaunchFailure);
}

TEST_P(EmulatorTest, ALaneThatTakesNoPartMustNotBeRead) {
  Launch({"dead_lane", dim3(1), dim3(32), 0, stream_}, ReadDeadLane, Device(std::vector<int>(32)));
  EXPECT_THAT(ErrorAtSync(), HasSubstr("lane 20, which takes no part"));
}

TEST_P(EmulatorTest, FreshMemoryIsNaN) {
  float* out = Device(std::vector<float>(2));
  Launch({"unwritten", dim3(1), dim3(1), 64, stream_}, ReadUnwritten, out);
  for (const float value : Host(out, 2)) EXPECT_TRUE(std::isnan(value));
  void* data = nullptr;
  Check(cudaMalloc(&data, 4), "malloc");
  device_.push_back(data);
  EXPECT_TRUE(std::isnan(Host(static_cast<float*>(data), 1)[0]));
}

TEST_P(EmulatorTest, WarpsExchange) {
  int* out = Device(std::vector<int>(64 * 8));
  Launch({"warps", dim3(1), dim3(64), 0, stream_}, WarpFunctions, out);
  const std::vector<int> found = Host(out, 64 * 8);
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32;
    const int expected[] = {
        lane ^ 1, std::max(lane - 1, 0), std::min(lane + 1, 31), 7, 496, lane < 16 ? 15 : 16, 2,
        16};
    for (int i = 0; i < 8; ++i) EXPECT_EQ(found[thread * 8 + i], expected[i]) << thread << " " << i;
  }
}

TEST_P(EmulatorTest, EveryThreadOfEveryBlockRuns) {
  int* total = Device(std::vector<int>{0});
  Launch({"count", dim3(3, 2, 2), dim3(5, 3, 2), 0, stream_}, Count, total);
  EXPECT_EQ(Host(total, 1)[0], 360);
}

TEST_P(EmulatorTest, WorkRunsWhenItIsWaitedFor) {
  void* pinned = nullptr;
  Check(cudaMallocHost(&pinned, sizeof(int)), "pinned");
  int* value = static_cast<int*>(pinned);
  *value = 1;
  int* device = Device(std::vector<int>{0});
  Check(cudaMemcpyAsync(device, value, sizeof(int), cudaMemcpyHostToDevice, stream_), "copy");
  *value = 2;  // too early: the copy has not run
  EXPECT_EQ(Host(device, 1)[0], 2);
  Check(cudaFreeHost(pinned), "pinned");
}

TEST_P(EmulatorTest, GraphsReplay) {
  int* value = Device(std::vector<int>{0});
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin");
  Launch({"grow", dim3(1), dim3(1), 0, stream_}, Grow, value);
  Launch({"grow", dim3(1), dim3(1), 0, stream_}, Grow, value);
  Check(cudaStreamEndCapture(stream_, &graph), "end");
  Check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  EXPECT_EQ(Host(value, 1)[0], 0) << "recording runs nothing";
  for (int i = 0; i < 3; ++i) Check(cudaGraphLaunch(executable, stream_), "launch");
  EXPECT_EQ(Host(value, 1)[0], 63);
  Check(cudaGraphExecDestroy(executable), "destroy");
  Check(cudaGraphDestroy(graph), "destroy");
  Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin");
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, 4), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaErrorStreamCaptureInvalidated);
}

TEST_P(EmulatorTest, ImpossibleLaunchesAreRefused) {
  EXPECT_THROW(Launch({"wide", dim3(1), dim3(1025), 0, stream_}, Diverge), DeviceError);
  EXPECT_THROW(Launch({"tall", dim3(1, 70000), dim3(1), 0, stream_}, Diverge), DeviceError);
  EXPECT_THROW(Launch({"greedy", dim3(1), dim3(1), 200 * 1024, stream_}, Diverge), DeviceError);
}

TEST_P(EmulatorTest, FailsAsPlanned) {
  int* value = Device(std::vector<int>{0});
  t2r_emulator_fail("launch:2");
  Launch({"grow", dim3(1), dim3(1), 0, stream_}, Grow, value);
  Launch({"grow", dim3(1), dim3(1), 0, stream_}, Grow, value);
  EXPECT_THAT(ErrorAtSync(), HasSubstr("kernel grow was made to fail"));
  t2r_emulator_fail("");
  EXPECT_EQ(Host(value, 1)[0], 1);
}

std::string OrderName(const ::testing::TestParamInfo<emulator::LaneOrder>& order) {
  if (order.param == emulator::LaneOrder::kForward) return "Forward";
  return order.param == emulator::LaneOrder::kReverse ? "Reverse" : "Shuffled";
}

INSTANTIATE_TEST_SUITE_P(Orders, EmulatorTest,
                         ::testing::Values(emulator::LaneOrder::kForward,
                                           emulator::LaneOrder::kReverse,
                                           emulator::LaneOrder::kShuffled),
                         OrderName);

}  // namespace
}  // namespace t2r::cuda
