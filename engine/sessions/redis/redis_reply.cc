#include "engine/sessions/redis/redis_reply.h"

#include <hiredis/hiredis.h>

#include "absl/strings/str_cat.h"

namespace t2r {
namespace {

// A list's length is taken at its word before its items have come.
constexpr int kMaxItems = 8192;

redisReplyObjectFunctions* library = nullptr;  // its own, of every reader

void* CreateList(const redisReadTask* task, int items) {
  return items <= kMaxItems ? library->createArray(task, items) : nullptr;
}

// The library's functions, but for lists.
redisReplyObjectFunctions* Functions(redisReader* reader) {
  static redisReplyObjectFunctions functions = [reader] {
    library = reader->fn;
    redisReplyObjectFunctions own = *reader->fn;
    own.createArray = CreateList;
    return own;
  }();
  return &functions;
}

RedisReply Take(const redisReply& from) {
  RedisReply to;
  switch (from.type) {
    case REDIS_REPLY_INTEGER:
      to.kind = RedisReply::Kind::kInteger;
      to.integer = from.integer;
      break;
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
      to.kind = RedisReply::Kind::kText;
      to.text.assign(from.str, from.len);
      break;
    case REDIS_REPLY_ERROR:
      to.kind = RedisReply::Kind::kError;
      to.text.assign(from.str, from.len);
      break;
    case REDIS_REPLY_ARRAY:
      to.kind = RedisReply::Kind::kList;
      for (size_t i = 0; i < from.elements; ++i) to.items.push_back(Take(*from.element[i]));
      break;
    default:
      break;
  }
  return to;
}

}  // namespace

RedisReplyReader::RedisReplyReader(size_t max_bytes)
    : max_bytes_(max_bytes), reader_(redisReaderCreate()) {
  reader_->fn = Functions(reader_);
}

RedisReplyReader::~RedisReplyReader() { redisReaderFree(reader_); }

absl::Status RedisReplyReader::Feed(std::string_view bytes) {
  fed_ += bytes.size();
  if (fed_ > max_bytes_) {
    return absl::UnavailableError(
        absl::StrCat("its answer has more than ", max_bytes_, " bytes, the most there can be"));
  }
  if (redisReaderFeed(reader_, bytes.data(), bytes.size()) == REDIS_OK) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("its answer cannot be read: ", reader_->errstr));
}

absl::StatusOr<bool> RedisReplyReader::Next(RedisReply* reply) {
  void* raw = nullptr;
  if (redisReaderGetReply(reader_, &raw) != REDIS_OK) {
    return absl::UnavailableError(absl::StrCat("its answer cannot be read: ", reader_->errstr));
  }
  if (raw == nullptr) return false;
  *reply = Take(*static_cast<redisReply*>(raw));
  freeReplyObject(raw);
  fed_ = 0;
  return true;
}

}  // namespace t2r
