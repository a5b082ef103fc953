// Whole files, read and written safely.
#pragma once

#include <string>
#include <vector>

namespace t2r::convert {

// A file's bytes. Throws ConvertError naming the path.
std::string ReadFile(const std::string& path);

// A text file's lines, without their ends ("\n" or "\r\n"). Throws ConvertError where it is empty.
std::vector<std::string> ReadLines(const std::string& path);

// Writes a file through a temporary one beside it, fsync and rename: readers see the old file or
// the new one, whole. Throws ConvertError naming the path.
void WriteFileAtomically(const std::string& path, const std::string& bytes);

}  // namespace t2r::convert
