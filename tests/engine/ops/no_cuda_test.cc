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

TEST(NoCudaTest, RowsOf8BitsAreTheCpus) {
  BackendOptions options = {"cuda"};
  options.rows = RowRounding::kInt8;
  try {
    MakeBackend(options);
    FAIL();
  } catch (const DeviceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("activations int8 is for the CPU"));
  }
  std::string note;
  options.name = "auto";
  options.note = &note;
  EXPECT_THAT(MakeBackend(options)->Numerics(), HasSubstr("int8 rows"));
  EXPECT_EQ(note, "cpu, since activations int8 is for the CPU (--backend cuda says more)");
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
