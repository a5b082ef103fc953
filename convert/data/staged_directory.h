// A model directory that appears all at once.
#pragma once

#include <filesystem>
#include <string>

namespace t2r::convert {

// Throws ConvertError where `directory` exists and is not a model directory: writing would destroy
// what is in it.
void CheckOutputDirectory(const std::string& directory);

// Files are written into a directory beside the one that is wanted and renamed into place together.
class StagedDirectory {
 public:
  // Makes an empty directory, DIRECTORY.writing. Throws ConvertError as CheckOutputDirectory.
  explicit StagedDirectory(const std::string& directory);
  // Removes the files unless they were committed.
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;

  // Where to write.
  std::string path() const { return staging_.string(); }
  // Puts the directory in place of the one of that name, if there is one.
  void Commit();

 private:
  std::filesystem::path target_, staging_;
};

}  // namespace t2r::convert
