// What a process says when it cannot go on: one line on stderr and exit status 1, instead of a bare
// signal.
#pragma once

#include <string_view>

namespace t2r::server {

// Handles from here on, for the whole process:
//   an exception that nobody catches, a thread that cannot start among them
//   SIGABRT, with the last words of the library that called abort
//   SIGBUS, which is a mapped model file that was truncated or whose disk failed
void InstallCrashLines();

// Remembers a line for SIGABRT. Any thread; never blocks.
void KeepLastWords(std::string_view line);

}  // namespace t2r::server
