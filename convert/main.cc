// t2r-convert: pretrain, finetune (swap attention, then train), eval and metrics.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "convert/commands.h"
#include "convert/runtime.h"
#include "convert/train/train_options.h"

namespace {

using namespace t2r::convert;  // NOLINT(google-build-using-namespace)

constexpr const char* kExamples = R"(Examples:
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
    t2r-convert eval --model DIR-t2r --text test.tsv --output test.out)";

void AddCorpusFlags(CLI::App* app, CorpusOptions* corpus) {
  app->add_option("--separator", corpus->separator,
                  "A line that separates documents, e.g. '<|endoftext|>' (none: the file is one)");
  app->add_flag("--ids", corpus->ids, "The files hold token ids instead of text");
}

void AddDataFlags(CLI::App* app, DataFlags* data) {
  app->add_option("--train", data->train,
                  "Training text; encoder-decoders: pairs, source TAB target a line")
      ->required();
  app->add_option("--valid", data->valid, "Held-out text, or pairs")->required();
  app->add_option("--train-target", data->train_target,
                  "Targets of --train, which then holds the sources, line by line");
  app->add_option("--valid-target", data->valid_target, "Targets of --valid, likewise");
  app->add_option("--valid-documents", data->valid_documents,
                  "First documents (or pairs) of it that are evaluated while training (0: all)")
      ->capture_default_str();
  AddCorpusFlags(app, &data->corpus);
}

void AddTrainingFlags(CLI::App* app, DataFlags* data, OutputFlags* output, TrainOptions* t,
                      std::string* device) {
  AddDataFlags(app, data);
  app->add_option("--out", output->directory, "Model directory to write")->required();
  app->add_option("--save-dtype", output->dtype, "float32 or bfloat16")->capture_default_str();
  app->add_option("--steps", t->steps, "Budget: optimizer steps");
  app->add_option("--tokens", t->tokens, "Budget: predicted tokens");
  app->add_option("--minutes", t->minutes, "Budget: minutes of training");
  app->add_option("--window", t->window, "Tokens of context; of pairs: longer ones are left out")
      ->capture_default_str();
  app->add_option("--batch", t->batch_tokens, "Positions a step, padding and sources included")
      ->capture_default_str();
  app->add_option("--learning-rate", t->learning_rate, "Peak")->capture_default_str();
  app->add_option("--schedule", t->schedule, "After the warm-up: cosine or inverse-sqrt")
      ->capture_default_str();
  app->add_option("--warmup", t->warmup_share, "Share of the budget")->capture_default_str();
  app->add_option("--weight-decay", t->weight_decay, "On matrices")->capture_default_str();
  app->add_option("--clip", t->clip_norm, "Largest gradient norm; 0: off")->capture_default_str();
  app->add_option("--label-smoothing", t->label_smoothing,
                  "Weight of the uniform distribution in the targets")
      ->capture_default_str();
  app->add_option("--seed", t->seed, "Of initial values and data order")->capture_default_str();
  app->add_option("--threads", t->threads, "Data-parallel replicas")->capture_default_str();
  app->add_option("--log-every", t->log_every, "Steps between lines where there is no terminal")
      ->capture_default_str();
  app->add_option("--evaluate-every", t->evaluate_every, "Steps (0: ten times a run)");
  app->add_option("--checkpoint-every", t->checkpoint_every, "Steps (0: once a minute)");
  app->add_option("--device", *device, "cpu or cuda")->capture_default_str();
}

CLI::App* AddPretrain(CLI::App* app, PretrainFlags* flags) {
  CLI::App* on = app->add_subcommand("pretrain", "Train a small softmax model from scratch");
  AddTrainingFlags(on, &flags->data, &flags->output, &flags->training, &flags->device);
  on->add_option("--architecture", flags->architecture, "llama, gpt2 or marian")
      ->capture_default_str();
  on->add_option("--train-tokenizer", flags->train_tokenizer,
                 "Train a SentencePiece BPE tokenizer of so many pieces");
  on->add_option("--tokenizer", flags->tokenizer, "Directory to take a tokenizer from");
  on->add_option("--vocab-size", flags->vocab_size, "Default: the tokenizer's");
  on->add_option("--hidden", flags->hidden)->capture_default_str();
  on->add_option("--intermediate", flags->intermediate)->capture_default_str();
  on->add_option("--layers", flags->layers, "marian: of the decoder")->capture_default_str();
  on->add_option("--heads", flags->heads)->capture_default_str();
  on->add_option("--kv-heads", flags->kv_heads, "Default: as --heads");
  on->add_option("--positions", flags->positions, "Stored positions of gpt2 and marian")
      ->capture_default_str();
  on->add_flag("--untied", flags->untied, "An output head of its own");
  on->add_option("--source-vocab-size", flags->source_vocab_size,
                 "marian: default: the tokenizer's");
  on->add_option("--encoder-layers", flags->encoder_layers, "marian: default: as --layers");
  on->add_option("--start-token", flags->start_token, "marian: starts targets, and pads")
      ->capture_default_str();
  on->add_option("--eos-token", flags->eos_token, "marian: closes targets, without a tokenizer")
      ->capture_default_str();
  on->add_flag("--source-eos,!--no-source-eos", flags->source_eos,
               "marian: whether the tokenizer closes sources too (default: yes)");
  return on;
}

CLI::App* AddFinetune(CLI::App* app, FinetuneFlags* flags) {
  CLI::App* on = app->add_subcommand("finetune", "Swap attention for linear attention, then train");
  on->add_option("--model", flags->model, "Model directory")->required();
  AddTrainingFlags(on, &flags->data, &flags->output, &flags->training, &flags->device);
  on->add_option("--feature-map", flags->feature_map,
                 "t2r, elu, rfa or hedgehog; none: finetune the model as it is");
  on->add_option("--feature-size", flags->feature_size, "Features a head");
  on->add_option("--keep-full", flags->keep_full,
                 "Layers whose causal attention keeps softmax: 0,3, every:4 (T2R 75 %), all, or "
                 "auto:2, the two whose swap alone costs the most on the held-out text");
  on->add_option("--keep-full-cross", flags->keep_full_cross,
                 "The same for cross attention; an encoder always keeps it");
  on->add_option("--stage", flags->stage,
                 "finetune; transfer,finetune: first only feature maps learn, each layer's to give "
                 "the softmax attention's output; or transfer alone")
      ->capture_default_str();
  on->add_option("--transfer-share", flags->transfer_share,
                 "Share of the budget for the first of two stages")
      ->capture_default_str();
  on->add_option("--transfer-rate", flags->training.transfer_rate, "Learning rate of the transfer")
      ->capture_default_str();
  on->add_option("--distill", flags->training.distill,
                 "Weight of the parent's distribution in the loss, 0 to 1")
      ->capture_default_str();
  on->add_option("--distill-temperature", flags->training.distill_temperature,
                 "Flattens both distributions before they are compared")
      ->capture_default_str();
  on->add_option("--lora-rank", flags->trainable.lora_rank,
                 "Train low-rank updates of the matrices, and feature maps; the updates are added "
                 "into the weights at the end (0: every weight learns)")
      ->capture_default_str();
  on->add_option("--lora-alpha", flags->trainable.lora_alpha, "The updates count alpha / rank")
      ->capture_default_str();
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
  on->add_option("--model", flags->model, "Model directory")->required();
  on->add_option("--text", flags->text,
                 "Text file; encoder-decoders: pairs, source TAB target a line")
      ->required();
  AddCorpusFlags(on, &flags->corpus);
  on->add_option("--documents", flags->corpus.documents, "First documents or pairs only (0: all)");
  on->add_option("--max-tokens-per-document", flags->corpus.max_tokens_per_document,
                 "Cut documents to so many tokens, BOS included (0: uncut)");
  on->add_option("--device", flags->device, "Of the loss: cpu or cuda")->capture_default_str();
  on->add_option("--target", flags->target, "Targets, where --text holds the sources only");
  on->add_flag("--translate,!--no-translate", flags->translate,
               "Translate and compare (default: yes)");
  on->add_option("--output", flags->output, "File for the translations, a line each");
  on->add_option("--batch", flags->translation.batch, "Sessions translated together")
      ->capture_default_str();
  on->add_option("--threads", flags->threads, "Of the loss, and of the engine")
      ->capture_default_str();
  on->add_option("--dtype", flags->translation.dtype,
                 "The engine's weights: auto, float32 or bfloat16")
      ->capture_default_str();
  on->add_option("--max-tokens", flags->translation.max_tokens,
                 "Longest translation (0: twice its source and 10 more)");
  return on;
}

CLI::App* AddMetrics(CLI::App* app, MetricsFlags* flags) {
  CLI::App* on = app->add_subcommand(
      "metrics", "BLEU, chrF, CER and WER of a file of translations against its references");
  on->add_option("--hypotheses", flags->hypotheses, "A line each")->required();
  on->add_option("--references", flags->references, "A line each")->required();
  return on;
}

int Run(int argc, char** argv) {
  CLI::App app("Turns pretrained transformers into RNNs (T2R, arXiv 2103.13076).", "t2r-convert");
  app.require_subcommand(1);
  app.footer(kExamples);
  PretrainFlags pretrain;
  FinetuneFlags finetune;
  EvalFlags eval;
  MetricsFlags metrics;
  const CLI::App* on_pretrain = AddPretrain(&app, &pretrain);
  const CLI::App* on_finetune = AddFinetune(&app, &finetune);
  const CLI::App* on_eval = AddEval(&app, &eval);
  const CLI::App* on_metrics = AddMetrics(&app, &metrics);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const std::string warning = PrepareRuntime(/*operator_threads=*/1);
  if (!warning.empty()) std::fprintf(stderr, "t2r-convert: %s\n", warning.c_str());
  if (on_pretrain->parsed()) Pretrain(pretrain);
  if (on_finetune->parsed()) Finetune(finetune);
  if (on_eval->parsed()) Eval(eval);
  if (on_metrics->parsed()) PrintMetrics(metrics);
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
