# What t2r-bench-gpu is made of beside the CUDA backend, relative to the top: no abseil, no parsers.
include(${CMAKE_CURRENT_LIST_DIR}/../../engine/model/sources.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/../../engine/executor/sources.cmake)
list(TRANSFORM T2R_MODEL_SOURCES PREPEND engine/model/)
list(TRANSFORM T2R_EXECUTOR_SOURCES PREPEND engine/executor/)
set(T2R_BENCH_GPU_SOURCES
  ${T2R_MODEL_SOURCES}
  ${T2R_EXECUTOR_SOURCES}
  bench/cost.cc
  bench/device/checks.cc
  bench/device/device_model.cc
  bench/device/main.cc
  bench/device/measure.cc
  bench/device/spec_model.cc
  engine/sampling/philox.cc
  engine/sampling/sampler.cc
  engine/sampling/token_history.cc
  engine/state/kv_cache.cc
  engine/state/state_pool.cc
  testing/reference_model.cc
  testing/reference_weights.cc
  testing/linear_attention_reference.cc
  testing/ops_reference.cc)
