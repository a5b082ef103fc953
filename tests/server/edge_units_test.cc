// The small parts of the edge: logs, budgets, shares, the listener, malformed messages.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <random>
#include <thread>

#include "server/buffer_budget.h"
#include "server/listener.h"
#include "server/log_sink.h"
#include "server/peer_shares.h"
#include "server/wire_errors.h"
#include "t2r/v1/generation.pb.h"

namespace t2r::server {
namespace {

using ::testing::HasSubstr;

std::string ReadAll(int fd) {
  std::string all;
  char block[65536];
  for (ssize_t got; (got = read(fd, block, sizeof(block))) > 0;) all.append(block, got);
  return all;
}

class Pipe {
 public:
  Pipe() { EXPECT_EQ(pipe(ends_), 0); }
  ~Pipe() {
    CloseWrite();
    close(ends_[0]);
  }
  int read_end() const { return ends_[0]; }
  int write_end() const { return ends_[1]; }
  void CloseWrite() {
    if (ends_[1] >= 0) close(ends_[1]);
    ends_[1] = -1;
  }

 private:
  int ends_[2] = {-1, -1};
};

TEST(LogSinkTest, LinesStayLines) {
  Pipe pipe;
  {
    LogSink sink(pipe.write_end());
    sink.Write("a\nb\x1b[31m \xc3\xa4");
    sink.WriteForeign("grpc", "te: x\nt2r-server: FORGED\x1b \xc3\xa4");
    sink.Flush(absl::Seconds(30));
  }
  pipe.CloseWrite();
  EXPECT_EQ(ReadAll(pipe.read_end()),
            "a\\x0ab\\x1b[31m \xc3\xa4\n"
            "t2r-server: grpc: te: x\\x0at2r-server: FORGED\\x1b \\xc3\\xa4\n");
}

TEST(LogSinkTest, ForeignLinesAreCutAndLimited) {
  Pipe pipe;
  {
    LogSink sink(pipe.write_end());
    for (int i = 0; i < 10'000; ++i) sink.WriteForeign("grpc", std::string(5000, 'x'));
    sink.Flush(absl::Seconds(30));
  }
  pipe.CloseWrite();
  const std::string all = ReadAll(pipe.read_end());
  // A burst of 20, and ten a second for as long as this takes: not a tenth of them.
  EXPECT_GE(std::count(all.begin(), all.end(), '\n'), 20);
  EXPECT_LT(all.size(), 1000U * 600);
}

TEST(LogSinkTest, LinesThatFoundNoRoomAreCountedOnceThereIsSome) {
  Pipe pipe;
  std::string all;
  {
    LogSink sink(pipe.write_end());
    sink.Write(std::string(200'000, 'x'));  // more than the pipe holds
    // Its first byte says that the sink's thread has taken it, and is stuck.
    char first = 0;
    ASSERT_EQ(read(pipe.read_end(), &first, 1), 1);
    for (int i = 0; i < 1007; ++i) sink.Write("line");  // a thousand wait
    std::thread reader([&] { all = ReadAll(pipe.read_end()); });
    sink.Flush(absl::Seconds(30));
    pipe.CloseWrite();
    reader.join();
  }
  EXPECT_EQ(all.size(),
            199'999 + 1 + 1000 * 5 + std::string("t2r-server: 7 lines were dropped\n").size());
  EXPECT_THAT(all, ::testing::EndsWith("line\nt2r-server: 7 lines were dropped\n"));
}

// Nobody reads, and the pipe holds 64 KiB: neither the writer nor the destructor waits for it.
TEST(LogSinkTest, AFullPipeBlocksNobody) {
  Pipe pipe;
  {
    LogSink sink(pipe.write_end());
    for (int i = 0; i < 10'000; ++i) sink.Write(std::string(200, 'y'));
  }
  std::thread reader([&] { ReadAll(pipe.read_end()); });
  pipe.CloseWrite();
  reader.join();
}

TEST(BufferBudgetTest, CountsAndRefuses) {
  BufferBudget budget(100);
  {
    BufferLease first(budget), second(budget);
    EXPECT_TRUE(first.TryResize(60));
    EXPECT_FALSE(second.TryResize(41));
    EXPECT_EQ(budget.used(), 60);
    EXPECT_TRUE(second.TryResize(40));
    EXPECT_TRUE(budget.full());
    first.Resize(10);
    EXPECT_EQ(budget.used(), 50);
    second.Resize(500);
    EXPECT_TRUE(budget.full());
  }
  EXPECT_EQ(budget.used(), 0);
}

TEST(PeerSharesTest, EachAddressHasItsOwn) {
  EXPECT_EQ(PeerAddress("ipv4:10.0.0.7:4711"), "ipv4:10.0.0.7");
  EXPECT_EQ(PeerAddress("ipv6:%5B::1%5D:4711"), "ipv6:%5B::1%5D");
  EXPECT_EQ(PeerAddress("unix:"), "unix:");
  PeerShares shares(1);
  PeerShares::Share other;
  {
    PeerShares::Share first, second;
    EXPECT_TRUE(shares.Take("ipv4:1.2.3.4:5", &first));
    EXPECT_FALSE(shares.Take("ipv4:1.2.3.4:6", &second));
    EXPECT_TRUE(shares.Take("ipv4:1.2.3.5:6", &other));
  }
  PeerShares::Share again;
  EXPECT_TRUE(shares.Take("ipv4:1.2.3.4:7", &again));
}

// A connection to a listener of this machine; -1 where none comes about.
int Connect(const std::string& address) {
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0) return fd;
  close(fd);
  return -1;
}

// What a server that says "!" first says; empty: it closed at once.
std::string Greeting(int fd) {
  char first = 0;
  return recv(fd, &first, 1, 0) == 1 ? std::string(1, first) : "";
}

TEST(ListenerTest, ClosesWhatIsBeyondTheLimitAndTakesAgain) {
  const auto opened = Listener::Open("127.0.0.1:0");
  ASSERT_TRUE(opened.ok()) << opened.status();
  Listener& listener = **opened;
  std::mutex mutex;
  std::vector<int> taken;
  listener.Start({.connections = 2, .connections_per_peer = 0}, [&](int fd) {
    EXPECT_EQ(send(fd, "!", 1, MSG_NOSIGNAL), 1);
    const std::lock_guard lock(mutex);
    taken.push_back(fd);
  });
  const int first = Connect(listener.address()), second = Connect(listener.address());
  EXPECT_EQ(Greeting(first) + Greeting(second), "!!");
  const int third = Connect(listener.address());
  EXPECT_EQ(Greeting(third), "");
  EXPECT_EQ(listener.refused(), 1);
  EXPECT_TRUE(listener.Answers(absl::Seconds(30), ""))
      << "its own connection counts against no limit";
  {
    const std::lock_guard lock(mutex);
    close(taken[0]);
  }
  EXPECT_EQ(listener.open(), 1);
  const int fourth = Connect(listener.address());
  EXPECT_EQ(Greeting(fourth), "!");
  listener.Stop();
  EXPECT_FALSE(listener.Answers(absl::Seconds(30), ""));
  for (const int fd : {first, second, third, fourth}) close(fd);
  for (size_t i = 1; i < taken.size(); ++i) close(taken[i]);
}

TEST(ListenerTest, APeerHasItsLimit) {
  const auto opened = Listener::Open("127.0.0.1:0");
  ASSERT_TRUE(opened.ok());
  Listener& listener = **opened;
  listener.Start({.connections = 0, .connections_per_peer = 1},
                 [&](int fd) { EXPECT_EQ(send(fd, "!", 1, MSG_NOSIGNAL), 1); });
  const int first = Connect(listener.address());
  EXPECT_EQ(Greeting(first), "!");
  const int second = Connect(listener.address());
  EXPECT_EQ(Greeting(second), "");
  listener.Stop();
  close(first);
  close(second);
}

TEST(ListenerTest, APortThatIsTakenIsNamed) {
  const auto first = Listener::Open("127.0.0.1:0");
  ASSERT_TRUE(first.ok());
  const auto second = Listener::Open((*first)->address());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*first)->address()));
  EXPECT_EQ(Listener::Open("no.such.host.invalid:1").status().code(),
            absl::StatusCode::kUnavailable);
}

std::string Check(const std::string& bytes) {
  const absl::Status status = CheckWire(bytes, *v1::GenerateRequest::descriptor());
  if (!status.ok()) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  }
  return std::string(status.message());
}

TEST(WireErrorsTest, NamesFieldAndByte) {
  EXPECT_EQ(Check(""), "");
  EXPECT_EQ(Check("\x0a\x03ok!"), "");
  EXPECT_THAT(Check("\x0a\x04ok\xff!"), HasSubstr("text: not valid UTF-8 at byte 2"));
  EXPECT_THAT(Check("\x18\x05\x2a\x02\xc3("), HasSubstr("stop: not valid UTF-8 at byte 0"));
  EXPECT_THAT(Check("\x0a\x7fok"), HasSubstr("text: a value of 127 bytes, of which 2"));
  EXPECT_THAT(Check("\x18\x05\x18\xff"),
              HasSubstr("max_tokens: a number that does not end at byte 2"));
  EXPECT_THAT(Check("\x22\x02\x0d\x01"), HasSubstr("sampling.temperature"));
  EXPECT_THAT(Check("\x12\x04\x0a\x02\x05\xff"), HasSubstr("tokens.ids: a number"));
  EXPECT_THAT(Check(std::string("\x00", 1)), HasSubstr("byte 0"));
  EXPECT_THAT(Check("\xf8\x07\xff"), HasSubstr("field 127"));
}

// It agrees with Protobuf's parser on which messages there are, for mutants of one that has all
// sorts of fields.
TEST(WireErrorsTest, FindsAFaultExactlyWhereProtobufRefuses) {
  v1::GenerateRequest seed;
  seed.set_text("a text, ä");
  seed.add_stop("stop");
  seed.set_max_tokens(1000);
  seed.mutable_sampling()->set_temperature(0.5F);
  (*seed.mutable_sampling()->mutable_logit_bias())[7] = 1.5F;
  seed.mutable_beams()->set_count(3);
  for (uint32_t id = 1; id < 300; id += 50) seed.mutable_target_prefix_tokens()->add_ids(id);
  const std::string bytes = seed.SerializeAsString();
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string mutant =
        bytes.substr(0, random() % 4 == 0 ? random() % bytes.size() : bytes.size());
    for (size_t n = random() % 3; n > 0 && !mutant.empty(); --n) {
      mutant[random() % mutant.size()] = static_cast<char>(random());
    }
    v1::GenerateRequest parsed;
    const bool good = parsed.ParseFromString(mutant);
    refused += good ? 0 : 1;
    ASSERT_EQ(Check(mutant).empty(), good) << ::testing::PrintToString(mutant);
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace t2r::server
