// t2r chat.
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/cli/commands.h"

namespace t2r::client {
namespace {

// Prints an answer as it comes.
absl::Status Answer(const GenerateRequest& request, const CommandLine& line, Client& client,
                    const Console& console, uint64_t* position) {
  return GenerateInterruptibly(client, console, request, MakeCallOptions(line),
                               [&](const Event& event) {
                                 if (const auto* delta = std::get_if<Delta>(&event)) {
                                   console.out << delta->text << std::flush;
                                 } else if (const auto* end = std::get_if<Finished>(&event)) {
                                   // The next turn has a prompt: held text would never come.
                                   console.out << end->held_text << std::flush;
                                   *position = end->session_position;
                                 }
                                 return console.out.good();
                               });
}

}  // namespace

int RunChat(const CommandLine& line, Client& client, std::istream& in, const Console& console) {
  const CallOptions options = MakeCallOptions(line);
  const auto session = line.chat.session.empty() ? client.CreateSession("", {}, options)
                                                 : client.GetSession(line.chat.session, options);
  if (!session.ok()) {
    console.err << Explain(session.status(), line.server);
    return kRpcErrorExitCode;
  }
  GenerateRequest request = line.generate;
  request.session = SessionRef();
  request.session->id = session->id;
  uint64_t position = session->position;
  console.err << "session " << session->id << ", " << position << " tokens\n";
  const auto leave = [&](int code) {
    console.err << "t2r chat --server " << line.server << " --session " << session->id
                << " goes on from here, at " << position << " tokens\n";
    return code;
  };
  std::string typed;
  const auto read = [&] {
    if (console.in_is_terminal) console.err << "> " << std::flush;
    if (std::getline(in, typed)) return true;
    if (console.in_is_terminal) console.err << '\n';  // Ctrl-D left none
    return false;
  };
  while (read()) {
    request.prompt = absl::StrReplaceAll(line.chat.turn, {{"{}", typed}});
    request.session->expected_position = position;
    const absl::Status status = Answer(request, line, client, console, &position);
    console.out << '\n' << std::flush;
    if (console.interrupt != nullptr && console.interrupt->interrupted()) {
      return leave(kInterruptedExitCode);
    }
    if (!status.ok()) {
      console.err << Explain(status, line.server);
      return leave(kRpcErrorExitCode);
    }
  }
  return leave(0);
}

}  // namespace t2r::client
