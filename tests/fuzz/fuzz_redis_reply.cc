// Any bytes as the answers of a shared store, whole and in pieces: the same replies, or refused.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sessions/redis/redis_reply.h"

namespace {

std::string Text(const t2r::RedisReply& reply) {
  std::string text = std::to_string(static_cast<int>(reply.kind)) + ":" +
                     std::to_string(reply.integer) + ":" + reply.text + "(";
  for (const t2r::RedisReply& item : reply.items) text += Text(item);
  return text + ")";
}

std::string ReadAll(std::string_view bytes, size_t piece) {
  t2r::RedisReplyReader reader(4096);
  std::string all;
  for (; !bytes.empty(); bytes.remove_prefix(std::min(piece, bytes.size()))) {
    if (!reader.Feed(bytes.substr(0, piece)).ok()) return all;
    t2r::RedisReply reply;
    while (true) {
      const absl::StatusOr<bool> whole = reader.Next(&reply);
      if (!whole.ok()) return all;
      if (!*whole) break;
      all += Text(reply);
    }
  }
  return all;
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  return {"*3\r\n:7\r\n$3\r\nabc\r\n$-1\r\n", "+OK\r\n-ERR no\r\n:1\r\n",
          "*2\r\n*0\r\n*1\r\n:2\r\n", "$100000\r\nabc"};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::string whole = ReadAll(bytes, 1 << 20);
  const std::string pieces = ReadAll(bytes, 1);
  // What is fed at once may be more than a reply may have; then there is less of it.
  if (size <= 4096 && whole != pieces) std::abort();
  return 0;
}
