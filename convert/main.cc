// t2r-convert: import-gguf, quantize, pretrain, finetune (swap attention, then train), eval and
// metrics.
#include <cstdio>
#include <exception>
#include <string>

#include "convert/commands.h"
#include "convert/gguf/pre_tokenizer.h"
#include "convert/runtime.h"
#include "convert/train/train_options.h"
#include "flags/help.h"

namespace {

using namespace t2r::convert;  // NOLINT(google-build-using-namespace)
using t2r::flags::AtLeast;
using t2r::flags::OneOf;
using t2r::flags::Range;

constexpr const char* kExamples = R"(Examples:
  A language model with windows, sinks and a codebook: calibrated in seconds to minutes,
  then only what is new learns, then everything, by the parent's distribution:
    t2r-convert swap --model DIR --out DIR-w --window 64 --sinks 4 --feature-size 64 \
        --calibrate train.txt --separator '<|endoftext|>'
    t2r-convert finetune --model DIR-w --parent DIR --out DIR-rnn --distill 0.5 \
        --stage transfer,finetune --train train.txt --valid valid.txt --tokens 1000000
  A language model, every layer linear, 30 minutes:
    t2r-convert finetune --model DIR --out DIR-t2r --feature-map t2r --feature-size 32 \
        --train train.txt --valid valid.txt --separator '<|endoftext|>' --minutes 30
  T2R 75 %, after attention transfer, with the parent's distribution in the loss:
    t2r-convert finetune ... --keep-full every:4 --stage transfer,finetune --distill 0.5
  The two layers whose swap costs the most keep softmax; LoRA instead of full finetuning:
    t2r-convert finetune ... --keep-full auto:2 --lora-rank 8
  An encoder-decoder, on pairs with a tab between them:
    t2r-convert finetune --model DIR --out DIR-t2r --feature-map t2r --feature-size 32 \
        --train train.tsv --valid eval.tsv --label-smoothing 0.1 --steps 20000
  What came out:
    t2r-convert eval --model DIR-t2r --text valid.txt --separator '<|endoftext|>'
    t2r-convert eval --model DIR-t2r --text test.tsv --output test.out
  A GGUF file, llama.cpp's format, as a model directory:
    t2r-convert import-gguf model.gguf --out DIR
  A model directory in 8 bits a weight, which starts faster and takes less room:
    t2r-convert quantize --model DIR --out DIR-int8 --weights int8
    t2r-convert quantize --model DIR --out DIR-int4 --weights int4 --bits 5.5 --calibrate train.txt)";

void AddCorpusFlags(CLI::App* app, CorpusOptions* corpus) {
  app->add_option("--separator", corpus->separator,
                  "A line that separates documents, e.g. '<|endoftext|>' (none: the file is one)")
      ->type_name("LINE");
  app->add_flag("--ids", corpus->ids, "The files hold token ids instead of text");
  app->add_flag("--bos", corpus->bos,
                "Put a BOS before every document even where the tokenizer adds none");
}

void AddWindowFlags(CLI::App* app, const std::string& prefix, WindowOptions* windows) {
  app->add_option(prefix + "window", windows->window,
                  "Tokens that are evaluated together (0: the model's positions, at most 2048)")
      ->check(AtLeast(0));
  app->add_option(prefix + "stride", windows->stride,
                  "Tokens between the starts of these windows (0: the window less one token)")
      ->check(AtLeast(0));
}

void AddDataFlags(CLI::App* app, DataFlags* data) {
  app->add_option("--train", data->train,
                  "Training text, or for finetune self:N, N tokens that the parent writes; "
                  "encoder-decoders: pairs, source TAB target a line")
      ->type_name("FILE")
      ->required();
  app->add_option("--valid", data->valid, "Held-out text, or pairs")->type_name("FILE")->required();
  app->add_option("--train-target", data->train_target,
                  "Targets of --train, which then holds the sources, line by line")
      ->type_name("FILE");
  app->add_option("--valid-target", data->valid_target, "Targets of --valid, likewise")
      ->type_name("FILE");
  app->add_option("--valid-documents", data->valid_documents,
                  "First documents (or pairs) of it that are evaluated while training (0: all)")
      ->check(AtLeast(0));
  AddWindowFlags(app, "--valid-", &data->valid_windows);
  AddCorpusFlags(app, &data->corpus);
}

void AddTrainingFlags(CLI::App* app, DataFlags* data, OutputFlags* output, TrainOptions* t,
                      std::string* device) {
  AddDataFlags(app, data);
  app->add_option("--out", output->directory, "Model directory to write")
      ->type_name("DIR")
      ->required();
  OneOf(app->add_option("--save-dtype", output->dtype, "Of the tensors that are written"),
        {"float32", "bfloat16"});
  app->add_option("--steps", t->steps, "Budget: optimizer steps")->check(AtLeast(0));
  app->add_option("--tokens", t->tokens, "Budget: predicted tokens")->check(AtLeast(0));
  app->add_option("--minutes", t->minutes, "Budget: minutes of training")
      ->type_name("MINUTES")
      ->check(AtLeast(0.0));
  app->add_option("--window", t->window, "Tokens of context; of pairs: longer ones are left out")
      ->check(AtLeast(1));
  app->add_option("--batch", t->batch_tokens, "Positions a step, padding and sources included")
      ->check(AtLeast(1));
  app->add_option("--learning-rate", t->learning_rate, "Peak")->check(AtLeast(0.0));
  OneOf(app->add_option("--schedule", t->schedule, "Of the learning rate, after the warm-up"),
        {"cosine", "inverse-sqrt"});
  app->add_option("--warmup", t->warmup_share, "Share of the budget")->check(Range(0.0, 1.0));
  app->add_option("--weight-decay", t->weight_decay, "On matrices")->check(AtLeast(0.0));
  app->add_option("--clip", t->clip_norm, "Largest gradient norm; 0: off")->check(AtLeast(0.0));
  app->add_option("--label-smoothing", t->label_smoothing,
                  "Weight of the uniform distribution in the targets")
      ->check(Range(0.0, 1.0));
  app->add_option("--seed", t->seed, "Of initial values and data order")
      ->check(AtLeast(uint64_t{0}));
  app->add_option("--threads", t->threads,
                  "Replicas, each with a share of a batch; of fewer windows, of operators")
      ->check(Range(1, 1024));
  app->add_option("--log-every", t->log_every, "Steps between lines where there is no terminal")
      ->check(AtLeast(1));
  app->add_option("--evaluate-every", t->evaluate_every, "Steps (0: ten times a run)")
      ->check(AtLeast(0));
  app->add_option("--checkpoint-every", t->checkpoint_every, "Steps (0: once a minute)")
      ->check(AtLeast(0));
  OneOf(app->add_option("--device", *device, "Where LibTorch computes"), {"cpu", "cuda"});
  app->add_option("--devices", t->devices,
                  "GPUs of this machine (with --device cpu: processes) that share each batch's "
                  "windows")
      ->check(Range(1, 1024));
}

CLI::App* AddPretrain(CLI::App* app, PretrainFlags* flags) {
  CLI::App* on = app->add_subcommand("pretrain", "Train a small softmax model from scratch");
  AddTrainingFlags(on, &flags->data, &flags->output, &flags->training, &flags->device);
  OneOf(on->add_option("--architecture", flags->architecture, "Family of the model"),
        {"llama", "gpt2", "marian"});
  on->add_option("--train-tokenizer", flags->train_tokenizer,
                 "Train a SentencePiece BPE tokenizer of so many pieces (0: none)")
      ->check(AtLeast(0));
  on->add_option("--tokenizer", flags->tokenizer, "Directory to take a tokenizer from")
      ->type_name("DIR");
  on->add_option("--vocab-size", flags->vocab_size, "0: the tokenizer's")->check(AtLeast(0));
  on->add_option("--hidden", flags->hidden, "Width of the model")->check(AtLeast(1));
  on->add_option("--intermediate", flags->intermediate, "Width of the feed-forward layers")
      ->check(AtLeast(1));
  on->add_option("--layers", flags->layers, "marian: of the decoder")->check(AtLeast(1));
  on->add_option("--heads", flags->heads, "Attention heads")->check(AtLeast(1));
  on->add_option("--kv-heads", flags->kv_heads, "Heads of keys and values; 0: as --heads")
      ->check(AtLeast(0));
  on->add_option("--positions", flags->positions, "Stored positions of gpt2 and marian")
      ->check(AtLeast(1));
  on->add_flag("--untied", flags->untied, "An output head of its own");
  on->add_option("--source-vocab-size", flags->source_vocab_size, "marian: 0: the tokenizer's")
      ->check(AtLeast(0));
  on->add_option("--encoder-layers", flags->encoder_layers, "marian: 0: as --layers")
      ->check(AtLeast(0));
  on->add_option("--start-token", flags->start_token, "marian: starts targets, and pads")
      ->check(AtLeast(0));
  on->add_option("--eos-token", flags->eos_token, "marian: closes targets, without a tokenizer")
      ->check(AtLeast(0));
  on->add_flag("--source-eos,!--no-source-eos", flags->source_eos,
               "marian: whether the tokenizer closes sources too (default: yes)");
  return on;
}

CLI::App* AddSwap(CLI::App* app, SwapFlags* flags) {
  CLI::App* on = app->add_subcommand(
      "swap", "Swap attention for windows, sinks and a recurrent state, calibrated; no training");
  on->add_option("--model", flags->model, "Model directory")->type_name("DIR")->required();
  on->add_option("--out", flags->output.directory, "Model directory to write")
      ->type_name("DIR")
      ->required();
  OneOf(on->add_option("--save-dtype", flags->output.dtype, "Of the tensors that are written"),
        {"float32", "bfloat16"});
  on->add_option("--calibrate", flags->text,
                 "Text like what the model will read; encoder-decoders: pairs")
      ->type_name("FILE")
      ->required();
  on->add_option("--calibrate-target", flags->target, "Targets, where it holds the sources only")
      ->type_name("FILE");
  AddCorpusFlags(on, &flags->corpus);
  on->add_option("--window", flags->window,
                 "Nearest keys that are kept as they are; auto:BYTES: sizes by layer, within so "
                 "many bytes of state, where they save the most; auto:BYTES,BYTES,...: several "
                 "such models, OUT-BYTES each; like:DIR: the sizes by layer of a swapped model, "
                 "its sinks, folds and features with them")
      ->type_name("KEYS");
  OneOf(on->add_option("--window-dtype", flags->window_dtype,
                       "As the server is to keep keys and values in windows (its flag of this "
                       "name): what bytes of state are counted by"),
        {"float32", "bfloat16", "int8"});
  on->add_option("--sinks", flags->sinks, "First keys of a sequence that are kept too")
      ->check(AtLeast(0));
  on->add_option("--fold", flags->fold, "Keys that leave the window at once")->check(AtLeast(1));
  OneOf(on->add_option("--feature-map", flags->feature_map,
                       "What stands for all older keys; none: nothing does"),
        {"codebook", "t2r", "elu", "rfa", "hedgehog", "none"});
  on->add_option("--feature-size", flags->feature_size, "Centroids or features a head")
      ->check(AtLeast(1));
  on->add_flag("--rope-features", flags->rope_features,
               "Features see q and k after their rotation");
  on->add_option("--sink-position", flags->sink_position,
                 "Queries behind this position see the sinks as from it; -1: from their own")
      ->check(AtLeast(-1));
  on->add_option("--keep-full", flags->keep_full,
                 "Layers that keep softmax: 0,3, every:4, or auto:2, the two whose calibrated swap "
                 "alone costs the most")
      ->type_name("LAYERS");
  on->add_option("--keep-full-cross", flags->keep_full_cross, "The same for cross attention")
      ->type_name("LAYERS");
  on->add_option("--calibration-documents", flags->documents, "Excerpts that calibrate")
      ->check(AtLeast(1));
  on->add_option("--valid-documents", flags->held_out,
                 "Other excerpts, that costs of layers and the losses printed are of")
      ->check(AtLeast(1));
  on->add_option("--tokens-per-document", flags->tokens, "Of an excerpt")->check(AtLeast(2));
  on->add_option("--seed", flags->seed, "Of the codebooks")->check(AtLeast(uint64_t{0}));
  on->add_option("--threads", flags->threads, "That read and calibrate")->check(Range(1, 1024));
  OneOf(on->add_option("--device", flags->device, "Where LibTorch computes"), {"cpu", "cuda"});
  return on;
}

CLI::App* AddFinetune(CLI::App* app, FinetuneFlags* flags) {
  CLI::App* on = app->add_subcommand("finetune", "Swap attention for linear attention, then train");
  on->add_option("--model", flags->model, "Model directory")->type_name("DIR")->required();
  AddTrainingFlags(on, &flags->data, &flags->output, &flags->training, &flags->device);
  OneOf(on->add_option("--feature-map", flags->feature_map,
                       "Without it the model is finetuned as it is"),
        {"t2r", "elu", "rfa", "hedgehog"});
  on->add_option("--feature-size", flags->feature_size, "Features a head")->check(AtLeast(0));
  on->add_option("--keep-full", flags->keep_full,
                 "Layers whose causal attention keeps softmax: 0,3, every:4 (T2R 75 %), all, or "
                 "auto:2, the two whose swap alone costs the most on the held-out text")
      ->type_name("LAYERS");
  on->add_option("--keep-full-cross", flags->keep_full_cross,
                 "The same for cross attention; an encoder always keeps it")
      ->type_name("LAYERS");
  on->add_option("--parent", flags->parent,
                 "The softmax model that --model was swapped from: the teacher of --distill")
      ->type_name("DIR");
  on->add_option("--new-learning-rate", flags->training.new_learning_rate,
                 "Peak of what a swap added; 0: as of the others")
      ->check(AtLeast(0.0));
  OneOf(on->add_option("--train-only", flags->train_only, "What learns; new: feature maps"),
        {"all", "attention", "new"});
  on->add_option("--decay", flags->half_life,
                 "Lets the state forget, at first by half in so many tokens, and learns how fast; "
                 "0: as the model has it")
      ->type_name("TOKENS")
      ->check(AtLeast(0.0));
  OneOf(on->add_option("--products", flags->products,
                       "Factors of matrix products; auto: bfloat16 on a GPU or where the "
                       "processor multiplies it, and the model is not small"),
        {"auto", "float32", "bfloat16"});
  on->add_option("--stage", flags->stage,
                 "finetune; transfer,finetune: first only feature maps learn, each layer's to give "
                 "the softmax attention's output; or transfer alone")
      ->type_name("STAGES");
  on->add_option("--transfer-share", flags->transfer_share,
                 "Share of the budget for the first of two stages")
      ->check(Range(0.0, 1.0));
  on->add_option("--transfer-rate", flags->training.transfer_rate, "Learning rate of the transfer")
      ->check(AtLeast(0.0));
  on->add_option("--distill", flags->training.distill,
                 "Weight of the parent's distribution in the loss")
      ->check(Range(0.0, 1.0));
  on->add_option("--distill-temperature", flags->training.distill_temperature,
                 "Flattens both distributions before they are compared")
      ->check(AtLeast(0.0));
  on->add_option("--lora-rank", flags->trainable.lora_rank,
                 "Train low-rank updates of the matrices, and feature maps; the updates are added "
                 "into the weights at the end (0: every weight learns)")
      ->check(AtLeast(0));
  on->add_option("--lora-alpha", flags->trainable.lora_alpha, "The updates count alpha / rank")
      ->check(AtLeast(0.0));
  on->add_flag("--freeze-encoder", flags->trainable.freeze_encoder, "Leave the encoder's weights");
  on->add_flag("--random-weights", flags->random_weights,
               "Take only the model's shape and tokenizer: what its weights are worth");
  return on;
}

CLI::App* AddEval(CLI::App* app, EvalFlags* flags) {
  CLI::App* on = app->add_subcommand(
      "eval",
      "Nats/token and perplexity of a text; of an encoder-decoder's pairs also BLEU, chrF, CER and "
      "WER of the engine's greedy translations");
  on->add_option("--model", flags->model, "Model directory")->type_name("DIR")->required();
  on->add_option("--text", flags->text,
                 "Text file; encoder-decoders: pairs, source TAB target a line")
      ->type_name("FILE")
      ->required();
  AddCorpusFlags(on, &flags->corpus);
  on->add_option("--documents", flags->corpus.documents, "First documents or pairs only (0: all)")
      ->check(AtLeast(0));
  on->add_option("--max-tokens-per-document", flags->corpus.max_tokens_per_document,
                 "Cut documents to so many tokens, BOS included (0: uncut)")
      ->check(AtLeast(0));
  AddWindowFlags(on, "--", &flags->windows);
  on->add_option("--concat", flags->concat,
                 "Documents one after the other in rows of so many tokens (0: each by itself)")
      ->check(AtLeast(0));
  on->add_flag("--by-position", flags->by_position, "Print the loss by position too");
  on->add_option("--recall", flags->recall,
                 "Probe what is known from so many tokens back: auto, or distances such as 128,512")
      ->type_name("DISTANCES");
  on->add_option("--recall-probes", flags->recall_probes, "Probes of each kind and distance")
      ->check(AtLeast(1));
  OneOf(on->add_option("--device", flags->engine.backend, "Where the engine computes"),
        {"auto", "cpu", "cuda"});
  on->add_option("--target", flags->target, "Targets, where --text holds the sources only")
      ->type_name("FILE");
  on->add_flag("--translate,!--no-translate", flags->translate,
               "Translate and compare (default: yes)");
  on->add_option("--output", flags->output, "File for the translations, a line each")
      ->type_name("FILE");
  on->add_option("--batch", flags->translation.batch, "Sessions translated together")
      ->check(AtLeast(1));
  on->add_option("--threads", flags->engine.threads, "Of the engine (0: one a core)")
      ->check(Range(0, 1024));
  OneOf(on->add_option("--weights,--dtype", flags->engine.dtype,
                       "The engine's weights; auto: as the files"),
        {"auto", "float32", "bfloat16", "int8", "int4", "fp8"});
  OneOf(on->add_option("--window-dtype", flags->engine.window_dtype,
                       "The engine's keys and values in windows"),
        {"auto", "float32", "bfloat16", "int8"});
  on->add_option("--max-tokens", flags->translation.max_tokens,
                 "Longest translation (0: twice its source and 10 more)")
      ->check(AtLeast(0));
  return on;
}

CLI::App* AddMetrics(CLI::App* app, MetricsFlags* flags) {
  CLI::App* on = app->add_subcommand(
      "metrics", "BLEU, chrF, CER and WER of a file of translations against its references");
  on->add_option("--hypotheses", flags->hypotheses, "A line each")->type_name("FILE")->required();
  on->add_option("--references", flags->references, "A line each")->type_name("FILE")->required();
  return on;
}

CLI::App* AddImportGguf(CLI::App* app, ImportGgufFlags* flags) {
  CLI::App* on = app->add_subcommand(
      "import-gguf", "Write a GGUF file (llama, qwen2, qwen3) as a model directory, dequantised");
  on->add_option("file", flags->file, "GGUF file")->type_name("FILE")->required();
  on->add_option("--out", flags->directory, "Model directory to write")
      ->type_name("DIR")
      ->required();
  OneOf(on->add_option("--dtype", flags->dtype, "Of the tensors that are written"),
        {"float32", "bfloat16", "float16"});
  on->add_option(
        "--pre-tokenizer", flags->pre_tokenizer,
        "How texts are cut, in place of the file's tokenizer.ggml.pre: " + GgufPreTokenizerNames())
      ->type_name("NAME");
  return on;
}

CLI::App* AddQuantize(CLI::App* app, QuantizeFlags* flags) {
  CLI::App* on = app->add_subcommand(
      "quantize", "Write a model directory again with its matrices in 8 or 4 bits");
  on->add_option("--model", flags->model, "Model directory")->type_name("DIR")->required();
  on->add_option("--out", flags->directory, "Model directory to write")
      ->type_name("DIR")
      ->required();
  OneOf(on->add_option("--weights", flags->weights, "Of every matrix, head and embedding included"),
        {"int8", "int4"});
  on->add_option("--bits", flags->bits,
                 "With --weights int4 and --calibrate: projections that lose the most stay in int8 "
                 "(8.5 bits a weight) as far as so many bits a weight of them all allow (int4 has "
                 "5; 5.5 is a good choice); 0: none")
      ->check(Range(0.0, 8.5));
  on->add_option("--calibrate", flags->text,
                 "Round each matrix for the inputs that this text gives it; none: for any")
      ->type_name("FILE");
  on->add_option("--separator", flags->corpus.separator, "A line between documents")
      ->type_name("LINE");
  on->add_option("--calibration-documents", flags->corpus.documents, "The first so many; 0: all")
      ->check(AtLeast(int64_t{0}));
  on->add_option("--max-tokens-per-document", flags->corpus.max_tokens_per_document,
                 "Documents are cut to so many tokens; 0: uncut")
      ->check(AtLeast(int64_t{0}));
  return on;
}

int Run(int argc, char** argv) {
  CLI::App app("Turns pretrained transformers into RNNs (T2R, arXiv 2103.13076).", "t2r-convert");
  t2r::flags::Describe(&app);
  app.require_subcommand(1);
  app.footer(kExamples);
  PretrainFlags pretrain;
  FinetuneFlags finetune;
  SwapFlags swap;
  EvalFlags eval;
  MetricsFlags metrics;
  ImportGgufFlags import_gguf;
  QuantizeFlags quantize;
  const CLI::App* on_pretrain = AddPretrain(&app, &pretrain);
  const CLI::App* on_finetune = AddFinetune(&app, &finetune);
  const CLI::App* on_swap = AddSwap(&app, &swap);
  const CLI::App* on_eval = AddEval(&app, &eval);
  const CLI::App* on_metrics = AddMetrics(&app, &metrics);
  const CLI::App* on_import_gguf = AddImportGguf(&app, &import_gguf);
  const CLI::App* on_quantize = AddQuantize(&app, &quantize);
  if (const auto code = t2r::flags::Parse(&app, argc, argv)) return *code;
  if (on_pretrain->parsed() || on_finetune->parsed() || on_swap->parsed() || on_eval->parsed()) {
    RestartWithSleepingWaits(argv);
  }
  const std::string warning = PrepareRuntime();
  if (!warning.empty()) std::fprintf(stderr, "t2r-convert: %s\n", warning.c_str());
  if (on_pretrain->parsed()) Pretrain(pretrain);
  if (on_finetune->parsed()) Finetune(finetune);
  if (on_swap->parsed()) Swap(swap);
  if (on_eval->parsed()) Eval(eval);
  if (on_metrics->parsed()) PrintMetrics(metrics);
  if (on_import_gguf->parsed()) ImportGguf(import_gguf);
  if (on_quantize->parsed()) Quantize(quantize);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& error) {
    // LibTorch puts a back trace after the first line.
    const std::string what = error.what();
    std::fprintf(stderr, "t2r-convert: %s\n", what.substr(0, what.find('\n')).c_str());
    return 1;
  }
}
