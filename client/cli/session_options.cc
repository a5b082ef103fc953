#include "client/cli/session_options.h"

#include "flags/help.h"

namespace t2r::client {
namespace {

constexpr double kLongestTtl = 3650.0 * 86400;

CLI::App* AddAction(CLI::App* app, CommandLine* out, const char* name, const char* help,
                    SessionAction action) {
  CLI::App* sub = app->add_subcommand(name, help);
  sub->callback([out, action] { out->session.action = action; });
  AddCall(sub, out);
  return sub;
}

CLI::Option* AddId(CLI::App* app, CommandLine* out) {
  return app->add_option("id", out->session.id, "The session")->type_name("ID");
}

void AddTtl(CLI::App* app, CommandLine* out) {
  app->add_option("--ttl", out->session.ttl_seconds,
                  "Keep it so long from its last turn on; 0: as long as the server does")
      ->type_name("SECONDS")
      ->check(flags::Range(0.0, kLongestTtl));
}

}  // namespace

void AddSession(CLI::App* app, CommandLine* out) {
  app->require_subcommand(1);
  const std::string json = "Print one JSON object a session";
  CLI::App* create = AddAction(app, out, "create", "Begin an empty one", SessionAction::kCreate);
  AddId(create, out)->description("Its id (default: made up)");
  AddTtl(create, out);
  AddRetriesAndJson(create, out, json);

  CLI::App* show = AddAction(app, out, "show", "Tell where one stands", SessionAction::kShow);
  AddId(show, out)->required();
  AddRetriesAndJson(show, out, json);

  CLI::App* list = AddAction(app, out, "list", "List all", SessionAction::kList);
  AddRetriesAndJson(list, out, json);

  CLI::App* fork = AddAction(app, out, "fork", "Copy one where it stands", SessionAction::kFork);
  AddId(fork, out)->required();
  fork->add_option("new_id", out->session.new_id,
                   "The copy's id, or what several begin with (default: made up)")
      ->type_name("NEW_ID");
  fork->add_option("--count", out->session.count, "Copies")
      ->check(flags::Range(1u, 1024u))
      ->capture_default_str();
  AddRetriesAndJson(fork, out, json);

  CLI::App* remove = AddAction(app, out, "rm", "Delete one", SessionAction::kRemove);
  AddId(remove, out)->required();
  AddRetries(remove, out);

  CLI::App* save = AddAction(app, out, "save", "Write one to a file", SessionAction::kSave);
  AddId(save, out)->required();
  save->add_option("file", out->session.file, "The file, which appears whole")
      ->type_name("FILE")
      ->required();

  CLI::App* load = AddAction(app, out, "load", "Make one from a file", SessionAction::kLoad);
  load->add_option("file", out->session.file, "The file that save wrote")
      ->type_name("FILE")
      ->required();
  AddId(load, out)->description("Its id (default: made up)");
  AddTtl(load, out);
  load->add_flag("--allow-inexact", out->session.allow_inexact,
                 "Also from a server whose results are not the same to the bit");
  load->add_flag("--json", out->json, json);
  app->footer(
      "Examples:\n"
      "  t2r session create story --ttl 86400\n"
      "  t2r generate \"Once upon a time\" --session story -n 32\n"
      "  t2r session fork story branch --count 8\n"
      "  t2r session save story story.t2rsnap\n"
      "  t2r session load story.t2rsnap again");
}

void AddTurn(CLI::App* app, RawOptions* raw) {
  CLI::Option* session =
      app->add_option("--session", raw->session.id,
                      "Go on from this session, or begin it; the prompt may then be left out")
          ->type_name("ID");
  app->add_option("--expected-position", raw->expected_position,
                  "Only if the session has so many tokens: a turn is not sent twice")
      ->type_name("N")
      ->needs(session);
  app->add_flag("--allow-inexact", raw->session.allow_inexact,
                "Also where the session comes from a server whose results are not the same to the "
                "bit")
      ->needs(session);
}

void AddChat(CLI::App* app, CommandLine* out, RawOptions* raw) {
  GenerateRequest& g = out->generate;
  app->add_option("--session", out->chat.session, "Go on with this one (default: a new one)")
      ->type_name("ID");
  app->add_option("--turn", out->chat.turn,
                  "What is sent for a line, which stands for {} (default: the line and a newline)")
      ->type_name("TEXT")
      ->check([](const std::string& turn) {
        return turn.find("{}") == std::string::npos ? "--turn needs {} for the line" : "";
      });
  app->add_option("-n,--max-tokens", g.max_tokens,
                  "At most N tokens an answer (default: " + std::to_string(kDefaultMaxTokens) +
                      "); 0: the model's default, else the server's limit")
      ->type_name("N")
      ->check(flags::AtLeast(0U));
  app->add_option("--stop", g.stop, "An answer ends before this text; may be repeated")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  AddSampling(app, out, raw);
  AddCall(app, out);
  AddRetries(app, out);
  app->footer(
      "A line typed is a turn; the end of input (Ctrl-D) ends the conversation, which the server\n"
      "keeps. Ctrl-C drops the answer that runs, and ends it too.\n\n"
      "Examples:\n"
      "  t2r chat\n"
      "  t2r chat --session yesterday --temperature 0.7\n"
      "  t2r chat --turn $'Q: {}\\nA:' --stop $'\\n'");
}

}  // namespace t2r::client
