// t2r-random-model: writes a model directory of a well-known shape with random weights.
#include <iostream>
#include <string>

#include "flags/help.h"
#include "testing/random_model.h"

int main(int argc, char** argv) {
  t2r::bench::RandomModelOptions options;
  std::string out;
  std::string dtype = "bfloat16";
  CLI::App app("Writes a model directory of a well-known shape with random weights.",
               "t2r-random-model");
  t2r::flags::Describe(&app);
  t2r::flags::OneOf(app.add_option("--shape", options.shape, "Of which model"),
                    t2r::bench::ShapeNames());
  app.add_option("--feature-map", options.feature_map,
                 "none: the window alone, or softmax attention")
      ->type_name("t2r|elu|rfa|hedgehog|codebook|none");
  app.add_option("--feature-size", options.feature_size, "Features a head (k)")
      ->check(t2r::flags::AtLeast(1));
  app.add_option("--window", options.window, "Nearest keys kept one by one; 0: no window")
      ->check(t2r::flags::AtLeast(0));
  app.add_option("--sinks", options.sinks, "First keys kept beside the window")
      ->check(t2r::flags::AtLeast(0));
  app.add_option("--fold", options.fold, "Keys that leave the window at a time")
      ->check(t2r::flags::AtLeast(1));
  app.add_option("--keep-full", options.keep_full, "Layers that stay softmax, counted from 0")
      ->delimiter(',')
      ->type_name("N,N,...");
  t2r::flags::OneOf(app.add_option("--dtype", dtype, "Of the file's tensors"),
                    {"float32", "bfloat16"});
  app.add_option("--seed", options.seed, "The same options give the same bytes")
      ->check(t2r::flags::AtLeast(uint64_t{0}));
  app.add_option("--out", out, "The directory to write")->type_name("DIR")->required();
  if (const auto code = t2r::flags::Parse(&app, argc, argv)) return *code;
  options.dtype = dtype == "float32" ? t2r::DType::kFloat32 : t2r::DType::kBFloat16;
  if (const absl::Status status = t2r::bench::WriteRandomModel(options, out); !status.ok()) {
    std::cerr << "t2r-random-model: " << status.message() << "\n";
    return 1;
  }
  return 0;
}
