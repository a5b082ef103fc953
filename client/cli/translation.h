// Many sources through Generate at once, results in the order of the sources.
#ifndef T2R_CLIENT_CLI_TRANSLATION_H_
#define T2R_CLIENT_CLI_TRANSLATION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/client.h"
#include "client/load/closed_loop.h"
#include "engine/io/mutex.h"

namespace t2r::client {

struct Translated {
  std::string text;  // what was generated, without a target prefix
  TokenIds token_ids;
  FinishReason reason = FinishReason::kUnspecified;
};

struct TranslationOptions {
  uint32_t streams = 1;     // requests at once
  GenerateRequest request;  // of every source, but for its prompt
  CallOptions call;         // of each request
};

struct TranslationError {
  size_t index = 0;  // of the source
  absl::Status status;
};

class Translation {
 public:
  struct Progress {
    size_t ended = 0;     // sources
    uint64_t tokens = 0;  // received
  };

  // sources must outlive it.
  Translation(Client& client, const std::vector<std::string>& sources,
              const TranslationOptions& options)
      : client_(client), sources_(sources), options_(options), results_(sources.size()) {}

  // Blocks. on_result gets each result in order, on the calling thread, as soon as those before it
  // have come, and returns whether to go on; on_progress runs there too, a few times a second.
  // Ends early when `stop` is set, on_result wants it, or a request fails: the error is then that
  // of the first source, in order, without a result. OK and `sources` in number: all is translated.
  TranslationError Run(const std::atomic<bool>& stop,
                       const std::function<bool(size_t, const Translated&)>& on_result,
                       const std::function<void(const Progress&)>& on_progress);

 private:
  struct Result {
    bool ended = false;
    absl::Status status;
    Translated translated;
  };

  ClosedLoop::Job MakeJob(size_t index);
  void OnEvent(size_t index, const Event& event);
  void OnDone(size_t index, const absl::Status& status);

  Client& client_;
  const std::vector<std::string>& sources_;
  const TranslationOptions options_;

  Mutex mutex_;
  CondVar changed_;
  std::vector<Result> results_ ABSL_GUARDED_BY(mutex_);
  Progress progress_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace t2r::client

#endif  // T2R_CLIENT_CLI_TRANSLATION_H_
