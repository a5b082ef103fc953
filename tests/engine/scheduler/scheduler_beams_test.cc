// Requests with beams, over a fake executor: results, neighbours, admission, endings.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/scheduler/scheduler.h"
#include "tests/engine/scheduler/testing/beam_reference.h"
#include "tests/engine/scheduler/testing/fake_executor.h"
#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int kVocab = 50;
constexpr int32_t kEos = 1;

ExecutorLimits Limits(int slots = 8) {
  ExecutorLimits limits;
  limits.slots = slots;
  limits.max_step_tokens = 16;
  limits.vocab_size = kVocab;
  return limits;
}

// Without beams; never ends before max_tokens.
Request PlainRequest(int64_t prompt_tokens, int64_t max_tokens, int32_t salt = 0) {
  Request request = MakeRequest(prompt_tokens, max_tokens, salt);
  for (int32_t& id : request.prompt) id = 2 + id % (kVocab - 2);
  request.ignore_eos = true;
  return request;
}

Request BeamRequest(int count, int64_t prompt_tokens, int64_t max_tokens, int32_t salt = 0) {
  Request request = PlainRequest(prompt_tokens, max_tokens, salt);
  request.ignore_eos = false;
  request.beams.count = count;
  request.beams.num_return = count;
  return request;
}

class BeamsTest : public ::testing::Test {
 protected:
  void Start(ExecutorLimits limits = Limits(), SchedulerOptions options = {}) {
    executor_ = std::make_unique<FakeExecutor>(limits);
    executor_->set_alternatives([](std::span<const int32_t> history, int64_t n) {
      return MixAlternatives(history, kVocab, n);
    });
    options.clock = clock_.AsFunction();
    options.max_prompt_chunk = 4;
    options.eos_token_ids = {kEos};
    scheduler_ = std::make_unique<Scheduler>(*executor_, tokenizer_, &observer_, options);
  }
  std::shared_ptr<FakeSink> Submit(Request request, RequestId* id = nullptr) {
    auto sink = std::make_shared<FakeSink>();
    const RequestId got = SubmitOrFail(*scheduler_, std::move(request), sink);
    if (id != nullptr) *id = got;
    return sink;
  }
  void OneStep() {
    const int64_t next = executor_->steps() + 1;
    executor_->Allow(1);
    executor_->WaitUntilHeldAfter(next);
  }
  void ExpectAllFree() {
    EXPECT_EQ(executor_->open_slots(), 0);
    EXPECT_EQ(executor_->free_pages(), executor_->limits().kv_pages);
    EXPECT_EQ(observer_.counts().slots_used, 0);
    EXPECT_EQ(observer_.counts().running, 0);
    EXPECT_EQ(observer_.counts().queue_requests, 0);
  }
  static std::vector<ReferenceHypothesis> Expected(const Request& request) {
    const NextLogprobs next = [&request](std::span<const int32_t> generated) {
      std::vector<int32_t> history = request.prompt;
      history.insert(history.end(), generated.begin(), generated.end());
      std::vector<double> logprobs(kVocab);
      for (const TokenLogprob& each : MixAlternatives(history, kVocab, kVocab)) {
        logprobs[static_cast<size_t>(each.token)] = double{each.logprob};
      }
      return logprobs;
    };
    return ReferenceBeams(next, request.beams, request.max_tokens, request.TerminalIds({kEos}));
  }
  static void ExpectReference(const Request& request, const FinishEvent& finish) {
    const auto expected = Expected(request);
    ASSERT_TRUE(finish.status.ok()) << finish.status;
    ASSERT_THAT(finish.hypotheses, SizeIs(request.beams.num_return));
    int64_t tokens = 0;
    for (size_t i = 0; i < finish.hypotheses.size(); ++i) {
      const Hypothesis& found = finish.hypotheses[i];
      EXPECT_EQ(found.tokens, expected[i].tokens) << i;
      EXPECT_NEAR(found.score, expected[i].score, 1e-6) << i;
      const bool eos = !request.ignore_eos && found.tokens.back() == kEos;
      EXPECT_EQ(found.reason, eos ? FinishReason::kEos : FinishReason::kLength) << i;
      tokens += static_cast<int64_t>(found.tokens.size());
    }
    EXPECT_EQ(finish.reason, finish.hypotheses[0].reason);
    EXPECT_EQ(finish.generated_tokens, tokens);
  }

  FakeClock clock_;
  FakeObserver observer_;
  std::unique_ptr<FakeExecutor> executor_;
  const Tokenizer* tokenizer_ = nullptr;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_F(BeamsTest, GivesTheReferencesHypotheses) {
  Start();
  for (int count = 1; count <= 6; ++count) {
    for (const int64_t prompt : {1, 3, 4, 9}) {
      Request request = BeamRequest(count, prompt, 10, static_cast<int32_t>(prompt) * 7 + count);
      request.beams.num_return = (count + 1) / 2;
      const auto sink = Submit(request);
      ExpectReference(request, sink->WaitUntilFinished());
      EXPECT_TRUE(sink->started());
      EXPECT_THAT(sink->tokens(), IsEmpty());
    }
  }
  ExpectAllFree();
}

TEST_F(BeamsTest, NeighboursChangeNothing) {
  Start(Limits(16));
  std::vector<Request> requests;
  std::vector<std::shared_ptr<FakeSink>> sinks, plain;
  std::vector<Request> plain_requests;
  for (int i = 0; i < 24; ++i) {
    requests.push_back(BeamRequest(1 + i % 5, 1 + i % 7, 6 + i % 9, i));
    sinks.push_back(Submit(requests.back()));
    plain_requests.push_back(PlainRequest(1 + i % 11, 5 + i % 6, 100 + i));
    plain.push_back(Submit(plain_requests.back()));
  }
  for (size_t i = 0; i < sinks.size(); ++i) {
    ExpectReference(requests[i], sinks[i]->WaitUntilFinished());
    const Request& request = plain_requests[i];
    plain[i]->WaitUntilFinished();
    EXPECT_EQ(plain[i]->tokens(), ExpectedTokens(request.prompt, request.max_tokens, kVocab));
  }
  ExpectAllFree();
}

// Beams that find no room in a step take the next one; nobody starves.
TEST_F(BeamsTest, StepsWithFewerRowsThanBeams) {
  ExecutorLimits limits = Limits();
  limits.max_step_tokens = 3;
  Start(limits);
  const Request wide = BeamRequest(5, 2, 8, 1), narrow = BeamRequest(2, 7, 8, 2);
  const Request plain = PlainRequest(3, 20, 3);
  const auto a = Submit(wide), b = Submit(narrow), c = Submit(plain);
  ExpectReference(wide, a->WaitUntilFinished());
  ExpectReference(narrow, b->WaitUntilFinished());
  c->WaitUntilFinished();
  EXPECT_EQ(c->tokens(), ExpectedTokens(plain.prompt, 20, kVocab));
  ExpectAllFree();
}

// All slots or none; what is behind in the queue waits too.
TEST_F(BeamsTest, WaitsUntilAllItsSlotsAreFree) {
  Start(Limits(4));
  executor_->Hold();
  RequestId id = 0;
  const auto first = Submit(PlainRequest(1, 40), &id);
  const auto second = Submit(PlainRequest(1, 40, 1));
  const Request wanted = BeamRequest(3, 2, 5);
  const auto beams = Submit(wanted);
  const auto behind = Submit(PlainRequest(1, 2, 2));
  for (int i = 0; i < 3; ++i) OneStep();
  EXPECT_EQ(executor_->open_slots(), 2);
  EXPECT_FALSE(beams->started());
  EXPECT_FALSE(behind->started());
  EXPECT_EQ(observer_.counts().queue_requests, 2);
  scheduler_->Cancel(id);
  OneStep();
  OneStep();
  EXPECT_TRUE(beams->started());
  EXPECT_EQ(executor_->open_slots(), 4);
  EXPECT_EQ(observer_.counts().slots_used, 4);
  EXPECT_EQ(observer_.counts().running, 2);
  executor_->AllowAll();
  ExpectReference(wanted, beams->WaitUntilFinished());
  second->WaitUntilFinished();
  behind->WaitUntilFinished();
  ExpectAllFree();
}

// Pages count once for every beam.
TEST_F(BeamsTest, WaitsForThePagesOfAllItsBeams) {
  ExecutorLimits limits = Limits();
  limits.kv_pages = 7;
  Start(limits);
  executor_->Hold();
  RequestId id = 0;
  const auto first = Submit(PlainRequest(60, 70), &id);  // three pages
  const Request wanted = BeamRequest(3, 60, 30);         // two each
  const auto beams = Submit(wanted);
  OneStep();
  EXPECT_EQ(executor_->open_slots(), 1);
  scheduler_->Cancel(id);
  OneStep();
  OneStep();
  EXPECT_EQ(executor_->open_slots(), 3);
  EXPECT_EQ(executor_->free_pages(), 1);
  executor_->AllowAll();
  ExpectReference(wanted, beams->WaitUntilFinished());
  ExpectAllFree();
}

// In the prompt, right after it, and with beams under way, some of them in a step of their own.
TEST_F(BeamsTest, CancelFreesEverySlot) {
  ExecutorLimits limits = Limits(5);
  limits.max_step_tokens = 3;
  for (const int steps : {1, 2, 3, 4, 6, 7}) {
    Start(limits);
    executor_->Hold();
    RequestId id = 0;
    const auto sink = Submit(BeamRequest(4, 7, 100), &id);
    const Request other = PlainRequest(2, 30, 5);
    const auto beside = Submit(other);
    for (int i = 0; i < steps; ++i) OneStep();
    EXPECT_EQ(executor_->open_slots(), 5);
    scheduler_->Cancel(id);
    OneStep();
    EXPECT_EQ(executor_->open_slots(), 1);
    const FinishEvent finish = sink->WaitUntilFinished();
    EXPECT_EQ(finish.reason, FinishReason::kCancelled);
    EXPECT_EQ(finish.status.code(), absl::StatusCode::kCancelled);
    executor_->AllowAll();
    beside->WaitUntilFinished();
    EXPECT_EQ(beside->tokens(), ExpectedTokens(other.prompt, 30, kVocab));
    ExpectAllFree();
  }
}

TEST_F(BeamsTest, DeadlineEndsTheGroup) {
  Start();
  executor_->Hold();
  Request request = BeamRequest(3, 2, 1000);
  request.ignore_eos = true;
  request.deadline = clock_.Now() + absl::Seconds(5);
  const auto sink = Submit(request);
  for (int i = 0; i < 4; ++i) OneStep();
  clock_.Advance(absl::Seconds(6));
  executor_->AllowAll();
  const FinishEvent finish = sink->WaitUntilFinished();
  EXPECT_EQ(finish.reason, FinishReason::kDeadline);
  EXPECT_EQ(finish.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(finish.hypotheses, IsEmpty());
  ExpectAllFree();
}

// What had ended by then is reported.
TEST_F(BeamsTest, DrainReportsWhatHasEnded) {
  Start();
  executor_->set_alternatives([](std::span<const int32_t> history, int64_t n) {
    // The second beam ends in the first step, the others never.
    std::vector<TokenLogprob> top = {{5, -0.5F}, {6, -3.0F}, {7, -3.5F}};
    if (history.size() == 2) top.insert(top.begin() + 1, {kEos, -1.0F});
    top.resize(std::min(top.size(), static_cast<size_t>(n)));
    return top;
  });
  executor_->Hold();
  const auto sink = Submit(BeamRequest(2, 2, int64_t{1} << 40));
  for (int i = 0; i < 3; ++i) OneStep();
  std::thread drain([this] { scheduler_->Drain(clock_.Now()); });
  executor_->AllowAll();
  drain.join();
  const FinishEvent finish = sink->WaitUntilFinished();
  EXPECT_EQ(finish.reason, FinishReason::kDrained);
  EXPECT_EQ(finish.status.code(), absl::StatusCode::kUnavailable);
  ASSERT_THAT(finish.hypotheses, SizeIs(1));
  EXPECT_EQ(finish.hypotheses[0].tokens, std::vector<int32_t>{kEos});
  EXPECT_EQ(finish.hypotheses[0].reason, FinishReason::kEos);
  EXPECT_FLOAT_EQ(finish.hypotheses[0].score, -1.0F);
  ExpectAllFree();
}

TEST_F(BeamsTest, DeviceFailureEndsTheGroup) {
  const std::function<void(FakeExecutor&)> failures[] = {
      [](FakeExecutor& executor) { executor.FailSteps(); },
      [](FakeExecutor& executor) { executor.FailLaunches(); },
      [](FakeExecutor& executor) { executor.FailForks(); },
  };
  for (const auto& fail : failures) {
    Start();
    executor_->Hold();
    const auto sink = Submit(BeamRequest(4, 2, 1000));
    const auto beside = Submit(PlainRequest(2, 1000));
    for (int i = 0; i < 2; ++i) OneStep();
    fail(*executor_);
    executor_->AllowAll();
    for (const auto& each : {sink, beside}) {
      const FinishEvent finish = each->WaitUntilFinished();
      EXPECT_EQ(finish.reason, FinishReason::kError);
      EXPECT_EQ(finish.status.code(), absl::StatusCode::kUnavailable);
      EXPECT_THAT(std::string(finish.status.message()), HasSubstr("the device failed"));
    }
    EXPECT_FALSE(scheduler_->health().ok());
    ExpectAllFree();
  }
}

TEST_F(BeamsTest, WithoutFiniteProbabilitiesItIsAnErrorOfItsOwn) {
  Start();
  executor_->set_alternatives([](std::span<const int32_t>, int64_t n) {
    return std::vector<TokenLogprob>(static_cast<size_t>(n), {3, -INFINITY});
  });
  const auto sink = Submit(BeamRequest(2, 2, 9));
  const FinishEvent finish = sink->WaitUntilFinished();
  EXPECT_EQ(finish.reason, FinishReason::kError);
  EXPECT_EQ(finish.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(finish.status.message()), HasSubstr("log probability"));
  EXPECT_TRUE(scheduler_->health().ok());
  ExpectAllFree();
}

TEST_F(BeamsTest, StopTokensEndAHypothesisAndSuppressedOnesNeverOccur) {
  ExecutorLimits limits = Limits();
  limits.suppressed_token_ids = {4, 9};
  Start(limits);
  Request request = BeamRequest(4, 3, 40);
  request.stop_token_ids = {20, 21, 22, 23, 24, 25, 26, 27};
  request.ignore_eos = true;
  const FinishEvent finish = Submit(request)->WaitUntilFinished();
  int stopped = 0;
  for (const Hypothesis& hypothesis : finish.hypotheses) {
    const int32_t last = hypothesis.tokens.back();
    const bool stop = last >= 20 && last <= 27;
    EXPECT_EQ(hypothesis.reason, stop ? FinishReason::kStop : FinishReason::kLength);
    stopped += stop ? 1 : 0;
    for (const int32_t token : hypothesis.tokens) {
      EXPECT_NE(token, 4);
      EXPECT_NE(token, 9);
    }
  }
  EXPECT_GT(stopped, 0);
}

TEST_F(BeamsTest, HypothesesHaveTextWithoutTheirEnd) {
  std::vector<std::string> pieces(kVocab, "x");
  pieces[5] = "five ";
  pieces[6] = "six";
  pieces[7] = "\xF0\x9F";  // the beginning of a code point
  pieces[kEos] = "END";
  const FakeTokenizer tokenizer(pieces);
  tokenizer_ = &tokenizer;
  Start();
  executor_->set_alternatives([](std::span<const int32_t> history, int64_t) {
    return history.size() == 2 ? std::vector<TokenLogprob>{{5, -0.1F}, {7, -0.2F}}
                               : std::vector<TokenLogprob>{{kEos, -0.1F}, {6, -5.0F}};
  });
  const FinishEvent finish = Submit(BeamRequest(2, 2, 9))->WaitUntilFinished();
  ASSERT_THAT(finish.hypotheses, SizeIs(2));
  EXPECT_EQ(finish.hypotheses[0].text, "five ");
  EXPECT_EQ(finish.hypotheses[1].text, "\xEF\xBF\xBD");
  EXPECT_EQ(finish.hypotheses[0].tokens, (std::vector<int32_t>{5, kEos}));
  EXPECT_EQ(finish.text, "");
}

TEST_F(BeamsTest, NamesWhatIsWrong) {
  ExecutorLimits limits = Limits(6);
  limits.vocab_size = 500;
  limits.kv_pages = 10;
  SchedulerOptions options;
  options.max_beams = 8;
  Start(limits, options);
  const auto error = [this](const std::function<void(Request&)>& change) {
    Request request = BeamRequest(4, 2, 9);
    change(request);
    const absl::Status status = scheduler_->Validate(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_TRUE(scheduler_->Validate(BeamRequest(4, 2, 9)).ok());
  EXPECT_THAT(error([](Request& r) { r.beams.count = 9; }), HasSubstr("[1, 8] (max_beams)"));
  EXPECT_THAT(error([](Request& r) { r.beams.count = -1; }), HasSubstr("beams.count is -1"));
  EXPECT_THAT(error([](Request& r) { r.beams.count = 7; }), HasSubstr("6 sessions"));
  EXPECT_THAT(error([](Request& r) { r.beams.num_return = 5; }), HasSubstr("[1, 4]"));
  EXPECT_THAT(error([](Request& r) { r.beams.num_return = 0; }), HasSubstr("num_return is 0"));
  EXPECT_THAT(error([](Request& r) { r.beams.length_penalty = NAN; }), HasSubstr("length_penalty"));
  EXPECT_THAT(error([](Request& r) { r.beams.length_penalty = 11; }), HasSubstr("[-10, 10]"));
  EXPECT_THAT(error([](Request& r) { r.max_tokens = 128; }), HasSubstr("10 pages"));
  EXPECT_THAT(error([](Request& r) {
                for (int32_t i = 0; i < 125; ++i) r.stop_token_ids.push_back(i);
              }),
              HasSubstr("alternatives"));
  EXPECT_THAT(error([](Request& r) { r.sampling.temperature = 1; }), HasSubstr("temperature is 1"));
  EXPECT_THAT(error([](Request& r) { r.sampling.top_k = 3; }), HasSubstr("top_k"));
  EXPECT_THAT(error([](Request& r) { r.sampling.top_p = 0.5; }), HasSubstr("top_p"));
  EXPECT_THAT(error([](Request& r) { r.sampling.min_p = 0.5; }), HasSubstr("min_p"));
  EXPECT_THAT(error([](Request& r) { r.sampling.repetition_penalty = 2; }),
              HasSubstr("repetition_penalty"));
  EXPECT_THAT(error([](Request& r) { r.sampling.frequency_penalty = 1; }),
              HasSubstr("frequency_penalty"));
  EXPECT_THAT(error([](Request& r) { r.sampling.presence_penalty = 1; }),
              HasSubstr("presence_penalty"));
  EXPECT_THAT(error([](Request& r) {
                r.sampling.logit_bias = {{3, 1.0F}};
              }),
              HasSubstr("logit_bias"));
  EXPECT_THAT(error([](Request& r) { r.top_logprobs = 1; }), HasSubstr("logprobs"));
}

TEST_F(BeamsTest, StopStringsAreRefused) {
  const FakeTokenizer tokenizer(std::vector<std::string>(kVocab, "x"));
  tokenizer_ = &tokenizer;
  Start();
  Request request = BeamRequest(2, 2, 9);
  request.stop = {"x"};
  EXPECT_THAT(std::string(scheduler_->Validate(request).message()), HasSubstr("stop_token_ids"));
}

}  // namespace
}  // namespace t2r
