#include "server/admin_server.h"

#include <CivetServer.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace t2r::server {
namespace {

// Start-up errors come as exceptions; civetweb's own lines on stderr would only repeat them.
int DropLog(const mg_connection* /*connection*/, const char* /*message*/) { return 1; }

class Page : public CivetHandler {
 public:
  struct Answer {
    int code;
    const char* reason;
    const char* type;
    std::string body;
  };
  explicit Page(std::function<Answer()> answer) : answer_(std::move(answer)) {}

  bool handleGet(CivetServer* /*server*/, mg_connection* connection) override {
    Send(connection, true);
    return true;
  }
  bool handleHead(CivetServer* /*server*/, mg_connection* connection) override {
    Send(connection, false);
    return true;
  }

 private:
  void Send(mg_connection* connection, bool body) {
    const Answer answer = answer_();
    const std::string header =
        absl::StrCat("HTTP/1.1 ", answer.code, " ", answer.reason,
                     "\r\nContent-Type: ", answer.type, "\r\nContent-Length: ", answer.body.size(),
                     "\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n");
    mg_write(connection, header.data(), header.size());
    if (body) mg_write(connection, answer.body.data(), answer.body.size());
  }

  std::function<Answer()> answer_;
};

}  // namespace

struct AdminServer::Impl {
  Impl(std::function<std::string()> metrics_text, std::function<bool()> healthy)
      : metrics([text = std::move(metrics_text)] {
          return Page::Answer{200, "OK", "text/plain; version=0.0.4; charset=utf-8", text()};
        }),
        healthz([is = std::move(healthy)] {
          return is() ? Page::Answer{200, "OK", "text/plain", "ok\n"}
                      : Page::Answer{503, "Service Unavailable", "text/plain", "not serving\n"};
        }) {
    callbacks.log_message = DropLog;
  }

  CivetCallbacks callbacks;
  Page metrics;
  Page healthz;
  std::string address;
  std::unique_ptr<CivetServer> server;  // last: its threads use the pages
};

AdminServer::AdminServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AdminServer::~AdminServer() = default;

const std::string& AdminServer::address() const { return impl_->address; }

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(
    const std::string& address, std::function<std::string()> metrics,
    std::function<bool()> healthy) {
  auto impl = std::make_unique<Impl>(std::move(metrics), std::move(healthy));
  const std::vector<std::string> options = {
      "listening_ports",    address, "num_threads",       "2",
      "request_timeout_ms", "10000", "enable_keep_alive", "no"};
  try {
    impl->server = std::make_unique<CivetServer>(options, &impl->callbacks);
  } catch (const CivetException&) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address,
                                               " (is the port taken, the host this machine's?)"));
  }
  impl->server->addHandler("/metrics", impl->metrics);
  impl->server->addHandler("/healthz", impl->healthz);
  impl->address = absl::StrCat(address.substr(0, address.rfind(':') + 1),
                               impl->server->getListeningPorts().at(0));
  return std::unique_ptr<AdminServer>(new AdminServer(std::move(impl)));
}

}  // namespace t2r::server
