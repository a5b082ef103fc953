#include "server/listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace t2r::server {
namespace {

constexpr int kBacklog = 512;

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

// "[::1]:50051" to "::1" and "50051".
std::pair<std::string, std::string> Split(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return {host, address.substr(colon + 1)};
}

Addresses Resolve(const std::string& host, const std::string& port) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) found = nullptr;
  return {found, &freeaddrinfo};
}

int PortOf(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

int LocalPort(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return PortOf(address);
}

std::string NumericHost(const sockaddr_storage& address, socklen_t size) {
  std::array<char, NI_MAXHOST> host = {};
  const int error = getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host.data(),
                                host.size(), nullptr, 0, NI_NUMERICHOST);
  return error == 0 ? host.data() : "";
}

// A listening socket, or -1 with errno.
int ListenOn(const addrinfo& at) {
  const int fd = socket(at.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  // Another address of the same host has the other family.
  if (at.ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
  if (bind(fd, at.ai_addr, at.ai_addrlen) == 0 && listen(fd, kBacklog) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

uint64_t InodeOf(int fd) {
  struct stat info = {};
  return fstat(fd, &info) == 0 ? info.st_ino : 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Open(const std::string& address) {
  const auto fail = [&](const std::string& why) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", why,
                                               " (is the port taken, the host this machine's?)"));
  };
  const auto [host, port] = Split(address);
  std::unique_ptr<Listener> listener(new Listener(address));
  std::string wanted = port;
  const Addresses found = Resolve(host, port);
  if (found == nullptr) return fail("the host is not known");
  for (const addrinfo* at = found.get(); at != nullptr; at = at->ai_next) {
    // With port 0 the first address chooses, and the others get the same.
    const Addresses same = Resolve(host, wanted);
    const addrinfo* mine = same.get();
    while (mine != nullptr && mine->ai_family != at->ai_family) mine = mine->ai_next;
    if (mine == nullptr) continue;
    const int fd = ListenOn(wanted == port ? *at : *mine);
    if (fd < 0) {
      // A machine without IPv6 still has localhost's other address.
      const bool absent = errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL;
      if (absent && (at->ai_next != nullptr || !listener->sockets_.empty())) continue;
      return fail(std::generic_category().message(errno));
    }
    listener->sockets_.push_back(fd);
    wanted = absl::StrCat(LocalPort(fd));
  }
  if (listener->sockets_.empty()) return fail("it has no address");
  listener->address_ = absl::StrCat(address.substr(0, address.rfind(':') + 1), wanted);
  listener->stop_event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  listener->spare_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (listener->stop_event_ < 0) return fail(std::generic_category().message(errno));
  return listener;
}

Listener::~Listener() {
  Stop();
  if (stop_event_ >= 0) close(stop_event_);
  if (spare_ >= 0) close(spare_);
}

void Listener::Start(const ListenerLimits& limits, Take take) {
  limits_ = limits;
  take_ = std::move(take);
  thread_ = std::thread([this] { Run(); });
}

void Listener::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(stop_event_, &one, sizeof(one));
    thread_.join();
  }
  for (const int fd : sockets_) close(fd);
  sockets_.clear();
}

void Listener::Run() {
  std::vector<pollfd> wanted;
  for (const int fd : sockets_) wanted.push_back({fd, POLLIN, 0});
  wanted.push_back({stop_event_, POLLIN, 0});
  while (true) {
    if (poll(wanted.data(), wanted.size(), -1) < 0) continue;
    if (wanted.back().revents != 0) return;
    for (const pollfd& ready : wanted) {
      if (ready.revents != 0) Accept(ready.fd);
    }
  }
}

void Listener::Accept(int listener) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  const int fd =
      accept4(listener, reinterpret_cast<sockaddr*>(&address), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
    // Nothing would take it out of the backlog: it is closed by way of the spare descriptor.
    ++refused_;
    if (spare_ >= 0) close(spare_);
    const int shed = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (shed >= 0) close(shed);
    spare_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (shed < 0) {
      // Not even that; others may close theirs meanwhile.
      pollfd stop = {stop_event_, POLLIN, 0};
      poll(&stop, 1, 50);
    }
    return;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (Admit(fd, NumericHost(address, size), PortOf(address))) {
    take_(fd);
  } else {
    ++refused_;
    close(fd);
  }
}

void Listener::Sweep() {
  for (auto at = connections_.begin(); at != connections_.end();) {
    if (InodeOf(at->first) == at->second.inode) {
      ++at;
      continue;
    }
    const auto peer = peers_.find(at->second.peer);
    if (--peer->second == 0) peers_.erase(peer);
    at = connections_.erase(at);
  }
}

bool Listener::Full(const std::string& peer) const {
  if (limits_.connections > 0 && static_cast<int64_t>(connections_.size()) >= limits_.connections) {
    return true;
  }
  const auto same = peers_.find(peer);
  return limits_.connections_per_peer > 0 && same != peers_.end() &&
         same->second >= limits_.connections_per_peer;
}

bool Listener::Admit(int fd, const std::string& peer, int port) {
  const MutexLock lock(mutex_);
  if (own_ports_.count(port) > 0) return true;
  // The connection that had this descriptor is closed.
  if (connections_.count(fd) > 0 || Full(peer)) Sweep();
  if (Full(peer)) return false;
  connections_[fd] = {InodeOf(fd), peer};
  ++peers_[peer];
  return true;
}

int64_t Listener::open() {
  const MutexLock lock(mutex_);
  Sweep();
  return static_cast<int64_t>(connections_.size());
}

bool Listener::Answers(absl::Duration timeout, const std::string& greeting) {
  const absl::Time deadline = absl::Now() + timeout;
  const auto [host, port] = Split(address_);
  const Addresses found = Resolve(host, port);
  if (found == nullptr) return false;
  const addrinfo& at = *found;
  const int fd = socket(at.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  // The port is known before the connection is made, so that Admit knows it too.
  sockaddr_storage any = {};
  any.ss_family = static_cast<sa_family_t>(at.ai_family);
  bool good = bind(fd, reinterpret_cast<const sockaddr*>(&any), at.ai_addrlen) == 0;
  const int own_port = good ? LocalPort(fd) : 0;
  {
    const MutexLock lock(mutex_);
    own_ports_.insert(own_port);
  }
  good = good && (connect(fd, at.ai_addr, at.ai_addrlen) == 0 || errno == EINPROGRESS);
  const auto wait = [&](short events) {
    pollfd wanted = {fd, events, 0};
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    return poll(&wanted, 1, static_cast<int>(std::max<int64_t>(left, 0))) == 1;
  };
  int error = 0;
  socklen_t size = sizeof(error);
  good = good && wait(POLLOUT) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 &&
         error == 0;
  // It fits the socket's buffer. Without TLS an HTTP/2 server says its settings first.
  good = good && (greeting.empty() || send(fd, greeting.data(), greeting.size(), MSG_NOSIGNAL) ==
                                          static_cast<ssize_t>(greeting.size()));
  char first = 0;
  good = good && wait(POLLIN) && recv(fd, &first, 1, 0) == 1;
  close(fd);
  const MutexLock lock(mutex_);
  own_ports_.erase(own_port);
  return good;
}

bool IsLoopback(const std::string& address) {
  const auto [host, port] = Split(address);
  const Addresses found = Resolve(host, port);
  for (const addrinfo* at = found.get(); at != nullptr; at = at->ai_next) {
    if (at->ai_family == AF_INET) {
      const in_addr& ip = reinterpret_cast<const sockaddr_in*>(at->ai_addr)->sin_addr;
      if (ntohl(ip.s_addr) >> 24 != IN_LOOPBACKNET) return false;
    } else if (at->ai_family != AF_INET6 ||
               !IN6_IS_ADDR_LOOPBACK(
                   &reinterpret_cast<const sockaddr_in6*>(at->ai_addr)->sin6_addr)) {
      return false;
    }
  }
  return true;
}

int64_t RaiseFileLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, INT64_MAX));
}

}  // namespace t2r::server
