# The forward pass, relative to this file: what a GPU benchmark needs too.
set(T2R_MODEL_SOURCES
  attention.cc
  backend_model.cc
  config.cc
  fold.cc
  gpt2.cc
  gpt_neox.cc
  llama.cc
  marian.cc
  marian_encoder.cc
  marian_parts.cc
  model.cc
  projection.cc
  rope.cc
  tensors.cc
  weight_loader.cc
  workspace.cc)
