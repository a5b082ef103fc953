// Matrix products by cuBLASLt.
//
// Batch-invariant: for a given n, k, types and mode the algorithm is chosen once, for kTypicalRows
// rows, among those that neither split k nor reduce partial sums and that run for every number of
// rows, and is then used for all of them. Such an algorithm computes an element in one thread block
// that walks k in tiles of a fixed size; how many rows there are decides only how many blocks run.
// So a row's bits depend on nothing else in the batch. The price is that one and 4,096 rows are
// served by the tile that suits kTypicalRows.
//
// Else: an algorithm for each class of kRowClasses, chosen for the largest number of rows in it
// among all that cuBLASLt has, split k included. Within a class bits do not depend on the number of
// rows unless the algorithm splits k; between classes they do.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <tuple>

#include "engine/ops/cuda/device_memory.h"
#include "engine/ops/cuda/gemm.h"
#include "engine/ops/tensor.h"

namespace t2r::cuda {
namespace {

constexpr int64_t kTypicalRows = 128;
// Upper ends of the classes of rows; more than the last belong to it.
constexpr std::array<int64_t, 6> kRowClasses = {1, 16, 64, 256, 1024, 4096};
constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA advises for sm_90
constexpr int kCandidates = 16;

void CheckLt(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(std::string("cuBLASLt: ") + call + " failed with " +
                    cublasLtGetStatusName(status) +
                    ": the device's memory may be full or its state lost; restart, with fewer "
                    "sessions if it comes again");
}

cudaDataType_t TypeOf(DType dtype) {
  if (dtype == DType::kInt8) return CUDA_R_8I;
  if (dtype == DType::kFloat8) return CUDA_R_8F_E4M3;
  return dtype == DType::kBFloat16 ? CUDA_R_16BF : CUDA_R_32F;
}
cudaDataType_t OutTypeOf(const GemmArgs& args) {
  return args.dtype == DType::kInt8 ? CUDA_R_32I : TypeOf(args.out_dtype);
}

// The largest power of two up to 16 that divides the address and the bytes between columns.
uint32_t AlignmentOf(const void* data, int64_t stride, DType dtype) {
  const auto bits = reinterpret_cast<uintptr_t>(data) |
                    static_cast<uintptr_t>(stride * static_cast<int64_t>(SizeOf(dtype))) | 16U;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

template <typename T, cublasStatus_t (*kDestroy)(T)>
struct Handle {
  Handle() = default;
  ~Handle() {
    if (value != nullptr) kDestroy(value);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  T value = nullptr;
};
using Layout = Handle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Handle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

// A matrix as cuBLAS sees it, column-major: our rows are its columns.
void MakeLayout(Layout* layout, cudaDataType_t type, int64_t rows, int64_t cols, int64_t stride) {
  CheckLt(cublasLtMatrixLayoutCreate(&layout->value, type, static_cast<uint64_t>(rows),
                                     static_cast<uint64_t>(cols), stride),
          "cublasLtMatrixLayoutCreate");
}

struct Layouts {
  explicit Layouts(const GemmArgs& args, int64_t rows) {
    MakeLayout(&w, TypeOf(args.dtype), args.k, args.n, args.k);
    MakeLayout(&x, TypeOf(args.dtype), args.k, rows, args.x_stride);
    MakeLayout(&out, OutTypeOf(args), args.n, rows, args.out_stride);
  }
  Layout w, x, out;
};

// What an algorithm is chosen for: rows (of the class; kTypicalRows when all take the same), n, k,
// types, accumulation, bias, and the alignment of w, x and out.
using Key =
    std::tuple<int64_t, int64_t, int64_t, DType, DType, bool, bool, uint32_t, uint32_t, uint32_t>;

int64_t ClassOf(int64_t rows) {
  const auto* const found = std::lower_bound(kRowClasses.begin(), kRowClasses.end(), rows);
  return found == kRowClasses.end() ? kRowClasses.back() : *found;
}

struct Plan {
  Handle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> operation;
  cublasLtMatmulAlgo_t algorithm = {};
};

template <typename T>
void Set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  CheckLt(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)),
          "cublasLtMatmulDescSetAttribute");
}

template <typename T>
T Get(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute) {
  T value = {};
  size_t written = 0;
  CheckLt(
      cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof(value), &written),
      "cublasLtMatmulAlgoConfigGetAttribute");
  return value;
}

}  // namespace

struct Gemm::State {
  cudaStream_t stream = nullptr;
  bool batch_invariant = true;
  cublasLtHandle_t handle = nullptr;
  DeviceArray<std::byte> workspace;
  std::map<Key, Plan> plans;

  ~State() {
    plans.clear();
    if (handle != nullptr) cublasLtDestroy(handle);
  }

  // Whether one algorithm must serve all numbers of rows. Sums of integers are the same by any.
  bool OneForAll(const GemmArgs& args) const {
    return batch_invariant && args.dtype != DType::kInt8;
  }
  const Plan& PlanFor(const GemmArgs& args);
  // Chooses plan->algorithm for products of `rows` rows.
  void Choose(const GemmArgs& args, int64_t rows, const std::array<uint32_t, 3>& alignments,
              Plan* plan);
  // Whether the algorithm adds up each element in one place, and runs for any number of rows.
  bool Invariant(const GemmArgs& args, const Plan& plan,
                 const cublasLtMatmulAlgo_t& algorithm) const;
};

void Gemm::State::Choose(const GemmArgs& args, int64_t rows,
                         const std::array<uint32_t, 3>& alignments, Plan* plan) {
  const bool integers = args.dtype == DType::kInt8;
  CheckLt(cublasLtMatmulDescCreate(&plan->operation.value,
                                   integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                   integers ? CUDA_R_32I : CUDA_R_32F),
          "cublasLtMatmulDescCreate");
  Set(plan->operation.value, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (args.bias != nullptr) {
    Set(plan->operation.value, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    Set(plan->operation.value, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
    Set(plan->operation.value, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
  }
  Preference preference;
  CheckLt(cublasLtMatmulPreferenceCreate(&preference.value), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    CheckLt(
        cublasLtMatmulPreferenceSetAttribute(preference.value, attribute, &value, sizeof(value)),
        "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
  const bool one_for_all = OneForAll(args);
  if (one_for_all) {
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
  }
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignments[0]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignments[1]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignments[2]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignments[2]);

  const Layouts layouts(args, rows);
  std::array<cublasLtMatmulHeuristicResult_t, kCandidates> found = {};
  int count = 0;
  CheckLt(cublasLtMatmulAlgoGetHeuristic(handle, plan->operation.value, layouts.w.value,
                                         layouts.x.value, layouts.out.value, layouts.out.value,
                                         preference.value, kCandidates, found.data(), &count),
          "cublasLtMatmulAlgoGetHeuristic");
  for (int i = 0; i < count; ++i) {
    if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
    if (one_for_all && !Invariant(args, *plan, found[i].algo)) continue;
    plan->algorithm = found[i].algo;
    return;
  }
  throw DeviceError(std::string("cuBLASLt has no ") + (one_for_all ? "batch-invariant " : "") +
                    "algorithm for a product of " + std::to_string(args.n) + " by " +
                    std::to_string(args.k) + " in " + NameOf(args.dtype) + ": " +
                    (one_for_all ? "run without batch invariance, and " : "") +
                    "report it with the device's name");
}

bool Gemm::State::Invariant(const GemmArgs& args, const Plan& plan,
                            const cublasLtMatmulAlgo_t& algorithm) const {
  if (Get<int32_t>(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) > 1 ||
      Get<uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME) !=
          CUBLASLT_REDUCTION_SCHEME_NONE) {
    return false;
  }
  return std::all_of(kRowClasses.begin(), kRowClasses.end(), [&](int64_t rows) {
    const Layouts layouts(args, rows);
    cublasLtMatmulHeuristicResult_t result = {};
    return cublasLtMatmulAlgoCheck(handle, plan.operation.value, layouts.w.value, layouts.x.value,
                                   layouts.out.value, layouts.out.value, &algorithm,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= kWorkspaceBytes;
  });
}

const Plan& Gemm::State::PlanFor(const GemmArgs& args) {
  const int64_t rows = OneForAll(args) ? kTypicalRows : ClassOf(args.rows);
  const std::array<uint32_t, 3> alignments = {
      AlignmentOf(args.w, args.k, args.dtype), AlignmentOf(args.x, args.x_stride, args.dtype),
      AlignmentOf(args.out, args.out_stride, args.out_dtype)};
  const Key key = {rows,
                   args.n,
                   args.k,
                   args.dtype,
                   args.out_dtype,
                   args.accumulate,
                   args.bias != nullptr,
                   alignments[0],
                   alignments[1],
                   alignments[2]};
  const auto known = plans.find(key);
  if (known != plans.end()) return known->second;
  Plan& plan = plans[key];
  try {
    Choose(args, rows, alignments, &plan);
  } catch (...) {
    plans.erase(key);
    throw;
  }
  return plan;
}

Gemm::Gemm(cudaStream_t stream, bool batch_invariant) : state_(std::make_unique<State>()) {
  state_->stream = stream;
  state_->batch_invariant = batch_invariant;
  CheckLt(cublasLtCreate(&state_->handle), "cublasLtCreate");
  state_->workspace = DeviceArray<std::byte>(kWorkspaceBytes);
}

Gemm::~Gemm() = default;

void Gemm::Run(const GemmArgs& args) {
  if (args.rows == 0 || args.n == 0) return;
  const Plan& plan = state_->PlanFor(args);
  if (args.bias != nullptr) {
    Set(plan.operation.value, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
  }
  const Layouts layouts(args, args.rows);
  const float alpha = 1.0F;
  const float beta = args.accumulate ? 1.0F : 0.0F;
  const int32_t one = 1;
  const int32_t zero = 0;
  const bool integers = args.dtype == DType::kInt8;
  const void* const x_scale = integers ? static_cast<const void*>(&one) : &alpha;
  const void* const out_scale = integers ? static_cast<const void*>(&zero) : &beta;
  CheckLt(cublasLtMatmul(state_->handle, plan.operation.value, x_scale, args.w, layouts.w.value,
                         args.x, layouts.x.value, out_scale, args.out, layouts.out.value, args.out,
                         layouts.out.value, &plan.algorithm, state_->workspace.data(),
                         kWorkspaceBytes, state_->stream),
          "cublasLtMatmul");
}

}  // namespace t2r::cuda
