#include "engine/sessions/redis/redis_tier.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/sessions/redis/redis_scripts.h"
#include "engine/sessions/session_errors.h"

namespace t2r {
namespace {

using Kind = RedisReply::Kind;

constexpr size_t kRenewedAtOnce = 256;  // claims, of one script
// Of states that are made at once: while a script runs no server has an answer.
constexpr size_t kMaxCreated = size_t{256} << 20;

// A tenant's name may hold anything.
std::string Prefix(const std::string& owner) {
  std::string name;
  for (const char c : owner) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (plain) {
      name.push_back(c);
    } else {
      absl::StrAppend(&name, "_", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    }
  }
  return absl::StrCat("t2r:{", name, "}:");
}

std::string Milliseconds(absl::Time time) {
  return std::to_string(std::max<int64_t>(absl::ToUnixMillis(time), 0));
}

std::string Info(const SessionRecord& record) {
  SessionRecord info;
  info.info = record.info;
  return EncodeRecord(info);
}

}  // namespace

RedisTier::RedisTier(RedisOptions options, StateCodec codec, absl::Duration lease)
    : address_(options.address.text()),
      pool_(std::move(options)),
      codec_(std::move(codec)),
      lease_ms_(std::to_string(std::max<int64_t>(absl::ToInt64Milliseconds(lease), 1))),
      holder_(absl::StrCat(NewStateName())) {}

absl::Status RedisTier::Strange(const char* what) const {
  return absl::DataLossError(
      absl::StrCat("--session-store ", address_, ": ", what, " is not what this server wrote"));
}

absl::StatusOr<RedisReply> RedisTier::Ask(const std::vector<std::string_view>& command) {
  absl::StatusOr<RedisReply> reply = pool_.Call(command);
  if (reply.ok() && reply->kind == Kind::kError) {
    if (absl::StartsWith(reply->text, "OOM ")) {
      return absl::ResourceExhaustedError(
          absl::StrCat("--session-store ", address_,
                       ": its memory is full (maxmemory); delete some sessions, or try again when "
                       "some have expired"));
    }
    return absl::UnavailableError(absl::StrCat("--session-store ", address_, ": ", reply->text));
  }
  return reply;
}

absl::StatusOr<RedisReply> RedisTier::Run(const char* script, const std::string& owner,
                                          const std::vector<std::string>& arguments) {
  const std::string text = absl::StrCat(redis_scripts::kCommon, script);
  const std::string prefix = Prefix(owner);
  std::vector<std::string_view> command = {"EVAL", text, "1", prefix};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return Ask(command);
}

absl::Status RedisTier::RunHeld(const char* script, const SessionClaim& claim,
                                const std::vector<std::string>& arguments) {
  std::vector<std::string> all = {claim.key.id, std::to_string(claim.fence)};
  all.insert(all.end(), arguments.begin(), arguments.end());
  const absl::StatusOr<RedisReply> reply = Run(script, claim.key.owner, all);
  if (!reply.ok()) return reply.status();
  if (reply->kind != Kind::kInteger) return Strange("an answer");
  return reply->integer == 1 ? absl::OkStatus() : SessionFenced(claim.key);
}

absl::Status RedisTier::Create(const std::vector<SessionRecord>& records,
                               const std::shared_ptr<const SessionState>& state) {
  const StateName name = records.empty() ? 0 : records.front().state;
  std::vector<std::string> arguments = {std::to_string(NewStateName()), std::to_string(name),
                                        state == nullptr ? "" : codec_.Write(*state)};
  const size_t bytes = arguments.back().size();
  if (records.size() > 1 && bytes > kMaxCreated / records.size()) {
    return absl::InvalidArgumentError(absl::StrCat("count: ", records.size(), " sessions of ",
                                                   bytes, " bytes at once; a shared store takes ",
                                                   kMaxCreated, " bytes in one call"));
  }
  for (const SessionRecord& record : records) {
    arguments.push_back(record.info.id);
    arguments.push_back(EncodeRecord(record));
    arguments.push_back(Info(record));
    arguments.push_back(Milliseconds(record.info.expires));
    arguments.push_back(std::to_string(record.info.bytes));
  }
  const std::string owner = records.empty() ? "" : records.front().info.owner;
  const absl::StatusOr<RedisReply> reply = Run(redis_scripts::kCreate, owner, arguments);
  if (!reply.ok()) return reply.status();
  if (reply->kind == Kind::kText) return SessionExists({owner, reply->text});
  return absl::OkStatus();
}

absl::StatusOr<SessionRecord> RedisTier::Get(const SessionKey& key) {
  const std::string hash = absl::StrCat(Prefix(key.owner), "s:", key.id);
  const absl::StatusOr<RedisReply> reply = Ask({"HGET", hash, "r"});
  if (!reply.ok()) return reply.status();
  if (reply->kind == Kind::kNil) return NoSession(key);
  return DecodeRecord(key, reply->text);
}

absl::StatusOr<std::vector<SessionInfo>> RedisTier::List(const std::string& owner,
                                                         const std::string& after, int64_t count) {
  std::vector<SessionInfo> page;
  std::string last = after;
  while (static_cast<int64_t>(page.size()) < count) {
    const int64_t wanted = count - static_cast<int64_t>(page.size());
    const absl::StatusOr<RedisReply> reply =
        Run(redis_scripts::kList, owner, {last, std::to_string(wanted)});
    if (!reply.ok()) return reply.status();
    if (reply->kind != Kind::kList || reply->items.size() % 2 != 0) return Strange("a list");
    for (size_t i = 0; i < reply->items.size(); i += 2) {
      last = reply->items[i].text;
      absl::StatusOr<SessionRecord> record = DecodeRecord({owner, last}, reply->items[i + 1].text);
      if (record.ok()) page.push_back(std::move(record->info));
    }
    if (static_cast<int64_t>(reply->items.size()) < 2 * wanted) break;
  }
  return page;
}

absl::StatusOr<SessionTier::Claimed> RedisTier::Claim(const SessionKey& key, bool take_over) {
  const absl::StatusOr<RedisReply> reply =
      Run(redis_scripts::kClaim, key.owner, {key.id, holder_, lease_ms_, take_over ? "1" : "0"});
  if (!reply.ok()) return reply.status();
  if (reply->kind == Kind::kNil) return NoSession(key);
  if (reply->kind == Kind::kText) return SessionBusy(key);
  Claimed claimed;
  claimed.claim.key = key;
  if (reply->kind != Kind::kList || reply->items.size() != 2 ||
      !absl::SimpleAtoi(reply->items[0].text, &claimed.claim.fence)) {
    return Strange("a claim");
  }
  absl::StatusOr<SessionRecord> record = DecodeRecord(key, reply->items[1].text);
  if (!record.ok()) {
    static_cast<void>(Release(claimed.claim));
    return record.status();
  }
  claimed.record = *std::move(record);
  return claimed;
}

absl::Status RedisTier::Renew(const std::vector<SessionClaim>& claims) {
  std::map<std::string, std::vector<std::string>> arguments;  // by owner
  absl::Status status;
  const auto renew = [&](const std::string& owner, std::vector<std::string>& all) {
    const absl::StatusOr<RedisReply> reply = Run(redis_scripts::kRenew, owner, all);
    if (status.ok()) status = reply.status();
    all.resize(1);
  };
  for (const SessionClaim& claim : claims) {
    std::vector<std::string>& all = arguments[claim.key.owner];
    if (all.empty()) all.push_back(lease_ms_);
    all.push_back(claim.key.id);
    all.push_back(std::to_string(claim.fence));
    if (all.size() > 2 * kRenewedAtOnce) renew(claim.key.owner, all);
  }
  for (auto& [owner, all] : arguments) {
    if (all.size() > 1) renew(owner, all);
  }
  return status;
}

absl::Status RedisTier::Change(const SessionClaim& claim, const SessionChange& change) {
  const SessionRecord& record = change.record;
  const SessionInfo& info = record.info;
  std::vector<std::string> arguments = {std::to_string(NewStateName()),
                                        lease_ms_,
                                        change.release ? "1" : "0",
                                        EncodeRecord(record),
                                        Info(record),
                                        Milliseconds(info.expires),
                                        std::to_string(info.bytes),
                                        std::to_string(change.name),
                                        change.name == 0 ? "" : codec_.Write(*change.state)};
  for (const StateName name : record.states()) arguments.push_back(std::to_string(name));
  return RunHeld(redis_scripts::kChange, claim, arguments);
}

absl::Status RedisTier::Release(const SessionClaim& claim) {
  return RunHeld(redis_scripts::kRelease, claim, {});
}

absl::Status RedisTier::Delete(const SessionKey& key) {
  const absl::StatusOr<RedisReply> reply =
      Run(redis_scripts::kDelete, key.owner, {key.id, holder_});
  if (!reply.ok()) return reply.status();
  return reply->kind == Kind::kText ? SessionBusy(key) : absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const SessionState>> RedisTier::State(const SessionKey& key,
                                                                     StateName name,
                                                                     bool allow_inexact) {
  const std::string hash = absl::StrCat(Prefix(key.owner), "s:", key.id);
  const std::string field = absl::StrCat("s", name);
  const absl::StatusOr<RedisReply> reply = Ask({"HGET", hash, field});
  if (!reply.ok()) return reply.status();
  if (reply->kind != Kind::kText) return NoState(key);
  return codec_.Read(reply->text, allow_inexact);
}

absl::StatusOr<SessionUsage> RedisTier::Usage(const std::string& owner) {
  const absl::StatusOr<RedisReply> reply = Run(redis_scripts::kUsage, owner, {});
  if (!reply.ok()) return reply.status();
  if (reply->kind != Kind::kList || reply->items.size() != 2) return Strange("a count");
  return SessionUsage{reply->items[0].integer, reply->items[1].integer};
}

absl::StatusOr<SessionUsage> RedisTier::Total() {
  const absl::StatusOr<RedisReply> reply = Run(redis_scripts::kTotal, "", {});
  if (!reply.ok()) return reply.status();
  if (reply->kind != Kind::kList || reply->items.size() != 2) return Strange("a count");
  return SessionUsage{reply->items[0].integer, reply->items[1].integer};
}

}  // namespace t2r
