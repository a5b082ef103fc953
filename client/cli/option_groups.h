// Groups of options that several subcommands of t2r share.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <vector>

#include "client/cli/options.h"

namespace t2r::client {

// What the parser fills and CommandLine states in other types.
struct RawOptions {
  std::string text;
  std::string source;
  std::string target_prefix;
  TokenIds tokens;
  std::vector<std::string> logit_bias;
  float temperature = 0;
  uint64_t seed = 0;
  Beams beams;
  SessionRef session;
  uint64_t expected_position = 0;
};

// --server and --timeout.
void AddCall(CLI::App* app, CommandLine* out);
void AddRetriesAndJson(CLI::App* app, CommandLine* out, const std::string& json_help);
void AddSampling(CLI::App* app, CommandLine* out, RawOptions* raw);
// several: whether more than the best result can be asked for.
void AddBeams(CLI::App* app, RawOptions* raw, bool several);

// Reads --logit-bias; returns "" or what is wrong.
std::string ParseBias(const std::vector<std::string>& entries, std::map<TokenId, float>* out);

}  // namespace t2r::client
