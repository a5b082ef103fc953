// What a Client holds, and how it calls; internal to client/.
#ifndef T2R_CLIENT_CLIENT_IMPL_H_
#define T2R_CLIENT_CLIENT_IMPL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/time/clock.h"
#include "client/client.h"
#include "client/generate_call.h"
#include "client/wire.h"
#include "engine/io/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "t2r/v1/sessions.grpc.pb.h"

namespace t2r::client {

inline void SetDeadline(grpc::ClientContext& context, absl::Time deadline) {
  if (deadline != absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
}

// call(context) sends the request once.
template <typename Call>
absl::Status CallWithRetries(const CallOptions& options, const Call& call) {
  RetryPolicy retry(options, absl::Now());
  while (true) {
    grpc::ClientContext context;
    SetDeadline(context, retry.deadline());
    const grpc::Status result = call(&context);
    absl::Status status =
        MakeStatus(result.error_code(), result.error_message(), result.error_details());
    const std::optional<absl::Time> next = retry.NextTry(status, absl::Now());
    if (!next) return status;
    absl::SleepFor(*next - absl::Now());
  }
}

struct Client::Impl {
  std::string target;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Generation::Stub> stub;
  std::unique_ptr<v1::Sessions::Stub> sessions;
  std::unique_ptr<grpc::health::v1::Health::Stub> health;

  Mutex mutex;
  CondVar no_calls;
  // A call's last reference may go on one of gRPC's threads, and with it a reference to the
  // channel, whose own last reference must not go there: it would wait for that very thread. So
  // calls stay here until they are destroyed.
  std::unordered_map<GenerateCall::Impl*, std::weak_ptr<GenerateCall::Impl>> calls
      ABSL_GUARDED_BY(mutex);

  absl::StatusOr<ScoreResult> Score(const v1::ScoreRequest& request, const CallOptions& options) {
    if (absl::Status texts = CheckTexts(request); !texts.ok()) return texts;
    v1::ScoreResponse response;
    absl::Status status = CallWithRetries(options, [&](grpc::ClientContext* context) {
      return stub->Score(context, request, &response);
    });
    if (!status.ok()) return status;
    return FromProto(response);
  }

  // Not started yet: the caller may first tell its callbacks about the call.
  std::shared_ptr<GenerateCall::Impl> NewCall(const GenerateRequest& request,
                                              const CallOptions& options, EventCallback on_event,
                                              DoneCallback on_done) {
    auto call = std::make_shared<GenerateCall::Impl>(stub.get(), ToProto(request), options,
                                                     std::move(on_event), std::move(on_done),
                                                     [this](GenerateCall::Impl* released) {
                                                       const MutexLock lock(mutex);
                                                       calls.erase(released);
                                                       if (calls.empty()) no_calls.NotifyAll();
                                                     });
    const MutexLock lock(mutex);
    calls.emplace(call.get(), call);
    return call;
  }
};

}  // namespace t2r::client

#endif  // T2R_CLIENT_CLIENT_IMPL_H_
