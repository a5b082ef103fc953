#include "engine/model/workspace.h"

#include <utility>

namespace t2r {
namespace {

constexpr int64_t kAlignment = 256;

}  // namespace

int64_t Workspace::Bytes(int64_t rows, int64_t logit_rows) const {
  int64_t bytes = 0;
  for (const Declared& each : declared_) {
    const int64_t exact =
        each.Rows(rows, logit_rows) * each.cols * static_cast<int64_t>(SizeOf(each.dtype));
    bytes += (exact + kAlignment - 1) / kAlignment * kAlignment;
  }
  return bytes;
}

void Workspace::Allocate(Backend& backend, int64_t rows, int64_t logit_rows) {
  for (const Declared& each : declared_) {
    const int64_t count = each.Rows(rows, logit_rows);
    Buffer buffer = backend.Allocate(static_cast<size_t>(count * each.cols) * SizeOf(each.dtype));
    each.activation->tensor_ = {buffer.data(), each.dtype, count, each.cols, each.cols};
    each.activation->buffer_ = std::move(buffer);
  }
}

}  // namespace t2r
