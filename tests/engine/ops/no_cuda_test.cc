// What a program says where the CUDA backend cannot start. Each case is a process of its own, since
// a module is loaded once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "engine/ops/backend.h"

namespace t2r::testing {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const std::string& name) {
  try {
    MakeBackend({name});
  } catch (const DeviceError& error) {
    return error.what();
  }
  return "no error";
}

TEST(NoCudaTest, AModuleThatIsNotThereIsNamed) {
  setenv("T2R_CUDA_MODULE", "/nonexistent/libt2r_cuda.so", 1);
  EXPECT_THAT(ErrorOf("cuda"), HasSubstr("/nonexistent/libt2r_cuda.so"));
  EXPECT_THAT(ErrorOf("cuda"), HasSubstr("T2R_CUDA_MODULE"));
  std::string note;
  const auto backend = MakeBackend({"auto", 1, &note});
  EXPECT_THAT(backend->Describe(), HasSubstr("cpu"));
  EXPECT_EQ(note, "cpu, since the CUDA module could not be loaded (--backend cuda says more)");
}

TEST(NoCudaTest, ALibraryThatIsNoModuleIsRefused) {
  setenv("T2R_CUDA_MODULE", "libm.so.6", 1);
  EXPECT_THAT(ErrorOf("cuda"), HasSubstr("is no CUDA module"));
}

TEST(NoCudaTest, AModuleOfOtherHeadersIsRefused) {
  const char* stranger = std::getenv("T2R_CUDA_STRANGER");
  ASSERT_NE(stranger, nullptr) << "run by ctest";
  setenv("T2R_CUDA_MODULE", stranger, 1);
  EXPECT_THAT(ErrorOf("cuda"), HasSubstr("has the interface 0123456789abcdef"));
  EXPECT_THAT(ErrorOf("cuda"), HasSubstr("take both from the same build"));
}

}  // namespace
}  // namespace t2r::testing
