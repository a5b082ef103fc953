// t2r session.
#include <fstream>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/json.h"
#include "client/cli/table.h"
#include "engine/io/files.h"

namespace t2r::client {
namespace {

// A page holds no more than a terminal shows at once, and asks seldom enough.
constexpr uint32_t kPage = 500;
// No snapshot is larger.
constexpr size_t kMaxSnapshotBytes = size_t{1} << 40;

std::string Format(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", time, absl::UTCTimeZone());
}

class Printer {
 public:
  Printer(const CommandLine& line, const Console& console) : line_(line), console_(console) {}

  void Print(const std::vector<SessionInfo>& sessions) {
    if (line_.json) {
      for (const SessionInfo& session : sessions) console_.out << ToJson(session) << '\n';
      return;
    }
    Table table({"session", "tokens", "bytes", "used (UTC)", "expires (UTC)"});
    for (const SessionInfo& session : sessions) {
      table.AddRow({session.id, absl::StrCat(session.position), absl::StrCat(session.bytes),
                    Format(session.used), Format(session.expires)});
    }
    console_.out << table.ToString();
  }

 private:
  const CommandLine& line_;
  const Console& console_;
};

absl::Status List(const CommandLine& line, Client& client, const Console& console) {
  std::vector<SessionInfo> all;
  std::string next;
  do {
    const auto page = client.ListSessions(next, kPage, MakeCallOptions(line));
    if (!page.ok()) return page.status();
    all.insert(all.end(), page->sessions.begin(), page->sessions.end());
    next = page->next;
  } while (!next.empty());
  Printer(line, console).Print(all);
  return absl::OkStatus();
}

absl::Status Save(const CommandLine& line, Client& client) {
  const auto snapshot = client.ExportSession(line.session.id, MakeCallOptions(line));
  if (!snapshot.ok()) return snapshot.status();
  return WriteFileAtomically(line.session.file, *snapshot);
}

absl::StatusOr<SessionInfo> Load(const CommandLine& line, Client& client, absl::Duration ttl) {
  const auto snapshot = ReadTextFile(line.session.file, kMaxSnapshotBytes);
  if (!snapshot.ok()) return snapshot.status();
  return client.ImportSession(line.session.id, *snapshot, ttl, MakeCallOptions(line),
                              line.session.allow_inexact);
}

absl::Status Run(const CommandLine& line, Client& client, const Console& console) {
  const SessionOptions& session = line.session;
  const CallOptions options = MakeCallOptions(line);
  const absl::Duration ttl = absl::Seconds(session.ttl_seconds);
  const auto print = [&](const absl::StatusOr<SessionInfo>& one) {
    if (one.ok()) Printer(line, console).Print({*one});
    return one.status();
  };
  switch (session.action) {
    case SessionAction::kCreate:
      return print(client.CreateSession(session.id, ttl, options));
    case SessionAction::kShow:
      return print(client.GetSession(session.id, options));
    case SessionAction::kList:
      return List(line, client, console);
    case SessionAction::kFork: {
      const auto forks = client.ForkSession(session.id, session.new_id, session.count, options);
      if (forks.ok()) Printer(line, console).Print(*forks);
      return forks.status();
    }
    case SessionAction::kRemove:
      return client.DeleteSession(session.id, options);
    case SessionAction::kSave:
      return Save(line, client);
    case SessionAction::kLoad:
      return print(Load(line, client, ttl));
  }
  return absl::OkStatus();
}

}  // namespace

int RunSession(const CommandLine& line, Client& client, const Console& console) {
  const absl::Status status = Run(line, client, console);
  if (status.ok()) return 0;
  console.err << Explain(status, line.server);
  return kRpcErrorExitCode;
}

}  // namespace t2r::client
