#include "server/admin_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <deque>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace t2r::server {
namespace {

constexpr size_t kMaxConnections = 256;
constexpr size_t kMaxRequestBytes = 8192;
constexpr absl::Duration kTimeout = absl::Seconds(2);
constexpr size_t kReadBlock = 2048;

std::string Page(int code, const std::string& reason, const std::string& type,
                 const std::string& body, bool with_body) {
  return absl::StrCat("HTTP/1.1 ", code, " ", reason, "\r\nContent-Type: ", type,
                      "\r\nContent-Length: ", body.size(),
                      "\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
                      with_body ? body : "");
}

bool Complete(const std::string& request) {
  return absl::StrContains(request, "\r\n\r\n") || absl::StrContains(request, "\n\n");
}

}  // namespace

struct AdminServer::Connection {
  int fd = -1;
  absl::Time deadline;
  std::string request;
  std::string answer;  // empty: the request is still coming
  size_t sent = 0;
  std::unique_ptr<TlsStream> tls;  // null: plain

  // Bytes that were read or written; 0: the connection is over; -1: later.
  ssize_t Read(char* to, size_t size) const {
    return tls != nullptr ? tls->Read(to, size) : Result(recv(fd, to, size, 0));
  }
  ssize_t Write(const char* from, size_t size) const {
    return tls != nullptr ? tls->Write(from, size) : Result(send(fd, from, size, MSG_NOSIGNAL));
  }
  short events() const {
    if (tls != nullptr) return tls->events();
    return static_cast<short>(answer.empty() ? POLLIN : POLLOUT);
  }
  void Close() {
    tls.reset();
    close(std::exchange(fd, -1));
  }

  static ssize_t Result(ssize_t result) {
    if (result > 0) return result;
    return result < 0 && (errno == EAGAIN || errno == EINTR) ? -1 : 0;
  }
};

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& address,
                                                                AdminPages pages,
                                                                Certificates certificates) {
  absl::StatusOr<std::unique_ptr<Listener>> listener = Listener::Open(address);
  if (!listener.ok()) return listener.status();
  std::unique_ptr<AdminServer> server(new AdminServer(std::move(pages), std::move(certificates)));
  server->event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (server->event_ < 0) return absl::UnavailableError("no descriptor is left");
  server->listener_ = *std::move(listener);
  server->thread_ = std::thread([self = server.get()] { self->Run(); });
  server->listener_->Start({}, [self = server.get()](int fd) { self->Take(fd); });
  return server;
}

AdminServer::~AdminServer() {
  if (listener_ != nullptr) listener_->Stop();
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  if (event_ >= 0) eventfd_write(event_, 1);
  if (thread_.joinable()) thread_.join();
  for (const int fd : taken_) close(fd);
  if (event_ >= 0) close(event_);
}

void AdminServer::Take(int fd) {
  {
    const MutexLock lock(mutex_);
    taken_.push_back(fd);
  }
  eventfd_write(event_, 1);
}

void AdminServer::Run() {
  std::deque<Connection> open;  // oldest first
  std::vector<pollfd> wanted;
  while (true) {
    wanted.assign(1, {event_, POLLIN, 0});
    absl::Time next = absl::InfiniteFuture();
    for (const Connection& connection : open) {
      wanted.push_back({connection.fd, connection.events(), 0});
      next = std::min(next, connection.deadline);
    }
    // Rounded up, so that the deadline has passed when nothing else ends the wait.
    int timeout_ms = -1;
    if (!open.empty()) {
      const int64_t left = absl::ToInt64Milliseconds(next - absl::Now());
      timeout_ms = static_cast<int>(std::clamp<int64_t>(left + 1, 0, INT_MAX));
    }
    poll(wanted.data(), wanted.size(), timeout_ms);
    for (size_t i = 0; i < open.size(); ++i) {
      if (wanted[i + 1].revents == 0 || Step(&open[i])) continue;
      open[i].Close();
    }
    const absl::Time now = absl::Now();
    std::erase_if(open, [now](Connection& connection) {
      if (connection.fd >= 0 && connection.deadline > now) return false;
      if (connection.fd >= 0) connection.Close();
      return true;
    });
    eventfd_t count = 0;
    eventfd_read(event_, &count);
    const MutexLock lock(mutex_);
    for (const int fd : taken_) {
      if (open.size() == kMaxConnections) {
        open.front().Close();
        open.pop_front();
      }
      Connection& added = open.emplace_back();
      added.fd = fd;
      added.deadline = now + kTimeout;
      if (!certificates_) continue;
      added.tls = Secure(fd);
      if (added.tls != nullptr) continue;
      added.Close();
      open.pop_back();
    }
    taken_.clear();
    if (!stopping_) continue;
    for (Connection& connection : open) connection.Close();
    return;
  }
}

bool AdminServer::Step(Connection* connection) {
  // Until nothing is there: TLS may have more than the socket shows.
  while (connection->answer.empty()) {
    char block[kReadBlock];
    const ssize_t got = connection->Read(block, sizeof(block));
    if (got <= 0) return got < 0;
    connection->request.append(block, static_cast<size_t>(got));
    if (connection->request.size() > kMaxRequestBytes) {
      connection->answer =
          Page(431, "Request Header Fields Too Large", "text/plain", "too large\n", true);
    } else if (Complete(connection->request)) {
      connection->answer = Answer(connection->request);
    }
    if (!connection->answer.empty()) connection->deadline = absl::Now() + kTimeout;
  }
  while (connection->sent < connection->answer.size()) {
    const ssize_t written = connection->Write(connection->answer.data() + connection->sent,
                                              connection->answer.size() - connection->sent);
    if (written <= 0) return written < 0;
    connection->sent += static_cast<size_t>(written);
  }
  return false;
}

std::unique_ptr<TlsStream> AdminServer::Secure(int fd) {
  const std::shared_ptr<const TlsVersion> now = certificates_();
  if (tls_ == nullptr || now->version != tls_version_) {
    absl::StatusOr<std::unique_ptr<TlsContext>> made = TlsContext::Make(now->material);
    if (made.ok()) tls_ = *std::move(made);
    tls_version_ = now->version;
  }
  return tls_ == nullptr ? nullptr : std::make_unique<TlsStream>(*tls_, fd);
}

std::string AdminServer::Answer(const std::string& request) const {
  const std::string line = request.substr(0, request.find_first_of("\r\n"));
  const size_t first = line.find(' ');
  const size_t second = line.find(' ', first == std::string::npos ? first : first + 1);
  if (second == std::string::npos || line.substr(second + 1, 7) != "HTTP/1.") {
    return Page(400, "Bad Request", "text/plain", "this is no HTTP request\n", true);
  }
  const std::string method = line.substr(0, first);
  std::string target = line.substr(first + 1, second - first - 1);
  target = target.substr(0, target.find('?'));
  if (method != "GET" && method != "HEAD") {
    return Page(405, "Method Not Allowed", "text/plain", "only GET and HEAD\n", true);
  }
  const bool body = method == "GET";
  if (target == "/metrics") {
    return Page(200, "OK", "text/plain; version=0.0.4; charset=utf-8", pages_.metrics(), body);
  }
  if (target == "/livez") {
    return pages_.alive()
               ? Page(200, "OK", "text/plain", "ok\n", body)
               : Page(503, "Service Unavailable", "text/plain", "needs a restart\n", body);
  }
  if (target == "/readyz" || target == "/healthz") {
    return pages_.ready() ? Page(200, "OK", "text/plain", "ok\n", body)
                          : Page(503, "Service Unavailable", "text/plain", "not serving\n", body);
  }
  return Page(404, "Not Found", "text/plain", "only /metrics, /livez, /readyz and /healthz\n",
              body);
}

}  // namespace t2r::server
