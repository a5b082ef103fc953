# What t2r-bench-gpu is made of beside the CUDA backend, relative to the top: no abseil, no parsers.
include(${CMAKE_CURRENT_LIST_DIR}/../../engine/model/sources.cmake)
list(TRANSFORM T2R_MODEL_SOURCES PREPEND engine/model/)
set(T2R_BENCH_GPU_SOURCES
  ${T2R_MODEL_SOURCES}
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
  tests/engine/model/reference_model.cc
  tests/engine/model/reference_weights.cc
  tests/engine/ops/linear_reference.cc
  tests/engine/ops/reference.cc)
