# The forward pass and what drives it, relative to this file: what a GPU benchmark needs too.
set(T2R_MODEL_SOURCES
  attention.cc
  config.cc
  cost.cc
  fold.cc
  gpt2.cc
  llama.cc
  marian.cc
  marian_encoder.cc
  marian_parts.cc
  memory_plan.cc
  model.cc
  model_executor.cc
  projection.cc
  warm_up.cc
  weight_loader.cc
  workspace.cc)
