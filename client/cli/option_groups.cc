#include "client/cli/option_groups.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <utility>

namespace t2r::client {

CLI::Validator EachOf(CLI::Validator one) {
  std::string range = one.get_description();
  const auto check = [one = std::move(one)](std::string& list) {
    std::vector<std::string> entries = absl::StrSplit(list, ',');
    std::string problem;
    for (size_t i = 0; problem.empty() && i < entries.size(); ++i) problem = one(entries[i]);
    return problem;
  };
  return flags::SaidAs(CLI::Validator(check, ""), std::move(range));
}

void AddCall(CLI::App* app, CommandLine* out) {
  app->add_option("--server", out->server, "Address of t2r-server")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app->add_option("--timeout", out->timeout_seconds, "Give up after this time; 0: never")
      ->type_name("SECONDS")
      ->check(flags::AtLeast(0.0));
  const std::string group = "Connection";
  app->add_flag("--tls", out->tls, "Encrypt, and trust the system's authorities")->group(group);
  app->add_option("--tls-ca", out->tls_ca, "Encrypt, and trust these authorities, PEM")
      ->group(group)
      ->type_name("FILE");
  CLI::Option* key =
      app->add_option("--tls-key", out->tls_key, "The private key of --tls-cert, PEM")
          ->group(group)
          ->type_name("FILE");
  CLI::Option* certificate =
      app->add_option("--tls-cert", out->tls_cert, "Certificate to show the server, PEM")
          ->group(group)
          ->type_name("FILE")
          ->needs(key);
  key->needs(certificate);
  app->add_option("--api-key-file", out->api_key_file,
                  "File that holds the API key; without it T2R_API_KEY in the environment")
      ->group(group)
      ->type_name("FILE");
}

void AddRetries(CLI::App* app, CommandLine* out) {
  app->add_option("--retries", out->retries,
                  "Send a request again, up to N times, when the server says it is too busy")
      ->type_name("N")
      ->check(flags::AtLeast(0));
}

void AddRetriesAndJson(CLI::App* app, CommandLine* out, const std::string& json_help) {
  AddRetries(app, out);
  app->add_flag("--json", out->json, json_help);
}

void AddSampling(CLI::App* app, CommandLine* out, RawOptions* raw) {
  Sampling& s = out->generate.sampling;
  const std::string group = "Sampling";
  app->add_option("--temperature", raw->temperature, "0: greedy (default: the model's own, else 1)")
      ->group(group)
      ->check(flags::AtLeast(0.0));
  app->add_option("--top-k", s.top_k, "Keep the K most likely tokens; 0: off")
      ->group(group)
      ->type_name("K")
      ->check(flags::AtLeast(0U));
  app->add_option("--top-p", s.top_p, "Keep the most likely tokens that reach this probability")
      ->group(group)
      ->type_name("P")
      ->check(flags::Range(0.0, 1.0));
  app->add_option("--min-p", s.min_p, "Keep tokens with this share of the best one's probability")
      ->group(group)
      ->type_name("P")
      ->check(flags::Range(0.0, 1.0));
  app->add_option("--repetition-penalty", s.repetition_penalty,
                  "Divides the logits of tokens in prompt and output; 0 or 1: off")
      ->group(group)
      ->check(flags::AtLeast(0.0));
  app->add_option("--frequency-penalty", s.frequency_penalty,
                  "Subtracted for each time a token was generated")
      ->group(group)
      ->check(flags::Range(-2.0, 2.0));
  app->add_option("--presence-penalty", s.presence_penalty, "Subtracted once a token was generated")
      ->group(group)
      ->check(flags::Range(-2.0, 2.0));
  app->add_option("--logit-bias", raw->logit_bias, "Added to a token's logit; may be repeated")
      ->group(group)
      ->type_name("ID=VALUE")
      ->allow_extra_args(false);
  app->add_option("--seed", raw->seed, "Same request, same seed, same tokens (default: random)")
      ->group(group)
      ->check(flags::AtLeast(uint64_t{0}));
}

void AddBeams(CLI::App* app, RawOptions* raw, bool several) {
  const std::string group = "Beam search";
  CLI::Option* beams =
      app->add_option("--beams", raw->beams.count, "Search with N beams; results come at the end")
          ->group(group)
          ->type_name("N")
          ->check(flags::AtLeast(1u));
  app->add_option("--length-penalty", raw->beams.length_penalty,
                  "Scores are divided by length to this power: above 0 favours long results")
      ->group(group)
      ->needs(beams)
      ->check(flags::Range(-10.0, 10.0))
      ->capture_default_str();
  if (several) {
    app->add_option("--num-return", raw->beams.num_return, "Results to print, best first")
        ->group(group)
        ->needs(beams)
        ->type_name("N")
        ->check(flags::AtLeast(1u))
        ->capture_default_str();
  }
  const std::map<std::string, EarlyStopping> stopping = {{"false", EarlyStopping::kFalse},
                                                         {"true", EarlyStopping::kTrue},
                                                         {"never", EarlyStopping::kNever}};
  app->add_option(
         "--early-stopping", raw->beams.early_stopping,
         "When N results have ended: false (goes on while the next is likely better), true "
         "(stops) or never (goes on while one can be better)")
      ->group(group)
      ->needs(beams)
      ->type_name("false|true|never")
      ->transform(CLI::CheckedTransformer(stopping).description(""));
}

std::string ParseBias(const std::vector<std::string>& entries, std::map<TokenId, float>* out) {
  for (const std::string& entry : entries) {
    const size_t equals = std::min(entry.find('='), entry.size());
    std::istringstream in(entry.substr(std::min(equals + 1, entry.size())));
    TokenId id = 0;
    float value = 0;
    if (!flags::ParseWhole(std::string_view(entry).substr(0, equals), &id) || !(in >> value) ||
        in.peek() != std::char_traits<char>::eof()) {
      return "--logit-bias: '" + entry + "' is not ID=VALUE, for example 13=-2.5";
    }
    if (!(std::abs(value) <= 100)) {
      return "--logit-bias: '" + entry + "' is outside [-100, 100]";
    }
    (*out)[id] = value;
  }
  return "";
}

}  // namespace t2r::client
