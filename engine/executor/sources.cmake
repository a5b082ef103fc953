# What drives the forward pass, relative to this file: what a GPU benchmark needs too.
set(T2R_EXECUTOR_SOURCES
  executor.cc
  memory_plan.cc
  model_executor.cc
  warm_up.cc)
