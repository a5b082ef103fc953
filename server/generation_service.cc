#include "server/generation_service.h"

#include <functional>
#include <utility>

#include "server/generate_call.h"
#include "server/requests.h"
#include "server/score_call.h"
#include "server/status.h"

namespace t2r::server {
namespace {

// A unary RPC whose work runs on a worker. The default OnCancel does nothing: the work is short,
// and its Finish ends the RPC.
class WorkCall final : public grpc::ServerUnaryReactor {
 public:
  // Runs `work` (which may use the RPC's request and response: they live until Finish) on a worker,
  // or refuses where too many wait already.
  static grpc::ServerUnaryReactor* Start(CallContext& context,
                                         std::function<absl::Status(const ServedModel&)> work) {
    auto* call = new WorkCall();
    absl::StatusOr<ServedModel*> model = context.host.Get();
    if (!model.ok()) {
      call->Finish(ToGrpcStatus(model.status()));
      return call;
    }
    const bool taken = context.workers.TryPost([call, served = *model, todo = std::move(work)] {
      call->Finish(ToGrpcStatus(todo(*served)));
    });
    if (!taken) {
      call->Finish(ToGrpcStatus(
          absl::ResourceExhaustedError("too many texts wait for the tokenizer; try again later"),
          absl::Milliseconds(100)));
    }
    return call;
  }

  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerationService::Generate(
    grpc::CallbackServerContext* rpc, const v1::GenerateRequest* request) {
  return GenerateCall::Start(context_, rpc, request);
}

grpc::ServerUnaryReactor* GenerationService::Score(grpc::CallbackServerContext* rpc,
                                                   const v1::ScoreRequest* request,
                                                   v1::ScoreResponse* response) {
  return ScoreCall::Start(context_, rpc, request, response);
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(grpc::CallbackServerContext* /*rpc*/,
                                                      const v1::TokenizeRequest* request,
                                                      v1::TokenizeResponse* response) {
  return WorkCall::Start(context_, [request, response](const ServedModel& model) -> absl::Status {
    if (absl::Status s = CheckHasTokenizer(model, "text"); !s.ok()) return s;
    if (request->target() && !model.limits.encoder_decoder()) {
      return absl::InvalidArgumentError(
          "target: the model is not an encoder-decoder; leave it out");
    }
    const absl::StatusOr<std::vector<int32_t>> ids =
        request->target() ? model.tokenizer->EncodeTarget(request->text(), true)
                          : model.tokenizer->Encode(request->text(), true);
    if (!ids.ok()) return ids.status();
    FromIds(*ids, response->mutable_tokens());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* /*rpc*/,
                                                        const v1::DetokenizeRequest* request,
                                                        v1::DetokenizeResponse* response) {
  return WorkCall::Start(context_, [request, response](const ServedModel& model) -> absl::Status {
    if (absl::Status s = CheckHasTokenizer(model, "tokens"); !s.ok()) return s;
    if (absl::Status s = CheckIds("tokens", request->tokens(), model.limits.vocab_size); !s.ok())
      return s;
    response->set_text(model.tokenizer->Decode(ToIds(request->tokens())));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* GenerationService::GetModel(grpc::CallbackServerContext* rpc,
                                                      const v1::GetModelRequest* /*request*/,
                                                      v1::GetModelResponse* response) {
  grpc::ServerUnaryReactor* reactor = rpc->DefaultReactor();
  const absl::StatusOr<ServedModel*> model = context_.host.Get();
  if (model.ok()) *response = (*model)->info;
  reactor->Finish(ToGrpcStatus(model.status()));
  return reactor;
}

}  // namespace t2r::server
