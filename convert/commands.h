// The subcommands of t2r-convert. Each throws ConvertError (or what LibTorch throws) on failure.
#pragma once

#include <cstdint>
#include <string>

#include "convert/data/corpus.h"
#include "convert/eval/score.h"
#include "convert/eval/translate.h"
#include "convert/eval/windows.h"
#include "convert/model/parameter_specs.h"
#include "convert/train/train_options.h"

namespace t2r::convert {

struct DataFlags {
  std::string train, valid;
  // Encoder-decoders: the targets' files; empty: the lines of train and valid are pairs with a tab.
  std::string train_target, valid_target;
  CorpusOptions corpus;
  bool train_written = false;     // `train` holds the ids of documents, each closed by a line "--"
  int64_t valid_documents = 100;  // of the validation file, for the figures during training
  WindowOptions valid_windows;    // of those figures
};

struct OutputFlags {
  std::string directory;
  std::string dtype = "float32";  // or bfloat16
};

// Swaps attention and calibrates what is new: no training.
struct SwapFlags {
  std::string model;
  OutputFlags output;
  std::string text, target;  // calibration text; encoder-decoders: of the pairs, as in DataFlags
  CorpusOptions corpus;
  std::string feature_map = "codebook";
  int feature_size = 64;
  std::string window = "64";             // or auto:BYTES, like:DIR (ParseWindow)
  std::string window_dtype = "float32";  // or bfloat16 or int8: as the server is to keep windows
  int sinks = 4, fold = 1;
  bool rope_features = false;
  int64_t sink_position = -1;  // negative: none
  std::string keep_full, keep_full_cross;
  int64_t documents = 48;  // excerpts of the text that calibrate
  int64_t held_out = 24;   // and others that losses are measured on
  int64_t tokens = 512;    // of an excerpt
  uint64_t seed = 1;
  int threads = 2;
  std::string device = "cpu";
};

struct FinetuneFlags {
  FinetuneFlags() {
    training.learning_rate = 7e-4;
    training.new_learning_rate = 5e-3;
    training.warmup_share = 0.05;
  }

  std::string model;
  std::string parent;  // the distillation's teacher; empty: the model as it is before the run
  OutputFlags output;
  DataFlags data;
  std::string feature_map;  // empty: no swap, finetune the model as it is
  int feature_size = 0;
  std::string keep_full, keep_full_cross;
  std::string stage = "finetune";  // or transfer,finetune or transfer
  double transfer_share = 0.12;    // of the budget, with stage transfer,finetune
  bool random_weights = false;     // the parent's shape and tokenizer only
  TrainableOptions trainable;
  std::string train_only = "all";  // or attention or new
  double half_life = 0;            // tokens, of a decay that learns; 0: none is added
  std::string products = "auto";   // matrix products' factors: float32, bfloat16 or auto
  TrainOptions training;
  std::string device = "cpu";
};

struct PretrainFlags {
  OutputFlags output;
  DataFlags data;
  std::string architecture = "llama";  // or gpt2 or marian
  std::string tokenizer;               // directory to take a tokenizer from
  int train_tokenizer = 0;             // pieces; 0: none is trained
  int vocab_size = 0;                  // 0: the tokenizer's
  // Encoder-decoders; 0: the tokenizer's, and as many encoder layers as decoder layers. The tokens
  // that start a target, and that close it where there is no tokenizer.
  int source_vocab_size = 0, encoder_layers = 0, start_token = 0, eos_token = 2;
  bool source_eos = true;  // the tokenizer closes sources with it too
  int hidden = 192, intermediate = 512, layers = 5, heads = 6, kv_heads = 0;
  int64_t positions = 512;
  bool untied = false;
  TrainOptions training;
  std::string device = "cpu";
};

struct EvalFlags {
  std::string model, text;
  CorpusOptions corpus;
  WindowOptions windows;
  int64_t concat = 0;  // tokens of a row of concatenated documents; 0: documents by themselves
  bool by_position = false;  // print losses by position
  std::string recall;        // distances, or auto; empty: none
  int recall_probes = 16;    // a kind and distance
  ScoreOptions engine;
  // Encoder-decoders.
  std::string target;            // of the pairs; empty: the lines of `text` are pairs
  bool translate = true;         // measure the engine's translations, not the loss alone
  std::string output;            // file for the translations, a line each; empty: none
  TranslateOptions translation;  // but for backend, threads and dtype: the engine's
};

struct MetricsFlags {
  std::string hypotheses, references;  // files, a line each
};

struct ImportGgufFlags {
  std::string file, directory;
  std::string dtype = "float32";  // or bfloat16 or float16
  std::string pre_tokenizer;      // empty: what the file says
};

struct QuantizeFlags {
  std::string model, directory;
  std::string weights = "int8";  // or int4
  double bits = 0;               // as in QuantizeOptions
  // What the matrices are rounded for; text empty: nothing.
  std::string text;
  CorpusOptions corpus;
};

void Swap(const SwapFlags& flags);
void Finetune(const FinetuneFlags& flags);
void Pretrain(const PretrainFlags& flags);
void Eval(const EvalFlags& flags);
void PrintMetrics(const MetricsFlags& flags);
void ImportGguf(const ImportGgufFlags& flags);
void Quantize(const QuantizeFlags& flags);

}  // namespace t2r::convert
