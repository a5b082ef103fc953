#include "server/generation_service.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/incremental_decoder.h"
#include "server/generate_call.h"
#include "server/messages.h"
#include "server/requests.h"
#include "server/score_call.h"
#include "server/text_call.h"

namespace t2r::server {
namespace {

absl::Status DoTokenize(const grpc::ByteBuffer& message, const ServedModel& model, UnaryEnd& end) {
  v1::TokenizeRequest request;
  if (absl::Status s = ParseMessage(message, &request); !s.ok()) return s;
  if (absl::Status s = CheckText("text", request.text(), model); !s.ok()) return s;
  if (request.target() && !model.limits.encoder_decoder()) {
    return absl::InvalidArgumentError("target: the model is not an encoder-decoder; leave it out");
  }
  const absl::StatusOr<std::vector<int32_t>> ids =
      request.target() ? model.tokenizer->EncodeTarget(request.text(), true)
                       : model.tokenizer->Encode(request.text(), true);
  if (!ids.ok()) {
    return absl::Status(ids.status().code(), absl::StrCat("text: ", ids.status().message()));
  }
  v1::TokenizeResponse response;
  FromIds(*ids, response.mutable_tokens());
  end.Answer(response);
  return absl::OkStatus();
}

absl::Status DoDetokenize(const grpc::ByteBuffer& message, const ServedModel& model,
                          UnaryEnd& end) {
  v1::DetokenizeRequest request;
  if (absl::Status s = ParseMessage(message, &request); !s.ok()) return s;
  if (absl::Status s = CheckHasTokenizer(model, "tokens"); !s.ok()) return s;
  const int64_t limit = model.limits.max_prompt_tokens;
  if (limit > 0 && request.tokens().ids_size() > limit) {
    return absl::InvalidArgumentError(absl::StrCat("tokens: ", request.tokens().ids_size(),
                                                   " ids, more than this server's limit of ", limit,
                                                   " (--max-prompt-tokens)"));
  }
  std::vector<int32_t> ids;
  absl::Status s = AppendIds("tokens", request.tokens(), model.limits.vocab_size, &ids);
  if (!s.ok()) return s;
  v1::DetokenizeResponse response;
  const int64_t bytes = model.limits.max_response_bytes;
  std::string& text = *response.mutable_text();
  // The same text as Decode gives, and no more of it than can be answered.
  IncrementalDecoder decoder(*model.tokenizer, {});
  for (size_t i = 0; i < ids.size(); ++i) {
    decoder.Append(ids[i], &text);
    if (bytes > 0 && static_cast<int64_t>(text.size()) > bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokens: the text of the first ", i + 1, " of ", ids.size(), " ids has ",
                       text.size(), " bytes, more than this server's limit of ", bytes,
                       " (--max-response-bytes); send fewer at a time"));
    }
  }
  text += decoder.Finish();
  end.Answer(response);
  return absl::OkStatus();
}

// An RPC that is answered in its reaction.
class QuickCall final : public grpc::ServerUnaryReactor {
 public:
  QuickCall(CallContext& context, grpc::CallbackServerContext& rpc, grpc::ByteBuffer* response)
      : guard_(context.watch, rpc),
        record_(context, rpc, "t2r.v1.Generation/GetModel"),
        end_(context, guard_, &record_, *this, response) {}
  UnaryEnd& end() { return end_; }
  void OnCancel() override { end_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  CallGuard guard_;
  CallRecord record_;
  UnaryEnd end_;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::Generate(
    grpc::CallbackServerContext* rpc, const grpc::ByteBuffer* request) {
  return GenerateCall::Start(context_, rpc, request);
}

grpc::ServerUnaryReactor* GenerationService::Score(grpc::CallbackServerContext* rpc,
                                                   const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* response) {
  return ScoreCall::Start(context_, rpc, request, response);
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(grpc::CallbackServerContext* rpc,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  return TextCall::Start(context_, rpc, request, response, "t2r.v1.Generation/Tokenize",
                         context_.workers, DoTokenize);
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* rpc,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* response) {
  return TextCall::Start(context_, rpc, request, response, "t2r.v1.Generation/Detokenize",
                         context_.workers, DoDetokenize);
}

grpc::ServerUnaryReactor* GenerationService::GetModel(grpc::CallbackServerContext* rpc,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  auto call = std::make_unique<QuickCall>(context_, *rpc, response);
  v1::GetModelRequest message;
  const absl::Status parsed = ParseMessage(TakeMessage(request), &message);
  const absl::StatusOr<ServedModel*> model = context_.host.Get();
  if (!parsed.ok() || !model.ok()) {
    call->end().Fail(parsed.ok() ? model.status() : parsed);
    return call.release();
  }
  v1::GetModelResponse info = (*model)->info;
  if (!context_.tell_memory) {
    info.mutable_memory()->clear_total_bytes();
    info.mutable_memory()->clear_free_bytes();
  }
  call->end().Answer(info);
  return call.release();
}

}  // namespace t2r::server
