#include "server/access_flags.h"

#include "absl/strings/str_cat.h"
#include "flags/help.h"
#include "server/listener.h"

namespace t2r::server {

CLI::Option* AddSeconds(CLI::App& app, const std::string& name, absl::Duration* value,
                        const std::string& help, double least) {
  return app
      .add_option_function<double>(
          name, [value](const double& seconds) { *value = absl::Seconds(seconds); }, help)
      ->default_str(absl::StrCat(absl::ToDoubleSeconds(*value)))
      ->type_name("SECONDS")
      ->check(flags::Range(least, 86400.0));
}

void AddAccessFlags(CLI::App& app, ServerOptions* o) {
  GrpcServerOptions* grpc = &o->grpc;
  app.add_option("--tls-cert", grpc->tls.certificate,
                 "Certificate of the gRPC port, PEM; read anew when it changes")
      ->type_name("FILE");
  app.add_option("--tls-key", grpc->tls.key, "Its private key, PEM")->type_name("FILE");
  app.add_option("--tls-client-ca", grpc->tls.client_ca,
                 "Demand clients' certificates, signed by one of these authorities")
      ->type_name("FILE");
  app.add_option("--api-keys", grpc->api_keys,
                 "Demand an API key; the file holds lines of t2r-server key new NAME")
      ->type_name("FILE");
  app.add_flag("--admin-tls", o->admin_tls, "Speak TLS on the admin port too, by the same pair");
  app.add_option("--tenants", grpc->tenants,
                 "Limits of who calls, JSON, by the name of the API key or of the client's "
                 "certificate; read anew when it changes")
      ->type_name("FILE");
  app.add_flag("--insecure", o->insecure,
               "Let other machines reach a listener that has no TLS: gRPC without --tls-cert, and "
               "the admin port without --admin-tls");
}

void AddLogFlags(CLI::App& app, GrpcServerOptions* options) {
  app.add_option("--access-log", options->access_log,
                 "Write a line of JSON for each call into this file; -: stdout (default: none)")
      ->type_name("FILE|-");
  app.add_flag("--log-prompts", options->log_prompts,
               "Put the beginning of each prompt's text into the access log");
  app.add_option("--otlp-endpoint", options->otlp_endpoint,
                 "Send traces there: OTLP over gRPC; https:// with TLS (default: nowhere)")
      ->type_name("[http[s]://]HOST:PORT");
  app.add_option("--trace-sample", options->trace_sample,
                 "The part of the traces that begin here that is sent; others' are as traceparent "
                 "says")
      ->check(flags::Range(0.0, 1.0));
}

void AddConnectionFlags(CLI::App& app, GrpcServerOptions* options) {
  AddSeconds(app, "--max-connection-age", &options->max_connection_age,
             "Ask connections to end at this age, so that clients spread anew; 0: never");
  AddSeconds(app, "--max-connection-age-grace", &options->max_connection_age_grace,
             "What their streams get from then on; 0: as long as they take");
  AddSeconds(app, "--keepalive-time", &options->keepalive_time,
             "Ping a connection after so much silence", 1);
  AddSeconds(app, "--keepalive-timeout", &options->keepalive_timeout,
             "Cut one that answers no ping for so long", 1);
  AddSeconds(app, "--keepalive-min-interval", &options->keepalive_min_interval,
             "How often a client may ping; who does more often is cut");
}

std::string CheckAccess(const ServerOptions& options) {
  const GrpcServerOptions& grpc = options.grpc;
  if (grpc.tls.certificate.empty() != grpc.tls.key.empty()) {
    return "--tls-cert and --tls-key: give both or neither";
  }
  if (!grpc.tls.client_ca.empty() && !grpc.tls.enabled()) {
    return "--tls-client-ca: clients show certificates only over TLS; give --tls-cert and "
           "--tls-key";
  }
  if (!options.insecure && !grpc.tls.enabled() && !IsLoopback(grpc.address)) {
    return "--listen " + grpc.address +
           ": other machines reach it, and nothing would be encrypted; give --tls-cert and "
           "--tls-key, or --insecure";
  }
  if (options.admin_tls && !grpc.tls.enabled()) {
    return "--admin-tls: it takes the gRPC port's certificate; give --tls-cert and --tls-key";
  }
  if (!options.insecure && !options.admin_tls && !IsLoopback(options.admin)) {
    return "--admin " + options.admin +
           ": other machines reach it, and it has no TLS; give --admin-tls, an address of this "
           "machine only, or --insecure";
  }
  if (grpc.log_prompts && grpc.access_log.empty()) {
    return "--log-prompts: there is no log to put them into; give --access-log";
  }
  return "";
}

}  // namespace t2r::server
