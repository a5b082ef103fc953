# What the CUDA module and its emulated twin are both made of, relative to the top.
set(T2R_CUDA_KERNELS
  engine/ops/cuda/device.cu
  engine/ops/cuda/elementwise.cu
  engine/ops/cuda/fp8.cu
  engine/ops/cuda/int8.cu
  engine/ops/cuda/linear_attention.cu
  engine/ops/cuda/linear_decode.cu
  engine/ops/cuda/linear_features.cu
  engine/ops/cuda/linear_outputs.cu
  engine/ops/cuda/linear_prefill.cu
  engine/ops/cuda/norms.cu
  engine/ops/cuda/positions.cu
  engine/ops/cuda/sampling_kernels.cu
  engine/ops/cuda/softmax_attention.cu
  engine/ops/cuda/windowed_attention.cu
  engine/ops/cuda/windowed_decode.cu
  engine/ops/cuda/windowed_features.cu
  engine/ops/cuda/windowed_outputs.cu
  engine/ops/cuda/windowed_prefill.cu
  engine/ops/cuda/windowed_weights.cu)
set(T2R_CUDA_SOURCES
  ${T2R_CUDA_KERNELS}
  engine/ops/cuda/batch_upload.cc
  engine/ops/cuda/cuda_backend.cc
  engine/ops/cuda/cuda_backend_ops.cc
  engine/ops/cuda/device_matrix.cc
  engine/ops/cuda/device_memory.cc
  engine/ops/cuda/error.cc
  engine/ops/cuda/module.cc
  engine/ops/cuda/sampling.cc
  engine/ops/cuda/step_graphs.cc
  engine/ops/quantize.cc)
include(${CMAKE_CURRENT_LIST_DIR}/interface.cmake)
list(TRANSFORM T2R_CUDA_KERNELS PREPEND ${T2R_TOP}/)
list(TRANSFORM T2R_CUDA_SOURCES PREPEND ${T2R_TOP}/)
set_source_files_properties(${T2R_TOP}/engine/ops/cuda/module.cc PROPERTIES
  COMPILE_DEFINITIONS T2R_CUDA_INTERFACE="${T2R_CUDA_INTERFACE}")
