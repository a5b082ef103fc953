// Git LFS leaves a small text in place of each large file that was not fetched.
#pragma once

#include <string_view>

namespace t2r {

inline bool IsGitLfsPointer(std::string_view bytes) {
  return bytes.starts_with("version https://git-lfs.github.com/spec/");
}

inline constexpr char kGitLfsPointer[] =
    "is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository";

}  // namespace t2r
