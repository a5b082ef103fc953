// Errors inside the converter. LibTorch throws, so the converter's library does too; main() turns
// every exception into one line on stderr and exit code 1.
#pragma once

#include <stdexcept>

namespace t2r::convert {

// What a user can mend: bad flags, bad data, a file that is not there. The message is one line.
class ConvertError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace t2r::convert
