// A t2r.v1.Generation and grpc.health.v1 server in this process that makes things up. No gRPC types
// here, so that tests compile fast.
#ifndef T2R_TESTS_CLIENT_TESTING_FAKE_SERVER_H_
#define T2R_TESTS_CLIENT_TESTING_FAKE_SERVER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"

namespace t2r::client {

// Generate sends Started{seed or 7, prompt tokens, max_tokens or 4}, tokens 100, 101, ... with the
// texts "a", "b", ..., in Deltas of tokens_per_delta, and Finished{LENGTH}. Some prompts differ:
//   "invalid"      INVALID_ARGUMENT
//   "endless"      one Delta, then nothing until the call is cancelled
//   "silent"       nothing until the call is cancelled
//   "unfinished"   OK without Finished
//   "drained"      one Delta, Finished{DRAINED}, then UNAVAILABLE
//   "textless"     tokens without text
// With beams no Deltas come, but hypothesis i, of texts and tokens "a", 100; "ab", 100 101; ...,
// with a score of -0.5 (i + 1); the last one is LENGTH, the others EOS. Text has one token a byte,
// its value; a BOS of 1 comes first. Score gives -0.5 for each token.
class FakeServer {
 public:
  FakeServer();
  ~FakeServer();

  std::string address() const;  // HOST:PORT

  // To be set before the calls they are about.
  std::atomic<int> refusals = 0;  // so many next calls get RESOURCE_EXHAUSTED with RetryInfo
  std::atomic<int64_t> retry_delay_ms = 0;
  std::atomic<uint32_t> tokens_per_delta = 1;
  std::atomic<int> health_failures = 0;  // so many next checks say NOT_SERVING
  std::atomic<uint32_t> max_tokens_limit = 1000;
  std::atomic<bool> encoder_decoder = false;  // as GetModel says

  int attempts() const;              // calls received, of Generation, refused ones included
  int max_concurrent() const;        // streams of Generate that were open at once, at most
  std::string last_request() const;  // of Generate, as text
  // Whether so many streams were cancelled before a minute had passed.
  bool WaitForCancelled(int streams) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace t2r::client

#endif  // T2R_TESTS_CLIENT_TESTING_FAKE_SERVER_H_
