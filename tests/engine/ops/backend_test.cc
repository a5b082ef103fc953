// Memory and start-up errors.
#include <cstdint>

#include "tests/engine/ops/testing/op_test.h"

namespace t2r::testing {
namespace {

class BackendTest : public OpTest {};

TEST_P(BackendTest, DescribesItself) {
  EXPECT_NE(backend_->Describe().find(GetParam().options.name), std::string::npos);
  if (GetParam().target != 0) {
    EXPECT_NE(backend_->Describe().find(hwy::TargetName(GetParam().target)), std::string::npos)
        << backend_->Describe();
  }
}

TEST_P(BackendTest, MemoryIsZeroedAndAligned) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4095}, size_t{100000}, size_t{5} << 20}) {
    const Buffer buffer = backend_->Allocate(bytes);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0U);
    std::vector<std::byte> host(bytes, std::byte{1});
    backend_->CopyToHost(host.data(), buffer.data(), bytes);
    EXPECT_EQ(host, std::vector<std::byte>(bytes, std::byte{0}));
  }
}

TEST_P(BackendTest, CopiesAndZeroes) {
  const Buffer a = backend_->LoadVector(std::vector<float>{1, 2, 3, 4});
  const Buffer b = backend_->Allocate(16);
  backend_->CopyOnDevice(b.data(), a.data(), 16);
  backend_->Zero(b.data(), 8);
  std::vector<float> host(4);
  backend_->CopyToHost(host.data(), b.data(), 16);
  EXPECT_EQ(host, (std::vector<float>{0, 0, 3, 4}));
}

TEST_P(BackendTest, ImpossibleAllocationIsADeviceError) {
  EXPECT_THROW(backend_->Allocate(size_t{1} << 60), DeviceError);
  EXPECT_THROW(backend_->Allocate(SIZE_MAX), DeviceError);
}

TEST_P(BackendTest, TellsItsMemory) {
  const MemoryInfo memory = backend_->Memory();
  EXPECT_GT(memory.free_bytes, 0);
  EXPECT_GE(memory.total_bytes, memory.free_bytes);
}

TEST(MakeBackendTest, RefusesByName) {
  try {
    t2r::MakeBackend({"abacus", 1});
    FAIL() << "an unknown backend started";
  } catch (const DeviceError& e) {
    EXPECT_NE(std::string(e.what()).find("abacus"), std::string::npos);
  }
  EXPECT_THROW(t2r::MakeBackend({"cpu", -1}), DeviceError);
  EXPECT_THROW(t2r::MakeBackend({"cpu", 100000}), DeviceError);
  EXPECT_NE(t2r::MakeBackend({"cpu", 0}), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Backends, BackendTest, ::testing::ValuesIn(AllBackends()), CaseName);

}  // namespace
}  // namespace t2r::testing
