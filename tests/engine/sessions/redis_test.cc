// Addresses and replies of a shared store; the store itself is tested with a real one
// (tests/suites/sessions_shared.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/sessions/redis/redis_address.h"
#include "engine/sessions/redis/redis_reply.h"

namespace t2r {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(RedisAddressTest, SaysWhereTheStoreIs) {
  const auto plain = ParseRedisAddress("redis://localhost:6379");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->host, "localhost");
  EXPECT_EQ(plain->port, "6379");
  EXPECT_FALSE(plain->tls);
  EXPECT_EQ(plain->text(), "redis://localhost:6379");
  const auto full = ParseRedisAddress("rediss://t2r:p%40s%3As@[::1]:1/12");
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_EQ(full->user, "t2r");
  EXPECT_EQ(full->password, "p@s:s");
  EXPECT_EQ(full->host, "::1");
  EXPECT_EQ(full->database, 12);
  EXPECT_TRUE(full->tls);
  EXPECT_EQ(full->text(), "rediss://[::1]:1/12");
  const auto password = ParseRedisAddress("redis://:secret@host:7");
  EXPECT_EQ(password->user, "");
  EXPECT_EQ(password->password, "secret");
}

TEST(RedisAddressTest, RefusesWithoutThePassword) {
  for (const char* url :
       {"", "host:6379", "http://host:6379", "redis://host", "redis://host:0", "redis://host:65536",
        "redis://:6379", "redis://:secret@host:6379/x", "redis://:secret@host:6379/-1",
        "redis://:secret%4@host:6379", "redis://secret@host:6379", "redis://::1:6379"}) {
    const absl::Status refused = ParseRedisAddress(url).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << url;
    EXPECT_THAT(std::string(refused.message()), Not(HasSubstr("secret"))) << url;
  }
}

TEST(RedisReplyTest, ReadsEveryKind) {
  RedisReplyReader reader(1000);
  RedisReply reply;
  ASSERT_TRUE(reader.Feed("*5\r\n:7\r\n$3\r\na\r\n\r\n$-1\r\n+O").ok());
  EXPECT_FALSE(*reader.Next(&reply));
  ASSERT_TRUE(reader.Feed("K\r\n*1\r\n:-2\r\n-ERR no\r\n").ok());
  ASSERT_TRUE(*reader.Next(&reply));
  ASSERT_EQ(reply.kind, RedisReply::Kind::kList);
  ASSERT_EQ(reply.items.size(), 5U);
  EXPECT_EQ(reply.items[0].integer, 7);
  EXPECT_EQ(reply.items[1].text, "a\r\n");
  EXPECT_EQ(reply.items[2].kind, RedisReply::Kind::kNil);
  EXPECT_EQ(reply.items[3].text, "OK");
  EXPECT_EQ(reply.items[4].items[0].integer, -2);
  ASSERT_TRUE(*reader.Next(&reply));
  EXPECT_EQ(reply.kind, RedisReply::Kind::kError);
  EXPECT_EQ(reply.text, "ERR no");
  EXPECT_FALSE(*reader.Next(&reply));
}

TEST(RedisReplyTest, WhatIsNoReplyOrTooLargeEndsTheReading) {
  RedisReply reply;
  for (const char* bytes : {"?\r\n", "$x\r\n", "*100000000\r\n", "HTTP/1.1 400 Bad Request\r\n"}) {
    RedisReplyReader reader(1000);
    ASSERT_TRUE(reader.Feed(bytes).ok());
    EXPECT_EQ(reader.Next(&reply).status().code(), absl::StatusCode::kUnavailable) << bytes;
  }
  RedisReplyReader reader(1000);
  ASSERT_TRUE(reader.Feed("$100000\r\n").ok());
  EXPECT_FALSE(*reader.Next(&reply));
  ASSERT_TRUE(reader.Feed(std::string(900, 'a')).ok());
  EXPECT_EQ(reader.Feed(std::string(900, 'a')).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace t2r
