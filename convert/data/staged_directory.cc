#include "convert/data/staged_directory.h"

#include <system_error>

#include "convert/error.h"
#include "convert/status.h"
#include "engine/io/files.h"

namespace t2r::convert {
namespace {

namespace fs = std::filesystem;

}  // namespace

void CheckOutputDirectory(const std::string& directory) {
  if (fs::exists(directory) && !fs::exists(fs::path(directory) / "config.json")) {
    throw ConvertError(directory +
                       " exists and is not a model directory (it has no config.json): name another "
                       "--out, or remove it");
  }
}

StagedDirectory::StagedDirectory(const std::string& directory) : target_(directory) {
  CheckOutputDirectory(directory);
  if (!target_.has_filename()) target_ = target_.parent_path();
  staging_ = target_.string() + ".writing";
  fs::remove_all(staging_);
  fs::create_directories(staging_);
}

StagedDirectory::~StagedDirectory() {
  std::error_code ignored;
  if (!staging_.empty()) fs::remove_all(staging_, ignored);
}

void StagedDirectory::Commit() {
  CheckOutputDirectory(target_.string());
  ThrowIfError(ReplaceDirectory(staging_.string(), target_.string()));
  staging_.clear();
}

}  // namespace t2r::convert
