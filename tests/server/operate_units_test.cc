// Tenants' limits and quotas, ids of calls, lines of the access log, spans.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <utility>

#include "server/access_log.h"
#include "server/call_ids.h"
#include "server/status.h"
#include "server/tenant_limits.h"
#include "server/tenants.h"
#include "server/trace_exporter.h"

namespace t2r::server {
namespace {

using ::testing::HasSubstr;

TEST(TenantFileTest, EntriesBeginWithTheDefault) {
  const auto file = TenantFile::Parse(R"({
    "default": {"max_requests": 4, "queue_share": 0.25, "priority": "low"},
    "tenants": {"alice": {"weight": 3, "priority": "high", "tokens_per_minute": 1000},
                "bob": {"max_requests": 0, "max_sessions": 5, "max_session_bytes": 6,
                        "requests_per_minute": 7}}})");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->size(), 2u);
  EXPECT_TRUE(file->Names("alice"));
  EXPECT_FALSE(file->Names("carol"));
  const TenantLimits& alice = file->Of("alice");
  EXPECT_EQ(alice.max_requests, 4);
  EXPECT_EQ(alice.queue_share, 0.25);
  EXPECT_EQ(alice.weight, 3);
  EXPECT_EQ(alice.priority, Priority::kHigh);
  EXPECT_EQ(alice.tokens_per_minute, 1000);
  const TenantLimits& bob = file->Of("bob");
  EXPECT_EQ(bob.max_requests, 0);
  EXPECT_EQ(bob.max_sessions, 5);
  EXPECT_EQ(bob.max_session_bytes, 6);
  EXPECT_EQ(bob.requests_per_minute, 7);
  EXPECT_EQ(bob.priority, Priority::kLow);
  EXPECT_EQ(file->Of("").weight, 1);
  EXPECT_EQ(file->Of("").max_requests, 4);
}

TEST(TenantFileTest, SaysWhatIsWrong) {
  for (const auto& [text, said] : {
           std::pair{"[]", "tenants"},
           {"{", "tenants"},
           {R"({"tenant": {}})", "'tenant' is no field"},
           {R"({"tenants": []})", "tenants: is not an object"},
           {R"({"default": 1})", "default: is not an object"},
           {R"({"tenants": {"": {}}})", "1 to 256 bytes"},
           {R"({"tenants": {"a": {"max_request": 1}}})", "tenants.a: 'max_request' is no field"},
           {R"({"tenants": {"a": {"max_requests": -1}}})", "tenants.a.max_requests"},
           {R"({"tenants": {"a": {"weight": 0}}})", "tenants.a.weight"},
           {R"({"tenants": {"a": {"weight": 1001}}})", "tenants.a.weight"},
           {R"({"tenants": {"a": {"queue_share": 0}}})", "tenants.a.queue_share"},
           {R"({"tenants": {"a": {"queue_share": 1.5}}})", "tenants.a.queue_share"},
           {R"({"default": {"priority": "urgent"}})",
            "default.priority is not high, normal or low"},
       }) {
    const auto file = TenantFile::Parse(text);
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(said)) << text;
  }
}

// Tenants with a file of these limits and a clock of their own.
class TenantsTest : public ::testing::Test {
 protected:
  void Open(const std::string& limits) {
    path_ = ::testing::TempDir() + "t2r_tenants_test";
    std::ofstream(path_) << limits;
    auto opened =
        Tenants::Open({.file = path_, .log = {}, .clock = [this] { return now_; }}, metrics_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    tenants_ = *std::move(opened);
  }
  ~TenantsTest() override {
    tenants_.reset();
    std::remove(path_.c_str());
  }
  absl::Status Take(const std::string& tenant) {
    Tenants::Lease lease;
    return tenants_->Take(tenant, &lease);
  }

  absl::Time now_ = absl::FromUnixSeconds(1'000'000'000);
  std::string path_;
  Metrics metrics_;
  std::unique_ptr<Tenants> tenants_;
};

TEST_F(TenantsTest, RequestsAtOnce) {
  Open(R"({"tenants": {"alice": {"max_requests": 2}}})");
  Tenants::Lease first, second, third;
  EXPECT_TRUE(tenants_->Take("alice", &first).ok());
  EXPECT_TRUE(tenants_->Take("alice", &second).ok());
  const absl::Status full = tenants_->Take("alice", &third);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(full.message(),
            "tenant 'alice' has 2 requests here already, the limit is 2 (max_requests); try again "
            "later");
  EXPECT_FALSE(RetryOf(full));
  EXPECT_TRUE(Take("bob").ok());
  { const Tenants::Lease gone = std::move(second); }
  EXPECT_TRUE(tenants_->Take("alice", &third).ok());
  EXPECT_THAT(metrics_.Text(), HasSubstr("t2r_quota_refusals_total{quota=\"max_requests\"} 1\n"));
}

TEST_F(TenantsTest, RequestsAMinute) {
  Open(R"({"default": {"requests_per_minute": 2}})");
  EXPECT_TRUE(Take("").ok());
  EXPECT_TRUE(Take("").ok());
  const absl::Status spent = Take("");
  EXPECT_EQ(spent.message(),
            "who brings no name has used up its 2 requests a minute (requests_per_minute); try "
            "again in 30s");
  EXPECT_EQ(RetryOf(spent), absl::Seconds(30));
  EXPECT_TRUE(Take("alice").ok());
  now_ += absl::Seconds(29);
  EXPECT_FALSE(Take("").ok());
  now_ += absl::Seconds(1);
  EXPECT_TRUE(Take("").ok());
  EXPECT_FALSE(Take("").ok());
  now_ += absl::Hours(1);  // two are kept, not more
  EXPECT_TRUE(Take("").ok());
  EXPECT_TRUE(Take("").ok());
  EXPECT_FALSE(Take("").ok());
}

TEST_F(TenantsTest, TokensAMinuteMayBeOwed) {
  Open(R"({"tenants": {"alice": {"tokens_per_minute": 100}}})");
  EXPECT_TRUE(Take("alice").ok());
  tenants_->UseTokens("alice", 250);
  tenants_->UseTokens("bob", 250);
  // 150 are owed, and one more must be there: 151 / 100 minutes.
  const absl::Status spent = Take("alice");
  EXPECT_THAT(std::string(spent.message()), HasSubstr("100 tokens a minute (tokens_per_minute)"));
  ASSERT_TRUE(RetryOf(spent));
  EXPECT_NEAR(absl::ToDoubleSeconds(*RetryOf(spent)), 90.6, 1e-6);
  EXPECT_TRUE(Take("bob").ok());
  now_ += absl::Milliseconds(90'599);
  EXPECT_FALSE(Take("alice").ok());
  now_ += absl::Milliseconds(2);
  EXPECT_TRUE(Take("alice").ok());
}

TEST_F(TenantsTest, LabelsAreNamesOfFiles) {
  Open(R"({"tenants": {"alice": {}}})");
  EXPECT_EQ(tenants_->LabelOf("alice", false), "alice");
  EXPECT_EQ(tenants_->LabelOf("bob", false), "other");
  EXPECT_EQ(tenants_->LabelOf("bob", true), "bob");
  EXPECT_EQ(tenants_->LabelOf("", true), "other");
  for (int i = 0; i < 2000; ++i) tenants_->LabelOf(std::to_string(i), true);
  EXPECT_EQ(tenants_->LabelOf("997", true), "997");
  EXPECT_EQ(tenants_->LabelOf("998", true), "other");
}

TEST(CallIdsTest, TraceParentsAreReadByTheStandard) {
  // The example of W3C's Trace Context.
  const auto context = ParseTraceParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  ASSERT_TRUE(context);
  EXPECT_TRUE(context->sampled);
  EXPECT_EQ(context->trace_id[0], 0x0a);
  EXPECT_EQ(context->trace_id[15], 0x9c);
  EXPECT_EQ(context->parent_span_id[0], 0xb7);
  EXPECT_EQ(context->parent_span_id[7], 0x31);
  const std::string ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
  EXPECT_FALSE(ParseTraceParent("00-" + ids + "-02")->sampled);
  EXPECT_TRUE(ParseTraceParent("01-" + ids + "-09-and more")->sampled);
  for (const std::string& text :
       {std::string(), "00-" + ids, "00-" + ids + "-0", "00-" + ids + "-01-", "00-" + ids + "-0G",
        "ff-" + ids + "-01", "01-" + ids + "-01x", "00_" + ids + "-01",
        "00-" + std::string(32, '0') + "-b7ad6b7169203331-01",
        std::string("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"),
        std::string("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01")}) {
    EXPECT_FALSE(ParseTraceParent(text)) << text;
  }
}

TEST(CallIdsTest, NewTracesAreSampledByTheRatio) {
  int sampled = 0;
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(NewTrace(1).sampled);
    EXPECT_FALSE(NewTrace(0).sampled);
    sampled += NewTrace(0.5).sampled ? 1 : 0;
  }
  // Within ten standard deviations of a binomial: sqrt(1000) / 2 each.
  EXPECT_GT(sampled, 500 - 159);
  EXPECT_LT(sampled, 500 + 159);
}

TEST(CallIdsTest, RequestIdsAreShortAndPlain) {
  for (const std::string& good :
       {std::string("a"), std::string(128, 'x'), NewRequestId(), std::string("3f2b-A._:/+=@9")}) {
    EXPECT_TRUE(IsRequestId(good)) << good;
  }
  for (const std::string& bad :
       {std::string(), std::string(129, 'x'), std::string("a b"), std::string("a\"b"),
        std::string("a\n"), std::string("\xC3\xA9"), std::string(1, '\0')}) {
    EXPECT_FALSE(IsRequestId(bad)) << bad;
  }
  EXPECT_NE(NewRequestId(), NewRequestId());
}

CallFacts SomeFacts() {
  CallFacts facts;
  facts.method = "t2r.v1.Generation/Generate";
  facts.tenant = "a\"lice";
  facts.request_id = "id-1";
  facts.peer = "ipv4:127.0.0.1:4711";
  facts.session = "story";
  facts.trace = *ParseTraceParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  facts.code = absl::StatusCode::kOk;
  facts.begun = absl::FromUnixMillis(1'700'000'000'250);
  facts.ended = facts.begun + absl::Milliseconds(800);
  facts.prompt_tokens = 7;
  facts.cached_tokens = 2;
  facts.completion_tokens = 3;
  facts.tokenise_begun = facts.begun + absl::Milliseconds(1);
  facts.tokenise_ended = facts.begun + absl::Milliseconds(2);
  facts.submitted = facts.begun + absl::Milliseconds(10);
  facts.queue_time = absl::Milliseconds(100);
  facts.prefill_time = absl::Milliseconds(200);
  facts.decode_time = absl::Milliseconds(400);
  return facts;
}

TEST(AccessLineTest, IsOneObject) {
  CallFacts facts = SomeFacts();
  EXPECT_EQ(AccessLine(facts),
            R"({"time":"2023-11-14T22:13:20.250000Z","request_id":"id-1",)"
            R"("peer":"ipv4:127.0.0.1:4711",)"
            R"("trace_id":"0af7651916cd43dd8448eb211c80319c","tenant":"a\"lice",)"
            R"("method":"t2r.v1.Generation/Generate","session":"story","status":"OK",)"
            R"("prompt_tokens":7,)"
            R"("cached_tokens":2,"completion_tokens":3,"queue_seconds":0.1,)"
            R"("first_token_seconds":0.31,"total_seconds":0.8})");
  facts.trace = {};
  facts.prompt = "two\nlines \xFF";
  const std::string line = AccessLine(facts);
  EXPECT_THAT(line, HasSubstr(R"("prompt":"two\nlines )"));
  EXPECT_THAT(line, ::testing::Not(HasSubstr("trace_id")));
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST(SpansTest, AreATreeOfTheCallsParts) {
  const CallFacts facts = SomeFacts();
  otlp::ScopeSpans spans;
  AddSpans(facts, &spans);
  ASSERT_EQ(spans.spans_size(), 5);
  const otlp::Span& call = spans.spans(0);
  EXPECT_EQ(call.name(), "t2r.v1.Generation/Generate");
  EXPECT_EQ(call.trace_id(), std::string("\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80"
                                         "\x31\x9c"));
  EXPECT_EQ(call.parent_span_id(), "\xb7\xad\x6b\x71\x69\x20\x33\x31");
  EXPECT_EQ(call.end_time_unix_nano() - call.start_time_unix_nano(), 800'000'000u);
  const std::pair<const char*, std::pair<int, int>> parts[] = {
      {"tokenise", {1, 2}}, {"queue", {10, 110}}, {"prefill", {110, 310}}, {"decode", {310, 710}}};
  for (int i = 0; i < 4; ++i) {
    const otlp::Span& part = spans.spans(i + 1);
    EXPECT_EQ(part.name(), parts[i].first);
    EXPECT_EQ(part.trace_id(), call.trace_id());
    EXPECT_EQ(part.parent_span_id(), call.span_id());
    EXPECT_EQ(part.start_time_unix_nano() - call.start_time_unix_nano(),
              static_cast<uint64_t>(parts[i].second.first) * 1'000'000);
    EXPECT_EQ(part.end_time_unix_nano() - call.start_time_unix_nano(),
              static_cast<uint64_t>(parts[i].second.second) * 1'000'000);
  }
  CallFacts refused;
  refused.method = "t2r.v1.Generation/Score";
  refused.code = absl::StatusCode::kResourceExhausted;
  refused.begun = refused.ended = facts.begun;
  refused.ended -= absl::Seconds(1);  // the clock was set back
  otlp::ScopeSpans one;
  AddSpans(refused, &one);
  ASSERT_EQ(one.spans_size(), 1);
  EXPECT_EQ(one.spans(0).parent_span_id(), "");
  EXPECT_EQ(one.spans(0).start_time_unix_nano(), one.spans(0).end_time_unix_nano());
  EXPECT_EQ(one.spans(0).status().code(), otlp::Status::STATUS_CODE_ERROR);
}

}  // namespace
}  // namespace t2r::server
