// Groups of options that several subcommands of t2r share.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "client/cli/options.h"
#include "flags/help.h"

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

// Holds every entry of a list with commas to the check of one; an entry that is empty fails it.
CLI::Validator EachOf(CLI::Validator one);

// An option that takes numbers with commas between them, and may be repeated. `one`: the check of a
// number, which has to hold it to what T can hold.
template <typename T>
CLI::Option* AddList(CLI::App* app, const std::string& name, std::vector<T>* values,
                     const std::string& help, CLI::Validator one) {
  return app
      ->add_option_function<std::vector<std::string>>(
          name,
          [values](const std::vector<std::string>& lists) {
            values->clear();
            for (const std::string& list : lists) {
              const std::vector<std::string> numbers = absl::StrSplit(list, ',');
              for (const std::string& number : numbers) {
                flags::ParseWhole(number, &values->emplace_back());
              }
            }
          },
          help)
      ->check(EachOf(std::move(one)));
}

// --server and --timeout.
void AddCall(CLI::App* app, CommandLine* out);
void AddRetries(CLI::App* app, CommandLine* out);
void AddRetriesAndJson(CLI::App* app, CommandLine* out, const std::string& json_help);
void AddSampling(CLI::App* app, CommandLine* out, RawOptions* raw);
// several: whether more than the best result can be asked for.
void AddBeams(CLI::App* app, RawOptions* raw, bool several);

// Reads --logit-bias; returns "" or what is wrong.
std::string ParseBias(const std::vector<std::string>& entries, std::map<TokenId, float>* out);

}  // namespace t2r::client
