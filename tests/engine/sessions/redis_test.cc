// Addresses and replies of a shared store; the store itself is tested with a real one
// (tests/suites/sessions_shared.py).
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/sessions/redis/redis_address.h"
#include "engine/sessions/redis/redis_pool.h"
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

// The kernel takes connections to it, and nobody answers.
class Hanging {
 public:
  Hanging() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* const at = reinterpret_cast<sockaddr*>(&address);
    ok_ = fd_ >= 0 && bind(fd_, at, size) == 0 && listen(fd_, 64) == 0 &&
          getsockname(fd_, at, &size) == 0;
    port_ = ntohs(address.sin_port);
  }
  ~Hanging() { close(fd_); }
  Hanging(const Hanging&) = delete;
  Hanging& operator=(const Hanging&) = delete;
  bool ok() const { return ok_; }
  int port() const { return port_; }

 private:
  const int fd_;
  bool ok_ = false;
  int port_ = 0;
};

TEST(RedisPoolTest, AServerThatHangsFailsCallsAtOnceBehindTheFirst) {
  const Hanging server;
  ASSERT_TRUE(server.ok());
  RedisOptions options;
  options.address.host = "127.0.0.1";
  options.address.port = std::to_string(server.port());
  options.connect_timeout = options.timeout = absl::Milliseconds(20);
  RedisPool pool(options);
  const absl::Status first = pool.Call({"GET", "a"}).status();
  EXPECT_EQ(first.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(first.message()), HasSubstr("did not answer in time"));
  EXPECT_THAT(std::string(first.message()), HasSubstr("--session-store redis://127.0.0.1"));
  // On a busy machine the pause may be over before the next call, which then waits, too.
  absl::Status next = first;
  for (int i = 0; i < 100 && next.message() == first.message(); ++i) {
    next = pool.Call({"GET", "a"}).status();
  }
  EXPECT_EQ(next.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(next.message()), HasSubstr("did not answer in time; it is tried again"));
}

}  // namespace
}  // namespace t2r
