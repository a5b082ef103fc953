// The subcommands of t2r-convert. Each throws ConvertError (or what LibTorch throws) on failure.
#pragma once

#include <cstdint>
#include <string>

#include "convert/corpus.h"
#include "convert/train_options.h"

namespace t2r::convert {

struct DataFlags {
  std::string train, valid;
  CorpusOptions corpus;
  int64_t valid_documents = 100;  // of the validation file, for the figures during training
};

struct OutputFlags {
  std::string directory;
  std::string dtype = "float32";  // or bfloat16
};

struct FinetuneFlags {
  std::string model;
  OutputFlags output;
  DataFlags data;
  std::string feature_map;  // empty: no swap, finetune the model as it is
  int feature_size = 0;
  std::string keep_full;
  TrainOptions training;
  std::string device = "cpu";
};

struct PretrainFlags {
  OutputFlags output;
  DataFlags data;
  std::string architecture = "llama";  // or gpt2
  std::string tokenizer;               // directory to take a tokenizer from
  int train_tokenizer = 0;             // pieces; 0: none is trained
  int vocab_size = 0;                  // 0: the tokenizer's
  int hidden = 192, intermediate = 512, layers = 5, heads = 6, kv_heads = 0;
  int64_t positions = 512;
  bool untied = false;
  TrainOptions training;
  std::string device = "cpu";
};

struct EvalFlags {
  std::string model, text;
  CorpusOptions corpus;
  std::string device = "cpu";
};

void Finetune(const FinetuneFlags& flags);
void Pretrain(const PretrainFlags& flags);
void Eval(const EvalFlags& flags);

}  // namespace t2r::convert
