#include "engine/scheduler/batch_former.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "tests/engine/scheduler/testing/fakes.h"

namespace t2r {
namespace {

constexpr absl::Duration kStall = absl::Seconds(7);

class BatchFormerTest : public ::testing::Test {
 protected:
  // A session that has its slot, all of its prompt still to run.
  Session* AddPrompt(int64_t prompt_tokens, int64_t room = 1000) {
    return AddRequest(MakeRequest(prompt_tokens, 1000), room);
  }
  Session* AddRequest(Request request, int64_t room) {
    sinks_.push_back(std::make_shared<FakeSink>(room));
    sessions_.push_back(std::make_unique<Session>(std::move(request), sinks_.back(), nullptr,
                                                  no_eos_, absl::UnixEpoch()));
    Session* session = sessions_.back().get();
    session->set_id(sessions_.size());
    session->set_stall_meter(StallMeter(kStall));
    session->Open(static_cast<int>(sessions_.size()) - 1, absl::UnixEpoch());
    sinks_.back()->OnStarted(1);
    active_.push_back(session);
    return session;
  }
  Session* AddSource(int64_t source_tokens) {
    Request request = MakeRequest(1, 1000);
    request.source.assign(static_cast<size_t>(source_tokens), 7);
    return AddRequest(std::move(request), 1000);
  }
  // One that has its first token.
  Session* AddDecoding(int64_t room = 1000) {
    Session* session = AddPrompt(1, room);
    Accept(session, 1);
    return session;
  }
  void Accept(Session* session, int64_t rows) {
    session->Accept(rows, ChunkResult(), absl::UnixEpoch());
    if (session->undelivered()) session->Deliver(1);
  }
  // Forms a step and takes its (empty) results.
  void Run(BatchFormer& former) {
    former.Form(active_, absl::UnixEpoch(), &step_);
    rows_.clear();
    for (size_t i = 0; i < step_.chunks.size(); ++i) {
      EXPECT_EQ(static_cast<int64_t>(step_.chunks[i].tokens.size()), step_.rows[i]);
      rows_[step_.sessions[i]] += step_.rows[i];
      Accept(step_.sessions[i], step_.rows[i]);
    }
  }

  const std::vector<int32_t> no_eos_;
  std::vector<std::shared_ptr<FakeSink>> sinks_;
  std::vector<std::unique_ptr<Session>> sessions_;
  std::vector<Session*> active_;
  Step step_;
  std::map<Session*, int64_t> rows_;
};

TEST_F(BatchFormerTest, NothingToDo) {
  BatchFormer former(16, 4);
  Run(former);
  EXPECT_TRUE(step_.chunks.empty());
}

TEST_F(BatchFormerTest, AllDecodingAndOneChunkInOrderOfArrival) {
  Session* a = AddDecoding();
  Session* first = AddPrompt(6);
  Session* b = AddDecoding();
  Session* second = AddPrompt(6);
  BatchFormer former(16, 4);
  Run(former);
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{a, 1}, {b, 1}, {first, 4}}));
  EXPECT_EQ(step_.decode_rows, 2);
  EXPECT_EQ(step_.prompt_rows, 4);
  Run(former);  // the end of the first prompt and the start of the second share the chunk
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{a, 1}, {b, 1}, {first, 2}, {second, 2}}));
  Run(former);
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{a, 1}, {b, 1}, {first, 1}, {second, 4}}));
}

TEST_F(BatchFormerTest, ShortPromptsShareAChunk) {
  for (int i = 0; i < 5; ++i) AddPrompt(2);
  BatchFormer former(16, 7);
  Run(former);
  EXPECT_EQ(step_.prompt_rows, 7);
  EXPECT_EQ(rows_.size(), 4U);
  EXPECT_TRUE(step_.chunks[0].sample);
  EXPECT_FALSE(step_.chunks[3].sample);
}

// A short prompt runs in its first step, whatever long ones came before; the oldest keeps half.
TEST_F(BatchFormerTest, AShortPromptDoesNotWaitForLongOnes) {
  std::vector<Session*> longs;
  for (int i = 0; i < 5; ++i) longs.push_back(AddPrompt(400'000));
  BatchFormer former(256, 128);
  for (int i = 0; i < 3; ++i) Run(former);
  Session* small = AddPrompt(3);
  Session* middle = AddPrompt(200);
  Run(former);
  EXPECT_EQ(rows_[small], 3);
  EXPECT_EQ(rows_[middle], 61);
  EXPECT_EQ(rows_[longs[0]], 64);
  EXPECT_EQ(step_.prompt_rows, 128);
}

TEST_F(BatchFormerTest, ShortPromptsDoNotStarveTheOldest) {
  Session* oldest = AddPrompt(1000);
  BatchFormer former(256, 128);
  for (int i = 0; i < 15; ++i) {
    for (int j = 0; j < 10; ++j) AddPrompt(50);
    Run(former);
    EXPECT_EQ(rows_[oldest], 64);
  }
  Run(former);
  EXPECT_FALSE(oldest->prefilling());
}

TEST_F(BatchFormerTest, WhereTwoPromptsCannotShareAStepTheyTakeTurns) {
  Session* big = AddPrompt(800);
  Session* small = AddPrompt(24);
  BatchFormer former(16, 8, 8);
  for (int i = 0; i < 6; ++i) Run(former);
  EXPECT_FALSE(small->prefilling());
  EXPECT_EQ(big->prompt_rows_left(), 800 - 24);
}

TEST_F(BatchFormerTest, PromptsGetWhatDecodingLeaves) {
  for (int i = 0; i < 6; ++i) AddDecoding();
  Session* prompt = AddPrompt(100);
  BatchFormer former(8, 8);
  Run(former);
  EXPECT_EQ(step_.decode_rows, 6);
  EXPECT_EQ(rows_[prompt], 2);
}

TEST_F(BatchFormerTest, ASessionWithoutRoomSitsOut) {
  Session* full = AddDecoding(1);
  Session* other = AddDecoding();
  BatchFormer former(8, 4);
  Run(former);
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{other, 1}}));
  EXPECT_EQ(full->stall_deadline(), absl::UnixEpoch() + kStall);
  sinks_[0]->AddRoom(1);
  Run(former);
  EXPECT_EQ(rows_[full], 1);
}

TEST_F(BatchFormerTest, APromptWhoseTokenHasNoRoomLetsOthersPass) {
  Session* full = AddPrompt(6, 0);
  Session* next = AddPrompt(3);
  BatchFormer former(16, 4);
  Run(former);  // no token comes of the first chunk
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{full, 2}, {next, 2}}));
  Run(former);
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{full, 3}, {next, 1}}));
  Session* last = AddPrompt(4);
  Run(former);
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{next, 1}, {last, 4}}));
}

TEST_F(BatchFormerTest, TooManyDecodingSessionsTakeTurns) {
  for (int i = 0; i < 10; ++i) AddDecoding();
  BatchFormer former(4, 4);
  std::map<Session*, int64_t> served;
  for (int i = 0; i < 5; ++i) {  // 5 steps of 4 rows: two rounds of 10
    Run(former);
    EXPECT_EQ(step_.decode_rows, 4);
    for (const auto& [session, rows] : rows_) served[session] += rows;
  }
  for (Session* session : active_) EXPECT_EQ(served[session], 2) << session->id();
}

TEST_F(BatchFormerTest, TurnsSurviveAnEndedSession) {
  for (int i = 0; i < 6; ++i) AddDecoding();
  BatchFormer former(4, 4);
  Run(former);  // 1 to 4
  active_.erase(active_.begin() + 3);
  Run(former);  // 5, 6, 1, 2
  const std::set<RequestId> expected = {5, 6, 1, 2};
  std::set<RequestId> got;
  for (const auto& [session, rows] : rows_) got.insert(session->id());
  EXPECT_EQ(got, expected);
}

TEST_F(BatchFormerTest, PromptsAreNotStarvedByDecodingSessions) {
  for (int i = 0; i < 40; ++i) AddDecoding();
  Session* prompt = AddPrompt(8);
  BatchFormer former(16, 16);
  for (int i = 0; i < 4; ++i) {
    Run(former);
    EXPECT_EQ(rows_[prompt], 2);  // an eighth of 16
    EXPECT_EQ(step_.decode_rows, 14);
  }
}

TEST_F(BatchFormerTest, OneRowAStepAlternates) {
  Session* decoding = AddDecoding();
  Session* prompt = AddPrompt(100);
  BatchFormer former(1, 16);
  std::map<Session*, int64_t> served;
  for (int i = 0; i < 10; ++i) {
    Run(former);
    for (const auto& [session, rows] : rows_) served[session] += rows;
  }
  EXPECT_EQ(served[decoding], 5);
  EXPECT_EQ(served[prompt], 5);
}

TEST_F(BatchFormerTest, ScoreRunsAllButTheLastIdWithTargets) {
  Session* session = AddPrompt(1);
  Request request = MakeRequest(6, 0);
  request.score = true;
  Session score(request, std::make_shared<FakeSink>(0), nullptr, no_eos_, absl::UnixEpoch());
  score.set_id(2);
  score.Open(1, absl::UnixEpoch());
  active_.push_back(&score);
  BatchFormer former(16, 4);
  Run(former);  // 1 of the prompt, 3 of the score
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{session, 1}, {&score, 3}}));
  Run(former);
  EXPECT_EQ(rows_[&score], 2);
  const ScheduledChunk& chunk = step_.chunks[1];
  EXPECT_FALSE(chunk.sample);
  EXPECT_EQ(chunk.position, 3);
  EXPECT_EQ(std::vector<int32_t>(chunk.targets.begin(), chunk.targets.end()),
            std::vector<int32_t>(request.prompt.begin() + 4, request.prompt.end()));
  EXPECT_FALSE(score.prefilling());
}

TEST_F(BatchFormerTest, PromptsAreCutAtMultiplesOfTheAlignment) {
  Session* first = AddPrompt(19);
  Session* second = AddPrompt(9);
  Session* third = AddPrompt(2);
  BatchFormer former(64, 14, 4);
  Run(former);  // half for the shortest, third and second, the other for the oldest
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{first, 8}, {second, 4}, {third, 2}}));
  Run(former);  // the end of a prompt may lie anywhere
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{first, 8}, {second, 5}, {third, 1}}));
  Run(former);
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{first, 3}, {second, 1}, {third, 1}}));
}

TEST_F(BatchFormerTest, AChunkBelowTheAlignmentIsRaised) {
  Session* prompt = AddPrompt(20);
  BatchFormer former(16, 3, 8);
  for (const int64_t rows : {8, 8, 4}) {
    Run(former);
    EXPECT_EQ(rows_[prompt], rows);
  }
}

TEST_F(BatchFormerTest, DecodingLeavesRoomForAnAlignedChunk) {
  for (int i = 0; i < 14; ++i) AddDecoding();
  Session* prompt = AddPrompt(20);
  BatchFormer former(16, 8, 8);
  for (const int64_t rows : {8, 8, 4}) {
    Run(former);
    EXPECT_EQ(rows_[prompt], rows);
    EXPECT_EQ(step_.decode_rows, rows == 4 ? 12 : 8);
  }
}

TEST_F(BatchFormerTest, AnAlignedChunkThatIsAWholeStepTakesTurns) {
  for (int i = 0; i < 3; ++i) AddDecoding();
  Session* prompt = AddPrompt(24);
  BatchFormer former(8, 8, 8);
  int64_t prompt_rows = 0;
  int64_t decode_rows = 0;
  for (int i = 0; i < 5; ++i) {
    Run(former);
    prompt_rows += rows_[prompt];
    decode_rows += step_.decode_rows;
  }
  EXPECT_EQ(prompt_rows, 24);
  EXPECT_EQ(decode_rows, 6);
}

TEST_F(BatchFormerTest, SourcesShareTheChunkAndGoWhole) {
  Session* large = AddSource(50);
  Session* small = AddSource(3);
  Session* other = AddSource(4);
  Session* last = AddSource(4);
  BatchFormer former(64, 8);
  Run(former);
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{large, 1}}));
  EXPECT_EQ(step_.chunks[0].source.size(), 50U);
  Run(former);
  EXPECT_EQ(rows_, (std::map<Session*, int64_t>{{large, 1}, {small, 1}, {other, 1}}));
  EXPECT_TRUE(step_.chunks[0].source.empty());
  EXPECT_EQ(step_.chunks[1].source.size(), 3U);
  Run(former);
  EXPECT_EQ(rows_[last], 1);
}

}  // namespace
}  // namespace t2r
