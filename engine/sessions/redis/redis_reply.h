// What a Redis server answers, read from bytes that may come from anyone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

struct redisReader;

namespace t2r {

struct RedisReply {
  enum class Kind : uint8_t { kNil, kInteger, kText, kError, kList };
  Kind kind = Kind::kNil;
  int64_t integer = 0;
  std::string text;               // of a text, and of an error
  std::vector<RedisReply> items;  // of a list
};

// One reply after the other, of the protocol's second version.
class RedisReplyReader {
 public:
  // max_bytes: of one reply, in all.
  explicit RedisReplyReader(size_t max_bytes);
  ~RedisReplyReader();
  RedisReplyReader(const RedisReplyReader&) = delete;
  RedisReplyReader& operator=(const RedisReplyReader&) = delete;

  // UNAVAILABLE where the bytes are no replies, or one that is too large: nothing more can be read.
  absl::Status Feed(std::string_view bytes);
  // Whether there is a whole reply, which *reply then is.
  absl::StatusOr<bool> Next(RedisReply* reply);

 private:
  const size_t max_bytes_;
  size_t fed_ = 0;  // since the last reply
  redisReader* reader_;
};

}  // namespace t2r
