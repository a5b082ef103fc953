#include "convert/data/files.h"

#include <limits>
#include <sstream>

#include "convert/error.h"
#include "convert/status.h"
#include "engine/io/files.h"

namespace t2r::convert {

std::string ReadFile(const std::string& path) {
  return Unwrap(ReadTextFile(path, std::numeric_limits<size_t>::max()));
}

std::vector<std::string> ReadLines(const std::string& path) {
  std::istringstream text(ReadFile(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    lines.push_back(line);
  }
  if (lines.empty()) throw ConvertError(path + ": the file is empty");
  return lines;
}

void WriteFileAtomically(const std::string& path, const std::string& bytes) {
  ThrowIfError(t2r::WriteFileAtomically(path, bytes));
}

}  // namespace t2r::convert
