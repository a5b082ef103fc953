// t2r-convert: pretrain, finetune (swap attention, then train) and eval.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "convert/commands.h"
#include "convert/runtime.h"
#include "convert/train_options.h"

namespace {

using namespace t2r::convert;  // NOLINT(google-build-using-namespace)

void AddCorpusFlags(CLI::App* app, CorpusOptions* corpus) {
  app->add_option("--separator", corpus->separator,
                  "A line that separates documents, e.g. '<|endoftext|>' (none: the file is one)");
  app->add_flag("--ids", corpus->ids, "The files hold token ids instead of text");
}

void AddTrainingFlags(CLI::App* app, DataFlags* data, OutputFlags* output, TrainOptions* t,
                      std::string* device) {
  app->add_option("--train", data->train, "Training text")->required();
  app->add_option("--valid", data->valid, "Held-out text")->required();
  app->add_option("--valid-documents", data->valid_documents,
                  "First documents of it that are evaluated while training (0: all)")
      ->capture_default_str();
  AddCorpusFlags(app, &data->corpus);
  app->add_option("--out", output->directory, "Model directory to write")->required();
  app->add_option("--save-dtype", output->dtype, "float32 or bfloat16")->capture_default_str();
  app->add_option("--steps", t->steps, "Budget: optimizer steps");
  app->add_option("--tokens", t->tokens, "Budget: predicted tokens");
  app->add_option("--minutes", t->minutes, "Budget: minutes of training");
  app->add_option("--window", t->window, "Tokens of context")->capture_default_str();
  app->add_option("--batch", t->batch_tokens, "Positions a step, padding included")
      ->capture_default_str();
  app->add_option("--learning-rate", t->learning_rate, "Peak")->capture_default_str();
  app->add_option("--warmup", t->warmup_share, "Share of the budget")->capture_default_str();
  app->add_option("--weight-decay", t->weight_decay, "On matrices")->capture_default_str();
  app->add_option("--clip", t->clip_norm, "Largest gradient norm; 0: off")->capture_default_str();
  app->add_option("--seed", t->seed, "Of initial values and data order")->capture_default_str();
  app->add_option("--threads", t->threads, "Data-parallel replicas")->capture_default_str();
  app->add_option("--log-every", t->log_every, "Steps between lines where there is no terminal")
      ->capture_default_str();
  app->add_option("--evaluate-every", t->evaluate_every, "Steps (0: ten times a run)");
  app->add_option("--checkpoint-every", t->checkpoint_every, "Steps (0: once a minute)");
  app->add_option("--device", *device, "cpu or cuda")->capture_default_str();
}

int Run(int argc, char** argv) {
  CLI::App app("Turns pretrained transformers into RNNs (T2R, arXiv 2103.13076).", "t2r-convert");
  app.require_subcommand(1);

  PretrainFlags pretrain;
  CLI::App* on_pretrain =
      app.add_subcommand("pretrain", "Train a small softmax model from scratch");
  AddTrainingFlags(on_pretrain, &pretrain.data, &pretrain.output, &pretrain.training,
                   &pretrain.device);
  on_pretrain->add_option("--architecture", pretrain.architecture, "llama or gpt2")
      ->capture_default_str();
  on_pretrain->add_option("--train-tokenizer", pretrain.train_tokenizer,
                          "Train a SentencePiece BPE tokenizer of so many pieces");
  on_pretrain->add_option("--tokenizer", pretrain.tokenizer, "Directory to take a tokenizer from");
  on_pretrain->add_option("--vocab-size", pretrain.vocab_size, "Default: the tokenizer's");
  on_pretrain->add_option("--hidden", pretrain.hidden)->capture_default_str();
  on_pretrain->add_option("--intermediate", pretrain.intermediate)->capture_default_str();
  on_pretrain->add_option("--layers", pretrain.layers)->capture_default_str();
  on_pretrain->add_option("--heads", pretrain.heads)->capture_default_str();
  on_pretrain->add_option("--kv-heads", pretrain.kv_heads, "Default: as --heads");
  on_pretrain->add_option("--positions", pretrain.positions, "Learned positions of gpt2")
      ->capture_default_str();
  on_pretrain->add_flag("--untied", pretrain.untied, "An output head of its own");

  FinetuneFlags finetune;
  CLI::App* on_finetune =
      app.add_subcommand("finetune", "Swap attention for linear attention, then train everything");
  on_finetune->add_option("--model", finetune.model, "Model directory")->required();
  AddTrainingFlags(on_finetune, &finetune.data, &finetune.output, &finetune.training,
                   &finetune.device);
  on_finetune->add_option("--feature-map", finetune.feature_map,
                          "t2r, elu, rfa or hedgehog; none: finetune the model as it is");
  on_finetune->add_option("--feature-size", finetune.feature_size, "Features a head");
  on_finetune->add_option("--keep-full", finetune.keep_full,
                          "Layers that keep softmax: 0,3 or every:4");
  on_finetune
      ->add_option("--distill", finetune.training.distill,
                   "Weight of the parent's distribution in the loss, 0 to 1")
      ->capture_default_str();
  on_finetune
      ->add_option("--transfer", finetune.training.transfer_share,
                   "Share of the budget for attention transfer, before all weights learn")
      ->capture_default_str();
  on_finetune
      ->add_option("--transfer-rate", finetune.training.transfer_rate,
                   "Learning rate of the transfer")
      ->capture_default_str();

  EvalFlags eval;
  CLI::App* on_eval = app.add_subcommand("eval", "Perplexity and nats/token of a text");
  on_eval->add_option("--model", eval.model, "Model directory")->required();
  on_eval->add_option("--text", eval.text, "Text file")->required();
  AddCorpusFlags(on_eval, &eval.corpus);
  on_eval->add_option("--documents", eval.corpus.documents, "First documents only (0: all)");
  on_eval->add_option("--max-tokens-per-document", eval.corpus.max_tokens_per_document,
                      "Cut documents to so many tokens, BOS included (0: uncut)");
  on_eval->add_option("--device", eval.device, "cpu or cuda")->capture_default_str();

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
