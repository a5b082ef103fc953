#include "server/unary_end.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/messages.h"
#include "server/status.h"

namespace t2r::server {

bool UnaryEnd::over() const {
  const MutexLock lock(mutex_);
  return finished_;
}

bool UnaryEnd::Take() {
  const MutexLock lock(mutex_);
  return !std::exchange(finished_, true);
}

void UnaryEnd::Finish(const grpc::Status& status, int64_t bytes) {
  const ReadLimits& reading = context_.reading;
  if (reading.stall_timeout > absl::ZeroDuration()) {
    absl::Duration limit = reading.stall_timeout;
    if (reading.min_read_rate > 0) {
      limit +=
          absl::Seconds(static_cast<double>(bytes) / static_cast<double>(reading.min_read_rate));
    }
    guard_.CutAt(absl::Now() + limit);
  }
  if (record_ != nullptr) record_->OnEnd(status);
  finish_(status);
}

void UnaryEnd::Answer(const google::protobuf::Message& message) {
  const int64_t limit = context_.max_response_bytes;
  const size_t size = message.ByteSizeLong();
  if (limit > 0 && size > static_cast<size_t>(limit)) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat("the answer has ", size, " bytes, more than this server's limit of ", limit,
                     " (--max-response-bytes); ask for less at a time")));
  }
  if (!Take()) return;
  *response_ = ToBytes(message);
  const auto bytes = static_cast<int64_t>(response_->Length());
  lease_.Resize(bytes);
  Finish(grpc::Status::OK, bytes);
}

void UnaryEnd::Close() {
  if (Take()) Finish(grpc::Status::OK, 0);
}

void UnaryEnd::Fail(const absl::Status& status) {
  if (!Take()) return;
  Finish(ToRefusal(status, context_.metrics.RetryDelay()), 0);
}

void UnaryEnd::Cancel() {
  if (!Take()) return;
  Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"), 0);
}

}  // namespace t2r::server
