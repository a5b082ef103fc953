// The command line of `t2r`.
#ifndef T2R_CLIENT_CLI_OPTIONS_H_
#define T2R_CLIENT_CLI_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/types.h"

namespace t2r::client {

// Of a generation, or an answer in a chat, where the command line does not say.
inline constexpr uint32_t kDefaultMaxTokens = 128;

enum class Command {
  kGenerate,
  kTranslate,
  kScore,
  kTokenize,
  kDetokenize,
  kModel,
  kHealth,
  kBench,
  kSession,
  kChat
};

enum class SessionAction { kCreate, kShow, kList, kFork, kRemove, kSave, kLoad };

struct SessionOptions {
  SessionAction action = SessionAction::kList;
  std::string id;      // empty: made up by the server, where one is made
  std::string file;    // that is saved to or loaded from
  std::string new_id;  // of forks
  uint32_t count = 1;
  double ttl_seconds = 0;  // 0: the server's
  bool allow_inexact = false;
};

struct ChatOptions {
  std::string session;        // empty: a new one
  std::string turn = "{}\n";  // what is sent for a line, which stands for the braces
};

struct BenchOptions {
  std::vector<uint32_t> sessions = {1, 16, 64, 256};  // one row of the table each
  uint32_t prompt_tokens = 32;
  uint32_t output_tokens = 64;
  uint32_t requests = 0;   // a row, over all its sessions; 0: twice the sessions, at least 8
  double max_seconds = 0;  // a row; 0: 60, or 600 with at_positions
  uint64_t seed = 1;       // of the random prompts and of sampling
  std::vector<uint64_t> at_positions;  // not empty: one endless session instead of sessions
  uint32_t window = 128;               // tokens measured around each position
};

struct TranslateOptions {
  std::string file = "-";     // a source a line; "-": standard input
  uint32_t column = 0;        // the tab-separated one that holds the source, from 1; 0: the line
  uint32_t streams = 64;      // requests at once
  std::string target_prefix;  // of every translation
};

struct CommandLine {
  Command command = Command::kModel;
  std::string server = "127.0.0.1:50051";
  double timeout_seconds = 0;  // of a call; 0: none
  int retries = 0;             // of a call the server refused with RetryInfo
  bool json = false;

  // Files of the connection; "": none.
  bool tls = false;  // without a tls_ca: the system's authorities
  std::string tls_ca;
  std::string tls_cert;
  std::string tls_key;
  std::string api_key_file;

  // The prompt, or what to score, tokenize: as given, "-" for standard input.
  std::optional<std::string> text;
  std::optional<TokenIds> tokens;  // instead of text; for detokenize always, unless text is "-"

  GenerateRequest generate;  // all but its prompt
  bool stats = false;
  bool ids = false;

  std::optional<std::string> source;  // of what is scored
  TranslateOptions translate;
  SessionOptions session;
  ChatOptions chat;
  BenchOptions bench;
};

struct ParseResult {
  std::optional<CommandLine> command_line;  // nullopt: print message and exit with exit_code
  std::string message;
  int exit_code = 0;  // 0: help or version was asked for; 2: usage error
};

// argv as main gets it. The server's default may come from the environment: default_server, if not
// empty.
ParseResult ParseCommandLine(int argc, const char* const* argv, const std::string& default_server);

}  // namespace t2r::client

#endif  // T2R_CLIENT_CLI_OPTIONS_H_
