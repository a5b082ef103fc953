// Says what is wrong with a message that Protobuf refuses to parse, which Protobuf itself does not.
#pragma once

#include <google/protobuf/descriptor.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace t2r::server {

// Walks `bytes` as a message of `type`. INVALID_ARGUMENT naming the field and the byte (of the
// message, from 0) of the first fault: a string that is not valid UTF-8, a value that does not fit
// what is left, a tag that is none. OK where there is no fault.
absl::Status CheckWire(std::string_view bytes, const google::protobuf::Descriptor& type);

}  // namespace t2r::server
