#include "engine/sessions/redis/redis_connection.h"

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace t2r {
namespace {

template <auto free>
struct Free {
  template <typename T>
  void operator()(T* pointer) const {
    free(pointer);
  }
};
using Addresses = std::unique_ptr<addrinfo, Free<freeaddrinfo>>;
using TlsContext = std::unique_ptr<SSL_CTX, Free<SSL_CTX_free>>;
using Tls = std::unique_ptr<SSL, Free<SSL_free>>;

absl::Status Failed(const std::string& what) { return absl::UnavailableError(what); }

std::string Errno() { return std::generic_category().message(errno); }

std::string TlsError() {
  std::array<char, 256> text = {};
  const unsigned long code = ERR_get_error();
  if (code == 0) return "the connection was closed";
  ERR_error_string_n(code, text.data(), text.size());
  return text.data();
}

// A descriptor that closes itself.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

  absl::Status Wait(short events, absl::Time deadline) const {
    while (true) {
      const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now()) + 1;
      if (left <= 0) return absl::DeadlineExceededError("it did not answer in time");
      pollfd poll_fd = {fd_, events, 0};
      const int ready = poll(&poll_fd, 1, static_cast<int>(std::min<int64_t>(left, 60'000)));
      if (ready > 0) return absl::OkStatus();
      if (ready < 0 && errno != EINTR) return Failed(Errno());
    }
  }

 private:
  const int fd_;
};

absl::Status Connect(const Socket& socket, const addrinfo& to, absl::Time deadline) {
  if (socket.fd() < 0) return Failed(Errno());
  const int on = 1;
  setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(socket.fd(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  if (connect(socket.fd(), to.ai_addr, to.ai_addrlen) == 0) return absl::OkStatus();
  if (errno != EINPROGRESS) return Failed(Errno());
  if (absl::Status s = socket.Wait(POLLOUT, deadline); !s.ok()) return s;
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
  return error == 0 ? absl::OkStatus() : Failed(std::generic_category().message(error));
}

}  // namespace

struct RedisConnection::Impl {
  explicit Impl(const RedisOptions& given) : options(given), replies(given.max_reply_bytes) {}

  absl::Status Dial(absl::Time deadline) {
    addrinfo hints = {};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const RedisAddress& address = options.address;
    const int error = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
    if (error != 0) return Failed(absl::StrCat(address.host, ": ", gai_strerror(error)));
    const Addresses addresses(found);
    absl::Status status = Failed("the host has no address");
    for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
      socket = std::make_unique<Socket>(
          ::socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, at->ai_protocol));
      status = Connect(*socket, *at, deadline);
      if (status.ok()) break;
    }
    return status;
  }

  absl::Status Secure(absl::Time deadline) {
    ERR_clear_error();
    context.reset(SSL_CTX_new(TLS_client_method()));
    if (context == nullptr) return Failed(TlsError());
    SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
    const int trusted =
        options.ca_file.empty()
            ? SSL_CTX_set_default_verify_paths(context.get())
            : SSL_CTX_load_verify_locations(context.get(), options.ca_file.c_str(), nullptr);
    if (trusted != 1) return Failed(absl::StrCat("--session-store-ca: ", TlsError()));
    tls.reset(SSL_new(context.get()));
    if (tls == nullptr) return Failed(TlsError());
    const std::string& host = options.address.host;
    X509_VERIFY_PARAM* verify = SSL_get0_param(tls.get());
    // An address is held against the certificate's addresses, a name against its names.
    if (X509_VERIFY_PARAM_set1_ip_asc(verify, host.c_str()) != 1) {
      SSL_set1_host(tls.get(), host.c_str());
      SSL_set_tlsext_host_name(tls.get(), host.c_str());
    }
    SSL_set_fd(tls.get(), socket->fd());
    absl::Status shaken = Repeat([this] { return SSL_connect(tls.get()); }, deadline).status();
    if (shaken.ok()) return shaken;
    const long verified = SSL_get_verify_result(tls.get());
    if (verified == X509_V_OK) return shaken;
    return Failed(
        absl::StrCat("its certificate is refused: ", X509_verify_cert_error_string(verified)));
  }

  // A TLS operation until it has moved something.
  template <typename Operation>
  absl::StatusOr<size_t> Repeat(const Operation& operation, absl::Time deadline) {
    while (true) {
      ERR_clear_error();
      const int result = operation();
      if (result > 0) return static_cast<size_t>(result);
      const int error = SSL_get_error(tls.get(), result);
      if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) {
        return Failed(TlsError());
      }
      const short events = error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
      if (absl::Status s = socket->Wait(events, deadline); !s.ok()) return s;
    }
  }

  // Some bytes of what is given; 0 is never told.
  absl::StatusOr<size_t> Write(std::string_view bytes, absl::Time deadline) {
    constexpr size_t kMost = 1 << 20;
    const size_t size = std::min(bytes.size(), kMost);
    if (tls != nullptr) {
      return Repeat([&] { return SSL_write(tls.get(), bytes.data(), static_cast<int>(size)); },
                    deadline);
    }
    while (true) {
      const ssize_t sent = send(socket->fd(), bytes.data(), size, MSG_NOSIGNAL);
      if (sent > 0) return static_cast<size_t>(sent);
      if (errno != EAGAIN && errno != EINTR) return Failed(Errno());
      if (absl::Status s = socket->Wait(POLLOUT, deadline); !s.ok()) return s;
    }
  }

  absl::StatusOr<size_t> Read(absl::Time deadline) {
    if (tls != nullptr) {
      return Repeat(
          [&] { return SSL_read(tls.get(), buffer.data(), static_cast<int>(buffer.size())); },
          deadline);
    }
    while (true) {
      const ssize_t got = recv(socket->fd(), buffer.data(), buffer.size(), 0);
      if (got > 0) return static_cast<size_t>(got);
      if (got == 0) return Failed("the connection was closed");
      if (errno != EAGAIN && errno != EINTR) return Failed(Errno());
      if (absl::Status s = socket->Wait(POLLIN, deadline); !s.ok()) return s;
    }
  }

  absl::StatusOr<RedisReply> Call(const std::vector<std::string_view>& command,
                                  absl::Time deadline) {
    std::vector<const char*> arguments;
    std::vector<size_t> sizes;
    for (const std::string_view argument : command) {
      arguments.push_back(argument.data());
      sizes.push_back(argument.size());
    }
    char* formatted = nullptr;
    const int size = redisFormatCommandArgv(&formatted, static_cast<int>(arguments.size()),
                                            arguments.data(), sizes.data());
    if (size < 0) return Failed("no memory for the command");
    const std::unique_ptr<char, Free<redisFreeCommand>> owned(formatted);
    std::string_view left(formatted, static_cast<size_t>(size));
    while (!left.empty()) {
      const absl::StatusOr<size_t> written = Write(left, deadline);
      if (!written.ok()) return written.status();
      left.remove_prefix(*written);
    }
    RedisReply reply;
    while (true) {
      const absl::StatusOr<bool> whole = replies.Next(&reply);
      if (!whole.ok()) return whole.status();
      if (*whole) return reply;
      const absl::StatusOr<size_t> got = Read(deadline);
      if (!got.ok()) return got.status();
      if (absl::Status fed = replies.Feed({buffer.data(), *got}); !fed.ok()) return fed;
    }
  }

  // Who we are, and which database.
  absl::Status Introduce(absl::Time deadline) {
    const RedisAddress& address = options.address;
    std::vector<std::vector<std::string_view>> commands;
    if (!address.password.empty()) {
      commands.push_back({"AUTH"});
      if (!address.user.empty()) commands.back().push_back(address.user);
      commands.back().push_back(address.password);
    }
    const std::string database = std::to_string(address.database);
    if (address.database > 0) commands.push_back({"SELECT", database});
    commands.push_back({"PING"});
    for (const auto& command : commands) {
      const absl::StatusOr<RedisReply> reply = Call(command, deadline);
      if (!reply.ok()) return reply.status();
      // Who may not PING is answered, too.
      const bool refused = reply->kind == RedisReply::Kind::kError && command[0] != "PING";
      if (refused) return Failed(reply->text);
    }
    return absl::OkStatus();
  }

  const RedisOptions options;
  std::unique_ptr<Socket> socket;  // outlives tls
  TlsContext context;
  Tls tls;
  RedisReplyReader replies;
  std::array<char, 16384> buffer = {};
};

RedisConnection::RedisConnection(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RedisConnection::~RedisConnection() = default;

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisConnection::Open(
    const RedisOptions& options) {
  auto impl = std::make_unique<Impl>(options);
  const absl::Time deadline = absl::Now() + options.connect_timeout;
  absl::Status status = impl->Dial(deadline);
  if (status.ok() && options.address.tls) status = impl->Secure(deadline);
  if (status.ok()) status = impl->Introduce(deadline);
  if (!status.ok()) return status;
  return std::unique_ptr<RedisConnection>(new RedisConnection(std::move(impl)));
}

absl::StatusOr<RedisReply> RedisConnection::Call(const std::vector<std::string_view>& command) {
  return impl_->Call(command, absl::Now() + impl_->options.timeout);
}

}  // namespace t2r
