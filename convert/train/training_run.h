// What pretrain and finetune share: data, the run with its working files, the result on disk.
#pragma once

#include <string>

#include "convert/commands.h"
#include "convert/data/corpus.h"
#include "convert/devices/device_group.h"
#include "convert/eval/windows.h"
#include "convert/model/model.h"
#include "convert/progress.h"

namespace t2r::convert {

// The working files of a run: its checkpoint, and what a resume must find again.
std::string WorkDirectory(const std::string& out);

// Throws ConvertError where a batch has fewer windows than there are devices.
void CheckDevices(const TrainOptions& options);

// Throws ConvertError where --save-dtype is unknown.
void CheckDtype(const std::string& dtype);

// What --feature-map names. Throws ConvertError.
FeatureMapKind ParseFeatureMap(const std::string& name);

struct Corpora {
  Corpus train, valid;
  WindowOptions valid_windows;  // how `valid` is evaluated; defaults filled in for a decoder
};

// Pairs for encoder-decoders, else documents. `window` bounds the sides of a pair.
Corpora LoadCorpora(const DataFlags& flags, int64_t window, const ModelConfig& config,
                    const Tokenizer* tokenizer, Progress* progress);

// One run: what is trained, how, and what is written.
struct TrainingRun {
  DeviceGroup* group = nullptr;
  TrainingModel* model = nullptr;
  const TrainingModel* teacher = nullptr;  // for distillation, else null
  TrainOptions training;
  OutputFlags output;
  std::string config_json;  // to write
  std::string fingerprint;  // what the caller's own flags add to the run's identity
  std::string side_files;   // directory to take the tokenizer from; empty: none
  double parent_nats = 0;   // 0: there is no parent
};

// Resumes where there is a checkpoint and trains; on the first process also evaluates, writes the
// model directory and removes the working files.
void TrainAndWrite(TrainingRun run, const Corpora& corpora, Progress* progress);

}  // namespace t2r::convert
