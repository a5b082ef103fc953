// A client of one t2r server. No gRPC or Protobuf types: link t2r_client and include this.
#ifndef T2R_CLIENT_CLIENT_H_
#define T2R_CLIENT_CLIENT_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/types.h"

namespace t2r::client {

// How a connection is encrypted. Contents of files, in PEM.
struct TlsOptions {
  std::string ca;  // authorities of servers' certificates; "": those the system trusts
  // The client's own, where the server demands one.
  std::string certificate;
  std::string key;
};

struct ConnectOptions {
  // How long Connect waits for the connection; 0: do not wait, the first call connects.
  absl::Duration connect_timeout = absl::Seconds(5);
  uint32_t max_receive_bytes = 64u << 20;        // largest message accepted from the server
  std::optional<TlsOptions> tls = std::nullopt;  // unset: the connection is not encrypted
  std::string api_key = {};  // sent with every call, as authorization: Bearer; "": none
};

struct CallOptions {
  // From the call's start to its end, retries included; InfiniteDuration: no deadline.
  absl::Duration timeout = absl::InfiniteDuration();
  // How often a call that the server refused with RetryInfo is sent again, each time after the
  // delay the server asked for. Only a call of which nothing has arrived is repeated.
  int max_retries = 0;
  // A stream with a session (one that the server gave a request silently included) that breaks off,
  // because its server goes or the way to it, is taken up again inside the call, on whatever server
  // the channel reaches then: the callbacks see one stream. It is tried for so long without a
  // token; zero: never. Where not even Started had come, the request is sent again, if it has
  // SessionRef::expected_position: nothing can then be appended twice.
  absl::Duration resume_timeout = absl::Seconds(60);
};

// The delay the server asked for before another try, where a refusal carried one.
std::optional<absl::Duration> RetryDelay(const absl::Status& status);

// A generation under way. Copyable; all copies mean the same call. May outlive it and the Client.
class GenerateCall {
 public:
  struct Impl;
  GenerateCall() = default;
  explicit GenerateCall(std::weak_ptr<Impl> impl) : impl_(std::move(impl)) {}

  // Asks for the end of the call: its done callback then gets CANCELLED, unless it ended before.
  // Any thread, callbacks included; never blocks; again or too late: no effect.
  void Cancel() const;

 private:
  std::weak_ptr<Impl> impl_;
};

// Any thread may call any method at the same time. Callbacks run on gRPC's threads, one at a time
// and in order for one call; one that blocks holds up its stream (and so, in the end, its session)
// and one of the few threads all calls share. Statuses have the server's code and message.
class Client {
 public:
  using EventCallback = std::function<void(const Event&)>;
  using DoneCallback = std::function<void(const absl::Status&)>;

  // target: HOST:PORT, or any gRPC target. UNAVAILABLE, naming it, where the first try to
  // connect fails or connect_timeout passes.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const std::string& target,
                                                         const ConnectOptions& options = {});
  // Cancels what runs and returns once every done callback has returned; not from a callback.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Starts a generation and returns. on_event gets Started, any number of Delta, Finished; then
  // on_done, exactly once, possibly before this returns. OK means that Finished has come.
  GenerateCall StartGenerate(const GenerateRequest& request, const CallOptions& options,
                             EventCallback on_event, DoneCallback on_done);

  // The blocking form. on_event may be empty, and returns whether to go on: false cancels.
  absl::Status Generate(const GenerateRequest& request, const CallOptions& options,
                        const std::function<bool(const Event&)>& on_event);

  absl::StatusOr<ScoreResult> Score(const Prompt& target, const CallOptions& options = {});
  // Encoder-decoders: the target, given the source.
  absl::StatusOr<ScoreResult> ScoreTranslation(const Prompt& source, const Prompt& target,
                                               const CallOptions& options = {});
  absl::StatusOr<TokenIds> Tokenize(const std::string& text, const CallOptions& options = {});
  absl::StatusOr<std::string> Detokenize(const TokenIds& tokens, const CallOptions& options = {});
  absl::StatusOr<ModelInfo> GetModel(const CallOptions& options = {});

  // Sessions, as proto/t2r/v1/sessions.proto has them. An id that is empty is made up by the
  // server, a ttl of zero is the server's.
  absl::StatusOr<SessionInfo> CreateSession(const std::string& id, absl::Duration ttl = {},
                                            const CallOptions& options = {});
  absl::StatusOr<SessionInfo> GetSession(const std::string& id, const CallOptions& options = {});
  // token: SessionPage::next of the page before; empty: the first. page_size 0: the server's.
  absl::StatusOr<SessionPage> ListSessions(const std::string& token, uint32_t page_size = 0,
                                           const CallOptions& options = {});
  absl::StatusOr<std::vector<SessionInfo>> ForkSession(const std::string& id,
                                                       const std::string& new_id, uint32_t count,
                                                       const CallOptions& options = {});
  absl::Status DeleteSession(const std::string& id, const CallOptions& options = {});
  // The session as bytes, and a session of its own from them. Not retried once something has
  // arrived, or gone. allow_inexact: also where the bytes come from a server of another exactness
  // class.
  absl::StatusOr<std::string> ExportSession(const std::string& id, const CallOptions& options = {});
  absl::StatusOr<SessionInfo> ImportSession(const std::string& id, const std::string& snapshot,
                                            absl::Duration ttl = {},
                                            const CallOptions& options = {},
                                            bool allow_inexact = false);

  // OK once grpc.health.v1 says SERVING. Asks again until options.timeout has passed, then
  // UNAVAILABLE saying what the last answer was.
  absl::Status WaitUntilServing(const CallOptions& options);

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace t2r::client

#endif  // T2R_CLIENT_CLIENT_H_
