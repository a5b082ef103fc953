// Any bytes as a GenerateRequest or a ScoreRequest (the first byte says which): it is refused with
// a reason, or becomes a request that the scheduler accepts.
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "server/requests.h"
#include "tests/server/testing/byte_tokenizer.h"

namespace {

using t2r::server::ServedModel;

// Says what fits; runs nothing.
class Limits : public t2r::Executor {
 public:
  explicit Limits(bool encoder) {
    limits_.slots = 4;
    limits_.max_step_tokens = 64;
    limits_.vocab_size = t2r::server::ByteTokenizer::kVocab;
    limits_.position_limit = 512;
    if (encoder) {
      limits_.max_source = 32;
      limits_.source_vocab_size = limits_.vocab_size;
    }
  }
  const t2r::ExecutorLimits& limits() const override { return limits_; }
  bool CanOpen(const t2r::SessionSize& /*size*/, int /*count*/) const override { return false; }
  int Open(const t2r::SessionSize& /*size*/, const t2r::SamplingParams& /*sampling*/) override {
    std::abort();
  }
  void Fork(int /*from*/, int /*to*/) override { std::abort(); }
  void Close(int /*slot*/) override { std::abort(); }
  void Launch(std::span<const t2r::ScheduledChunk> /*chunks*/) override { std::abort(); }
  void Wait(std::vector<t2r::ChunkResult>* /*results*/) override { std::abort(); }

 private:
  t2r::ExecutorLimits limits_;
};

ServedModel* MakeModel(bool encoder, bool tokenizer) {
  auto* executor = new Limits(encoder);
  auto* model = new ServedModel;
  if (tokenizer) model->tokenizer = std::make_unique<t2r::server::ByteTokenizer>();
  model->limits.vocab_size = executor->limits().vocab_size;
  model->limits.max_positions = executor->limits().position_limit;
  model->limits.max_tokens = 256;
  model->limits.source_vocab_size = executor->limits().source_vocab_size;
  model->scheduler = std::make_unique<t2r::Scheduler>(*executor, model->tokenizer.get(), nullptr,
                                                      t2r::SchedulerOptions());
  return model;
}

template <typename Message>
void Check(const std::string& bytes, const ServedModel& model) {
  Message message;
  if (!message.ParseFromString(bytes)) return;
  auto prepared = t2r::server::MakeRequest(message, model);
  if (!prepared.ok()) {
    if (prepared.status().message().empty()) std::abort();
    return;
  }
  const int64_t bound = prepared->queue_bound();
  const auto request = t2r::server::Complete(*std::move(prepared), model);
  if (!request.ok()) {
    if (request.status().message().empty()) std::abort();
    return;
  }
  if (request->queue_tokens() > bound) std::abort();
  if (request->score && t2r::server::ScoresNothing(*request)) return;
  // A text's tokens may be too many; all else was checked before they were known.
  const absl::Status valid = model.scheduler->Validate(*request);
  if (!valid.ok() && valid.message().empty()) std::abort();
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  t2r::v1::GenerateRequest generate;
  generate.set_text("ab\xC3\xA9");
  generate.set_max_tokens(5);
  generate.add_stop("x");
  generate.add_stop_token_ids(7);
  generate.mutable_sampling()->set_temperature(0.5F);
  generate.mutable_sampling()->set_top_p(0.9F);
  (*generate.mutable_sampling()->mutable_logit_bias())[3] = -2;
  t2r::v1::GenerateRequest beams;
  beams.mutable_tokens()->add_ids(3);
  beams.mutable_beams()->set_count(2);
  beams.mutable_target_prefix_tokens()->add_ids(4);
  t2r::v1::ScoreRequest score;
  score.set_text("abc");
  score.mutable_source_tokens()->add_ids(9);
  return {"0" + generate.SerializeAsString(), "1" + generate.SerializeAsString(),
          "3" + beams.SerializeAsString(),    "2" + beams.SerializeAsString(),
          "4" + score.SerializeAsString(),    "7" + score.SerializeAsString()};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ServedModel* const models[] = {MakeModel(false, true), MakeModel(true, true),
                                              MakeModel(false, false), MakeModel(true, false)};
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const ServedModel& model = *models[data[0] % 4];
  if ((data[0] / 4) % 2 == 0) {
    Check<t2r::v1::GenerateRequest>(bytes, model);
  } else {
    Check<t2r::v1::ScoreRequest>(bytes, model);
  }
  return 0;
}
